"""Surfaces of equal density as pictures: rays along z meet the surface, and its slope shades it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

__all__ = ["AXES", "contour_level", "draw_surface", "level_enclosing", "reach"]

# Where the light comes from, (x, y, z): over the viewer's left shoulder; y points down.
_LIGHT = (-0.45, -0.55, -0.7)
_AMBIENT = 0.25
_BISECTIONS = 6

# Views along z, x and y: rotations from the map's coordinates (x, y, z) to the picture's.
AXES = torch.tensor(
    [
        [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.0, 1, 0], [0, 0, 1], [1, 0, 0]],
        [[0.0, 0, 1], [1, 0, 0], [0, 1, 0]],
    ]
)


def contour_level(density: Tensor) -> float:
    """Density half-way between what is inside and what is outside of a map's surface.

    The level that is the mean of the two means which it divides the voxels into (T. W. Ridler, S. Calvard,
    IEEE Trans. SMC 8 (1978) 630), sought from above.
    """
    level = float(density.mean() + density.max()) / 2
    for _ in range(100):
        inside = density > level
        if not bool(inside.any()):
            break
        found = float(density[inside].mean() + density[~inside].mean()) / 2
        if abs(found - level) <= 1e-4 * abs(level):
            break
        level = found
    return level


def level_enclosing(density: Tensor, share: float) -> float:
    """Density above which a share of a map's voxels lies: maps of different scale at one volume."""
    kept = max(1, round(share * density.numel()))
    return float(density.flatten().kthvalue(density.numel() - kept + 1).values)


def reach(density: Tensor, level: float) -> float:
    """How far from the centre a surface goes, in half box sides; 1 if it is nowhere."""
    inside = (density > level).nonzero()
    length = len(density)
    if not len(inside):
        return 1.0
    return float((2 * inside / length - 1).norm(dim=-1).max()) + 2 / length


def draw_surface(
    density: Tensor, level: float, rotation: Tensor, side: int = 256, half_width: float = 1.0
) -> Tensor:
    """Draw the surface where a map has a certain density, in parallel projection along z.

    Parameters
    ----------
    density : Tensor, shape (L, L, L)
        Axes (z, y, x).
    level : float
        Denser is inside.
    rotation : Tensor, shape (3, 3)
        From the map's coordinates (x, y, z) to the picture's.
    side : int
        Of the picture, in pixels.
    half_width : float
        Of the picture, in half box sides.

    Returns
    -------
    Tensor, shape (side, side)
        Brightness between 0 and 1; NaN where no surface is.
    """
    # Outside of the box there is nothing.
    box = pad(density, (1,) * 6, value=min(float(density.min()), level - abs(level) - 1e-6))
    length = density.shape[-1]
    step, padded = 2 / length, length / box.shape[-1]
    axis = half_width * ((torch.arange(side, device=density.device) + 0.5) / side * 2 - 1)
    depth = torch.arange(-1, 1, step / 2, device=density.device)

    def sample(points: Tensor) -> Tensor:
        """Density at points (..., 3) of the picture's coordinates, in half box sides."""
        inside = padded * (points @ rotation.to(points))
        shape = inside.shape[:-1]
        values = grid_sample(box[None, None], inside.view(1, 1, 1, -1, 3), align_corners=False)
        return values.view(shape)

    y, x = torch.meshgrid(axis, axis, indexing="ij")
    met = torch.full_like(x, torch.inf)
    for z in depth.flip(0):
        met = torch.where(sample(torch.stack([x, y, torch.full_like(x, z)], -1)) > level, z, met)
    hit = met.isfinite()
    far = torch.where(hit, met, 0)
    near = far - step / 2
    for _ in range(_BISECTIONS):
        middle = (near + far) / 2
        dense = sample(torch.stack([x, y, middle], -1)) > level
        near, far = torch.where(dense, near, middle), torch.where(dense, middle, far)
    point = torch.stack([x, y, far], -1)
    slope = torch.stack(
        [sample(point + step * unit) - sample(point - step * unit) for unit in torch.eye(3).to(point)], -1
    )
    outwards = -slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    light = torch.tensor(_LIGHT).to(point)
    shade = (outwards @ (light / light.norm())).clamp_min(0)
    # What is far is a little darker.
    bright = (_AMBIENT + (1 - _AMBIENT) * shade) * (1 - 0.25 * (far + 1) / 2)
    return torch.where(hit, bright, torch.nan)

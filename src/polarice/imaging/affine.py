"""Images turned and moved: one resampling, exact to a few parts in ten thousand."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .fourier import fourier_resample

__all__ = ["move_images", "turn_matrices"]

# On twice the grid a cubic spline has little left to interpolate wrongly.
_OVERSAMPLING = 2


def turn_matrices(angles: Tensor) -> Tensor:
    """Matrices ((cos, −sin), (sin, cos)) of angles in radians, shape (..., 2, 2)."""
    c, s = angles.cos(), angles.sin()
    matrices: Tensor = torch.stack([c, -s, s, c], -1).unflatten(-1, (2, 2))
    return matrices


def move_images(images: Tensor, matrices: Tensor, shifts_px: Tensor) -> Tensor:
    """Images looked at in other frames: ``out(p) = image(M p + t)``, with p from the origin.

    What lies outside the box is zero. On images that reach to 0.9 of the Nyquist frequency the relative
    squared error is about 1e-3, on half of it about 5e-4.

    Parameters
    ----------
    images : Tensor, shape (*a, L, L)
    matrices : Tensor, shape (*a, *b, 2, 2)
        M, which maps (x, y); several frames ``*b`` for each image, if wanted.
    shifts_px : Tensor, shape (*a, *b, 2)
        t = (x, y) in pixels.

    Returns
    -------
    Tensor, shape (*a, *b, L, L)
    """
    box = images.shape[-1]
    flat = images.reshape(-1, box, box)
    fine = fourier_resample(flat, _OVERSAMPLING * box)
    axis = torch.arange(box, device=images.device, dtype=images.dtype) - box // 2
    points = torch.stack([axis.expand(box, -1), axis[:, None].expand(-1, box)], -1).flatten(0, 1)
    places = points @ matrices.reshape(-1, 2, 2).mT + shifts_px.reshape(-1, 1, 2)
    side = fine.shape[-1]
    # The frames of one image are read as one tall image.
    grid = ((2 * (_OVERSAMPLING * places + side // 2) + 1) / side - 1).view(len(flat), -1, box, 2)
    moved = functional.grid_sample(
        fine[:, None], grid, mode="bicubic", padding_mode="zeros", align_corners=False
    )
    return moved.view(*matrices.shape[:-2], box, box)

"""Where in its box a particle lies.

A polar grid turns images about its centre, so a particle must be brought there. `Centring` looks at
the raw image: filters that depend on the distance alone, with the same nonlinearity at every pixel
between them, give a map of scores that turns with the image, and the centre is the mean position under
its softmax. `Recentring` reads what is left of the displacement off polar features, which know better.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..imaging import frequency_grid, radius_grid, shift_images
from ..polar import PolarGrid

__all__ = ["Centring", "Recentring", "moved"]

_CHANNELS = 12
_LAYERS = 2
# Radii in cycles per box between which the filters are linear.
_NODES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 15.0)
# Largest displacement that can be found, as a fraction of the box.
_REACH = 0.17
# The filters' entries are stored so much smaller than they act: they learn so much faster.
_SCALE = 10.0


class Centring(nn.Module):
    """Finds the displacement of particles from the centre of their boxes.

    Parameters
    ----------
    box : int
        Side of the images in pixels, divisible by four.
    """

    def __init__(self, box: int) -> None:
        super().__init__()
        # Half the resolution is more than enough for whole molecules.
        self.box, self.coarse = box, box // 2
        fy, fx = frequency_grid(self.coarse)
        ring = (torch.hypot(fy, fx) * self.coarse).numpy()
        hats = [np.interp(ring, _NODES, hat, right=0.0) for hat in np.eye(len(_NODES))]
        # At the coarse grid's Nyquist frequency an image cannot be turned.
        hats = [np.where(ring < self.coarse / 2 - 0.5, hat, 0.0) for hat in hats]
        self.register_buffer("_hats", torch.tensor(np.stack(hats), dtype=torch.float32), persistent=False)
        radius = radius_grid(self.coarse)
        self.register_buffer("_within", radius <= _REACH * self.coarse, persistent=False)
        channels = (2, *[_CHANNELS] * _LAYERS, 1)
        self.filters = nn.ParameterList(
            nn.Parameter(torch.randn(after, before, len(_NODES)) * math.sqrt(2 / before) / _SCALE)
            for before, after in pairwise(channels)
        )
        with torch.no_grad():
            self.filters[-1].mul_(0.01)
        self.offset = nn.Parameter(torch.zeros(_LAYERS, _CHANNELS, 1, 1))

    _hats: Tensor
    _within: Tensor

    def forward(self, spectra: Tensor) -> Tensor:
        """Displacements (b, 2) along (x, y), pixels, of images with half spectra (b, 2, L, L // 2 + 1)."""
        side, half = self.coarse, self.coarse // 2
        with torch.autocast(spectra.device.type, enabled=False):
            low = torch.cat([spectra[..., :half, : half + 1], spectra[..., -half:, : half + 1]], -2) / 4
            for index, filters in enumerate(self.filters):
                transfer = torch.einsum("oir,ryx->oiyx", _SCALE * filters, self._hats).to(low.dtype)
                maps = torch.fft.irfft2(torch.einsum("biyx,oiyx->boyx", low, transfer), s=(side, side))
                if index < _LAYERS:
                    maps = functional.gelu(functional.group_norm(maps, 1) + self.offset[index])
                    low = torch.fft.rfft2(maps)
            scores = maps[:, 0].masked_fill(~self._within, -torch.inf)
            weights = scores.flatten(1).softmax(-1).view_as(scores)
            position = (torch.arange(side, device=weights.device) - half) * (self.box / side)
            return torch.stack([weights.sum(-2) @ position, weights.sum(-1) @ position], -1)


def moved(images: Tensor, shifts_px: Tensor) -> Tensor:
    """Move square images so that turning before is turning after.

    An even box has a first row and column without a partner across the origin: they are left out before
    and after.

    Parameters
    ----------
    images : Tensor, shape (..., y, x)
    shifts_px : Tensor, shape (..., 2)
        Along (x, y).
    """
    inside = torch.ones(images.shape[-1], device=images.device)
    inside[0] = 0
    inside = inside * inside[:, None]
    return inside * shift_images(inside * images, shifts_px)


class Recentring(nn.Module):
    """Displacement of polar features from the centre of their grid: the first angular harmonic.

    That harmonic of anything turns with the image as a vector does, whatever the weights.

    Parameters
    ----------
    channels : int
    grid : PolarGrid
    """

    def __init__(self, channels: int, grid: PolarGrid) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, 1, 1, bias=False)
        self.profile = nn.Parameter(0.02 * torch.randn(grid.n_radii))
        angles = torch.tensor(grid.angles, dtype=torch.float32)
        self.register_buffer("_circle", torch.stack([angles.cos(), angles.sin()], -1), persistent=False)
        # As far as the first guess may be off.
        self.limit_px = grid.box / 10

    _circle: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Displacements (b, 2) along (x, y) in pixels of features (b, c, n, m)."""
        with torch.autocast(features.device.type, enabled=False):
            mixed = self.mix(features.float())[:, 0]
            vector = torch.einsum("bnm,mx,n->bx", mixed, self._circle, self.profile)
            length = vector.norm(dim=-1, keepdim=True).clamp_min(1e-6)
            displacement: Tensor = vector * (self.limit_px * torch.tanh(length / self.limit_px) / length)
        return displacement

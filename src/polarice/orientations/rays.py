"""Central rays of the Fourier transforms of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Rays", "fourier_rays"]

# Numbers of the transform's matrix that are in memory at once.
_AT_ONCE = 8_000_000


@dataclass(frozen=True)
class Rays:
    """Fourier transforms of images along rays from the origin.

    Attributes
    ----------
    values : Tensor, shape (b, m, r), complex
        Rays at the angles π a / m, a = 0 ... m - 1, from x towards y; those of the other half turn are their
        complex conjugates.
    radii : Tensor, shape (r,)
        Cycles per pixel.
    """

    values: Tensor
    radii: Tensor

    def at(self, rows: Tensor, angles: Tensor) -> Tensor:
        """Rays of some images at any angles, linear between neighbours.

        Parameters
        ----------
        rows : Tensor of int, shape (...)
            Images.
        angles : Tensor, shape (...)
            Radians.

        Returns
        -------
        Tensor, shape (..., r), complex
        """
        turn = 2 * self.values.shape[1]
        place = angles * (turn / (2 * math.pi))
        below = place.detach().floor()
        low = below.long() % turn
        return torch.lerp(
            self._whole_turn[rows, low],
            self._whole_turn[rows, low + 1],
            (place - below)[..., None].to(self.values.dtype),
        )

    @cached_property
    def _whole_turn(self) -> Tensor:
        """Rays of a whole turn, and the first one again."""
        return torch.cat([self.values, self.values.conj(), self.values[:, :1]], 1)

    def moved(self, shifts_px: Tensor) -> Rays:
        """Rays of the images moved by (b, 2) pixels along (x, y)."""
        angles = torch.arange(self.values.shape[1], device=shifts_px.device) * (
            math.pi / self.values.shape[1]
        )
        along = shifts_px[:, :1] * angles.cos() + shifts_px[:, 1:] * angles.sin()
        phase = -2 * math.pi * along[..., None] * self.radii
        return Rays(self.values * torch.polar(torch.ones_like(phase), phase), self.radii)


def fourier_rays(images: Tensor, angles: int, radii: Tensor) -> Rays:
    """Fourier transforms of images along rays, by the sum that defines them.

    Parameters
    ----------
    images : Tensor, shape (b, y, x)
        Real, the origin at ``L // 2``.
    angles : int
        Rays in half a turn.
    radii : Tensor, shape (r,)
        Cycles per pixel.
    """
    box = images.shape[-1]
    radii = radii.to(images)
    axis = torch.arange(box, device=images.device, dtype=images.dtype) - box // 2
    y, x = (part.flatten() for part in torch.meshgrid(axis, axis, indexing="ij"))
    turn = torch.arange(angles, device=images.device, dtype=images.dtype) * (math.pi / angles)
    flat = images.flatten(1)
    parts = []
    for some in turn.split(max(1, _AT_ONCE // (len(radii) * box * box))):
        along = some.cos()[:, None] * x + some.sin()[:, None] * y
        phase = -2 * math.pi * (along[:, None] * radii[:, None]).flatten(0, 1)
        part = torch.complex(flat @ phase.cos().T, flat @ phase.sin().T)
        parts.append(part.unflatten(1, (len(some), len(radii))))
    return Rays(torch.cat(parts, 1), radii)

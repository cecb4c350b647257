"""How much of the slope of an image is the ice's.

A plane fitted to a noisy image is mostly noise where the ice is even, and to take it off would do harm. In
the spectrum of a box a plane differs from all else: its power, falling with the frequency squared, lies on
the two axes alone, and stays there far beyond the few frequencies that make up the fit. What the axes have
above the frequencies beside them is therefore the planes', whatever signal and noise the images hold.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..imaging import frequency_grid

__all__ = ["PlaneMoments", "fit_slopes", "planes"]

# Frequencies on the axes that are compared with those beside them, cycles per box.
_FIRST, _LAST = 2, 8
# How well the power on the axes follows from that beside them: a share of it, and one of its change.
_BESIDE, _CHANGE = 0.03, 0.25
_SIGNIFICANT_Z = 3.0


def _axis(box: int, like: Tensor) -> Tensor:
    return torch.arange(box, dtype=like.dtype, device=like.device) - (box - 1) / 2


def fit_slopes(images: Tensor) -> Tensor:
    """Least-squares slopes of images (b, L, L) along x and y, grey values per pixel, shape (b, 2)."""
    axis = _axis(images.shape[-1], images)
    along = axis / (axis.square().sum() * len(axis))
    return torch.stack([(images.sum(1) * along).sum(1), (images.sum(2) * along).sum(1)], 1)


def planes(slopes: Tensor, box: int) -> Tensor:
    """Planes (b, box, box) of mean 0 with given slopes (b, 2) along x and y."""
    axis = _axis(box, slopes)
    return slopes[:, 0, None, None] * axis + slopes[:, 1, None, None] * axis[:, None]


class PlaneMoments:
    """Collects what tells planes from the rest of the images, batch by batch.

    Parameters
    ----------
    box : int
        Side of the images whose spectra are looked at.
    source_box : int
        Side that they were resampled from, on which the planes are.
    """

    def __init__(self, box: int, source_box: int) -> None:
        self._box, self._source = box, source_box
        self._count = 0
        self._fitted = 0.0
        self._power = torch.zeros(box, box // 2 + 1, dtype=torch.float64)

    def add(self, standard: Tensor, slopes: Tensor) -> None:
        """Count images in.

        Parameters
        ----------
        standard : Tensor, shape (b, box, box)
            Noise of standard deviation 1.
        slopes : Tensor, shape (b, 2)
            `fit_slopes` before resampling, in the same units.
        """
        power = torch.fft.rfft2(standard).abs().square() / self._box**2
        self._power += power.double().sum(0).cpu()
        self._fitted += float(slopes.double().square().sum()) / 2
        self._count += len(standard)

    def share(self) -> float:
        """The factor, 0 to 1, that brings fitted planes closest to those of the ice by least squares.

        The variance of the true slopes over that of the fitted ones; 0 where nothing significant is there.
        """
        count, box = max(self._count, 1), self._box
        power = self._power / count
        fy, fx = (frequency * box for frequency in frequency_grid(box, dtype=torch.float64))
        radius = torch.hypot(fy, fx).masked_fill((fy == 0) | (fx == 0), math.inf)
        weight, found = 0.0, torch.zeros(2, dtype=torch.float64)
        for k in range(_FIRST, min(_LAST, min(box, self._source) // 2 - 2) + 1):
            on, first, second = (_off_axis(power, k, away) for away in range(3))
            # Without planes: what is round goes by the radius; what the edge of the box has cut through falls
            # straight with the squared distance from the axis. Whichever leaves less for planes is believed.
            beside = torch.stack([_at_radius(power, radius, k), first + (first - second) / 3])
            # Power of a plane that rises by 1 a pixel.
            plane = (box / (2 * math.sin(math.pi * k / self._source))) ** 2
            variance = first.square() * (1 / count + _BESIDE**2) + (_CHANGE * (first - second)).square()
            weight += plane**2 / max(float(variance), 1e-12)
            found += plane * (on - beside) / variance.clamp_min(1e-12)
        least = float(found.min())
        if not least > _SIGNIFICANT_Z * math.sqrt(weight):
            return 0.0
        return min(1.0, least / weight / (self._fitted / count))


def _at_radius(power: Tensor, radius: Tensor, k: int) -> Tensor:
    """Mean power of a half spectrum ``k`` cycles per box from the origin, between the nearest there are."""
    inner, outer = radius[radius <= k].max(), radius[radius >= k].min()
    low, high = (power[(radius - r).abs() < 1e-6].mean() for r in (inner, outer))
    return torch.lerp(low, high, (k - inner) / (outer - inner).clamp_min(1e-6))


def _off_axis(power: Tensor, k: int, away: int) -> Tensor:
    """Mean power of a half spectrum at ``k`` cycles per box along one axis and ``away`` along the other."""
    return torch.stack([power[away, k], power[-away, k], power[k, away], power[-k, away]]).mean()

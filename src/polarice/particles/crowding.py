"""Where particles end and those beside them begin, told from the stack itself.

Over a stack the mean power of pixels falls from the particle to that of the noise, which is the same
everywhere, and stays there. Where other particles reach into the boxes it rises again, and the least of it
lies between. Without such a rise nothing is told, and nothing needs to be.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..imaging import filter_images, frequency_grid, radius_grid
from .planes import planes

__all__ = ["EDGE_PX", "MARGIN_A", "PowerProfile"]

# Width of the soft edge of the disc that images are masked with, as in the training sets: outside the gap.
EDGE_PX = 4.0
# Between the gap and that edge: others outweigh a particle's rim, and the fringes about it, before they end.
MARGIN_A = 5.0

# Cycles per box: how fine detail is looked at, one standard deviation of a Gaussian.
_DETAIL = 8.0
# What counts as a rise: standard errors, a share of the fall from the particle, and at most so much of it.
_SIGNIFICANT_Z, _LEAST_RISE, _MOST_RISE = 5.0, 0.02, 2.0
_FEWEST = 50


class PowerProfile:
    """Collects the power of pixels by their distance from the middle of the box, batch by batch.

    Parameters
    ----------
    box : int
        Side of the images in pixels.
    source_box : int
        Side that they were resampled from, on which planes are.
    """

    def __init__(self, box: int, source_box: int) -> None:
        self._box, self._source = box, source_box
        fy, fx = frequency_grid(box)
        radius = torch.hypot(fy, fx) * box
        self._filter = torch.exp(-((radius / _DETAIL) ** 2) / 2) * (radius > 0)
        distance = radius_grid(box).round().long().flatten()
        self._inside = distance <= box // 2
        self._distance = distance[self._inside]
        self._pixels = torch.bincount(self._distance).double()
        self._count = 0
        # Of image², image · plane, plane²; and of image⁴, whose spread says how sure the mean is.
        self._sums = torch.zeros(3, len(self._pixels), dtype=torch.float64)
        self._squares = torch.zeros(len(self._pixels), dtype=torch.float64)

    def add(self, standard: Tensor, signs: Tensor | None, slopes: Tensor) -> None:
        """Count images in.

        Parameters
        ----------
        standard : Tensor, shape (b, box, box)
            Background 0, noise of standard deviation 1.
        signs : Tensor, shape (b, box, box // 2 + 1), or None
            What undoes the sign changes of their CTFs.
        slopes : Tensor, shape (b, 2)
            Of the planes fitted before resampling, a share of which will be taken off.
        """
        passed = self._filter if signs is None else self._filter * signs
        images = filter_images(standard, passed)
        fitted = filter_images(planes(slopes * (self._source / self._box), self._box), passed)
        parts = [self._profiles(product) for product in (images * images, images * fitted, fitted * fitted)]
        self._sums += torch.stack([part.sum(0) for part in parts])
        self._squares += parts[0].square().sum(0)
        self._count += len(standard)

    def _profiles(self, values: Tensor) -> Tensor:
        """Means (b, radii) over pixels of one distance."""
        inside = values.flatten(1)[:, self._inside].double()
        sums = inside.new_zeros(len(values), len(self._pixels)).index_add_(1, self._distance, inside)
        return sums / self._pixels

    def profile(self, share: float) -> Tensor:
        """Mean power at 0, 1, … pixels from the middle, once a share of the fitted planes is taken off."""
        own, mixed, fitted = self._sums / max(self._count, 1)
        power: Tensor = own - 2 * share * mixed + share * share * fitted
        return power

    def gap(self, share: float) -> int | None:
        """How many pixels from the middle particles end and others begin; None where no others are seen.

        The outermost significant minimum, if the power is nowhere less beyond, and rises from there by more
        than a fiftieth of what it has fallen before and by less than twice that: the middle of a hollow
        particle is no gap, nor is what lies between its parts.
        """
        if self._count < _FEWEST:
            return None
        power = self.profile(share)
        error = (self._squares / self._count - (self._sums[0] / self._count).square()).clamp_min(0)
        error = (error / self._count).sqrt()
        for radius in range(len(power) - 2, 0, -1):
            if not power[radius - 1] > power[radius] <= power[radius + 1]:
                continue
            outer = radius + 1 + int(power[radius + 1 :].argmax())
            fall, rise = float(power[:radius].max() - power[radius]), float(power[outer] - power[radius])
            sure = _SIGNIFICANT_Z * math.hypot(float(error[outer]), float(error[radius]))
            if min(fall, rise) > sure:
                clear = bool(power[radius] <= power[radius:].min())
                return radius if clear and _LEAST_RISE * fall < rise < _MOST_RISE * fall else None
        return None

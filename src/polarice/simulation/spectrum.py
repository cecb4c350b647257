"""The colour of noise: measured in patches of empty ice, and given to simulated noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from ..errors import ParticleFileError
from ..imaging import frequency_grid
from ..particles import ParticleStack

__all__ = ["NoiseSpectrum", "coloured_noise", "measure_noise_spectrum"]

_MOST_PATCHES = 4096
_FEWEST_PATCHES = 8
_PIXELS_AT_ONCE = 2**22


@dataclass(frozen=True, eq=False)
class NoiseSpectrum:
    """Power of noise in rings of the spectrum, the same in every direction.

    Attributes
    ----------
    frequency_per_A : Tensor, shape (r,), float64
        Of the rings, the lowest first; never 0.
    power : Tensor, shape (r,), float64
        In any unit.
    """

    frequency_per_A: Tensor
    power: Tensor

    def amplitudes(self, box: int, pixel_size_A: float) -> Tensor:
        """Factors on the spectrum of white noise that leave the variance of a pixel as it is.

        Between rings the power is interpolated; below the first and beyond the last ring it is theirs.

        Parameters
        ----------
        box : int
        pixel_size_A : float

        Returns
        -------
        Tensor, shape (box, box // 2 + 1)
        """
        fy, fx = frequency_grid(box, dtype=torch.float64)
        frequency = torch.hypot(fy, fx) / pixel_size_A
        power = np.interp(frequency.numpy(), self.frequency_per_A.numpy(), self.power.numpy())
        found = torch.from_numpy(power)
        # Every column of a half spectrum stands for two but the first and, in an even box, the last.
        weight = torch.full_like(found, 2.0)
        weight[:, 0] = 1
        if box % 2 == 0:
            weight[:, -1] = 1
        return (found / ((found * weight).sum() / box**2)).sqrt().float()


def measure_noise_spectrum(path: str | Path) -> NoiseSpectrum:
    """Measure the noise of patches without particles.

    A ring's power is the median over patches, so that protein or dirt in a few of them does not count.

    Parameters
    ----------
    path : path-like
        Whatever `ParticleStack.open` opens; of a large stack 4096 patches, spread evenly, are read.

    Raises
    ------
    ParticleFileError
        When the stack cannot be read, does not say its pixel size, or has fewer than 8 patches that are
        finite and not constant.
    """
    stack = ParticleStack.open(path)
    pixel_A, box = stack.pixel_size_A, stack.box
    fy, fx = frequency_grid(box)
    ring = (torch.hypot(fy, fx) * box).round().long()
    used = (ring >= 1) & (ring <= box // 2)
    # Each coefficient of the half spectrum once: the mirror images in the first and last column are copies.
    used[box // 2 + 1 :, 0] = False
    if box % 2 == 0:
        used[box // 2 + 1 :, -1] = False
    weights = torch.nn.functional.one_hot(ring[used] - 1).double()
    count = weights.sum(0)
    wanted = np.unique(np.linspace(0, len(stack) - 1, min(len(stack), _MOST_PATCHES)).round().astype(int))
    found = []
    for rows in np.array_split(wanted, math.ceil(len(wanted) * box**2 / _PIXELS_AT_ONCE)):
        patches = torch.from_numpy(stack.images(rows)).double()
        patches = patches[patches.isfinite().flatten(1).all(1) & (patches.flatten(1).std(1) > 0)]
        if len(patches):
            power = torch.fft.rfft2(patches).abs().square()[:, used] / box**2
            found.append(power @ weights / count)
    rings = torch.cat(found) if found else count.new_zeros(0, len(count))
    if len(rings) < _FEWEST_PATCHES:
        raise ParticleFileError(
            f"has {len(rings)} patches to measure noise in, which are too few", path=Path(path),
            hint=f"Give at least {_FEWEST_PATCHES} images of empty ice",
        )  # fmt: skip
    # The median of a chi-square distribution lies below its mean; two degrees for a complex number.
    freedom = 2 * count.numpy()
    power = rings.median(0).values / torch.from_numpy(chi2.median(freedom) / freedom)
    frequency = torch.arange(1, box // 2 + 1, dtype=torch.float64) / (box * pixel_A)
    return NoiseSpectrum(frequency, power)


def coloured_noise(amplitudes: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Gaussian noise with a spectrum.

    Parameters
    ----------
    amplitudes : Tensor, shape (L, L // 2 + 1)
        `NoiseSpectrum.amplitudes`.
    generators : sequence of torch.Generator, length b
        One for each image.

    Returns
    -------
    Tensor, shape (b, L, L)
    """
    box = len(amplitudes)
    white = torch.stack([torch.randn(box, box, generator=g) for g in generators])
    noise: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * amplitudes, s=(box, box))
    return noise

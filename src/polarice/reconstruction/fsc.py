"""Fourier shell correlation of two maps: plain, within a mask, and corrected for what the mask adds.

A mask makes two maps alike where they are not. How much is measured on maps whose phases were made random
beyond a shell: what correlation they have within the mask is the mask's own, and is taken off (Chen et al.
2013, Ultramicroscopy 135, 24), as RELION's postprocessing does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import PolariceError
from ..imaging import divide_rings, frc_resolution_A
from .shells import frequency_radius, shell_means

__all__ = ["MapComparison", "compare_maps", "fourier_shell_correlation", "randomise_phases"]

# Phases are made random beyond the shell where the plain curve falls below this; RELION's choice, too.
_RANDOMISE_BELOW = 0.8
# The correction starts so many shells later: a mask mixes neighbouring ones.
_MIXED_SHELLS = 2


def fourier_shell_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of two volumes shell by shell: ``<a, b> / sqrt(<a, a> <b, b>)``.

    Parameters
    ----------
    first, second : Tensor, shape (L, L, L)

    Returns
    -------
    Tensor, shape (L // 2 + 1,), float64
        Between -1 and 1; a shell without power gives 0.

    Raises
    ------
    PolariceError
        The volumes are not of one size.
    """
    if first.shape != second.shape:
        raise PolariceError(f"maps of {first.shape[0]} and {second.shape[0]} voxels cannot be compared")
    a, b = torch.fft.rfftn(first.double()), torch.fft.rfftn(second.double())
    cross = shell_means((a * b.conj()).real)
    power = shell_means(a.abs().square()).sqrt() * shell_means(b.abs().square()).sqrt()
    return divide_rings(cross, power).clamp(-1, 1)


def randomise_phases(volume: Tensor, beyond: int, generator: torch.Generator) -> Tensor:
    """The volume with the phases of another one, of noise, beyond a shell; amplitudes stay.

    Parameters
    ----------
    volume : Tensor, shape (L, L, L)
    beyond : int
        The last shell that is kept.
    generator : torch.Generator
    """
    noise = torch.randn(volume.shape, generator=generator, device=generator.device, dtype=volume.dtype)
    spectrum, other = torch.fft.rfftn(volume), torch.fft.rfftn(noise.to(volume.device))
    random = spectrum.abs() * torch.exp(1j * other.angle())
    kept = frequency_radius(len(volume), volume.device).round() <= beyond
    changed: Tensor = torch.fft.irfftn(torch.where(kept, spectrum, random), s=volume.shape)
    return changed


@dataclass(frozen=True)
class MapComparison:
    """Fourier shell correlations of two maps, each of shape (L // 2 + 1,).

    Attributes
    ----------
    unmasked : Tensor
    masked, randomised, corrected : Tensor or None
        Within the mask: of the maps, of maps with random phases, and of the maps less what the mask
        adds; None without a mask.
    randomised_from : int or None
        The first shell with random phases.
    box : int
    pixel_size_A : float
    """

    unmasked: Tensor
    masked: Tensor | None
    randomised: Tensor | None
    corrected: Tensor | None
    randomised_from: int | None
    box: int
    pixel_size_A: float

    @property
    def best(self) -> Tensor:
        """The corrected curve where there is one."""
        return self.unmasked if self.corrected is None else self.corrected

    def resolution_A(self, threshold: float = 0.143) -> float:
        """Where `best` first falls below a threshold, Å: 0.143 between half maps, 0.5 against a truth."""
        return frc_resolution_A(self.best, self.box, self.pixel_size_A, threshold)

    def summary(self) -> dict[str, Any]:
        """Sizes, and where each curve falls below 0.5 and 0.143 in Å (None: at once), as plain values."""
        crossings = {
            name: {f"{level:g}": self._crossing(curve, level) for level in (0.5, 0.143)}
            for name, curve in self.curves().items()
            if name != "randomised"
        }
        return {"box": self.box, "pixel_size_A": self.pixel_size_A, "resolution_A": crossings}

    def _crossing(self, curve: Tensor, threshold: float) -> float | None:
        resolution_A = frc_resolution_A(curve, self.box, self.pixel_size_A, threshold)
        return round(resolution_A, 3) if math.isfinite(resolution_A) else None

    def curves(self) -> dict[str, Tensor]:
        """All curves that there are, by name."""
        names = ("unmasked", "masked", "randomised", "corrected")
        found = {name: getattr(self, name) for name in names}
        return {name: curve for name, curve in found.items() if curve is not None}


def compare_maps(
    first: Tensor, second: Tensor, pixel_size_A: float, mask: Tensor | None = None, *, seed: int = 0
) -> MapComparison:
    """Correlate two maps, such as the halves of a data set.

    Parameters
    ----------
    first, second : Tensor, shape (L, L, L)
    pixel_size_A : float
    mask : Tensor, shape (L, L, L), optional
        Between 0 and 1.
    seed : int
        Of the random phases.

    Raises
    ------
    PolariceError
        Sizes differ.
    """
    box = len(first)
    plain = fourier_shell_correlation(first, second)
    if mask is None:
        return MapComparison(plain, None, None, None, None, box, pixel_size_A)
    if mask.shape != first.shape:
        raise PolariceError(f"a mask of {len(mask)} voxels does not fit maps of {box}")
    masked = fourier_shell_correlation(first * mask, second * mask)
    below = torch.nonzero(plain[1:] < _RANDOMISE_BELOW)
    start = 1 + int(below[0, 0]) if len(below) else box // 2
    generator = torch.Generator().manual_seed(seed)
    mixed = (randomise_phases(volume, start - 1, generator) * mask for volume in (first, second))
    randomised = fourier_shell_correlation(*mixed)
    without = divide_rings(masked - randomised, 1 - randomised)
    late = torch.arange(len(masked), device=masked.device) >= start + _MIXED_SHELLS
    corrected = torch.where(late, without, masked)
    return MapComparison(plain, masked, randomised, corrected, start, box, pixel_size_A)

"""From the normal equations of two half sets to half maps, their correlation, and the map of all images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .fsc import MapComparison, compare_maps, fourier_shell_correlation
from .least_squares import NormalEquations
from .masks import soft_mask

__all__ = ["HalfMaps", "half_map", "signal_prior", "solve_halves"]

# Beside what the images say, on average over a shell: enough to keep gaps between views from being filled
# with noise. On the shell's average its shrinking is undone.
_RIDGE = 0.3
_LEAST = 1e-6
_SURE, _UNSURE = 0.999, 0.001


@dataclass(frozen=True)
class HalfMaps:
    """Maps of two half sets and of both.

    Attributes
    ----------
    first, second : Tensor, shape (L, L, L)
        Of the half sets, all but unregularised and without a mask.
    whole : Tensor, shape (L, L, L)
        Of all images, with the prior that the half maps' correlation gives; within the mask.
    mask : Tensor, shape (L, L, L)
    comparison : MapComparison
        Of the half maps.
    prior : Tensor, shape (L // 2 + 1,)
        What their correlation says of the volume's shells, for `NormalEquations.solve`.
    """

    first: Tensor
    second: Tensor
    whole: Tensor
    mask: Tensor
    comparison: MapComparison
    prior: Tensor


def signal_prior(information: Tensor, fsc: Tensor) -> Tensor:
    """Inverse variance of a volume's shells from how far half maps agree.

    With the correlation F of two halves, the signal has F / (1 - F) times the variance of a half's noise
    (Scheres 2012, J. Mol. Biol. 415, 406, eq. 11).

    Parameters
    ----------
    information : Tensor, shape (L // 2 + 1,)
        `NormalEquations.information` of one half.
    fsc : Tensor, shape (L // 2 + 1,)
    """
    likely = fsc.clamp(_UNSURE, _SURE)
    return information * (1 - likely) / likely


def half_map(half: NormalEquations) -> Tensor:
    """Map (L, L, L) of a half set, all but unregularised; nothing in it depends on the other half."""
    return (1 + _RIDGE) * half.solve(_RIDGE * _information(half))


def solve_halves(
    first: NormalEquations, second: NormalEquations, pixel_size_A: float, mask: Tensor | None = None
) -> HalfMaps:
    """Half maps, and the map of all images with a prior that needs no parameter.

    Parameters
    ----------
    first, second : NormalEquations
    pixel_size_A : float
    mask : Tensor, shape (L, L, L), optional
        Between 0 and 1; made from the map by default.

    Returns
    -------
    HalfMaps
    """
    one, two = half_map(first), half_map(second)
    both = first + second

    information = _information(both) / 2
    if mask is None:
        plain = fourier_shell_correlation(one, two)
        mask = soft_mask(both.solve(signal_prior(information, plain)), pixel_size_A)
    comparison = compare_maps(one, two, pixel_size_A, mask)
    prior = signal_prior(information, comparison.best)
    return HalfMaps(one, two, both.solve(prior) * mask, mask, comparison, prior)


def _information(equations: NormalEquations) -> Tensor:
    """What images say of each shell, nowhere quite nothing: shells where all CTFs are zero stay empty."""
    information = equations.information()
    return information.clamp(min=_LEAST * float(information[1:].max()))

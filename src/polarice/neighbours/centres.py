"""Where the particles of a stack lie, now that the stack has told what they look like.

A single image's centre is found by a network that knows molecules, but not this one. The covariance of a
stack does: a shift is the likelier, the more probable it makes the image that it brings to the centre, as one
of those that covariance and mean describe, whatever its view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .covariance import StackCovariance
from .harmonics import DiscHarmonics

__all__ = ["likeliest_centres"]

# Shifts in pixels along each axis that are weighed against each other.
_OFFSETS = torch.arange(-3.0, 4.0)
# Along each axis, pixels: error of a first guess, and how far from the middle particles lie at least.
_GUESSED_PX, _LEAST_PX = 1.4, 0.3

Parts = Callable[[], Iterator[tuple[slice, Tensor, Tensor]]]


def likeliest_centres(harmonics: DiscHarmonics, parts: Parts, centre: Tensor) -> Tensor:
    """Centres of particles, each the mean of all offsets under their likelihood.

    How far particles lie from the middle of their boxes the first look tells, and the second is told.

    Parameters
    ----------
    harmonics : DiscHarmonics
    parts : callable
        Yields, as often as asked, rows, their `DiscHarmonics.spectra` (b, f) after their CTFs, and squared
        CTFs (b, h) on the harmonics' rings.
    centre : Tensor, shape (n, 2)
        First guess, (x, y) in pixels from the centre of the box.

    Returns
    -------
    Tensor, shape (n, 2)
    """
    first = centre
    centre, variance = _weighed(harmonics, parts, first, first, math.inf)
    # What is seen, less what is not sure.
    spread = (centre.square().mean() - variance.mean()).clamp_min(_LEAST_PX**2)
    centre = centre * (spread / (spread + variance))[:, None]
    return _weighed(harmonics, parts, centre, first, float(spread))[0]


def _weighed(
    harmonics: DiscHarmonics, parts: Parts, centre: Tensor, guess: Tensor, spread: float
) -> tuple[Tensor, Tensor]:
    """Mean (n, 2) and variance along an axis (n,) of all offsets from the centres known so far.

    Centres lie about a first guess, and about the middle with a variance of ``spread`` along each axis.
    """
    offsets = torch.cartesian_prod(_OFFSETS, _OFFSETS).to(centre)
    covariance = StackCovariance(harmonics.orders.cpu())
    for rows, spectra, passed in parts():
        covariance.add(harmonics.analyse_spectra(harmonics.moved(spectra, -centre[rows])), passed)
    prior = covariance.prior().to(centre.device)
    columns = harmonics.mixed(prior.columns)
    means, variances = torch.empty_like(centre), torch.empty_like(centre[:, 0])
    for rows, spectra, passed in parts():
        about = harmonics.moved(spectra, -centre[rows])
        known, left = (passed * prior.mean) @ prior.columns, prior.left_open(passed)
        evidence = torch.stack(
            [
                prior.evidence(
                    harmonics.analyse_spectra(harmonics.moved(about, -offset), columns), known, left
                )
                for offset in offsets
            ],
            1,
        )
        place = centre[rows, None] + offsets
        evidence -= (place - guess[rows, None]).square().sum(-1) / (2 * _GUESSED_PX**2)
        evidence -= place.square().sum(-1) / (2 * spread)
        weights = evidence.softmax(1)
        away = weights @ offsets
        means[rows] = centre[rows] + away
        variances[rows] = (weights @ offsets.square() - away.square()).mean(-1)
    return means, variances

"""Where the particles of a stack lie, now that the stack has told what they look like.

A single image's centre is found by a network that knows molecules, but not this one. The covariance of a
stack does: a shift is the likelier, the more probable it makes the image that it brings to the centre, as one
of those that covariance and mean describe, whatever its view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .covariance import StackCovariance
from .harmonics import DiscHarmonics

__all__ = ["likeliest_centres"]

# Shifts in pixels along each axis that are weighed against each other, and how often.
_OFFSETS = torch.arange(-3.0, 4.0)
_PASSES = 2
# Of a first guess along each axis, pixels.
_SPREAD_PX = 1.4

Parts = Callable[[], Iterator[tuple[slice, Tensor, Tensor]]]


def likeliest_centres(harmonics: DiscHarmonics, parts: Parts, centre: Tensor) -> Tensor:
    """Centres of particles, each the mean of all offsets under their likelihood.

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
    offsets = torch.cartesian_prod(_OFFSETS, _OFFSETS).to(centre)
    for _ in range(_PASSES):
        covariance = StackCovariance(harmonics.orders.cpu())
        for rows, spectra, passed in parts():
            covariance.add(harmonics.analyse_spectra(harmonics.moved(spectra, -centre[rows])), passed)
        prior = covariance.prior().to(centre.device)
        columns = harmonics.mixed(prior.columns)
        better = torch.empty_like(centre)
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
            away = centre[rows, None] + offsets - first[rows, None]
            evidence -= away.square().sum(-1) / (2 * _SPREAD_PX**2)
            better[rows] = centre[rows] + evidence.softmax(1) @ offsets
        centre = better
    return centre

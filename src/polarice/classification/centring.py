"""Where particles lie, told by the views of their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..neighbours import DiscHarmonics, LearnedStack, ViewEstimator, Views

__all__ = ["centre_on_classes"]

# Shifts in pixels along each axis that are weighed against each other, and what is known before.
_OFFSETS = torch.arange(-2.0, 3.0)
_SPREAD_PX = 1.4

Parts = Callable[[], Iterator[tuple[slice, Tensor, Tensor]]]


def centre_on_classes(
    harmonics: DiscHarmonics, learned: LearnedStack, parts: Parts, views: Views
) -> tuple[Tensor, Tensor]:
    """Centres of particles, each the mean of all offsets under the likelihood of its class's view.

    Parameters
    ----------
    harmonics : DiscHarmonics
    learned : LearnedStack
        Of n images.
    parts : callable
        As for `polarice.neighbours.likeliest_centres`.
    views : Views
        Of the class of each image, as they are without it.

    Returns
    -------
    centre : Tensor, shape (n, 2)
    images : Tensor, shape (n, f), complex
        `ViewEstimator.images` about these centres.
    """
    likelihood, prior, centre = learned.likelihood, learned.prior, learned.centre
    estimator = ViewEstimator(likelihood)
    columns, prior_columns = harmonics.mixed(likelihood.columns), harmonics.mixed(prior.columns)
    offsets = torch.cartesian_prod(_OFFSETS, _OFFSETS).to(centre)
    before = -offsets.square().sum(-1) / (2 * _SPREAD_PX**2)

    better, images = torch.empty_like(centre), torch.empty_like(views.mean)
    for rows, spectra, passed in parts():
        view = Views(views.mean[rows], views.members[rows])
        evening, left = likelihood.evening(passed), prior.left_open(passed)
        known = (passed * prior.mean) @ prior.columns
        about = harmonics.moved(spectra, -centre[rows])
        weighed = []
        for offset in offsets:
            moved = harmonics.moved(about, -offset)
            # As likely of any view as it is, and of this one so much more.
            of_any = prior.evidence(harmonics.analyse_spectra(moved, prior_columns), known, left)
            mixed = harmonics.analyse_spectra(moved, columns)
            seen = estimator.images(likelihood.features_of_mixed(mixed, passed, evening))
            weighed.append(of_any + estimator.log_ratio(view, seen))
        better[rows] = centre[rows] + (torch.stack(weighed, 1) + before).softmax(1) @ offsets
        mixed = harmonics.analyse_spectra(harmonics.moved(spectra, -better[rows]), columns)
        images[rows] = estimator.images(likelihood.features_of_mixed(mixed, passed, evening))
    return better, images

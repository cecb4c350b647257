"""Where particles lie, told by the views of their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..neighbours import DiscHarmonics, LearnedStack, ViewEstimator, Views

__all__ = ["centre_on_classes"]

# Shifts in pixels along each axis that are weighed against each other, and what is known before.
_OFFSETS = torch.arange(-3.0, 4.0)
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

    def images_of(spectra: Tensor, passed: Tensor) -> Tensor:
        mixed = harmonics.analyse_spectra(spectra, columns)
        return estimator.images(likelihood.features_of_mixed(mixed, passed))

    better, images = torch.empty_like(centre), torch.empty_like(views.mean)
    for rows, spectra, passed in parts():
        view = Views(views.mean[rows], views.members[rows])
        known = (passed * prior.mean) @ prior.columns

        def evidence(
            moved: Tensor, view: Views = view, passed: Tensor = passed, known: Tensor = known
        ) -> Tensor:
            # As likely of any view as it is, and of this one so much more.
            of_any = prior.evidence(harmonics.analyse_spectra(moved, prior_columns), known)
            return of_any + estimator.log_ratio(view, images_of(moved, passed))

        about = harmonics.moved(spectra, -centre[rows])
        weighed = torch.stack([evidence(harmonics.moved(about, -offset)) for offset in offsets], 1)
        better[rows] = centre[rows] + (weighed + before).softmax(1) @ offsets
        images[rows] = images_of(harmonics.moved(spectra, -better[rows]), passed)
    return better, images

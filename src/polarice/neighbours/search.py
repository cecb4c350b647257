"""The likeliest companions of each image of a stack, at any in-plane angle.

The stack first tells where its particles lie and what they look like (`likeliest_centres`,
`StackCovariance`); then all pairs are compared, and the best of them once more by means of several
(`judge_by_averages`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import give_back
from .averages import judge_by_averages
from .centres import likeliest_centres
from .covariance import ImagePrior, StackCovariance, ViewFeatures, ViewLikelihood
from .estimates import ViewEstimator
from .harmonics import DiscHarmonics
from .pairs import likeliest_pairs
from .table import NOBODY

__all__ = ["Companions", "StackViews", "find_companions", "likeliest_companions"]

# Images of a stack that are read at once.
_PART = 2048
# Pairs of each image that are looked at twice.
_CANDIDATES = 200


class StackViews(NamedTuple):
    """What the images of a stack are compared by, in memory or in files.

    Attributes
    ----------
    spectra : ndarray, shape (n, f), complex64
        `DiscHarmonics.spectra` of images filtered by their CTFs.
    passed : ndarray, shape (n, h), float16
        Squared CTFs on the harmonics' rings.
    centre : ndarray, shape (n, 2), float32
        Where the particles seem to lie, (x, y) in pixels from the centre of the box.
    embedding : ndarray, shape (n, e), float32
        Unit vectors of a network.
    """

    spectra: NDArray[np.complex64]
    passed: NDArray[np.float16]
    centre: NDArray[np.float32]
    embedding: NDArray[np.float32]

    def parts(
        self, members: NDArray[np.int64], device: torch.device
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Places among some members, their spectra and squared CTFs, as many at once as memory likes."""
        for start in range(0, len(members), _PART):
            places = slice(start, min(start + _PART, len(members)))
            spectra, passed = (
                torch.from_numpy(x[members[places]]).to(device) for x in (self.spectra, self.passed)
            )
            yield places, spectra, passed.float()
            give_back(self.spectra, self.passed)


class Companions(NamedTuple):
    """A neighbour table.

    Attributes
    ----------
    rows : ndarray of int64, shape (n, k)
        Likeliest first; `NOBODY` in empty places.
    evidence : ndarray of float32, shape (n, k)
        Logarithm of the likelihood ratio, one view against unrelated ones, and what the embedding adds; −inf
        in empty places.
    probability : ndarray of float32, shape (n, k)
        Of one view, as far as the stack alone can tell; 0 in empty places.
    mirrored : ndarray of bool, shape (n, k)
        Companions that show the view from the other side, as mirror images do.
    angles_deg : ndarray of float32, shape (n, k)
        How far a companion must be turned from x towards y, about its particle's centre and mirrored along
        y before if it is a mirror image, to lie upon the image's particle.
    """

    rows: NDArray[np.int64]
    evidence: NDArray[np.float32]
    probability: NDArray[np.float32]
    mirrored: NDArray[np.bool_]
    angles_deg: NDArray[np.float32]

    @classmethod
    def nobody(cls, total: int, count: int) -> Companions:
        """An empty table."""
        table = total, count
        return cls(
            np.full(table, NOBODY, np.int64),
            np.full(table, -np.inf, np.float32),
            np.zeros(table, np.float32),
            np.zeros(table, bool),
            np.zeros(table, np.float32),
        )


class Search(NamedTuple):
    """What a search has found.

    Attributes
    ----------
    companions : Companions
    centre : ndarray of float32, shape (n, 2)
        Where the particles lie, (x, y) in pixels from the centre of the box.
    informed : bool
        Whether anything that tells views apart stood out of the noise, in all half sets.
    """

    companions: Companions
    centre: NDArray[np.float32]
    informed: bool


@torch.inference_mode()
def find_companions(
    harmonics: DiscHarmonics,
    views: StackViews,
    count: int,
    apart: NDArray[np.int64],
    groups: NDArray[np.int64],
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
    *,
    mirrored: bool = False,
    original: NDArray[np.int64] | None = None,
) -> Search:
    """Learn from a stack what its images look like, and compare them by it.

    Parameters
    ----------
    harmonics : DiscHarmonics
        Of the stack's box.
    views : StackViews
    count : int
        Companions asked for.
    apart : ndarray of int, shape (n,)
        Half set of each image; nothing about one half depends on the other.
    groups : ndarray of int, shape (n,)
        Images of different groups are not compared; a group lies within a half.
    device : torch.device
    progress : callable
        Called with the number of images done.
    mirrored : bool
        Look at every image as its mirror image too.
    original : ndarray of int, shape (n,), optional
        The same for images that are copies of each other, which are no companions: they share their noise.
    """
    total = len(groups)
    companions = Companions.nobody(total, count)
    centres = np.empty((total, 2), np.float32)
    done, informed = 0, True
    for half in np.unique(apart):
        members = np.flatnonzero(apart == half)
        learned = learn_from_stack(harmonics, views, members, device)
        with torch.autocast(device.type, enabled=False):
            found = likeliest_companions(
                learned.likelihood,
                learned.features,
                learned.embedding,
                count,
                groups[members],
                lambda here, before=done: progress(before + here),  # type: ignore[misc]
                mirrored=mirrored,
                original=None if original is None else original[members],
            )
        centres[members] = learned.centre.cpu().numpy()
        _put(companions, members, found)
        informed &= ViewEstimator(learned.likelihood).informed
        done += len(members)
    return Search(companions, centres, informed)


class LearnedStack(NamedTuple):
    """What some images of a stack say of themselves.

    Attributes
    ----------
    likelihood : ViewLikelihood
    prior : ImagePrior
    features : ViewFeatures
        Of n images, about their particles' centres.
    embedding : Tensor, shape (n, e)
    centre : Tensor, shape (n, 2)
        Where the particles lie, (x, y) in pixels from the centre of the box.
    """

    likelihood: ViewLikelihood
    prior: ImagePrior
    features: ViewFeatures
    embedding: Tensor
    centre: Tensor


@torch.inference_mode()
def learn_from_stack(
    harmonics: DiscHarmonics, views: StackViews, members: NDArray[np.int64], device: torch.device
) -> LearnedStack:
    """Learn from some images of a stack where their particles lie and what they are compared by.

    Parameters
    ----------
    harmonics : DiscHarmonics
        Of the stack's box.
    views : StackViews
    members : ndarray of int, shape (n,)
        Rows; nothing depends on the others.
    device : torch.device
    """
    harmonics = harmonics.to(device)

    def parts() -> Iterator[tuple[slice, Tensor, Tensor]]:
        return views.parts(members, device)

    # Moments and likelihoods want full precision.
    with torch.autocast(device.type, enabled=False):
        centre = torch.from_numpy(views.centre[members]).to(device)
        centre = likeliest_centres(harmonics, parts, centre)

        def centred() -> Iterator[tuple[Tensor, Tensor]]:
            for rows, spectra, passed in parts():
                yield harmonics.analyse_spectra(harmonics.moved(spectra, -centre[rows])), passed

        covariance = StackCovariance(harmonics.orders.cpu())
        for filtered, passed in centred():
            covariance.add(filtered, passed)
        likelihood = covariance.likelihood().to(device)
        compared = [likelihood.features(filtered, passed) for filtered, passed in centred()]
        prior = covariance.prior().to(device)
    features = ViewFeatures(*map(torch.cat, zip(*compared, strict=True)))
    embedding = torch.from_numpy(views.embedding[members]).to(device)
    return LearnedStack(likelihood, prior, features, embedding, centre)


@torch.inference_mode()
def likeliest_companions(
    likelihood: ViewLikelihood,
    features: ViewFeatures,
    embedding: Tensor,
    count: int,
    groups: NDArray[np.int64],
    progress: Callable[[int], None] = lambda done: None,
    *,
    mirrored: bool = False,
    original: NDArray[np.int64] | None = None,
) -> Companions:
    """Compare each image with all of its group at every in-plane angle, and the best by averages once more.

    Parameters
    ----------
    likelihood : ViewLikelihood
    features : ViewFeatures
        Of n images.
    embedding : Tensor, shape (n, e)
        Unit vectors.
    count : int
        Companions asked for.
    groups : ndarray of int, shape (n,)
        Images of different groups are not compared.
    progress : callable
        Called with the number of images done.
    mirrored : bool
        Look at every image as its mirror image too.
    original : ndarray of int, shape (n,), optional
        The same for images that are copies of each other, which are no companions: they share their noise.
    """
    companions = Companions.nobody(len(features.own), count)
    done = 0
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        place = torch.from_numpy(members).to(features.own.device)
        here = ViewFeatures(features.vectors[place], features.own[place])

        def report(looked: int, before: int = done) -> None:
            progress(before + looked // 2)

        def report_again(looked: int, before: int = done, size: int = len(members)) -> None:
            progress(before + (size + looked) // 2)

        candidates, evidence = likeliest_pairs(
            likelihood,
            here,
            embedding[place],
            max(count, _CANDIDATES),
            mirrored,
            report,
            original=None if original is None else torch.from_numpy(original[members]).to(place),
        )
        judgement = judge_by_averages(likelihood, here, candidates, evidence, report_again)
        best = judgement.evidence.topk(min(count, candidates.shape[1]))
        chosen = candidates.gather(1, best.indices)
        found = (
            torch.where(best.values.isfinite(), chosen % len(members), NOBODY),
            best.values,
            judgement.probability.gather(1, best.indices),
            chosen >= len(members),
            judgement.angles_deg(chosen),
        )
        _put(companions, members, Companions(*(part.cpu().numpy() for part in found)))
        done += len(members)
    return companions


def _put(table: Companions, members: NDArray[np.int64], found: Companions) -> None:
    """Enter what was found among some rows of a table, which may be narrower."""
    wide = found.rows.shape[1]
    there = found.rows != NOBODY
    table.rows[members, :wide] = np.where(there, members[found.rows], NOBODY)
    for name in Companions._fields[1:]:
        values, empty = getattr(found, name), -np.inf if name == "evidence" else 0
        getattr(table, name)[members, :wide] = np.where(there, values, empty)

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

from .averages import judge_by_averages
from .centres import likeliest_centres
from .covariance import StackCovariance, ViewFeatures, ViewLikelihood
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


class Companions(NamedTuple):
    """A neighbour table.

    Attributes
    ----------
    rows : ndarray of int64, shape (n, k)
        Likeliest first; `NOBODY` in empty places.
    evidence : ndarray of float32, shape (n, k)
        Logarithm of the likelihood ratio, one view against unrelated ones, and what the embedding adds; −inf
        in empty places.
    mirrored : ndarray of bool, shape (n, k)
        Companions that show the view from the other side, as mirror images do.
    """

    rows: NDArray[np.int64]
    evidence: NDArray[np.float32]
    mirrored: NDArray[np.bool_]


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
) -> Companions:
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
    """
    total = len(groups)
    companions = _nobody(total, count)
    harmonics = harmonics.to(device)
    done = 0
    for half in np.unique(apart):
        members = np.flatnonzero(apart == half)

        def parts(members: NDArray[np.int64] = members) -> Iterator[tuple[slice, Tensor, Tensor]]:
            for start in range(0, len(members), _PART):
                rows = slice(start, min(start + _PART, len(members)))
                spectra, passed = (
                    torch.from_numpy(x[members[rows]]).to(device) for x in (views.spectra, views.passed)
                )
                yield rows, spectra, passed.float()

        # Moments and likelihoods want full precision.
        with torch.autocast(device.type, enabled=False):
            centre = torch.from_numpy(views.centre[members]).to(device)
            centre = likeliest_centres(harmonics, parts, centre)
            covariance = StackCovariance(harmonics.orders.cpu())
            for rows, spectra, passed in parts():
                covariance.add(harmonics.analyse_spectra(harmonics.moved(spectra, -centre[rows])), passed)
            likelihood = covariance.likelihood().to(device)
            compared = [
                likelihood.features(
                    harmonics.analyse_spectra(harmonics.moved(spectra, -centre[rows])), passed
                )
                for rows, spectra, passed in parts()
            ]
            features = ViewFeatures(*map(torch.cat, zip(*compared, strict=True)))
            embedding = torch.from_numpy(views.embedding[members]).to(device)
            found = likeliest_companions(
                likelihood,
                features,
                embedding,
                count,
                groups[members],
                lambda here, before=done: progress(before + here),  # type: ignore[misc]
                mirrored=mirrored,
            )
        companions.rows[members] = np.where(found.rows == NOBODY, NOBODY, members[found.rows])
        companions.evidence[members] = found.evidence
        companions.mirrored[members] = found.mirrored
        done += len(members)
    return companions


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
    """
    companions = _nobody(len(features.own), count)
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
            likelihood, here, embedding[place], max(count, _CANDIDATES), mirrored, report
        )
        judged = judge_by_averages(likelihood, here, candidates, evidence, report_again)
        wanted = min(count, candidates.shape[1])
        best = judged.topk(wanted)
        chosen = candidates.gather(1, best.indices).cpu().numpy()
        there = np.isfinite(best.values.cpu().numpy())
        companions.rows[members, :wanted] = np.where(there, members[chosen % len(members)], NOBODY)
        companions.evidence[members, :wanted] = best.values.cpu().numpy()
        companions.mirrored[members, :wanted] = there & (chosen >= len(members))
        done += len(members)
    return companions


def _nobody(total: int, count: int) -> Companions:
    """An empty table."""
    return Companions(
        np.full((total, count), NOBODY, np.int64),
        np.full((total, count), -np.inf, np.float32),
        np.zeros((total, count), bool),
    )

"""The likeliest companions of each image of a stack, at any in-plane angle."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .covariance import StackCovariance, ViewFeatures, ViewLikelihood
from .table import NOBODY

__all__ = ["Companions", "StackViews", "find_companions", "likeliest_companions"]

_QUERIES, _KEYS = 64, 2048
_FEWEST_ANGLES = 64
# So many particles, spread evenly over a group, are compared with all: more views than noise can tell apart.
_MOST_KEYS = 20_000


# Evidence that the cosine of two embeddings counts for: best from 5 to 20 at SNR 0.03 and 0.1.
_EMBEDDING_GAIN = 10.0


class StackViews(NamedTuple):
    """What the images of a stack are compared by, in memory or in files.

    Attributes
    ----------
    orders : ndarray of int, shape (h,)
        Of the `DiscHarmonics`.
    filtered : ndarray, shape (n, h), complex64
        `DiscHarmonics` of images about their centres, filtered by their CTFs.
    passed : ndarray, shape (n, h), float16
        Squared CTFs on the harmonics' rings.
    embedding : ndarray, shape (n, e), float32
        Unit vectors of a network.
    """

    orders: NDArray[np.int64]
    filtered: NDArray[np.complex64]
    passed: NDArray[np.float16]
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
    """

    rows: NDArray[np.int64]
    evidence: NDArray[np.float32]


@torch.inference_mode()
def find_companions(
    views: StackViews,
    count: int,
    apart: NDArray[np.int64],
    groups: NDArray[np.int64],
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> Companions:
    """Learn the covariance of a stack's images from the stack, and compare them by it.

    Parameters
    ----------
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
    """
    total = len(groups)
    rows = np.full((total, count), NOBODY, np.int64)
    evidence = np.full((total, count), -np.inf, np.float32)
    done = 0
    for half in np.unique(apart):
        members = np.flatnonzero(apart == half)

        def parts(members: NDArray[np.int64] = members) -> Iterator[tuple[Tensor, Tensor]]:
            for start in range(0, len(members), _KEYS):
                part = members[start : start + _KEYS]
                filtered, passed = (
                    torch.from_numpy(x[part]).to(device) for x in (views.filtered, views.passed)
                )
                yield filtered, passed.float()

        # Moments and likelihoods want full precision.
        with torch.autocast(device.type, enabled=False):
            covariance = StackCovariance(torch.from_numpy(views.orders))
            for filtered, passed in parts():
                covariance.add(filtered, passed)
            likelihood = covariance.likelihood().to(device)
            compared = [likelihood.features(*part) for part in parts()]
            features = ViewFeatures(*(torch.cat(part) for part in zip(*compared, strict=True)))
            embedding = torch.from_numpy(views.embedding[members]).to(device)
            found = likeliest_companions(
                likelihood,
                features,
                embedding,
                count,
                groups[members],
                lambda here, before=done: progress(before + here),  # type: ignore[misc]
            )
        rows[members] = np.where(found.rows == NOBODY, NOBODY, members[found.rows])
        evidence[members] = found.evidence
        done += len(members)
    return Companions(rows, evidence)


@torch.inference_mode()
def likeliest_companions(
    likelihood: ViewLikelihood,
    features: ViewFeatures,
    embedding: Tensor,
    count: int,
    groups: NDArray[np.int64],
    progress: Callable[[int], None] = lambda done: None,
) -> Companions:
    """Compare each image with all of its group at every in-plane angle.

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
    """
    total = len(features.own)
    rows = np.full((total, count), NOBODY, np.int64)
    evidence = np.full((total, count), -np.inf, np.float32)
    done = 0
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        offered = members[:: math.ceil(len(members) / _MOST_KEYS)]
        wanted = min(count, len(offered) - 1)
        keys = torch.from_numpy(offered).to(features.own.device)
        for start in range(0, len(members), _QUERIES):
            queries = members[start : start + _QUERIES]
            place = torch.from_numpy(queries).to(keys)
            ratio = torch.cat(
                [_log_ratio(likelihood, features, place, part) for part in keys.split(_KEYS)], 1
            )
            ratio += _EMBEDDING_GAIN * (embedding[place] @ embedding[keys].T)
            ratio[place[:, None] == keys] = -torch.inf
            if wanted > 0:
                best = ratio.topk(wanted)
                rows[queries, :wanted] = offered[best.indices.cpu().numpy()]
                evidence[queries, :wanted] = best.values.cpu().numpy()
            done += len(queries)
            progress(done)
    return Companions(rows, evidence)


def _log_ratio(likelihood: ViewLikelihood, features: ViewFeatures, queries: Tensor, keys: Tensor) -> Tensor:
    """Evidence (q, k) of pairs, mean of the likelihood ratio over the in-plane angles."""
    orders = likelihood.orders
    own = features.own[queries][:, None] + features.own[keys]
    if not len(orders):
        return -own
    highest = int(orders.max())
    # Where orders are low, finer than they ask for: the exponential is sharper than they are.
    angles = max(2 * (highest + 1), _FEWEST_ANGLES)
    products = features.vectors.new_zeros(highest + 1, len(queries), len(keys))
    for order in orders.unique().tolist():
        columns = torch.nonzero(orders == order)[:, 0]
        first, second = features.vectors[queries][:, columns], features.vectors[keys][:, columns]
        torch.matmul(first, second.conj().T, out=products[order])
    # Sums over the orders, not means: the inverse transform divides by the number of angles.
    correlation = torch.fft.irfft(products.permute(1, 2, 0), n=angles, norm="forward")
    return torch.logsumexp(correlation, -1) - math.log(angles) + likelihood.constant - own

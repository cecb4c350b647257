"""A map of a stack's neighbour graph: particles that attend to each other lie close together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from ..neighbours import NOBODY

__all__ = ["SimilarityMap", "map_graph", "spread_seeds"]

_MOST_POINTS = 800
# A particle that took less from all its neighbours together has no place on a map.
_LEAST_SHARE = 0.05
# Steps of label spreading; neighbours of neighbours reach a whole stack in far fewer.
_HOPS = 30
_EXAGGERATED, _STEPS, _EXAGGERATION = 100, 350, 12.0


class SimilarityMap(NamedTuple):
    """Where some particles lie in the plane.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Particles that are points of the map.
    position : ndarray, shape (m, 2)
        Within -1 and 1; only distances between close points mean something.
    stands_for : ndarray of int, shape (n,)
        Point of each particle of the stack, or -1: on the map of a large stack a point stands for many.
    """

    rows: NDArray[np.int64]
    position: NDArray[np.float64]
    stands_for: NDArray[np.int64]


def map_graph(
    neighbours: NDArray[np.int64],
    weights: NDArray[np.float32],
    members: NDArray[np.int64],
    *,
    points: int = _MOST_POINTS,
) -> SimilarityMap | None:
    """Lay a graph of neighbours out in the plane by t-SNE, from a spectral start.

    Parameters
    ----------
    neighbours : ndarray of int, shape (n, k)
        Rows, `NOBODY` in empty places.
    weights : ndarray, shape (n, k)
        What each particle took from each neighbour.
    members : ndarray of int
        Rows that may be on the map, such as those of one half set: halves are islands for each other.
    points : int
        At most; where there are more particles, each joins the nearest point in the graph.

    Returns
    -------
    SimilarityMap or None
        None where fewer than eight particles have neighbours to speak of.

    References
    ----------
    L. van der Maaten, G. Hinton, J. Mach. Learn. Res. 9, 2579 (2008), for t-SNE; D. Kobak,
    G. C. Linderman, Nat. Biotechnol. 39, 156 (2021), for the spectral start; A. C. Belkina et al., Nat.
    Commun. 10, 5415 (2019), for the length of steps.
    """
    usable = members[weights[members].sum(1) >= _LEAST_SHARE]
    if len(usable) < 8:
        return None
    rows = usable[np.unique(np.linspace(0, len(usable) - 1, min(points, len(usable))).astype(int))]
    stands_for = _spread(neighbours, weights, rows)
    affinity = _affinity(neighbours, weights, stands_for, len(rows))
    return SimilarityMap(rows, _layout(affinity).numpy(), stands_for)


def spread_seeds(found: SimilarityMap, weights: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Choose points that between them cover a map: of each region the one that took most from others.

    Parameters
    ----------
    found : SimilarityMap
    weights : ndarray, shape (n, k)
    count : int
        Regions, at most.

    Returns
    -------
    ndarray of int
        Points, those of the regions with most particles first.
    """
    _, region = kmeans2(found.position, count, iter=30, minit="++", rng=np.random.default_rng(0))
    share = weights[found.rows].sum(1)
    particles = np.bincount(found.stands_for[found.stands_for >= 0], minlength=len(found.rows))
    regions = [np.flatnonzero(region == number) for number in np.unique(region)]
    regions.sort(key=lambda points: -int(particles[points].sum()))
    return np.array([points[np.argmax(share[points])] for points in regions])


def _spread(
    neighbours: NDArray[np.int64], weights: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Give every particle the point of the neighbour that it took most from, beginning at the points."""
    label = np.full(len(neighbours), -1)
    label[rows] = np.arange(len(rows))
    counted = np.where((neighbours == NOBODY) | (weights.sum(1, keepdims=True) < _LEAST_SHARE), 0, weights)
    for _ in range(_HOPS):
        open_ = np.flatnonzero(label < 0)
        offered = label[neighbours[open_]]
        pull = np.where(offered < 0, 0, counted[open_])
        best = pull.argmax(1)[:, None]
        reached = np.take_along_axis(pull, best, 1)[:, 0] > 0
        if not reached.any():
            break
        label[open_[reached]] = np.take_along_axis(offered, best, 1)[reached, 0]
    return label


def _affinity(
    neighbours: NDArray[np.int64], weights: NDArray[np.float32], label: NDArray[np.int64], count: int
) -> Tensor:
    """How much the points took from each other: symmetric, adding up to one, shape (count, count)."""
    there = (neighbours != NOBODY) & (label[:, None] >= 0) & (label[neighbours] >= 0)
    pair = (label[:, None] * count + label[neighbours])[there]
    taken = torch.from_numpy(np.bincount(pair, weights[there], count**2).reshape(count, count)).float()
    taken.fill_diagonal_(0)
    step = taken + taken.T
    step = step / step.sum(1, keepdim=True).clamp_min(1e-12)
    # Neighbours of neighbours too: the few that each particle has would tear the map into threads.
    reach = step + step @ step
    reach.fill_diagonal_(0)
    reach = reach / reach.sum(1, keepdim=True).clamp_min(1e-12)
    return (reach + reach.T) / (2 * count)


def _layout(affinity: Tensor) -> Tensor:
    """t-SNE of affinities that add up to one, within -1 and 1, shape (count, 2)."""
    count = len(affinity)
    position = _start(affinity)
    velocity = torch.zeros_like(position)
    # Not less: few points would creep.
    rate = max(count / _EXAGGERATION, 10.0)
    for step in range(_STEPS):
        pull = affinity * (_EXAGGERATION if step < _EXAGGERATED else 1.0)
        square = position.square().sum(1)
        near = 1 / (1 + (square[:, None] + square - 2 * position @ position.T).clamp_min(0))
        near.fill_diagonal_(0)
        force = (pull - near / near.sum()) * near
        gradient = 4 * (force.sum(1, keepdim=True) * position - force @ position)
        velocity = (0.5 if step < _EXAGGERATED else 0.8) * velocity - rate * gradient
        position = position + velocity
    position = position - (position.amax(0) + position.amin(0)) / 2
    return (position / position.abs().max()).double()


def _start(affinity: Tensor) -> Tensor:
    """The two slowest modes of a walk along the graph, small, and no two points in one place."""
    root = affinity.sum(1).clamp_min(1e-12).sqrt()
    modes = torch.linalg.eigh((affinity / root / root[:, None]).double()).eigenvectors[:, -3:-1].float()
    modes = modes / root[:, None]
    # An eigenvector's sign is nobody's choice: let the largest entry be positive.
    largest = modes.gather(0, modes.abs().argmax(0, keepdim=True))
    modes = modes * largest.sign() / modes.std(0).clamp_min(1e-12)
    noise = torch.randn(modes.shape, generator=torch.Generator().manual_seed(0))
    start: Tensor = 1e-4 * (modes + 0.01 * noise)
    return start

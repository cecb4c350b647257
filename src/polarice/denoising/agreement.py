"""Two estimates of each particle, from neighbours that know nothing of each other, and how far they agree.

Each half set is divided into two parts at random, and the stack is denoised again so that no image of one
part has anything from the other, through however many neighbours' neighbours. A particle then has an estimate
of its own part, which its own image is in, and one of the other part: the mean of its neighbours there, as
they were denoised, each laid upon it. The two share no noise. Their ring correlation says how much of either
is signal (G. Harauz and M. van Heel, Optik 73 (1986) 146), or what the network believes of all molecules:
where it invents the same in both, they agree.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import gather, give_back
from ..imaging import divide_rings, frc_resolution_A, move_images, ring_products, turn_matrices
from ..neighbours import NOBODY
from ..stacks import Work
from .graph import GraphResult

__all__ = ["agreement_columns", "measure_agreement", "parts_of"]

_BATCH, _PART = 32, 512
# Where two estimates agree so far, so does either with the truth by the root of 2 · 0.5 / 1.5: 0.8.
_THRESHOLD = 0.5


def parts_of(halves: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """Put each particle into one of two parts of its half set, at random, shape (n,)."""
    generator = np.random.default_rng(seed)
    parts = np.zeros(len(halves), np.int64)
    for half in np.unique(halves):
        members = np.flatnonzero(halves == half)
        parts[generator.permutation(members)[::2]] = 1
    return parts


def laid_upon(images: Tensor, angles_deg: Tensor, centre: Tensor, upon: Tensor) -> Tensor:
    """Turn images about their particles' centres, and move these to other places.

    Parameters
    ----------
    images : Tensor, shape (b, y, x)
    angles_deg : Tensor, shape (b,)
        From x towards y.
    centre, upon : Tensor, shape (b, 2)
        Where the particles lie and where they are to lie, (x, y) in pixels from the centre of the box.
    """
    matrices = turn_matrices(-torch.deg2rad(angles_deg))
    return move_images(images, matrices, centre - (matrices @ upon[..., None])[..., 0])


@torch.inference_mode()
def measure_agreement(
    together: GraphResult,
    apart: GraphResult,
    neighbours: NDArray[np.int64],
    parts: NDArray[np.int64],
    mask: Callable[[NDArray[np.int64]], Tensor],
    work: Work,
    progress: Callable[[int], None],
) -> NDArray[np.float32]:
    """Compare what the two parts of a stack say of each particle.

    Parameters
    ----------
    together : GraphResult
        Of the whole stack: how neighbours lie upon each other, and how much they count.
    apart : GraphResult
        Of the two parts, each by itself.
    neighbours : ndarray of int, shape (n, k)
    parts : ndarray of int, shape (n,)
    mask : callable
        Discs (b, y, x), or (1, y, x), that the images of some rows are looked at within.
    work : Work
    progress : callable
        Called with the number of images done.

    Returns
    -------
    ndarray, shape (n, y // 2 + 1)
        Ring correlations; 0 where a particle has no neighbour in the other part.
    """
    count, box = len(neighbours), together.images.shape[-1]
    agreement = work.array("agreement", np.float32, (count, box // 2 + 1))
    slices = [slice(start, min(start + _PART, count)) for start in range(0, count, _PART)]
    for part in work.parts("agreement", slices, agreement):
        for start in range(part.start, part.stop, _BATCH):
            rows = np.arange(start, min(start + _BATCH, part.stop))
            agreement[rows] = _agreement(together, apart, neighbours, parts, mask, rows)
            give_back(apart.images, agreement)
        progress(part.stop)
    return np.array(agreement)


def _agreement(
    together: GraphResult,
    apart: GraphResult,
    neighbours: NDArray[np.int64],
    parts: NDArray[np.int64],
    mask: Callable[[NDArray[np.int64]], Tensor],
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    partners, weights = neighbours[rows], together.weights[rows]
    mine, places = np.nonzero((partners != NOBODY) & (parts[partners] != parts[rows, None]) & (weights > 0))
    others = partners[mine, places]
    laid = laid_upon(
        torch.from_numpy(gather(apart.images, others)) * mask(others),
        torch.from_numpy(together.angles_deg[rows][mine, places]),
        torch.from_numpy(apart.centre[others]),
        torch.from_numpy(apart.centre[rows][mine]),
    )
    share = torch.from_numpy(weights[mine, places])[:, None, None]
    # A sum will do: correlations know no scale.
    other = torch.zeros(len(rows), *apart.images.shape[1:]).index_add_(
        0, torch.from_numpy(mine), laid * share
    )
    own = torch.from_numpy(np.array(apart.images[rows])) * mask(rows)
    power = ring_products(own, own).sqrt() * ring_products(other, other).sqrt()
    correlation: NDArray[np.float32] = divide_rings(ring_products(own, other), power).numpy()
    return correlation


def agreement_columns(agreement: NDArray[np.float32], side_A: float) -> dict[str, NDArray[np.float64]]:
    """STAR columns of each particle's agreement.

    Parameters
    ----------
    agreement : ndarray, shape (n, rings)
    side_A : float
        Of the box.

    Returns
    -------
    dict
        ``polariceAgreement``: mean over the rings of which particles consist;
        ``polariceAgreementResolution``: where the correlation falls below one half, in Å.
    """
    curves = torch.from_numpy(agreement)
    box = 2 * (agreement.shape[1] - 1)
    resolution = np.array([frc_resolution_A(curve, box, side_A / box, _THRESHOLD) for curve in curves])
    return {
        "polariceAgreement": agreement[:, 1 : box // 4 + 1].mean(1).astype(np.float64),
        "polariceAgreementResolution": np.minimum(resolution, side_A),
    }

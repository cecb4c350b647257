"""Which particles a network is adapted to, and which judge of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..neighbours import NOBODY

__all__ = ["Division", "hold_out"]

_SHARE = 0.12
_FEWEST_SETS, _MOST_SETS = 8, 24


class Division(NamedTuple):
    """Particles divided into those that are learned from and those that judge.

    Attributes
    ----------
    training : ndarray of int64
        Rows that are learned from.
    held_out : ndarray of bool, shape (n,)
        Rows that are in no set that is learned from: those that judge, and copies of them.
    judges : tuple of ndarray of int64
        Sets of held-out rows, no two of which share any.
    """

    training: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    judges: tuple[NDArray[np.int64], ...]


def hold_out(
    rows: NDArray[np.int64], original: NDArray[np.int64], members: NDArray[np.int64], seed: int
) -> Division:
    """Hold out whole neighbourhoods: neither their noise nor, mostly, their views are learned.

    Parameters
    ----------
    rows : ndarray of int, shape (n, k)
        Neighbours, `NOBODY` in empty places; not of other half sets.
    original : ndarray of int, shape (n,)
        First row with the same pixels.
    members : ndarray of int
        Rows that may be used.
    seed : int
    """
    held_out = np.zeros(len(rows), bool)
    judges: list[NDArray[np.int64]] = []
    usable = np.zeros(len(rows), bool)
    usable[members] = True
    wanted = _SHARE * len(members)
    for row in np.random.default_rng(seed).permutation(members):
        if len(judges) >= _MOST_SETS or (len(judges) >= _FEWEST_SETS and held_out.sum() >= wanted):
            break
        group = np.concatenate([[row], rows[row][rows[row] != NOBODY]])
        fresh = group[usable[group] & ~held_out[group]]
        # Sets that share particles would not be independent judges.
        if held_out[row] or len(fresh) < max(2, len(group) // 2):
            continue
        judges.append(fresh)
        held_out |= np.isin(original, original[fresh])
    training = members[~held_out[members]]
    return Division(training, held_out, tuple(judges))

"""Which particles are denoised together: nearest in the network's embedding, or given sets."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

__all__ = ["NOBODY", "find_neighbours", "groups_of"]

# Marks an empty place in a neighbour table.
NOBODY = -1


def groups_of(n: int, *labels: NDArray[np.generic] | None) -> NDArray[np.int64]:
    """Number the distinct combinations of labels.

    Parameters
    ----------
    n : int
        Particles.
    *labels : ndarray, shape (n,), or None
        Such as half sets and classes; None does not divide.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    groups = np.zeros(n, np.int64)
    for label in labels:
        if label is not None:
            codes = np.unique(label, return_inverse=True)[1]
            groups = np.unique(groups * (codes.max() + 1) + codes, return_inverse=True)[1]
    return groups


def find_neighbours(
    embedding: NDArray[np.float32], count: int, groups: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The nearest particles of the same group, nearest first.

    Parameters
    ----------
    embedding : ndarray, shape (n, e), float32
        Unit vectors.
    count : int
        Neighbours asked for.
    groups : ndarray of int, shape (n,)
        Particles of different groups are never neighbours.

    Returns
    -------
    ndarray of int64, shape (n, count)
        Row numbers; `NOBODY` where a group is too small. A particle is not its own neighbour.
    """
    table = np.full((len(embedding), count), NOBODY, np.int64)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        wanted = min(count, len(rows) - 1)
        if wanted < 1:
            continue
        index = faiss.IndexFlatIP(embedding.shape[1])
        index.add(np.ascontiguousarray(embedding[rows]))
        found = index.search(np.ascontiguousarray(embedding[rows]), wanted + 1)[1]
        # The particle itself is nearly always first, but ties and duplicates may hide it.
        is_self = found == np.arange(len(rows))[:, None]
        is_self[~is_self.any(1), -1] = True
        table[rows[:, None], np.arange(wanted)] = rows[found[~is_self].reshape(len(rows), wanted)]
    return table

"""What neighbour tables are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOBODY", "groups_of"]

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

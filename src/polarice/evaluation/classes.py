"""Which images show the same view, read off the attention between them."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import ArrayLike, NDArray

__all__ = ["adjusted_rand_index", "attention_classes"]

# Larger graphs are left to the iterative eigensolver, which looks for so many classes at most.
_DENSE = 512
_MOST_CLASSES = 64


def attention_classes(
    weights: ArrayLike | scipy.sparse.sparray | scipy.sparse.spmatrix, classes: int | None = None
) -> NDArray[np.int64]:
    """Classes of images that attend to each other.

    The leading eigenvectors of the symmetrised and normalised weights D^-1/2 W D^-1/2 tell the classes
    apart (Ng, Jordan and Weiss 2001), and a pivoted QR factorisation of them assigns the images (Damle,
    Minden and Ying 2019), without iterations or a random start. If nobody tells the number of classes, it
    is that of the eigenvalues which noise does not explain: noise spreads eigenvalues evenly about
    -1 / (k - 1), and classes add none below, so the smallest shows how far noise reaches above.

    Parameters
    ----------
    weights : array or scipy.sparse matrix, shape (k, k)
        How much each image (row) took from each other (column), such as `SetResult.weights` of one set;
        its diagonal is not looked at.
    classes : int, optional
        How many, where that is known.

    Returns
    -------
    ndarray of int64, shape (k,)
        Number of each image's class, from 0, in the order in which the classes first appear.

    Raises
    ------
    ValueError
        The weights are not square, negative or not finite, or there are fewer images than classes.
    """
    graph = scipy.sparse.csr_array(weights, dtype=np.float64)
    size = graph.shape[0]
    if graph.shape != (size, size):
        raise ValueError(f"attention weights are square, not {graph.shape}")
    if not np.isfinite(graph.data).all() or (graph.data < 0).any():
        raise ValueError("attention weights are finite and not negative")
    if classes is not None and not 1 <= classes <= size:
        raise ValueError(f"{size} images cannot make {classes} classes")
    graph = (graph + graph.T) / 2
    graph.setdiag(0)
    degree = graph.sum(1)
    # Images that nobody attends to would divide by zero; they end up wherever they like.
    scale = scipy.sparse.diags_array(1 / np.sqrt(np.maximum(degree, 1e-12 * max(degree.max(), 1e-300))))
    vectors = _leading_vectors((scale @ graph @ scale).tocsr(), classes)
    pivots = scipy.linalg.qr(vectors.T, mode="r", pivoting=True)[1][: vectors.shape[1]]
    left, _, right = scipy.linalg.svd(vectors[pivots].T)
    raw = np.abs(vectors @ (left @ right)).argmax(1)
    _, first, labels = np.unique(raw, return_index=True, return_inverse=True)
    order: NDArray[np.int64] = first.argsort().argsort()[labels]
    return order


def _leading_vectors(affinity: scipy.sparse.csr_array, classes: int | None) -> NDArray[np.float64]:
    """Eigenvectors of the largest eigenvalues, shape (k, classes)."""
    size = affinity.shape[0]
    if size <= _DENSE:
        values, vectors = scipy.linalg.eigh(affinity.toarray())
        lowest = values[0]
    else:
        # A start of ones would lie too close to the first eigenvector.
        start = np.random.default_rng(0).standard_normal(size)
        count = _MOST_CLASSES if classes is None else classes
        values, vectors = scipy.sparse.linalg.eigsh(affinity, count, which="LA", v0=start)
        lowest = scipy.sparse.linalg.eigsh(affinity, 1, which="SA", v0=start, return_eigenvectors=False)[0]
    if classes is None:
        centre = -1 / max(size - 1, 1)
        classes = max(1, int((values > 2 * centre - lowest + 1e-9).sum()))
    leading: NDArray[np.float64] = vectors[:, -classes:]
    return leading


def adjusted_rand_index(first: ArrayLike, second: ArrayLike) -> float:
    """Agreement of two partitions: 1 where they are the same, 0 on average by chance.

    Parameters
    ----------
    first, second : array of int, shape (k,)
        Labels; their names do not matter.

    References
    ----------
    Hubert and Arabie 1985, Journal of Classification 2, 193.
    """
    _, one = np.unique(first, return_inverse=True)
    _, other = np.unique(second, return_inverse=True)
    if len(one) != len(other):
        raise ValueError(f"partitions of {len(one)} and {len(other)} images")
    table = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(table, (one, other), 1)
    together, in_first, in_second, all_pairs = (
        float((counts * (counts - 1) / 2).sum())
        for counts in (table, table.sum(1), table.sum(0), np.array([len(one)]))
    )
    by_chance = in_first * in_second / max(all_pairs, 1)
    most = (in_first + in_second) / 2
    return 1.0 if most == by_chance else (together - by_chance) / (most - by_chance)

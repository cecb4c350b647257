"""How likely any two images of a stack show one view."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .covariance import ViewFeatures, ViewLikelihood

__all__ = ["likeliest_pairs"]

_QUERIES, _KEYS = 64, 2048
# So many particles, spread evenly, are compared with all: more views than noise can tell apart.
_MOST_KEYS = 20_000
# Evidence that a cosine above the usual counts for: best from 5 to 20 at SNR 0.03 and 0.1.
_EMBEDDING_GAIN = 10.0


def likeliest_pairs(
    likelihood: ViewLikelihood,
    features: ViewFeatures,
    embedding: Tensor,
    count: int,
    mirrored: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    *,
    original: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compare each image with all others at every in-plane angle.

    Parameters
    ----------
    likelihood : ViewLikelihood
    features : ViewFeatures
        Of n images.
    embedding : Tensor, shape (n, e)
        Unit vectors.
    count : int
        Pairs asked for of each image.
    mirrored : bool
        Look at every image as its mirror image too.
    progress : callable
        Called with the number of images done.
    original : Tensor of int, shape (n,), optional
        The same for images that are copies of each other, which are not compared; their own rows by default.

    Returns
    -------
    rows : Tensor of int, shape (n, c)
        The likeliest first; n is added to those of mirror images.
    evidence : Tensor, shape (n, c)
        Logarithm of the likelihood ratio, and what the embedding adds.
    """
    total = len(features.own)
    device = features.own.device
    original = torch.arange(total, device=device) if original is None else original
    offered = torch.arange(0, total, math.ceil(total / _MOST_KEYS), device=device)
    looks = (False, True) if mirrored else (False,)
    # Of unrelated views; what a mirror image's embedding would be nobody knows.
    usual = embedding[offered].mean(0).square().sum()
    wanted = min(count, len(looks) * (len(offered) - 1))
    candidates, evidence = [], []
    for queries in torch.arange(total, device=device).split(_QUERIES):
        ratios = []
        for flipped in looks:
            asking = features.vectors[queries].conj() if flipped else features.vectors[queries]
            for keys in offered.split(_KEYS):
                ratio = _log_ratio(likelihood, asking, features, queries, keys)
                if not flipped:
                    ratio += _EMBEDDING_GAIN * (embedding[queries] @ embedding[keys].T - usual)
                ratios.append(ratio.masked_fill_(original[queries][:, None] == original[keys], -torch.inf))
        best = torch.cat(ratios, 1).topk(wanted)
        candidates.append(offered[best.indices % len(offered)] + total * (best.indices // len(offered)))
        evidence.append(best.values)
        progress(int(queries[-1]) + 1)
    return torch.cat(candidates), torch.cat(evidence)


def _log_ratio(
    likelihood: ViewLikelihood, asking: Tensor, features: ViewFeatures, queries: Tensor, keys: Tensor
) -> Tensor:
    """Evidence (q, k) of pairs, mean of the likelihood ratio over the in-plane angles.

    The vectors (q, f) of the queries may be those of their mirror images.
    """
    orders = likelihood.orders
    own = features.own[queries][:, None] + features.own[keys]
    if not len(orders):
        return -own
    angles = likelihood.angles
    products = features.vectors.new_zeros(int(orders.max()) + 1, len(queries), len(keys))
    for order in orders.unique().tolist():
        columns = torch.nonzero(orders == order)[:, 0]
        first, second = asking[:, columns], features.vectors[keys][:, columns]
        torch.matmul(first, second.conj().T, out=products[order])
    # Sums over the orders, not means: the inverse transform divides by the number of angles.
    correlation = torch.fft.irfft(products.permute(1, 2, 0), n=angles, norm="forward")
    return torch.logsumexp(correlation, -1) - math.log(angles) + likelihood.constant - own

"""How likely any two images of a stack show one view."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .covariance import ViewFeatures, ViewLikelihood
from .turning import log_mean_exp, turns

__all__ = ["likeliest_pairs"]

# What lies between fits a processor's cache; a GPU wants more to do at once.
_QUERIES, _KEYS, _KEYS_ON_GPU = 64, 256, 8192
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
    at_once = _KEYS if device.type == "cpu" else _KEYS_ON_GPU
    candidates, evidence = [], []
    products = _Products(likelihood, features)
    for queries in torch.arange(total, device=device).split(_QUERIES):
        ratios = []
        for flipped in looks:
            for keys in offered.split(at_once):
                ratio = products.log_ratio(queries, keys, flipped)
                if not flipped:
                    ratio += _EMBEDDING_GAIN * (embedding[queries] @ embedding[keys].T - usual)
                ratios.append(ratio.masked_fill_(original[queries][:, None] == original[keys], -torch.inf))
        best = torch.cat(ratios, 1).topk(wanted)
        candidates.append(offered[best.indices % len(offered)] + total * (best.indices // len(offered)))
        evidence.append(best.values)
        progress(int(queries[-1]) + 1)
    return torch.cat(candidates), torch.cat(evidence)


class _Products:
    """Evidence of pairs, mean of the likelihood ratio over the in-plane angles."""

    def __init__(self, likelihood: ViewLikelihood, features: ViewFeatures) -> None:
        self.own, self.constant = features.own, likelihood.constant
        present = likelihood.orders.unique()
        self.turns = turns(present, likelihood.angles if len(present) else 1).to(features.own)
        # Real products of these, and of either with the other turned by a quarter, are complex products.
        self.parts, self.aside = [], []
        for order in present:
            part = features.vectors[:, likelihood.orders == order]
            self.parts.append(torch.cat([part.real, part.imag], 1))
            self.aside.append(torch.cat([part.imag, -part.real], 1))

    def log_ratio(self, queries: Tensor, keys: Tensor, flipped: bool) -> Tensor:
        """Of pairs (q, k), the queries as their mirror images if flipped."""
        own = self.own[queries][:, None] + self.own[keys]
        if not self.parts:
            return -own
        products = self.own.new_empty(2 * len(self.parts), len(queries), len(keys))
        real, imaginary = products.chunk(2)
        for order, (part, aside) in enumerate(zip(self.parts, self.aside, strict=True)):
            asking, asking_aside = part[queries], aside[queries]
            if flipped:
                # Conjugate: the second half changes its sign, and the product with −i that of the first.
                sign = torch.ones_like(asking[0])
                sign[len(sign) // 2 :] = -1
                asking, asking_aside = asking * sign, asking_aside * -sign
            torch.mm(asking, part[keys].T, out=real[order])
            torch.mm(asking_aside, part[keys].T, out=imaginary[order])
        likeliness = log_mean_exp(self.turns @ products.view(len(products), -1)).view(own.shape)
        return likeliness + self.constant - own

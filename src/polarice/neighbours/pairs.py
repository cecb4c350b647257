"""How likely images of a stack show one view, in pairs.

In large stacks not all pairs are looked at: those that are most like the same few of some thousand anchors
are as good as all.
"""

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
# So many particles, spread evenly, are compared with all, and in larger stacks those with each other that are
# likest the same of them. Better than three times as many alone, and nearly as good as all of 15,000.
_MOST_ANCHORS, _ANCHORS_OF_EACH = 2500, 6
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
    """Compare each image with others at every in-plane angle.

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
    total, device = len(features.own), features.own.device
    original = torch.arange(total, device=device) if original is None else original
    anchors = torch.arange(0, total, math.ceil(total / _MOST_ANCHORS), device=device)
    compare = _Comparison(likelihood, features, embedding, anchors, original)
    looks = (False, True) if mirrored else (False,)
    wanted = min(count, len(looks) * (len(anchors) - 1))
    at_once = _KEYS if device.type == "cpu" else _KEYS_ON_GPU
    candidates, evidence = [], []
    for queries in torch.arange(total, device=device).split(_QUERIES):
        ratios = [compare(queries, keys, look) for look in looks for keys in anchors.split(at_once)]
        best = torch.cat(ratios, 1).topk(wanted)
        candidates.append(anchors[best.indices % len(anchors)] + total * (best.indices // len(anchors)))
        evidence.append(best.values)
        progress(int(queries[-1]) + 1)
    found = torch.cat(candidates), torch.cat(evidence)
    if len(anchors) < total:
        _compare_kin(compare, anchors, *found)
    return found


def _compare_kin(compare: _Comparison, anchors: Tensor, candidates: Tensor, evidence: Tensor) -> None:
    """Compare images that share an anchor, and put the best pairs among the candidates (n, c)."""
    total = len(candidates)
    # The likeliest come first, and each anchor is its own.
    nearest = candidates[:, :_ANCHORS_OF_EACH].clone()
    kin = torch.arange(total, device=anchors.device)[:, None].expand_as(nearest).flatten()
    shared, mirrored = nearest.flatten() % total, (nearest >= total).flatten()
    order = torch.argsort(shared, stable=True)
    sizes = torch.bincount(shared, minlength=total)[anchors].tolist()
    parts = zip(anchors.split(1), kin[order].split(sizes), mirrored[order].split(sizes), strict=True)
    for anchor, members, through_mirror in parts:
        sides = torch.cat([anchor, members[~through_mirror]]), members[through_mirror]
        for here, queries in enumerate(sides):
            for there, keys in enumerate(sides):
                if len(queries) and len(keys):
                    _put_best(
                        compare(queries, keys, here != there),
                        queries,
                        keys + total * (here != there),
                        candidates,
                        evidence,
                    )


def _put_best(ratios: Tensor, queries: Tensor, keys: Tensor, candidates: Tensor, evidence: Tensor) -> None:
    """Let pairs (q, k) take the place of less likely ones."""
    known = (candidates[queries][:, :, None] == keys).any(1)
    both = torch.cat([evidence[queries], ratios.masked_fill(known, -torch.inf)], 1)
    best = both.topk(candidates.shape[1])
    rows = torch.cat([candidates[queries], keys.expand_as(ratios)], 1)
    candidates[queries], evidence[queries] = rows.gather(1, best.indices), best.values


class _Comparison:
    """Evidence that images show one view, by what they say and by what a network says of them."""

    def __init__(
        self,
        likelihood: ViewLikelihood,
        features: ViewFeatures,
        embedding: Tensor,
        sample: Tensor,
        original: Tensor,
    ) -> None:
        self._products = _Products(likelihood, features)
        self._embedding, self._original = embedding, original
        # Of unrelated views; what a mirror image's embedding would be nobody knows.
        self._usual = embedding[sample].mean(0).square().sum()

    def __call__(self, queries: Tensor, keys: Tensor, flipped: bool) -> Tensor:
        """Of pairs (q, k), the queries as their mirror images if flipped; −inf of an image and its copies."""
        ratio = self._products.log_ratio(queries, keys, flipped)
        if not flipped:
            ratio += _EMBEDDING_GAIN * (self._embedding[queries] @ self._embedding[keys].T - self._usual)
        return ratio.masked_fill_(self._original[queries][:, None] == self._original[keys], -torch.inf)


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

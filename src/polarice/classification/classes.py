"""Which particles make a class: those that one view explains.

A few views, each estimated from an image and its companions, are chosen so that together they explain the
stack best; then images go to the class that explains them best, and each class's view is estimated anew from
its members, until hardly any image moves. Nobody is judged by a view that it is part of, or noise would keep
its first class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..neighbours import (
    LearnedStack,
    ViewEstimator,
    ViewFeatures,
    Views,
    judge_by_averages,
    likeliest_pairs,
)

__all__ = ["Classes", "assign", "first_classes", "refine_classes", "without_member"]

# Images among which the first classes are looked for, and views that are candidates for each class.
_SEARCHED = 10_000
_CANDIDATES = 64
_VIEWS_PER_CLASS = 10
_EXPLAINED = 4000
_QUERIES = 64
_ROUNDS = 15
# A round that moves fewer images ends the refinement.
_SETTLED = 0.005


class Classes(NamedTuple):
    """Classes of n images.

    Attributes
    ----------
    views : Views
        Of k classes.
    label : Tensor of int, shape (n,)
        Class of each image, from 0.
    probability : Tensor, shape (n,)
        Of that class among all.
    evidence : Tensor, shape (n,)
        How much likelier an image is of its class's view than of any, log.
    angles_deg : Tensor, shape (n,)
        How far an image must be turned from x towards y to lie upon its class.
    """

    views: Views
    label: Tensor
    probability: Tensor
    evidence: Tensor
    angles_deg: Tensor


def first_classes(
    learned: LearnedStack, count: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Views:
    """Views that together explain a stack best, chosen one after another.

    Parameters
    ----------
    learned : LearnedStack
    count : int
        Classes asked for; fewer come back if the stack has fewer images.
    progress : callable
        Called with images done and in all.
    """
    total = len(learned.centre)
    device = learned.centre.device
    searched = _spread(total, _SEARCHED, device)
    features = ViewFeatures(learned.features.vectors[searched], learned.features.own[searched])
    here = len(searched)
    candidates, evidence = likeliest_pairs(
        learned.likelihood,
        features,
        learned.embedding[searched],
        _CANDIDATES,
        progress=lambda done: progress(done // 2, here),
    )
    judgement = judge_by_averages(
        learned.likelihood, features, candidates, evidence, lambda done: progress((here + done) // 2, here)
    )
    offered = _spread(here, _VIEWS_PER_CLASS * count, device)
    images = _spread(here, _EXPLAINED, device)
    explained = torch.cat([judgement.explained(offered, part) for part in images.split(_QUERIES)])
    chosen = _cover(explained.clamp_min(0), min(count, here))
    return judgement.views(offered[chosen])


def _spread(total: int, most: int, device: torch.device) -> Tensor:
    """At most so many of ``total`` rows, spread evenly."""
    places: Tensor = torch.linspace(0, total - 1, min(total, most), device=device).round().long().unique()
    return places


def _cover(explained: Tensor, count: int) -> Tensor:
    """Columns of (i, v) that one after another add most to the sum of each row's largest, shape (count,)."""
    best = explained.new_zeros(len(explained))
    chosen: list[int] = []
    for _ in range(min(count, explained.shape[1])):
        gains = (explained - best[:, None]).clamp_min_(0).sum(0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        best = torch.maximum(best, explained[:, chosen[-1]])
    return torch.tensor(chosen, device=explained.device)


def refine_classes(
    estimator: ViewEstimator,
    images: Tensor,
    views: Views,
    label: Tensor | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Classes:
    """Assign images and estimate views in turns.

    Parameters
    ----------
    estimator : ViewEstimator
    images : Tensor, shape (n, f), complex
        From `ViewEstimator.images`.
    views : Views
        Of k classes, to start with.
    label : Tensor of int, shape (n,), optional
        Classes whose members the views were estimated from; without them nobody is taken to be one.
    progress : callable
        Called with rounds done and at most.
    """
    for done in range(_ROUNDS):
        before, label_before = views, label
        label = assign(estimator, images, before, label_before).label
        views = _estimate(estimator, images, before, label_before, label)
        progress(done + 1, _ROUNDS)
        moved = 1.0 if label_before is None else float((label != label_before).float().mean())
        if moved < _SETTLED:
            break
    progress(_ROUNDS, _ROUNDS)
    return assign(estimator, images, views, label)


def assign(estimator: ViewEstimator, images: Tensor, views: Views, label: Tensor | None = None) -> Classes:
    """The class that explains each image best.

    Parameters
    ----------
    estimator : ViewEstimator
    images : Tensor, shape (n, f), complex
    views : Views
        Of k classes.
    label : Tensor of int, shape (n,), optional
        The class that each image is a member of: it is left out of that view when it is judged by it.
    """
    found = []
    explaining = estimator.explaining(views).at(None)
    for rows in torch.arange(len(images), device=images.device).split(_QUERIES):
        seen = images[rows]
        ratio = estimator.log_ratios(explaining, estimator.explained(seen).at(None))[0]
        if label is not None:
            member = torch.ones_like(rows, dtype=torch.bool)
            own = without_member(estimator, views, label[rows], seen, member)
            ratio[torch.arange(len(rows), device=images.device), label[rows]] = estimator.log_ratio(own, seen)
        best = ratio.argmax(1)
        chosen = views.at(best)
        found.append(
            (
                best,
                ratio.softmax(1).gather(1, best[:, None])[:, 0],
                ratio.gather(1, best[:, None])[:, 0],
                -estimator.angles_deg(chosen, seen),
            )
        )
    label, probability, evidence, angles = (torch.cat(part) for part in zip(*found, strict=True))
    return Classes(views, label, probability, evidence, angles)


def without_member(
    estimator: ViewEstimator, views: Views, which: Tensor, images: Tensor, member: Tensor | None
) -> Views:
    """Views of some classes, one for each image, without the image where it is a member.

    Parameters
    ----------
    estimator : ViewEstimator
    views : Views
        Of k classes.
    which : Tensor of int, shape (q,)
    images : Tensor, shape (q, f), complex
    member : Tensor of bool, shape (q,), optional
        Nobody by default.
    """
    chosen = views.at(which)
    if member is None:
        return chosen
    left = torch.where(member[:, None], estimator.turned_back(chosen, images), 0)
    members = (chosen.members - member[:, None].to(chosen.members)).clamp_min(0)
    return estimator.estimate(estimator.sums(chosen) - left, members)


def _estimate(
    estimator: ViewEstimator, images: Tensor, views: Views, before: Tensor | None, label: Tensor
) -> Views:
    """Views of classes from their members, each turned as it lay upon the view before."""
    sums = torch.zeros_like(views.mean)
    members = torch.bincount(label, minlength=len(sums)).to(views.members)[:, None]
    for rows in torch.arange(len(images), device=images.device).split(_QUERIES):
        member = None if before is None else before[rows] == label[rows]
        unseen = without_member(estimator, views, label[rows], images[rows], member)
        sums.index_add_(0, label[rows], estimator.turned_back(unseen, images[rows]))
    return estimator.estimate(sums, members)

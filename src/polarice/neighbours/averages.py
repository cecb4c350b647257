"""A second look at likely companions, by what each image's view looks like in the mean of others.

Two noisy images say little of each other; an image and the mean of those that it most likely shares its
view with say more. Each image's view is estimated from its companions, turned and weighted as likely as they
are, under the stack's own covariance, and companions are judged by how well these estimates explain them.
Nobody is judged by a mean that it is part of, or noise would find itself: images fall into two folds, and of
two estimates of each view one leaves out either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..polar import peak_angles_deg
from .covariance import ViewFeatures, ViewLikelihood
from .estimates import ViewEstimator, Views

__all__ = ["Judgement", "judge_by_averages"]

_QUERIES = 32
# Companions that a view is estimated from, and how many of a stack share one for all that we know before.
_MEMBERS, _ALIKE = 32, 16
_PASSES = 3


@dataclass(frozen=True)
class Judgement:
    """What a second look at candidates has found.

    Attributes
    ----------
    evidence : Tensor, shape (n, c)
        That candidates show an image's view: logarithm of the ratio of likelihoods, this view against any.
    """

    evidence: Tensor
    _judge: _Judge
    _views: Views

    @property
    def probability(self) -> Tensor:
        """Of each candidate to show the image's view, as far as the stack alone can tell, shape (n, c)."""
        if not self._judge.estimator.informed:
            # Nothing but what was known before looking.
            return torch.full_like(self.evidence, 1 / (1 + _odds_against(len(self.evidence))))
        return _probability(self.evidence)

    def explained(self, rows: Tensor, images: Tensor) -> Tensor:
        """How much likelier images (i,) are of the views of rows (r,) than of any, log, shape (i, r).

        Nobody is judged by a view that it is part of.
        """
        judge = self._judge
        found = judge.images.real.new_empty(len(images), len(rows))
        for fold in (0, 1):
            views = judge.estimator.explaining(Views(*(part[fold, rows] for part in self._views)))
            here = judge.fold[images] == fold
            told = judge.estimator.explained(judge.images[images[here]])
            found[here] = judge.estimator.log_ratios(views.at(None), told.at(None))[0]
        return found

    def views(self, rows: Tensor) -> Views:
        """Views (r, f) of some images, of both folds together, in the images' frames."""
        first, second = (Views(*(part[fold, rows] for part in self._views)) for fold in (0, 1))
        estimator = self._judge.estimator
        # Both hold the image itself.
        sums = estimator.sums(first) + estimator.sums(second) - self._judge.images[rows]
        return estimator.estimate(sums, first.members + second.members - 1)

    def angles_deg(self, companions: Tensor) -> Tensor:
        """How far companions (n, k) must be turned from x towards y to lie upon an image, shape (n, k).

        Mirror images are turned after they were mirrored along y.
        """
        if not self._judge.estimator.informed or not companions.numel():
            return torch.zeros(companions.shape, device=companions.device)
        blocks = _blocks(len(companions), companions.device)
        return torch.cat([self._judge.angles_deg(self._views, rows, companions[rows]) for rows in blocks])


def judge_by_averages(
    likelihood: ViewLikelihood,
    features: ViewFeatures,
    candidates: Tensor,
    evidence: Tensor,
    progress: Callable[[int], None] = lambda done: None,
) -> Judgement:
    """Judge candidates by averages of those that are likeliest.

    Parameters
    ----------
    likelihood : ViewLikelihood
    features : ViewFeatures
        Of n images.
    candidates : Tensor of int, shape (n, c)
        Rows; n is added to those that are looked at as mirror images.
    evidence : Tensor, shape (n, c)
        Of each pair, for a start; −inf leaves a pair out.
    progress : callable
        Called with the number of images done.

    Returns
    -------
    Judgement
        Where the stack is noise, of the evidence that was given.
    """
    total = len(candidates)
    mirrored = bool((candidates >= total).any())
    judge = _Judge(likelihood, features, mirrored)
    views = judge.alone()
    if not judge.estimator.informed or not candidates.shape[1]:
        progress(total)
        return Judgement(evidence, judge, views)
    members = min(_MEMBERS, candidates.shape[1])
    done = 0
    judged = evidence
    for _ in range(_PASSES):
        better = Views(*map(torch.empty_like, views))
        for rows in _blocks(total, candidates.device):
            best = judged[rows].topk(members)
            chosen = candidates[rows].gather(1, best.indices)
            weights = _probability(best.values, total)
            better.mean[:, rows], better.members[:, rows] = judge.average(views, rows, chosen, weights)
        views = better
        judge.look(views)
        second = torch.empty_like(evidence)
        for rows in _blocks(total, candidates.device):
            second[rows] = judge.evidence(rows, candidates[rows])
            done += len(rows)
            progress(done // _PASSES)
        judged = torch.where(evidence.isinf(), evidence, second)
    return Judgement(judged, judge, views)


def _odds_against(total: int) -> float:
    """That one image of a stack shows the view of another, before anything is known of them."""
    return max(total / _ALIKE, 1)


def _probability(evidence: Tensor, total: int | None = None) -> Tensor:
    """Of one view, from log-likelihood ratios (..., c) among ``total`` images, by default as many as rows."""
    odds = _odds_against(len(evidence) if total is None else total)
    return (evidence - math.log(odds)).sigmoid()


def _blocks(total: int, device: torch.device) -> Iterator[Tensor]:
    yield from torch.arange(total, device=device).split(_QUERIES)


class _Judge:
    """Judges companions by estimates of views: two of each, for either fold of images left out."""

    def __init__(self, likelihood: ViewLikelihood, features: ViewFeatures, mirrored: bool = False) -> None:
        self.estimator = ViewEstimator(likelihood)
        self.images = self.estimator.images(features)
        self.fold = torch.arange(len(self.images), device=self.images.device) % 2
        self.mirrored = mirrored
        if self.estimator.informed:
            self.told = self.estimator.explained(self._and_mirrored(self.images))

    def alone(self) -> Views:
        """Views (2, n, f) as each image alone tells them, in either fold."""
        one = torch.ones_like(self.images[:, :1].real).expand(2, -1, -1)
        return self.estimator.estimate(self.images.expand(2, -1, -1), one)

    def average(self, views: Views, rows: Tensor, companions: Tensor, weights: Tensor) -> Views:
        """Views (2, q, f) of some images from themselves and companions (q, c) with weights."""
        told = self._seen(companions)
        fold = self.fold[companions % len(self.images)]
        aligned = self.estimator.turned_back(views.at(fold, rows[:, None]), told)
        left = weights * torch.stack([fold != index for index in (0, 1)])
        sums = self.images[rows] + (left[..., None].to(aligned) * aligned).sum(2)
        return self.estimator.estimate(sums, 1 + left.sum(2, keepdim=True))

    def look(self, views: Views) -> None:
        """Make views (2, n, f) ready to judge by."""
        mean = self._and_mirrored(views.mean.transpose(0, 1))
        members = views.members.transpose(0, 1)
        members = torch.cat([members, members]) if self.mirrored else members
        self.known = self.estimator.explaining(Views(mean, members))

    def _and_mirrored(self, values: Tensor) -> Tensor:
        """With those of the mirror images behind, if they are looked at."""
        return torch.cat([values, values.conj()]) if self.mirrored else values

    def evidence(self, rows: Tensor, candidates: Tensor) -> Tensor:
        """Log-likelihood ratios (q, c): candidates by images' views, and the other way, in equal parts."""
        fold = self.fold[candidates % len(self.images)]
        of_either = self.estimator.log_ratios(self.known.at(rows), self.told.at(candidates))
        here = of_either.gather(2, fold[..., None])[..., 0]
        views = self.known.at(candidates, self.fold[rows][:, None])
        there = self.estimator.log_ratios(views, self.told.at(rows[:, None]))[:, 0]
        return (here + there) / 2

    def angles_deg(self, views: Views, rows: Tensor, companions: Tensor) -> Tensor:
        """Angles (q, k) at which companions lie upon images best, both ways taken together."""
        here, there = (self.estimator.by_angle(*way) for way in self._both_ways(views, rows, companions))
        # How far the image's view is turned upon the companion is how far that must be turned back.
        return peak_angles_deg(here.flip(-1).roll(1, -1) + there)

    def _both_ways(
        self, views: Views, rows: Tensor, candidates: Tensor
    ) -> tuple[tuple[Views, Tensor], tuple[Views, Tensor]]:
        """Images' views with candidates, and candidates' views with images."""
        count = len(self.images)
        which, mirrored = candidates % count, candidates >= count
        here = views.at(self.fold[which], rows[:, None])
        there = views.at(self.fold[rows][:, None], which)
        there = there._replace(mean=torch.where(mirrored[..., None], there.mean.conj(), there.mean))
        return (here, self._seen(candidates)), (there, self.images[rows][:, None])

    def _seen(self, rows: Tensor) -> Tensor:
        """Images (q, c, f), mirrored where a row says so."""
        images = self.images[rows % len(self.images)]
        seen: Tensor = torch.where((rows >= len(self.images))[..., None], images.conj(), images)
        return seen

"""A view as far as some images tell it, and how well it explains others.

An image t of a view z is one with the information ``a`` that an average CTF leaves: t = a z + noise of
variance a, in units in which views vary by one (`ViewLikelihood`). Of m images of a view turned into one
frame the sum tells all: z is then known to be ``Σ t / (1 + m a)``, but for a variance of ``1 / (1 + m a)``.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..polar import peak_angles_deg
from .covariance import ViewFeatures, ViewLikelihood
from .turning import log_mean_exp, turns

__all__ = ["Explained", "Explaining", "ViewEstimator", "Views"]


class Views(NamedTuple):
    """Views as far as they are known.

    Attributes
    ----------
    mean : Tensor, shape (..., f), complex
        In units of the covariance.
    members : Tensor, shape (..., 1)
        How many images they are known from.
    """

    mean: Tensor
    members: Tensor

    def at(self, *index: Tensor) -> Views:
        """Some of them, by their place in the leading dimensions."""
        return Views(self.mean[index], self.members[index])


class Explaining(NamedTuple):
    """Views (..., f) made ready to explain images.

    Attributes
    ----------
    matched : Tensor, shape (..., 2 f)
        What images are multiplied by.
    damping : Tensor, shape (..., f)
        What their squares are.
    own : Tensor, shape (...)
        What a view takes from every image.
    """

    matched: Tensor
    damping: Tensor
    own: Tensor

    def at(self, *index: Tensor | None) -> Explaining:
        """Some of them, by their place in the leading dimensions."""
        return Explaining(*(part[index] for part in self))


class Explained(NamedTuple):
    """Images (..., f) made ready to be explained.

    Attributes
    ----------
    parts : Tensor, shape (..., 2 f)
    squared : Tensor, shape (..., f)
    """

    parts: Tensor
    squared: Tensor

    def at(self, *index: Tensor | None) -> Explained:
        """Some of them, by their place in the leading dimensions."""
        return Explained(*(part[index] for part in self))


class ViewEstimator:
    """Estimates views from images, and weighs how well they explain others.

    Parameters
    ----------
    likelihood : ViewLikelihood
    """

    def __init__(self, likelihood: ViewLikelihood) -> None:
        self.orders, self.share = likelihood.orders, likelihood.share
        self.information = likelihood.information
        # Of pure noise there is nothing to know; what is round may be the noise of a background.
        self.informed = bool((self.orders > 0).any())
        if len(self.orders):
            self.angles = likelihood.angles
            self._by_order = torch.nn.functional.one_hot(self.orders).to(self.information.dtype)
            present = self.orders.unique()
            self._turns = turns(present, self.angles).to(self.information)
            self._columns = [torch.nonzero(self.orders == order)[:, 0] for order in present]
            ends = 2 * torch.tensor([0, *map(len, self._columns)]).cumsum(0)
            self._of_order = [slice(int(start), int(stop)) for start, stop in pairwise(ends)]

    def images(self, features: ViewFeatures) -> Tensor:
        """Images t, shape (n, f), complex, from their features."""
        return features.vectors * (1 + 2 * self.information).sqrt()

    def estimate(self, sums: Tensor, members: Tensor) -> Views:
        """Views from sums (..., f) of so many images (..., 1), each turned into its view's frame."""
        return Views(self._open(members) * sums, members)

    def sums(self, views: Views) -> Tensor:
        """What `estimate` was given, shape (..., f)."""
        return views.mean / self._open(views.members)

    def log_ratio(self, views: Views, images: Tensor) -> Tensor:
        """How much likelier images (..., f) are of a view (..., f) than of any: mean over all angles, log."""
        a = self.information
        likeliness = torch.logsumexp(self.by_angle(views, images), -1) - math.log(self.angles)
        left = self._open(views.members)
        spread = 1 + a * left
        surprise = images.abs().square() * ((1 - left) / (1 + a)) + a * views.mean.abs().square()
        return likeliness - (surprise / spread + (spread / (1 + a)).log()) @ self.share

    def explaining(self, views: Views) -> Explaining:
        """What `log_ratios` wants to know of views (..., f)."""
        a = self.information
        left = self._open(views.members)
        spread = 1 + a * left
        own = (a * views.mean.abs().square() / spread + (spread / (1 + a)).log()) @ self.share
        return Explaining(
            self._in_parts(views.mean / spread), self.share * (1 - left) / ((1 + a) * spread), own
        )

    def explained(self, images: Tensor) -> Explained:
        """What `log_ratios` wants to know of images (..., f)."""
        return Explained(self._in_parts(images), images.abs().square())

    def log_ratios(self, views: Explaining, images: Explained) -> Tensor:
        """`log_ratio` of every image (b, i) of a batch with every view (b, v) of it, shape (b, i, v).

        Sums over features and over orders are products of matrices, where the few of one side fit.
        """
        parts, matched = images.parts, views.matched
        few = parts.shape[1] <= matched.shape[1]
        aside = self._aside(parts if few else matched)
        batch, shown, count = len(parts), parts.shape[1], matched.shape[1]
        products = parts.new_empty(len(self._turns.T), batch, shown, count)
        real, imaginary = products.chunk(2)
        for order, of in enumerate(self._of_order):
            first, second = parts[..., of], matched[..., of].mT
            torch.matmul(first, second, out=real[order])
            # The imaginary part has one side turned by a quarter.
            if few:
                torch.matmul(aside[..., of], second, out=imaginary[order])
            else:
                torch.matmul(first, -aside[..., of].mT, out=imaginary[order])
        likeliness = log_mean_exp(self._turns @ products.view(len(products), -1)).view(batch, shown, count)
        return likeliness - torch.matmul(images.squared, views.damping.mT) - views.own[:, None]

    def _in_parts(self, values: Tensor) -> Tensor:
        """Complex numbers (..., f) as real ones (..., 2 f): real parts of an order, then imaginary ones."""
        return torch.cat(
            [part for of in self._columns for part in (values[..., of].real, values[..., of].imag)],
            -1,
        )

    def _aside(self, parts: Tensor) -> Tensor:
        """Numbers in parts, times −i."""
        return torch.cat(
            [
                part
                for of in self._of_order
                for real, imaginary in [parts[..., of].chunk(2, -1)]
                for part in (imaginary, -real)
            ],
            -1,
        )

    def by_angle(self, views: Views, images: Tensor) -> Tensor:
        """What of the log-likelihood depends on the angle (..., m) by which a view is turned."""
        spread = 1 + self.information * self._open(views.members)
        products = (images * views.mean.conj() / spread) @ self._by_order.to(images)
        likeliness: Tensor = torch.fft.irfft(products, n=self.angles, norm="forward")
        return likeliness

    def turned_back(self, views: Views, images: Tensor) -> Tensor:
        """Images (..., f) in the frames of views, each by all angles as likely as they are."""
        turns = self.by_angle(views, images).softmax(-1)
        back: Tensor = images * torch.fft.rfft(turns).conj()[..., self.orders]
        return back

    def angles_deg(self, views: Views, images: Tensor) -> Tensor:
        """How far views must be turned, from x towards y, to lie upon images best, shape (...)."""
        return peak_angles_deg(self.by_angle(views, images))

    def _open(self, members: Tensor) -> Tensor:
        """Variance (..., f) of views known from as many images (..., 1)."""
        return 1 / (1 + self.information * members)

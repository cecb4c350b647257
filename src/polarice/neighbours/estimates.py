"""A view as far as some images tell it, and how well it explains others.

An image t of a view z is one with the information ``a`` that an average CTF leaves: t = a z + noise of
variance a, in units in which views vary by one (`ViewLikelihood`). Of m images of a view turned into one
frame the sum tells all: z is then known to be ``Σ t / (1 + m a)``, but for a variance of ``1 / (1 + m a)``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..polar import peak_angles_deg
from .covariance import ViewFeatures, ViewLikelihood

__all__ = ["ViewEstimator", "Views"]


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

    def log_ratios(self, views: Views, images: Tensor) -> Tensor:
        """`log_ratio` of every image (i, f) with every view (v, f), shape (i, v)."""
        a = self.information
        left = self._open(views.members)
        spread = 1 + a * left
        known = (views.mean / spread).conj()
        products = images.new_zeros(int(self.orders.max()) + 1, len(images), len(known))
        for order in self.orders.unique().tolist():
            of = torch.nonzero(self.orders == order)[:, 0]
            torch.matmul(images[:, of], known[:, of].T, out=products[order])
        by_angle = torch.fft.irfft(products.permute(1, 2, 0), n=self.angles, norm="forward")
        surprise = images.abs().square() @ (self.share * (1 - left) / (1 + a) / spread).T
        own = (a * views.mean.abs().square() / spread + (spread / (1 + a)).log()) @ self.share
        return torch.logsumexp(by_angle, -1) - math.log(self.angles) - surprise - own

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

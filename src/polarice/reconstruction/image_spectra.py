"""Images at the frequencies that are compared with a map, weighted as likelihoods need them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .observed import Observation

__all__ = ["ImageSpectra", "half_plane"]


@dataclass(frozen=True)
class ImageSpectra:
    """Images at the frequencies up to a ring, weighted as likelihoods need them.

    Attributes
    ----------
    box : int
        Side of the images.
    frequencies : Tensor, shape (m, 2)
        (x, y), cycles per box; of two opposite ones, one.
    matched : Tensor, shape (b, m), complex
        w C y.
    power : Tensor, shape (b, m)
        w C².
    """

    box: int
    frequencies: Tensor
    matched: Tensor
    power: Tensor

    def __len__(self) -> int:
        return len(self.matched)

    @classmethod
    def of(cls, seen: Observation, ring: float) -> ImageSpectra:
        """Spectra of images up to a ring.

        Parameters
        ----------
        seen : Observation
        ring : float
            Cycles per box; the Nyquist frequency and what is beyond it is left out in any case.
        """
        images = seen.images
        box = images.shape[-1]
        frequencies = half_plane(box, ring).to(images)
        x, y = frequencies.long().unbind(-1)
        index = y % box * (box // 2 + 1) + x
        spectra = torch.fft.rfft2(torch.fft.ifftshift(images, dim=(-2, -1))).flatten(1)[:, index]
        # Each frequency stands for its opposite, too.
        weight = seen.weights if seen.weights.ndim == 3 else seen.weights[:, None, None]
        weight = weight.expand(-1, box, box // 2 + 1).flatten(1)[:, index] * (2 / box**2)
        transfer = torch.ones_like(weight) if seen.transfer is None else seen.transfer.flatten(1)[:, index]
        return cls(box, frequencies, weight * transfer * spectra, weight * transfer.square())

    def __getitem__(self, rows: Tensor) -> ImageSpectra:
        return ImageSpectra(self.box, self.frequencies, self.matched[rows], self.power[rows])

    def waves(self, shifts_px: Tensor) -> Tensor:
        """``exp(2πi k·s / L)`` of shifts (..., 2), shape (..., m)."""
        angle = (2 * math.pi / self.box) * (shifts_px @ self.frequencies.T)
        return torch.polar(torch.ones_like(angle), angle)

    def up_to(self, ring: float) -> ImageSpectra:
        """The same up to a lower ring."""
        kept = self.frequencies.norm(dim=-1) <= ring
        return ImageSpectra(self.box, self.frequencies[kept], self.matched[:, kept], self.power[:, kept])


def half_plane(box: int, ring: float) -> Tensor:
    """Frequencies (m, 2) along (x, y), cycles per box, up to a ring and below Nyquist's.

    Of two opposite ones, one; the origin is not among them.
    """
    fy = (torch.fft.fftfreq(box) * box).round()[:, None].expand(-1, box // 2 + 1)
    fx = (torch.fft.rfftfreq(box) * box).round().expand_as(fy)
    radius = torch.hypot(fx, fy)
    once = ((fx > 0) | (fy > 0)) & (radius <= ring) & (radius < box / 2)
    return torch.stack([fx[once], fy[once]], -1)

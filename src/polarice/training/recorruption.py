"""The error of a denoiser, measured on the noisy images alone.

An image with Gaussian noise of known covariance is made into two whose noise is independent: one with some
of the same kind added, one with as much, turned around and scaled, taken away. What is denoised from the
first predicts the second as well as it predicts the truth, but for a constant (T. Pang, H. Zheng, Y. Quan,
H. Ji, Recorrupted-to-Recorrupted, CVPR 2021). A joint denoiser sees the first of every image of a set and
predicts the second of each, so it may use all images of the set, and itself, as it likes.

Both signs of what is added are taken together: the large part of the second image's noise, which has
nothing to do with the denoiser, then takes itself away. As the amount goes to zero this becomes Stein's
unbiased risk estimate, with the divergence from central differences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..imaging import filter_images

__all__ = ["AMOUNT", "Observation", "unexplained"]

# Standard deviation of the noise that is added, in units of what is there: the denoiser sees 0.8 of the SNR.
AMOUNT = 0.5


@dataclass(frozen=True)
class Observation:
    """How images of a stack come to be, as far as it is the same for all of them.

    Attributes
    ----------
    noise : Tensor, shape (y, x // 2 + 1)
        Power spectrum, 1 for white noise of variance 1.
    mask : Tensor, shape (y, x)
        The disc that images are multiplied by.
    weight : Tensor, shape (y, x // 2 + 1)
        How much a squared error counts at each frequency, after the CTF.
    unseen : Tensor, shape (y, x // 2 + 1)
        How much a squared change counts at each frequency, before the CTF: what the images say next to
        nothing of should stay as it was.
    """

    noise: Tensor
    mask: Tensor
    weight: Tensor
    unseen: Tensor

    def to(self, device: torch.device) -> Observation:
        """Copy on another device."""
        parts = self.noise, self.mask, self.weight, self.unseen
        return Observation(*(part.to(device) for part in parts))

    def draw(self, white: Tensor) -> Tensor:
        """Noise (..., y, x) as the images have it, of white noise."""
        return filter_images(white, self.noise.sqrt()) * self.mask

    def observe(self, denoised: Tensor, ctf: Tensor | None) -> Tensor:
        """What images without noise would look like: seen through their CTFs and the disc."""
        seen = denoised if ctf is None else filter_images(denoised, ctf)
        return seen * self.mask

    def product(self, first: Tensor, second: Tensor) -> Tensor:
        """Weighted inner products (...) of images (..., y, x), per pixel."""
        return (filter_images(first, self.weight) * second).mean((-2, -1))

    def drift(self, change: Tensor) -> Tensor:
        """Weighted squares (...) of changes (..., y, x) where nothing is seen, per pixel."""
        masked = change * self.mask
        return (filter_images(masked, self.unseen) * masked).mean((-2, -1))


def unexplained(
    denoise: Callable[[Tensor], Tensor],
    images: Tensor,
    ctf: Tensor | None,
    white: Tensor,
    observation: Observation,
    amount: float = AMOUNT,
    before: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Unbiased estimate of each image's weighted squared error, less that of an empty image.

    Negative where an estimate is better than nothing. The error is that of denoising images which are
    noisier by ``1 + amount²``. Where nothing is seen the truth is taken to be what ``before`` makes of them.

    Parameters
    ----------
    denoise : callable
        Maps images (..., y, x) to denoised images, without their CTFs.
    images : Tensor, shape (..., y, x)
        Masked.
    ctf : Tensor, shape (..., y, x // 2 + 1), or None
        Magnitudes.
    white : Tensor, shape (..., y, x)
        White noise of variance 1, from which noise is made.
    observation : Observation
    amount : float
        Of added noise, in standard deviations of what is there.
    before : callable, optional
        The denoiser that adaptation began with.

    Returns
    -------
    Tensor, shape (...)
    """
    added = observation.draw(white)
    total = torch.zeros_like(images[..., 0, 0])
    for sign in (1, -1):
        noisy = images + sign * amount * added
        denoised = denoise(noisy)
        prediction = observation.observe(denoised, ctf)
        independent = images - sign * added / amount
        total = total + observation.product(prediction, prediction - 2 * independent) / 2
        if before is not None:
            with torch.no_grad():
                old = before(noisy)
            total = total + observation.drift(denoised - old) / 2
    return total

"""The grey scale of denoised images, measured on the data.

A network that is not told the CTF must guess how much of the signal the CTF has taken, above all at
the lowest frequencies, and so estimates shapes better than amplitudes. Where the CTF is known the
amplitude can be measured: the factor g by which the denoised images, with the CTF put back on, fit
the noisy ones best. A denoised image has seen the very noise that it is compared with, and would fit
too well; Stein's identity says by how much, from the network's answer to a small change of its
input (C. M. Stein, Ann. Statist. 9 (1981) 1135; S. Ramani et al., IEEE TIP 17 (2008) 1540).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..imaging import filter_images

__all__ = ["measure_gain"]

_STEP = 0.1


@torch.inference_mode()
def measure_gain(
    denoise: Callable[[Tensor], Tensor], images: Tensor, transfer: Tensor, mask: Tensor, *, seed: int = 0
) -> tuple[float, float]:
    """Factor that brings denoised images to the data's grey scale.

    Parameters
    ----------
    denoise : callable
        Maps images (n, y, x) to denoised images (n, y, x).
    images : Tensor, shape (n, y, x)
        Normalised (noise of standard deviation 1, phases flipped) and masked.
    transfer : Tensor, shape (n, y, x // 2 + 1)
        Magnitude of each image's CTF on the half spectrum.
    mask : Tensor, shape (y, x)
        The disc that the images were multiplied by.
    seed : int
        Of the small change.

    Returns
    -------
    gain : float
    error : float
        Its standard error, from the scatter between images; infinite for one image.
    """

    def predict(noisy: Tensor) -> Tensor:
        return filter_images(denoise(noisy), transfer) * mask

    generator = torch.Generator().manual_seed(seed)
    change = torch.randn(images.shape, generator=generator).to(images) * mask
    prediction = predict(images)
    answer = (predict(images + _STEP * change) - prediction) / _STEP
    fit = ((images * prediction).sum((1, 2)) - (change * answer).sum((1, 2))).double()
    energy = prediction.square().sum((1, 2)).double()
    gain = float(fit.sum() / energy.sum().clamp_min(1e-12))
    if len(fit) < 2:
        return gain, math.inf
    scatter = (fit - gain * energy).std() * len(fit) ** 0.5 / energy.sum().clamp_min(1e-12)
    return gain, float(scatter)

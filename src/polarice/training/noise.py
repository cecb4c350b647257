"""The power spectrum of a stack's noise where no CTF tells it from the signal.

Along the edge of the disc that images are masked with there is little but noise, unless particles are
crowded. Where the CTF is known, `polarice.particles` has made the noise white before.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor

from ..imaging import frequency_grid, radius_grid, ring_means

__all__ = ["edge_power", "noise_spectrum"]

# Bends of the logarithm between rings, and how far it may be from that of white noise, one standard
# deviation each.
_BEND, _FROM_WHITE = 0.15, 2.0
# Of what is measured outside the particle.
_OUTER_ERROR = 0.1
# The edge: so many pixels of where the disc is whole, and where it is not, all but the last.
_INNER_PX, _FAINTEST, _FEWEST_PAIRS = 1.5, 0.3, 20


def noise_spectrum(images: Tensor, mask: Tensor) -> Tensor:
    """Power of the noise on the half spectrum, 1 where it is as strong as white noise of variance 1.

    Parameters
    ----------
    images : Tensor, shape (n, y, x)
        Normalised as in `polarice.particles.Preprocessor` and masked.
    mask : Tensor, shape (y, x)
        The disc that the images were multiplied by.

    Returns
    -------
    Tensor, shape (y, x // 2 + 1)
    """
    box = images.shape[-1]
    outer = edge_power(images, mask)[1:].numpy().clip(1e-2)
    count = len(outer)
    # A power law bends where the frequency is low.
    bend = _BEND * (1 + 8 / np.arange(2, count) ** 2)

    def misfit(log_power: NDArray[np.float64]) -> NDArray[np.float64]:
        above = (np.exp(log_power) - outer) / (_OUTER_ERROR * outer)
        return np.concatenate([above, np.diff(log_power, 2) / bend, log_power / _FROM_WHITE])

    found = np.exp(least_squares(misfit, np.log(outer.clip(0.3, 3.0)), max_nfev=100).x)
    rings = torch.from_numpy(np.concatenate([found[:1], found])).float()
    fy, fx = frequency_grid(box)
    place = (torch.hypot(fy, fx) * box).clamp(max=count)
    below = place.floor().long().clamp(max=count - 1)
    return rings[below].lerp(rings[below + 1], place - below)


def edge_power(images: Tensor, mask: Tensor) -> Tensor:
    """Power spectrum (L // 2 + 1,), by rings, of what images (n, L, L) show along the edge of their disc.

    The spectrum of the mean product of pixels at each distance that occurs, which, unlike that of
    masked images, is not blurred by the mask.
    """
    box = images.shape[-1]
    distance = radius_grid(box)
    inner = float(distance[mask > 0.999].max()) - _INNER_PX
    edge = ((distance >= inner) & (mask > _FAINTEST)).to(images)
    side = 2 * box
    shown = images * edge / mask.clamp_min(_FAINTEST)
    products = torch.fft.irfft2(torch.fft.rfft2(shown, s=(side, side)).abs().square().mean(0), s=(side, side))
    pairs = torch.fft.irfft2(torch.fft.rfft2(edge, s=(side, side)).abs().square(), s=(side, side))
    covariance = torch.where(pairs > _FEWEST_PAIRS, products / pairs.clamp_min(1), 0)
    # Gently to nothing at the largest distance that is kept.
    axis = torch.fft.fftfreq(side) * side
    apart = torch.hypot(axis[:, None], axis[None]) / box
    covariance = covariance * (0.5 + 0.5 * torch.cos(math.pi * apart.clamp(max=1)))
    return ring_means(torch.fft.rfft2(covariance).real[::2, ::2])

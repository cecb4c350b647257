"""The power spectrum of a stack's noise, as a network sees it, measured without clean images.

Two things tell noise from signal. The CTF takes from the signal and not from the noise: over images with
many defoci the power in a ring of frequency is a straight line in the squared CTF, and what is left where
the CTF is zero is noise. And along the edge of the disc that images are masked with there is little but
noise, unless particles are crowded: noise is no more than what is seen there. A smooth curve reconciles
the two.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor

from ..imaging import frequency_grid, radius_grid

__all__ = ["ctf_free_power", "edge_power", "noise_spectrum", "ring_means"]

# Rows that follow each other come from one micrograph: the error is what changes with blocks of rows.
_BLOCKS = 8
# Bends of the logarithm between rings, and how far it may be from that of white noise, one standard
# deviation each.
_BEND, _FROM_WHITE = 0.15, 2.0
# Of what is measured outside the particle.
_OUTER_ERROR = 0.1
# The edge: so many pixels of where the disc is whole, and where it is not, all but the last.
_INNER_PX, _FAINTEST, _FEWEST_PAIRS = 1.5, 0.3, 20


def noise_spectrum(images: Tensor, ctf: Tensor | None, mask: Tensor) -> Tensor:
    """Power of the noise on the half spectrum, 1 where it is as strong as white noise of variance 1.

    Parameters
    ----------
    images : Tensor, shape (n, y, x)
        Normalised as in `polarice.particles.Preprocessor` and masked.
    ctf : Tensor, shape (n, y, x // 2 + 1), or None
        Magnitudes.
    mask : Tensor, shape (y, x)
        The disc that the images were multiplied by.

    Returns
    -------
    Tensor, shape (y, x // 2 + 1)
    """
    box = images.shape[-1]
    outer = edge_power(images, mask)[1:].numpy().clip(1e-2)
    count = len(outer)
    measured, error = np.ones(count), np.full(count, np.inf)
    crowded = False
    if ctf is not None:
        power = ring_means(torch.fft.rfft2(images).abs().square() / mask.square().sum())
        measured, error = ctf_free_power(power[:, 1:], ring_means(ctf.square())[:, 1:])
        crowded = bool(np.mean((outer - measured) / np.hypot(error, outer * _OUTER_ERROR)) > 1)
        # No power is negative: what is measured so is wrong by that much at least.
        error = np.hypot(error, 0.01 * measured + measured.clip(max=0))

    # A power law bends where the frequency is low.
    bend = _BEND * (1 + 8 / np.arange(2, count) ** 2)

    def misfit(log_power: NDArray[np.float64]) -> NDArray[np.float64]:
        above = (np.exp(log_power) - outer) / (_OUTER_ERROR * outer)
        # Parts of other particles are no noise.
        above = above.clip(min=0) if crowded else above
        return np.concatenate(
            [
                (np.exp(log_power) - measured) / error,
                above,
                np.diff(log_power, 2) / bend,
                log_power / _FROM_WHITE,
            ]
        )

    found = np.exp(least_squares(misfit, np.log(outer.clip(0.3, 3.0)), max_nfev=100).x)
    rings = torch.from_numpy(np.concatenate([found[:1], found])).float()
    fy, fx = frequency_grid(box)
    place = (torch.hypot(fy, fx) * box).clamp(max=count)
    below = place.floor().long().clamp(max=count - 1)
    return rings[below].lerp(rings[below + 1], place - below)


def ring_means(power: Tensor) -> Tensor:
    """Means (..., L // 2 + 1) of half spectra (..., L, L // 2 + 1) over rings of one cycle per box."""
    box = power.shape[-2]
    fy, fx = frequency_grid(box)
    ring = (torch.hypot(fy, fx) * box).round().long().flatten()
    # Every column stands for two but the first and the last.
    weight = torch.full(power.shape[-2:], 2.0)
    weight[:, 0] = weight[:, -1] = 1
    weight = weight.flatten()
    size = box // 2 + 1
    sums = power.new_zeros(*power.shape[:-2], int(ring.max()) + 1)
    sums = sums.index_add(-1, ring, power.flatten(-2) * weight)[..., :size]
    counts = torch.zeros(int(ring.max()) + 1).index_add(0, ring, weight)[:size]
    return sums / counts


def ctf_free_power(power: Tensor, passed: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Power that images would have where their CTFs are zero, and its standard error, by rings.

    Parameters
    ----------
    power, passed : Tensor, shape (n, rings)
        Mean power and mean squared CTF of each image.

    Returns
    -------
    power, error : ndarray, shape (rings,)
        The error is a jackknife's over blocks of rows; infinite where the CTFs are all alike.
    """
    y, x = power.double().numpy(), passed.double().numpy()

    def intercept(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        y_, x_ = y[rows], x[rows]
        spread = np.square(x_ - x_.mean(0)).mean(0)
        slope = ((x_ - x_.mean(0)) * y_).mean(0) / np.maximum(spread, 1e-12)
        found: NDArray[np.float64] = y_.mean(0) - slope * x_.mean(0)
        return found

    rows = np.arange(len(y))
    blocks = np.array_split(rows, _BLOCKS)
    without = np.stack([intercept(np.setdiff1d(rows, block)) for block in blocks])
    error = np.sqrt((_BLOCKS - 1) * without.var(0))
    error = np.where(np.square(x - x.mean(0)).mean(0) > 1e-8, error, np.inf)
    return intercept(rows), error


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

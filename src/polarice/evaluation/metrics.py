"""How close images are to the truth, and which spatial frequencies they keep.

Images are ``(b, y, x)``, square where a function works ring by ring (`polarice.imaging.rings`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..imaging import (
    divide_rings,
    fourier_ring_correlation,
    frc_resolution_A,
    radial_power,
    ring_products,
)

__all__ = [
    "best_linear_scale",
    "fourier_ring_correlation",
    "frc_resolution_A",
    "psnr",
    "radial_power",
    "relative_mse",
    "relative_mse_per_image",
    "ring_products",
    "shell_gain",
    "ssim",
]

SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5


def relative_mse(estimate: Tensor, truth: Tensor) -> Tensor:
    """``Σ|x̂ − x|² / Σ|x|²`` over all images together.

    Parameters
    ----------
    estimate, truth : Tensor, shape (b, y, x)

    Returns
    -------
    Tensor, scalar
        0 is perfect, 1 is what an empty image reaches.
    """
    return (estimate - truth).square().sum() / truth.square().sum()


def relative_mse_per_image(estimate: Tensor, truth: Tensor) -> Tensor:
    """`relative_mse` of each image alone, shape (b,)."""
    return (estimate - truth).square().sum((-2, -1)) / truth.square().sum((-2, -1))


def best_linear_scale(estimate: Tensor, truth: Tensor) -> Tensor:
    """Find the one factor ``s`` that makes ``Σ|s x̂ − x|²`` least: ``<x̂, x> / <x̂, x̂>``.

    Parameters
    ----------
    estimate, truth : Tensor, shape (b, y, x)

    Returns
    -------
    Tensor, scalar
        Above 1 where the estimate is damped.
    """
    return (estimate * truth).sum() / estimate.square().sum()


def psnr(estimate: Tensor, truth: Tensor, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio of each image, ``10 log10(data_range² / MSE)`` in dB.

    Parameters
    ----------
    estimate, truth : Tensor, shape (b, y, x)
    data_range : float
        The span of grey values that counts as the peak; always explicit, for the figure means
        nothing without it.

    Returns
    -------
    Tensor, shape (b,)
    """
    mse = (estimate - truth).square().mean((-2, -1))
    return 10 * torch.log10(data_range**2 / mse)


def ssim(estimate: Tensor, truth: Tensor, data_range: float) -> Tensor:
    """Structural similarity of each image, averaged over the windows that lie wholly inside.

    Gaussian window of 11 pixels with σ = 1.5, K1 = 0.01, K2 = 0.03, population variances.

    Parameters
    ----------
    estimate, truth : Tensor, shape (b, y, x)
        At least 11 pixels a side.
    data_range : float
        The span of grey values, explicit as in `psnr`.

    Returns
    -------
    Tensor, shape (b,)

    References
    ----------
    Wang, Bovik, Sheikh, Simoncelli, IEEE Trans. Image Process. 13, 600 (2004).
    """
    maps = torch.cat([estimate, truth, estimate.square(), truth.square(), estimate * truth])
    down, across = (_gaussian_windows(size, truth.device, truth.dtype) for size in truth.shape[-2:])
    maps = down @ maps @ across.T
    mean_e, mean_t, square_e, square_t, product = maps.chunk(5)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_e * mean_t + c1) / (mean_e.square() + mean_t.square() + c1)
    covariance = product - mean_e * mean_t
    variances = square_e - mean_e.square() + square_t - mean_t.square()
    similarity: Tensor = luminance * (2 * covariance + c2) / (variances + c2)
    return similarity.mean((-2, -1))


def _gaussian_windows(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix (size − 10, size) whose rows are the window at each place where it lies wholly inside.

    A product with this band is many times faster on a CPU than a convolution of one channel.
    """
    centre = (
        torch.arange(size - SSIM_WINDOW_PX + 1, device=device, dtype=dtype)[:, None] + SSIM_WINDOW_PX // 2
    )
    offset = torch.arange(size, device=device, dtype=dtype) - centre
    window = torch.exp(-offset.square() / (2 * SSIM_SIGMA_PX**2)) * (offset.abs() <= SSIM_WINDOW_PX // 2)
    return window / window.sum(1, keepdim=True)


def shell_gain(estimate: Tensor, truth: Tensor, *, pooled: bool = True) -> Tensor:
    """How much of the truth's amplitude an estimate keeps, ring by ring: ``<x̂, x> / <x, x>``.

    Parameters
    ----------
    estimate, truth : Tensor, shape (b, L, L)
    pooled : bool
        As in `fourier_ring_correlation`.

    Returns
    -------
    Tensor, shape (L // 2 + 1,) or (b, L // 2 + 1)
        1 where the amplitude is kept, below 1 where it is damped; 0 where the truth has no power.
    """
    cross, power = ring_products(estimate, truth), ring_products(truth, truth)
    return divide_rings(cross.sum(0), power.sum(0)) if pooled else divide_rings(cross, power)

"""How close images are to the truth, and which spatial frequencies they keep.

Images are ``(b, y, x)``, square where a function works ring by ring. A ring ``i`` holds the spatial
frequencies of ``i ± 1/2`` cycles per box; there are ``box // 2 + 1`` of them, the corners of the
spectrum beyond the last are left out, and ring 0 is the mean grey value alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..imaging import frequency_grid

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


def ring_products(first: Tensor, second: Tensor) -> Tensor:
    """Real part of ``<F a, F b>`` over each ring of the spectra, per image.

    With ``a = b`` it is the ring's power. The transform is orthonormal, so white noise of variance σ²
    has σ² times the ring's number of frequencies.

    Parameters
    ----------
    first, second : Tensor, shape (b, L, L)

    Returns
    -------
    Tensor, shape (b, L // 2 + 1)
    """
    box = first.shape[-1]
    spectrum = torch.fft.rfft2(first, norm="ortho")
    other = spectrum if second is first else torch.fft.rfft2(second, norm="ortho")
    ring, weight = _rings(box, spectrum.device, first.dtype)
    products: Tensor = (spectrum * other.conj()).real * weight
    sums = products.new_zeros(len(products), int(ring.max()) + 1)
    sums.index_add_(1, ring.flatten(), products.flatten(1))
    return sums[:, : box // 2 + 1]


def _rings(box: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Ring of each half-spectrum frequency, and how often the full spectrum holds it (1 or 2)."""
    fy, fx = frequency_grid(box, device=device, dtype=torch.float64)
    ring = (torch.hypot(fy, fx) * box).round().long()
    weight = torch.full((box // 2 + 1,), 2.0, device=device, dtype=dtype)
    weight[0] = 1
    if box % 2 == 0:
        weight[-1] = 1
    return ring, weight


def fourier_ring_correlation(first: Tensor, second: Tensor, *, pooled: bool = True) -> Tensor:
    """Correlation of two stacks ring by ring: ``<a, b> / sqrt(<a, a> <b, b>)``.

    Parameters
    ----------
    first, second : Tensor, shape (b, L, L)
    pooled : bool
        Sum the products over all images before dividing; else one curve per image.

    Returns
    -------
    Tensor, shape (L // 2 + 1,) or (b, L // 2 + 1)
        Between -1 and 1; a ring without power gives 0.
    """
    cross, power_1, power_2 = (
        ring_products(a, b).sum(0) if pooled else ring_products(a, b)
        for a, b in ((first, second), (first, first), (second, second))
    )
    # Two roots, not the root of the product: small powers would underflow.
    return _divide(cross, power_1.sqrt() * power_2.sqrt()).clamp(-1, 1)


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
    return _divide(cross.sum(0), power.sum(0)) if pooled else _divide(cross, power)


def radial_power(images: Tensor) -> Tensor:
    """Mean power in each ring of each image, shape (b, L // 2 + 1); white noise gives its variance."""
    ring, weight = _rings(images.shape[-1], images.device, images.dtype)
    counts = torch.bincount(ring.flatten(), weight.expand_as(ring).flatten())[: images.shape[-1] // 2 + 1]
    return ring_products(images, images) / counts.to(images.dtype)


def frc_resolution_A(frc: Tensor, box: int, pixel_size_A: float, threshold: float = 0.5) -> float:
    """Resolution at which a curve first falls below a threshold, interpolated between rings.

    Parameters
    ----------
    frc : Tensor, shape (box // 2 + 1,)
        One curve; ring 0, the mean grey value, is passed over.
    box : int
        Side of the images in pixels.
    pixel_size_A : float
    threshold : float
        0.5 against a truth; 0.143 between independent halves (Rosenthal and Henderson 2003).

    Returns
    -------
    float
        Å. The last ring's where the curve never falls below, infinity where it starts below.
    """
    values = [float(value) for value in frc]
    crossing = float(len(values) - 1)
    for ring in range(1, len(values)):
        if values[ring] < threshold:
            if ring == 1:
                return math.inf
            above, below = values[ring - 1], values[ring]
            crossing = ring - 1 + (above - threshold) / (above - below)
            break
    return box * pixel_size_A / crossing


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient that is 0 where the denominator is."""
    empty = denominator == 0
    return torch.where(empty, 0.0, numerator / denominator.masked_fill(empty, 1))

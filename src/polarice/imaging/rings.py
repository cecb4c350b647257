"""Spectra ring by ring: what two images have in common at each detail.

A ring ``i`` holds the spatial frequencies of ``i ± 1/2`` cycles per box; there are ``box // 2 + 1`` of
them, the corners of the spectrum beyond the last are left out, and ring 0 is the mean grey value alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .fourier import frequency_grid

__all__ = [
    "divide_rings",
    "fourier_ring_correlation",
    "frc_resolution_A",
    "radial_power",
    "ring_means",
    "ring_numbers",
    "ring_products",
]


def ring_numbers(box: int, device: torch.device | str | None = None) -> Tensor:
    """Ring of each frequency of a half spectrum, shape (box, box // 2 + 1); corners lie beyond the last."""
    fy, fx = frequency_grid(box, device=device, dtype=torch.float64)
    return (torch.hypot(fy, fx) * box).round().long()


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
    weight = torch.full((box // 2 + 1,), 2.0, device=device, dtype=dtype)
    weight[0] = 1
    if box % 2 == 0:
        weight[-1] = 1
    return ring_numbers(box, device), weight


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
    return divide_rings(cross, power_1.sqrt() * power_2.sqrt()).clamp(-1, 1)


def ring_means(values: Tensor) -> Tensor:
    """Means (..., L // 2 + 1) of half spectra (..., L, L // 2 + 1) over the rings of the full spectrum."""
    box = values.shape[-2]
    ring, weight = _rings(box, values.device, values.dtype)
    weight = weight.expand_as(ring)
    sums = values.new_zeros(*values.shape[:-2], int(ring.max()) + 1)
    sums = sums.index_add(-1, ring.flatten(), (values * weight).flatten(-2))
    counts = torch.bincount(ring.flatten(), weight.flatten()).to(values.dtype)
    return (sums / counts)[..., : box // 2 + 1]


def radial_power(images: Tensor) -> Tensor:
    """Mean power in each ring of each image, shape (b, L // 2 + 1); white noise gives its variance."""
    return ring_means(torch.fft.rfft2(images, norm="ortho").abs().square())


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


def divide_rings(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient that is 0 where the denominator is."""
    empty = denominator == 0
    return torch.where(empty, 0.0, numerator / denominator.masked_fill(empty, 1))

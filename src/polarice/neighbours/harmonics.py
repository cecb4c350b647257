"""Images as sums of the harmonics of a disc, which a rotation multiplies by a phase each.

``ψ_mq(r, θ) = J_m(λ_mq r / R) exp(i m θ) / (√π R |J_{m+1}(λ_mq)|)``, with λ_mq the q-th zero of J_m: the
eigenfunctions of the Laplacian on the disc. They are orthonormal, so white noise stays white, and each
lives on a ring of frequency, ``λ_mq / (2π R)`` cycles per pixel, where a CTF is nearly one number.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import jn_zeros, jv
from torch import Tensor, nn

from ..imaging import frequency_grid

__all__ = ["DiscHarmonics"]

# Cycles per pixel: beyond, there is next to no signal in noisy particles, and pixels blur the harmonics.
_HIGHEST_FREQUENCY = 0.35


class DiscHarmonics(nn.Module):
    """Coefficients of images in the harmonics of the disc inscribed in the box.

    Parameters
    ----------
    box : int
        Side of the images in pixels.

    Attributes
    ----------
    orders : Tensor of int, shape (h,)
        m of each harmonic, ascending from zero; images are real, so negative orders are conjugates.
    frequencies : Tensor, shape (h,)
        Of its ring, cycles per pixel.
    """

    orders: Tensor
    frequencies: Tensor
    _basis: Tensor
    _inside: Tensor
    _hats: Tensor
    _band: Tensor
    _ring: Tensor
    _from_spectra: Tensor

    def __init__(self, box: int) -> None:
        super().__init__()
        self.box = box
        inside, basis, orders, frequencies = _tabulate(box)
        self.register_buffer("orders", torch.from_numpy(orders), persistent=False)
        self.register_buffer("frequencies", torch.from_numpy(frequencies), persistent=False)
        self.register_buffer("_basis", torch.from_numpy(basis), persistent=False)
        self.register_buffer("_inside", torch.from_numpy(inside), persistent=False)
        fy, fx = frequency_grid(box)
        ring = torch.hypot(fy, fx).flatten()
        # Linear between rings one cycle per box apart.
        hats = (1 - box * (ring[:, None] - self.frequencies).abs()).clamp_min(0)
        self.register_buffer("_hats", hats / hats.sum(0), persistent=False)
        band = torch.nonzero(ring <= _HIGHEST_FREQUENCY + 1 / box)[:, 0]
        self.register_buffer("_band", band, persistent=False)
        fy, fx = (part.flatten()[band] for part in torch.broadcast_tensors(fy, fx))
        self.register_buffer("_ring", torch.stack([fx, fy], -1), persistent=False)
        # Every frequency off the axis stands for its negative too.
        weights = torch.where(fx == 0, 1, 2) / box**2
        images = torch.zeros(2, len(self.orders), box, box)
        images[:, :, self._inside] = self._basis * torch.tensor([1, -1])[:, None, None]
        spectra = torch.fft.rfft2(images.flatten(0, 1)).flatten(1)[:, band] * weights
        self.register_buffer("_from_spectra", torch.cat([spectra.real, spectra.imag], 1).T, persistent=False)

    def analyse(self, images: Tensor) -> Tensor:
        """Coefficients (b, h), complex, of images (b, y, x): their inner products with the harmonics."""
        real, imaginary = self._basis
        with torch.autocast(images.device.type, enabled=False):
            pixels = images[:, self._inside].float()
            return torch.complex(pixels @ real.T, -(pixels @ imaginary.T))

    @property
    def spectrum_length(self) -> int:
        """How many Fourier coefficients `spectra` gives."""
        return len(self._band)

    def spectra(self, images: Tensor) -> Tensor:
        """Fourier coefficients (b, f), complex, of images (b, y, x), as far as the harmonics reach."""
        with torch.autocast(images.device.type, enabled=False):
            found: Tensor = torch.fft.rfft2(images.float()).flatten(1)[:, self._band]
            return found

    def moved(self, spectra: Tensor, shifts_px: Tensor) -> Tensor:
        """Spectra (b, f) of images moved by shifts (b, 2) or (2,) along (x, y), in pixels."""
        return spectra * torch.exp((-2j * math.pi) * (shifts_px @ self._ring.T))

    def analyse_spectra(self, spectra: Tensor, columns: Tensor | None = None) -> Tensor:
        """Coefficients (b, h), complex, of images whose `spectra` (b, f) are given.

        Parameters
        ----------
        spectra : Tensor, shape (b, f)
        columns : Tensor, shape (2 f, 2 c), optional
            From `mixed`: gives mixtures (b, c) of the coefficients instead.
        """
        columns = self._from_spectra if columns is None else columns
        with torch.autocast(spectra.device.type, enabled=False):
            real, imaginary = (torch.cat([spectra.real, spectra.imag], -1) @ columns).chunk(2, -1)
        return torch.complex(real, imaginary)

    def mixed(self, mixture: Tensor) -> Tensor:
        """What `analyse_spectra` takes to return coefficients times a real matrix (h, c)."""
        return torch.cat([part @ mixture for part in self._from_spectra.chunk(2, 1)], 1)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Images (b, y, x) of coefficients (b, h)."""
        # Every order but zero stands for its negative too.
        weighted = coefficients * torch.where(self.orders == 0, 1, 2)
        images = weighted.real.new_zeros(len(coefficients), self.box, self.box)
        real, imaginary = self._basis
        images[:, self._inside] = weighted.real @ real - weighted.imag @ imaginary
        return images

    def transmitted(self, power: Tensor) -> Tensor:
        """Means (b, h) of half spectra (b, y, x // 2 + 1), such as squared CTFs, on the harmonics' rings."""
        with torch.autocast(power.device.type, enabled=False):
            return power.flatten(1) @ self._hats


@cache
def _tabulate(
    box: int,
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Pixels of the disc, real and imaginary parts of the harmonics there, their orders and frequencies."""
    radius = box / 2 - 1
    y, x = np.mgrid[:box, :box] - box // 2
    inside = np.hypot(y, x) < radius
    r, angle = np.hypot(y, x)[inside] / radius, np.arctan2(y, x)[inside]
    largest = 2 * math.pi * radius * _HIGHEST_FREQUENCY
    functions, orders, zeros = [], [], []
    for order in range(int(largest) + 1):
        found = jn_zeros(order, box // 2)
        for zero in found[found <= largest]:
            scale = math.sqrt(math.pi) * radius * abs(jv(order + 1, zero))
            functions.append(jv(order, zero * r) * np.exp(1j * order * angle) / scale)
            orders.append(order)
            zeros.append(zero)
    basis = np.stack(functions)
    frequencies = np.array(zeros, np.float32) / (2 * math.pi * radius)
    parts = np.stack([basis.real, basis.imag]).astype(np.float32)
    return inside, parts, np.array(orders), frequencies

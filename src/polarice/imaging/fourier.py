"""Fourier-space operations on images: frequencies, crop, shift, filter, disc.

Every function takes images with leading batch dimensions and an even or odd box side ``L``; half
spectra are those of `torch.fft.rfft2`, shape ``(..., L, L // 2 + 1)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "filter_images",
    "fourier_resample",
    "frequency_grid",
    "radius_grid",
    "shift_images",
    "shift_phases",
    "soft_disc",
]


def frequency_grid(
    box: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Frequencies (cycles per pixel) of a half spectrum.

    Returns
    -------
    fy : Tensor, shape (box, 1)
    fx : Tensor, shape (1, box // 2 + 1)
    """
    fy = torch.fft.fftfreq(box, device=device, dtype=dtype)[:, None]
    fx = torch.fft.rfftfreq(box, device=device, dtype=dtype)[None, :]
    return fy, fx


def radius_grid(
    box: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Distance of every pixel from the origin at ``box // 2``, in pixels; shape (box, box)."""
    axis = torch.arange(box, device=device, dtype=dtype) - box // 2
    return torch.hypot(axis[:, None], axis[None, :])


def filter_images(images: Tensor, transfer: Tensor) -> Tensor:
    """Multiply the spectra of images ``(..., L, L)`` by a half-spectrum ``(..., L, L // 2 + 1)``."""
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * transfer, s=images.shape[-2:])
    return filtered


def shift_phases(box: int, shifts_px: Tensor) -> Tensor:
    """Phase ramp that moves images by sub-pixel shifts.

    Parameters
    ----------
    box : int
    shifts_px : Tensor, shape (..., 2)
        How far the content moves along (x, y), in pixels.

    Returns
    -------
    Tensor, shape (..., box, box // 2 + 1), complex
    """
    fy, fx = frequency_grid(box, device=shifts_px.device, dtype=shifts_px.dtype)
    return _ramp(fy, shifts_px[..., 1]) * _ramp(fx, shifts_px[..., 0])


def _ramp(frequency: Tensor, shift_px: Tensor) -> Tensor:
    """Phases of a shift along one axis; at the Nyquist frequency a real image keeps the cosine alone."""
    angle = -2 * math.pi * shift_px[..., None, None] * frequency
    return torch.complex(angle.cos(), torch.where(frequency.abs() == 0.5, 0.0, angle.sin()))


def shift_images(images: Tensor, shifts_px: Tensor) -> Tensor:
    """Move images ``(..., L, L)`` by ``(..., 2)`` pixels along (x, y), periodically, sub-pixel exact."""
    return filter_images(images, shift_phases(images.shape[-1], shifts_px.to(images.dtype)))


def fourier_resample(images: Tensor, box: int) -> Tensor:
    """Crop or pad the spectrum so that images ``(..., L, L)`` become ``(..., box, box)``.

    Grey values are kept (a constant stays the constant), the field of view too; white noise of
    variance 1 gets the variance ``(box / L)**2`` by cropping. The origin stays at ``box // 2``.
    """
    old = images.shape[-1]
    if old == box:
        return images
    spectrum = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(images, dim=(-2, -1))), dim=(-2, -1))
    for _ in range(2):
        spectrum = _resize_last_axis(spectrum, box).transpose(-2, -1)
    resampled: Tensor = torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).real
    centred: Tensor = torch.fft.fftshift(resampled, dim=(-2, -1))
    return centred * (box / old) ** 2


def _resize_last_axis(spectrum: Tensor, box: int) -> Tensor:
    """Crop or pad a centred spectrum; a lone Nyquist frequency is the mean of its two signs."""
    old = spectrum.shape[-1]
    start = abs(old // 2 - box // 2)
    if box < old:
        resized = spectrum[..., start : start + box].clone()
        if box % 2 == 0:
            resized[..., 0] = (spectrum[..., start] + spectrum[..., start + box]) / 2
    else:
        resized = spectrum.new_zeros(*spectrum.shape[:-1], box)
        resized[..., start : start + old] = spectrum
        if old % 2 == 0:
            resized[..., start] = spectrum[..., 0] / 2
            resized[..., start + old] = spectrum[..., 0] / 2
    return resized


def soft_disc(
    box: int,
    radius_px: float,
    edge_px: float,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Disc about the origin with a raised-cosine edge that ends at ``radius_px``.

    Returns
    -------
    Tensor, shape (box, box)
        1 within ``radius_px - edge_px``, 0 beyond ``radius_px``.
    """
    distance = radius_grid(box, device=device, dtype=dtype)
    phase = ((distance - (radius_px - edge_px)) / max(edge_px, 1e-6)).clamp(0, 1)
    return 0.5 * (1 + torch.cos(math.pi * phase))

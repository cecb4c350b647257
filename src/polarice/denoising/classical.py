"""Denoising without learning: the radial Wiener filter, and class averages of aligned images.

Both follow from one model: an image is ``c x + noise`` in Fourier space, where c is its CTF and x has
the mean power S in a ring. Noise power is that of an orthonormal transform: white noise of standard
deviation 1 has 1, and where a disc has cut it the mean of the disc's square.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..imaging import (
    filter_images,
    fourier_resample,
    frequency_grid,
    move_images,
    ring_numbers,
    shift_phases,
)
from .alignment import align_sets

__all__ = [
    "ClassAverage",
    "aligned_sums",
    "class_average",
    "in_each_frame",
    "signal_power",
    "wiener_filter",
]

# Images are aligned by their lower half of frequencies, where nearly all of the signal is.
_LOW_PASS = 2
_SMALLEST_BOX = 16
_IMAGES_AT_ONCE = 32
# Standard deviations that a ring's own power must be above zero to be believed.
_DOUBT = 2.0


class ClassAverage(NamedTuple):
    """Sets of images that were aligned and averaged.

    Attributes
    ----------
    images : Tensor, shape (s, k, y, x)
        The average in the frame of each image.
    average : Tensor, shape (s, y, x)
    matrices : Tensor, shape (s, k, 2, 2)
    shifts_px : Tensor, shape (s, k, 2)
        Image k at ``M_k p + t_k`` shows what the average shows at p.
    """

    images: Tensor
    average: Tensor
    matrices: Tensor
    shifts_px: Tensor


def signal_power(images: Tensor, ctf: Tensor | None = None, *, noise_power: float = 1.0) -> Tensor:
    """Estimate the power of the signal before the CTF from noisy images alone.

    In each ring the S that fits ``|y|² − noise = c² S`` best over all images (least squares). So far as
    noise makes that uncertain, the ring and its two neighbours together say it; it is at least zero.

    Parameters
    ----------
    images : Tensor, shape (..., n, L, L)
        Stacks of n images each.
    ctf : Tensor, shape (..., n, L, L // 2 + 1), optional
    noise_power : float

    Returns
    -------
    Tensor, shape (..., L, L // 2 + 1)
        On the half spectrum, equal within a ring.
    """
    box = images.shape[-1]
    power = torch.fft.rfft2(images, norm="ortho").abs().square()
    transfer = torch.ones_like(power) if ctf is None else ctf.square()
    above = _ring_sums(transfer * (power - noise_power)).sum(-2)
    weight = _ring_sums(transfer.square()).sum(-2)
    tiny = torch.finfo(weight.dtype).tiny
    near = (_smooth(above) / _smooth(weight).clamp_min(tiny)).clamp_min(0)
    # The variance of a ring's own estimate, where the signal is weak; the full spectrum has all twice.
    own, variance = above / weight.clamp_min(tiny), 2 * (_DOUBT * noise_power) ** 2 / weight.clamp_min(tiny)
    radial = ((own * near**2 + near * variance) / (near**2 + variance).clamp_min(tiny)).clamp_min(0)
    rings = ring_numbers(box, images.device)
    spread: Tensor = radial[..., rings.flatten()].unflatten(-1, rings.shape)
    return spread


def wiener_filter(
    images: Tensor, power: Tensor, ctf: Tensor | None = None, *, noise_power: float = 1.0
) -> Tensor:
    """Filter images so that the mean squared error is least among linear filters: c S / (c² S + noise).

    Parameters
    ----------
    images : Tensor, shape (..., L, L)
    power : Tensor, shape broadcastable to (..., L, L // 2 + 1)
        `signal_power`.
    ctf : Tensor, shape (..., L, L // 2 + 1), optional
    noise_power : float
    """
    transfer = torch.ones_like(power) if ctf is None else ctf
    return filter_images(images, transfer * power / (transfer.square() * power + noise_power))


def aligned_sums(
    images: Tensor, matrices: Tensor, shifts_px: Tensor, ctf: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Add up images in a common frame, each weighted by its CTF.

    Parameters
    ----------
    images : Tensor, shape (s, k, L, L)
    matrices : Tensor, shape (s, k, 2, 2)
    shifts_px : Tensor, shape (s, k, 2)
        Image k at ``M_k p + t_k`` shows what the common frame shows at p.
    ctf : Tensor, shape (s, k, L, L // 2 + 1), optional

    Returns
    -------
    weighted : Tensor, shape (s, L, L // 2 + 1), complex
        Spectrum of ``Σ c y``.
    weight : Tensor, shape (s, L, L // 2 + 1)
        ``Σ c²``, which is also the power of the noise in it.
    """
    # Shifts first, and around the edges: what a CTF has smeared beyond them comes back.
    centred = shift_phases(images.shape[-1], -shifts_px)
    seen = filter_images(images, centred if ctf is None else centred * ctf)
    weighted = torch.fft.rfft2(move_images(seen, matrices, torch.zeros_like(shifts_px)).sum(1))
    if ctf is None:
        return weighted, torch.full_like(weighted.real, images.shape[1])
    weight = _turn_transfer(ctf.square(), matrices).sum(1)
    return weighted, weight


def in_each_frame(average: Tensor, matrices: Tensor, shifts_px: Tensor) -> Tensor:
    """Put an image of a common frame (s, L, L) into the frame of each image, shape (s, k, L, L)."""
    back = matrices.mT
    return move_images(average, back, -(back @ shifts_px[..., None])[..., 0])


def class_average(
    images: Tensor,
    power: Tensor,
    ctf: Tensor | None = None,
    *,
    noise_power: float = 1.0,
    max_shift_px: float = 0.0,
) -> ClassAverage:
    """Align the images of each set in the plane and average them.

    Low-passed images are aligned by `polarice.denoising.alignment.align_sets`; the average is
    ``Σ c y / (Σ c² + noise / S)``.

    Parameters
    ----------
    images : Tensor, shape (s, k, L, L)
        Each set shows one view.
    power : Tensor, shape (s, L, L // 2 + 1)
        `signal_power` for each set.
    ctf : Tensor, shape (s, k, L, L // 2 + 1), optional
    noise_power : float
    max_shift_px : float
        Search for displacements of so many pixels, too.

    Returns
    -------
    ClassAverage
    """
    sets = max(1, _IMAGES_AT_ONCE // images.shape[1])
    parts = [
        _class_average(
            images[start : start + sets],
            power[start : start + sets],
            None if ctf is None else ctf[start : start + sets],
            noise_power,
            max_shift_px,
        )
        for start in range(0, len(images), sets)
    ]
    return ClassAverage(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _class_average(
    images: Tensor, power: Tensor, ctf: Tensor | None, noise_power: float, max_shift_px: float
) -> ClassAverage:
    box = images.shape[-1]
    inverse_snr = noise_power / power.clamp_min(1e-6 * power.amax((-2, -1), keepdim=True).clamp_min(1e-12))
    matrices, shifts_px = _align(images, inverse_snr, ctf, max_shift_px)
    weighted, weight = aligned_sums(images, matrices, shifts_px, ctf)
    average = torch.fft.irfft2(weighted / (weight + inverse_snr), s=(box, box))
    return ClassAverage(in_each_frame(average, matrices, shifts_px), average, matrices, shifts_px)


def _align(
    images: Tensor, inverse_snr: Tensor, ctf: Tensor | None, max_shift_px: float
) -> tuple[Tensor, Tensor]:
    """Matrices (s, k, 2, 2) and shifts (s, k, 2) that bring each set's images into one frame."""
    box = images.shape[-1]
    low = box // _LOW_PASS if box // _LOW_PASS >= _SMALLEST_BOX else box
    seen = fourier_resample(images if ctf is None else filter_images(images, ctf), low)
    transfer = torch.ones_like(inverse_snr)[:, None] if ctf is None else _ring_means(ctf.square())
    transfer = _crop(transfer, low).expand(-1, images.shape[1], -1, -1)
    matrices, shifts = align_sets(seen, transfer, _crop(inverse_snr, low)[:, None], max_shift_px * low / box)
    return matrices, shifts * (box / low)


def _turn_transfer(transfer: Tensor, matrices: Tensor) -> Tensor:
    """Squared CTFs (..., L, L // 2 + 1) of images that are turned by matrices (..., 2, 2).

    What is the same in all directions stays what it is; the rest, from astigmatism, is interpolated.
    """
    box = transfer.shape[-2]
    mirrored = transfer[..., 1 : box // 2].flip(-1, -2).roll(1, -2)
    full = torch.cat([transfer, mirrored], -1)
    round_ = (full + full.mT) / 2
    round_ = (round_ + round_.flip(-1).roll(1, -1)) / 2
    rest = torch.fft.fftshift(full - round_, dim=(-2, -1)).reshape(-1, 1, box, box)
    fy, fx = frequency_grid(box, device=transfer.device, dtype=transfer.dtype)
    points = torch.stack([fx.expand(box, -1), fy.expand(-1, box // 2 + 1)], -1).flatten(0, 1)
    places = box * points @ matrices.reshape(-1, 2, 2).transpose(-1, -2)
    grid = ((2 * (places + box // 2) + 1) / box - 1).view(-1, box, box // 2 + 1, 2)
    turned = functional.grid_sample(rest, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return (round_[..., : box // 2 + 1] + turned.view(transfer.shape)).clamp_min(0)


def _crop(half_spectrum: Tensor, low: int) -> Tensor:
    """The lower frequencies of (..., L, L // 2 + 1)."""
    rows = torch.cat([half_spectrum[..., : low // 2, :], half_spectrum[..., low // 2 - low :, :]], -2)
    return rows[..., : low // 2 + 1]


def _ring_sums(values: Tensor) -> Tensor:
    """Sums (..., rings) of half spectra over the rings of the full spectrum."""
    box = values.shape[-2]
    rings = ring_numbers(box, values.device)
    twice = torch.full_like(values[..., 0, :], 2)
    twice[..., 0] = 1
    if box % 2 == 0:
        twice[..., -1] = 1
    sums = values.new_zeros(*values.shape[:-2], int(rings.max()) + 1)
    return sums.index_add_(-1, rings.flatten(), (values * twice[..., None, :]).flatten(-2))


def _smooth(sums: Tensor) -> Tensor:
    """Each of (..., n) with half of its neighbours added."""
    smooth = sums.clone()
    smooth[..., 1:] += sums[..., :-1] / 2
    smooth[..., :-1] += sums[..., 1:] / 2
    return smooth


def _ring_means(values: Tensor) -> Tensor:
    """Half spectra made equal within each ring."""
    rings = ring_numbers(values.shape[-2], values.device)
    means = _ring_sums(values) / _ring_sums(torch.ones_like(values))
    spread: Tensor = means[..., rings.flatten()].unflatten(-1, rings.shape)
    return spread

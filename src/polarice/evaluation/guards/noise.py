"""Noise with a stack's own spectrum, and images whose phases are random beyond a ring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...imaging import filter_images, ring_numbers
from ...simulation import measure_noise_spectrum

__all__ = ["coloured_noise", "empty_power", "randomise_phases"]


def empty_power(path: str | Path, box: int, pixel_size_A: float) -> Tensor:
    """Measure the power spectrum of images that show no particle, such as ice between particles.

    Parameters
    ----------
    path : path-like
        A stack of images of the same microscope and dose, of any box and pixel size.
    box : int
    pixel_size_A : float
        Of the images that the spectrum is for.

    Returns
    -------
    Tensor, shape (box // 2 + 1,)
        In the images' own grey scale; beyond their Nyquist frequency it goes on as it ends there.

    Raises
    ------
    ParticleFileError
    """
    found = measure_noise_spectrum(path)
    wanted = np.arange(box // 2 + 1) / (box * pixel_size_A)
    return torch.from_numpy(np.interp(wanted, found.frequency_per_A.numpy(), found.power.numpy())).float()


def coloured_noise(count: int, box: int, power: Tensor, generator: torch.Generator) -> Tensor:
    """Make Gaussian noise with a given power in every ring.

    Parameters
    ----------
    count, box : int
    power : Tensor, shape (box // 2 + 1,)
        On rings of 0, 1, … cycles per box; corners of the spectrum have the last ring's.
    generator : torch.Generator

    Returns
    -------
    Tensor, shape (count, box, box)
    """
    white = torch.randn(count, box, box, generator=generator)
    return filter_images(white, power.sqrt()[ring_numbers(box).clamp_max(box // 2)])


def randomise_phases(images: Tensor, ring: int, generator: torch.Generator) -> Tensor:
    """Give all frequencies beyond a ring random phases; their amplitudes stay.

    Parameters
    ----------
    images : Tensor, shape (b, L, L)
    ring : int
        The last one that stays.
    generator : torch.Generator

    References
    ----------
    S. Chen et al., Ultramicroscopy 135 (2013) 24: there of micrographs' noise beyond a shell, for maps.
    """
    spectrum = torch.fft.rfft2(images)
    # Phases of noise are uniform, and those of a real image.
    noise = torch.fft.rfft2(torch.randn(images.shape, generator=generator))
    phase = noise / noise.abs().clamp_min(torch.finfo(noise.real.dtype).tiny)
    beyond = ring_numbers(images.shape[-1]) > ring
    changed: Tensor = torch.fft.irfft2(
        torch.where(beyond, spectrum.abs() * phase, spectrum), s=images.shape[-2:]
    )
    return changed

"""In-plane angles between images: the true ones, and those that classical alignment finds."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..conventions import in_plane_angle_deg
from ..denoising import class_average, signal_power
from ..imaging import filter_images, frequency_grid, soft_disc
from ..polar import PolarGrid, PolarTransform, peak_angles_deg

__all__ = [
    "angle_error_deg",
    "class_average_angles_deg",
    "correlation_angles_deg",
    "rotation_self_similarity",
    "true_angles_deg",
]

# Fine enough that the grid does not limit classical alignment.
_ANGLES = 256
_SMALLEST_TURN_DEG = 30.0
# As the sampler's.
_DISC_EDGE_PX = 4.0


def true_angles_deg(rotations: Tensor) -> Tensor:
    """How far each image must be turned to lie upon each other, from their orientations.

    Parameters
    ----------
    rotations : Tensor, shape (..., k, 3, 3)

    Returns
    -------
    Tensor, shape (..., k, k)
        As `in_plane_angle_deg`, and as `SetResult.angles_deg`.
    """
    return in_plane_angle_deg(rotations[..., :, None, :, :], rotations[..., None, :, :, :])


def angle_error_deg(found: Tensor, true: Tensor) -> Tensor:
    """Distance of angles on the circle, 0 to 180 degrees; any shapes that broadcast."""
    return _wrapped(found - true).abs()


def correlation_angles_deg(images: Tensor, cutoff: float) -> Tensor:
    """Align images as it is done classically: the rotation at which two low-passed images correlate best.

    Parameters
    ----------
    images : Tensor, shape (..., k, y, x)
    cutoff : float
        Standard deviation of the Gaussian low-pass filter, in cycles per box.

    Returns
    -------
    Tensor, shape (..., k, k)
        As `true_angles_deg`.
    """
    spectra = _polar_spectra(images, cutoff)
    products = torch.einsum("...qnf,...knf->...qkf", spectra, spectra.conj())
    return peak_angles_deg(torch.fft.irfft(products, n=_ANGLES))


def class_average_angles_deg(images: Tensor) -> Tensor:
    """Align images classically, all of a set together: to each other, then to their running average.

    Parameters
    ----------
    images : Tensor, shape (s, k, y, x)
        Directional sets within the disc that fits the box; noise of standard deviation 1.

    Returns
    -------
    Tensor, shape (s, k, k)
        As `true_angles_deg`.
    """
    box = images.shape[-1]
    noise_power = float(soft_disc(box, box / 2, _DISC_EDGE_PX).square().mean())
    power = signal_power(images, noise_power=noise_power)
    matrices = class_average(images, power, noise_power=noise_power).matrices
    # Image k looks as the average does, turned by this angle.
    turns = torch.rad2deg(torch.atan2(matrices[..., 1, 0], matrices[..., 0, 0]))
    return _wrapped(turns[..., :, None] - turns[..., None, :])


def rotation_self_similarity(images: Tensor, cutoff: float = 8.0) -> Tensor:
    """How alike an image and a turned copy of it are at best: 1 means that its angle has no answer.

    Parameters
    ----------
    images : Tensor, shape (..., y, x)
        Without noise.
    cutoff : float
        Of a Gaussian low-pass filter, in cycles per box.

    Returns
    -------
    Tensor, shape (...)
        Largest correlation with a copy turned by 30 degrees or more, of what varies with the angle.
    """
    power = _polar_spectra(images, cutoff).abs().square().sum(-2)
    power[..., 0] = 0
    correlation = torch.fft.irfft(power, n=_ANGLES)
    turns = torch.arange(_ANGLES) * (360 / _ANGLES)
    far = torch.minimum(turns, 360 - turns) >= _SMALLEST_TURN_DEG
    similarity: Tensor = correlation[..., far].amax(-1) / correlation[..., 0].clamp_min(1e-30)
    return similarity


def _wrapped(degrees: Tensor) -> Tensor:
    return (degrees + 180) % 360 - 180


@lru_cache(maxsize=2)
def _transform(box: int) -> PolarTransform:
    return PolarTransform(PolarGrid(box, box // 2, _ANGLES, 1.0, 2 / box))


def _polar_spectra(images: Tensor, cutoff: float) -> Tensor:
    """Angular spectra (..., n, f) of low-passed images (..., y, x)."""
    box = images.shape[-1]
    fy, fx = frequency_grid(box)
    low_pass = torch.exp(-(fx * fx + fy * fy) * (box / cutoff) ** 2 / 2)
    polar = _transform(box)(filter_images(images.float(), low_pass).flatten(0, -3))
    spectra: Tensor = torch.fft.rfft(polar).unflatten(0, images.shape[:-2])
    return spectra

"""What can be done to an image: Fourier operations and the microscope's transfer function."""

from .affine import move_images, turn_matrices
from .ctf import CTF, electron_wavelength_A, phase_flip
from .fourier import (
    filter_images,
    fourier_resample,
    frequency_grid,
    radius_grid,
    shift_images,
    shift_phases,
    soft_disc,
)

__all__ = [
    "CTF",
    "electron_wavelength_A",
    "filter_images",
    "fourier_resample",
    "frequency_grid",
    "move_images",
    "phase_flip",
    "radius_grid",
    "shift_images",
    "shift_phases",
    "soft_disc",
    "turn_matrices",
]

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
from .gridding import WaveSum, semicircle_kernel, semicircle_slope, semicircle_transform
from .rings import (
    divide_rings,
    fourier_ring_correlation,
    frc_resolution_A,
    radial_power,
    ring_means,
    ring_numbers,
    ring_products,
)

__all__ = [
    "CTF",
    "WaveSum",
    "divide_rings",
    "electron_wavelength_A",
    "filter_images",
    "fourier_resample",
    "fourier_ring_correlation",
    "frc_resolution_A",
    "frequency_grid",
    "move_images",
    "phase_flip",
    "radial_power",
    "radius_grid",
    "ring_means",
    "ring_numbers",
    "ring_products",
    "semicircle_kernel",
    "semicircle_slope",
    "semicircle_transform",
    "shift_images",
    "shift_phases",
    "soft_disc",
    "turn_matrices",
]

"""From particles with orientations to a map: least squares, resolution, refinement."""

from .fsc import MapComparison, compare_maps, fourier_shell_correlation, randomise_phases
from .halves import HalfMaps, signal_prior, solve_halves
from .least_squares import BackProjection, NormalEquations
from .masks import low_pass, soft_ball, soft_mask

__all__ = [
    "BackProjection",
    "HalfMaps",
    "MapComparison",
    "NormalEquations",
    "compare_maps",
    "fourier_shell_correlation",
    "low_pass",
    "randomise_phases",
    "signal_prior",
    "soft_ball",
    "soft_mask",
    "solve_halves",
]

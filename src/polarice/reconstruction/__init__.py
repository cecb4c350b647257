"""From particles with orientations to a map: least squares, resolution, refinement."""

from .fsc import MapComparison, compare_maps, fourier_shell_correlation, randomise_phases
from .fsc_files import compare_map_files, fsc_tables, read_mask, write_fsc
from .halves import HalfMaps, signal_prior, solve_halves
from .least_squares import BackProjection, NormalEquations
from .masks import low_pass, soft_ball, soft_mask
from .observed import Observation, ObservedStack
from .pipeline import ReconstructResult, gather_half, reconstruct_stack
from .settings import ReconstructSettings

__all__ = [
    "BackProjection",
    "HalfMaps",
    "MapComparison",
    "NormalEquations",
    "Observation",
    "ObservedStack",
    "ReconstructResult",
    "ReconstructSettings",
    "compare_map_files",
    "compare_maps",
    "fourier_shell_correlation",
    "fsc_tables",
    "gather_half",
    "low_pass",
    "randomise_phases",
    "read_mask",
    "reconstruct_stack",
    "signal_prior",
    "soft_ball",
    "soft_mask",
    "solve_halves",
    "write_fsc",
]

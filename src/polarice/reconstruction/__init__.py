"""From a stack to orientations, from orientations to a map, and from the map to better orientations."""

from .abinitio import AbInitioResult, AbInitioSettings, abinitio
from .frames import Frame, register_maps
from .fsc import MapComparison, compare_maps, fourier_shell_correlation, randomise_phases
from .fsc_files import compare_map_files, fsc_tables, read_mask, write_fsc
from .halves import HalfMaps, signal_prior, solve_halves
from .image_spectra import ImageSpectra
from .least_squares import BackProjection, NormalEquations
from .likely_poses import climb, draw_poses, near_search, small_rotations
from .masks import low_pass, soft_ball, soft_mask
from .observed import ImageSource, Observation, ObservedImages, ObservedStack, gather_half
from .orientation_grid import OrientationGrid, rotation_grid
from .pipeline import ReconstructResult, reconstruct_stack
from .poses import PoseDraws, Poses
from .refinement import Matched, Refined, RefineSettings, match_projections, refine_orientations
from .settings import ReconstructSettings

__all__ = [
    "AbInitioResult",
    "AbInitioSettings",
    "BackProjection",
    "Frame",
    "HalfMaps",
    "ImageSource",
    "ImageSpectra",
    "MapComparison",
    "Matched",
    "NormalEquations",
    "Observation",
    "ObservedImages",
    "ObservedStack",
    "OrientationGrid",
    "PoseDraws",
    "Poses",
    "ReconstructResult",
    "ReconstructSettings",
    "RefineSettings",
    "Refined",
    "abinitio",
    "climb",
    "compare_map_files",
    "compare_maps",
    "draw_poses",
    "fourier_shell_correlation",
    "fsc_tables",
    "gather_half",
    "low_pass",
    "match_projections",
    "near_search",
    "randomise_phases",
    "read_mask",
    "reconstruct_stack",
    "refine_orientations",
    "register_maps",
    "rotation_grid",
    "signal_prior",
    "small_rotations",
    "soft_ball",
    "soft_mask",
    "solve_halves",
    "write_fsc",
]

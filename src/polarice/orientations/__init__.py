"""Orientations of images from their common lines, without a reference."""

from .alike import share_alike
from .common_lines import CommonLines, RayModel, common_lines_of, find_common_lines, learn_ray_model
from .estimate import Orientations, estimate_orientations, extend_orientations
from .inherit import choose_representatives, inherit_orientations
from .rays import Rays, fourier_rays
from .refine import Refined, refine_orientations
from .relative import RelativeRotations, relative_rotations
from .synchronise import Synchronised, agree_on_hands, synchronise

__all__ = [
    "CommonLines",
    "Orientations",
    "RayModel",
    "Rays",
    "Refined",
    "RelativeRotations",
    "Synchronised",
    "agree_on_hands",
    "choose_representatives",
    "common_lines_of",
    "estimate_orientations",
    "extend_orientations",
    "find_common_lines",
    "fourier_rays",
    "inherit_orientations",
    "learn_ray_model",
    "refine_orientations",
    "relative_rotations",
    "share_alike",
    "synchronise",
]

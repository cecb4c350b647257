"""How far orientations that were found lie from the true ones, whatever their frame and hand."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..conventions import nearest_rotations
from ..reconstruction import Frame

__all__ = [
    "RANDOM_ORIENTATIONS_DEG",
    "OrientationErrors",
    "orientation_errors",
    "register_orientations",
]

# Mean angle of a uniform rotation, π/2 + 2/π: what guesses are wrong by.
RANDOM_ORIENTATIONS_DEG = math.degrees(math.pi / 2 + 2 / math.pi)


class OrientationErrors(NamedTuple):
    """Distances of registered orientations from the truth.

    Attributes
    ----------
    angles_deg : Tensor, shape (n,)
        Angle of the rotation between each one and the true one.
    mirrored : bool
        Whether the mirror image fits better.
    """

    angles_deg: Tensor
    mirrored: bool

    @property
    def mean_deg(self) -> float:
        """Mean angle."""
        return float(self.angles_deg.mean())

    @property
    def median_deg(self) -> float:
        """Median angle."""
        return float(self.angles_deg.median())


def register_orientations(found: Tensor, true: Tensor) -> Frame:
    """How to turn, and mirror if it must be, orientations so that they lie nearest to others.

    The rotation of the specimen O maximises Σ tr (A_i O) Bᵢᵀ, so it is the nearest to Σ A_iᵀ B_i; the
    mirror image of the specimen makes of A the orientation J A J, J = diag(1, 1, -1).

    Parameters
    ----------
    found, true : Tensor, shape (n, 3, 3)
        From specimen to image coordinates.
    """
    true, found = true.double(), found.double()
    here = Frame.identity(found)
    tried = []
    for mirrored in (False, True):
        told = here._replace(mirrored=mirrored).rotations(found)
        turn = nearest_rotations(torch.einsum("iab,iac->bc", told, true))
        tried.append(here._replace(turn=turn, mirrored=mirrored))
    # Squared distances suffer from outliers, angles less.
    return min(tried, key=lambda one: float(_angles_deg(one.rotations(found), true).mean()))


def orientation_errors(found: Tensor, true: Tensor) -> OrientationErrors:
    """Angles between orientations and the true ones after registration (`register_orientations`).

    Parameters
    ----------
    found, true : Tensor, shape (n, 3, 3)
        From specimen to image coordinates.
    """
    frame = register_orientations(found, true)
    return OrientationErrors(_angles_deg(frame.rotations(found.double()), true.double()), frame.mirrored)


def _angles_deg(first: Tensor, second: Tensor) -> Tensor:
    """Angles of the rotations between; exact also where they are small, unlike the arc cosine of a trace."""
    chord = (first - second).square().sum((-1, -2)).sqrt() / (2 * math.sqrt(2))
    return torch.rad2deg(2 * chord.clamp(max=1).asin())

"""Which of orientations all over show an image best.

Only frequencies up to a ring are looked at, so that an image is a few hundred numbers; all images of a batch
meet all orientations of a grid in one matrix product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..conventions import euler_to_matrix
from ..simulation import Projector
from .image_spectra import ImageSpectra, half_plane
from .poses import Poses

__all__ = ["OrientationGrid", "grid_ring", "rotation_grid", "shift_grid"]

# How far from the axis a particle's mass lies, as a fraction of the box, for the choice of a grid.
_REACH = 0.3
_ORIENTATIONS_AT_ONCE = 1 << 12
# Points of a grid that may lie on one hill.
_PER_HILL = 6


def rotation_grid(spacing_deg: float) -> Tensor:
    """Rotations that are evenly spread, so that none is much farther than the spacing from one of them.

    Directions lie on a spiral over the sphere (Fibonacci's lattice), with in-plane angles at equal steps.

    Parameters
    ----------
    spacing_deg : float

    Returns
    -------
    Tensor, shape (n, 3, 3), float32
    """
    spacing = math.radians(spacing_deg)
    count = math.ceil(4 * math.pi / spacing**2)
    place = torch.arange(count, dtype=torch.float64) + 0.5
    tilt = (1 - 2 * place / count).arccos()
    rot = place * (math.pi * (3 - math.sqrt(5)))
    turns = math.ceil(2 * math.pi / spacing)
    psi = torch.arange(turns, dtype=torch.float64) * (2 * math.pi / turns)
    angles = torch.stack(
        [
            rot[:, None].expand(-1, turns),
            tilt[:, None].expand(-1, turns),
            # What turns on the way along the spiral is turned back.
            psi - rot[:, None] * tilt.cos()[:, None],
        ],
        -1,
    )
    return euler_to_matrix(torch.rad2deg(angles)).flatten(0, 1).float()


def grid_ring(spacing_deg: float) -> float:
    """The finest detail, in cycles per box, that changes little between neighbours of a grid."""
    return 1 / (math.pi * _REACH * math.radians(spacing_deg))


def shift_grid(radius: float, step: float) -> Tensor:
    """Points (n, 2) of a square lattice within a radius, the centre among them."""
    reach = int(radius / step + 1e-6)
    axis = torch.arange(-reach, reach + 1) * step
    points = torch.cartesian_prod(axis, axis)
    return points[points.norm(dim=-1) <= radius + 1e-6]


class OrientationGrid:
    """A volume's slices at orientations all over, which all its images are compared with.

    Parameters
    ----------
    projector : Projector
        Of the volume.
    spacing_deg : float
        Of the orientations. What is finer than they can tell apart is left out, so that a slice has some
        hundred numbers, whatever the box.
    ring : float
        Cycles per box up to which the volume is known; nothing beyond it is looked at.
    """

    def __init__(self, projector: Projector, spacing_deg: float = 7.5, ring: float = math.inf) -> None:
        self.spacing_deg = spacing_deg
        self.rotations = rotation_grid(spacing_deg)
        self.ring = min(grid_ring(spacing_deg), ring)
        self.frequencies = half_plane(projector.box, self.ring)
        slices = projector.spectra(self.frequencies, self.rotations)
        self.device = slices.device
        self.rotations, self.frequencies = self.rotations.to(self.device), self.frequencies.to(self.device)
        self.power = slices.abs().square()
        # Complex products as real ones.
        self.slices = torch.view_as_real(slices).flatten(1)

    def search(
        self,
        spectra: ImageSpectra,
        centres_px: Tensor | None = None,
        *,
        shift_radius_px: float = 4.0,
        candidates: int = 4,
    ) -> Poses:
        """The best orientations for each image, each on a hill of its own.

        Parameters
        ----------
        spectra : ImageSpectra
            Of ``b`` images, at least up to the grid's ring.
        centres_px : Tensor, shape (b, 2), optional
            Where particles are expected; at the centre of the box by default.
        shift_radius_px : float
            How far from there they may lie.
        candidates : int
            How many orientations to return; neighbours on the grid are one hill.

        Returns
        -------
        Poses
            Of shapes (b, candidates, ...), likeliest first.
        """
        spectra = spectra.up_to(self.ring)
        if centres_px is None:
            centres_px = spectra.power.new_zeros(len(spectra), 2)
        shifts = shift_grid(shift_radius_px, spectra.box / 32).to(self.device)
        found: Poses | None = None
        # The images of all shifts below each other.
        centred = spectra.matched * spectra.waves(centres_px)
        moved = torch.view_as_real((centred[None] * spectra.waves(shifts)[:, None]).resolve_conj())
        moved = moved.flatten(2).flatten(0, 1)
        for start in range(0, len(self.rotations), _ORIENTATIONS_AT_ONCE):
            some = slice(start, start + _ORIENTATIONS_AT_ONCE)
            score = (moved @ self.slices[some].T).view(len(shifts), len(spectra), -1)
            best, shift = score.max(0)
            best = best - 0.5 * spectra.power @ self.power[some].T
            likelihood, place = best.topk(min(_PER_HILL * candidates, best.shape[1]))
            moves = shifts[shift.gather(1, place)]
            new = Poses(self.rotations[some][place], centres_px[:, None] + moves, likelihood)
            found = new if found is None else _likeliest(found, new, _PER_HILL * candidates)
        assert found is not None
        return _apart(found, 1.5 * self.spacing_deg, candidates)


def _likeliest(first: Poses, second: Poses, count: int) -> Poses:
    """The best of two sets of candidates."""
    likelihood = torch.cat([first.log_likelihood, second.log_likelihood], 1)
    likelihood, place = likelihood.topk(count)
    rotations = torch.cat([first.rotations, second.rotations], 1)
    shifts = torch.cat([first.shifts_px, second.shifts_px], 1)
    rows = torch.arange(len(place), device=place.device)[:, None]
    return Poses(rotations[rows, place], shifts[rows, place], likelihood)


def _apart(found: Poses, least_deg: float, count: int) -> Poses:
    """The likeliest candidates, each far from all that are likelier; if they are too few, others, too."""
    cosine = (torch.einsum("bkij,blij->bkl", found.rotations, found.rotations) - 1) / 2
    near = cosine > math.cos(math.radians(least_deg))
    alone = torch.ones_like(near[..., 0])
    for place in range(1, alone.shape[1]):
        alone[:, place] = ~(near[:, place, :place] & alone[:, :place]).any(1)
    order = (~alone).int().argsort(dim=1, stable=True)[:, :count]
    return found[torch.arange(len(order), device=order.device)[:, None], order]

"""Frames of maps: how the same specimen in two frames is put into one.

A map that is made of nothing but particles lies anyhow: turned, off the centre, and perhaps mirrored.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..conventions import nearest_rotations, random_rotations
from ..simulation import Projector, Volume
from .image_spectra import ImageSpectra, half_plane
from .likely_poses import climb
from .orientation_grid import OrientationGrid, shift_grid
from .poses import PoseDraws, Poses
from .shells import frequency_radius, shell_means

__all__ = ["Frame", "register_maps"]

_MIRROR = (1.0, 1.0, -1.0)
# Views of one map that are looked for in the other, and places where each is looked for.
_VIEWS, _CANDIDATES = 32, 4
_SPACING_DEG = 7.5
_REFINED = 3


class Frame(NamedTuple):
    """What puts poses into another frame.

    Attributes
    ----------
    turn : Tensor, shape (3, 3)
        Of the specimen.
    origin_px : Tensor, shape (3,)
        Where the new frame's origin lies from the old one's, turned already.
    mirrored : bool
        Whether the specimen's mirror image is taken before.
    """

    turn: Tensor
    origin_px: Tensor
    mirrored: bool

    @classmethod
    def identity(cls, like: Tensor) -> Frame:
        """The frame as it is."""
        return cls(torch.eye(3, dtype=like.dtype, device=like.device), like.new_zeros(3), False)

    @property
    def angle_deg(self) -> float:
        """How far the turn turns."""
        cosine = (float(self.turn.diagonal().sum()) - 1) / 2
        return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))

    def rotations(self, rotations: Tensor) -> Tensor:
        """Orientations (..., 3, 3) in the new frame."""
        turn = self.turn.to(rotations)
        mirror = turn.new_tensor(_MIRROR)
        return (rotations * mirror[:, None] * mirror if self.mirrored else rotations) @ turn

    def shifts_px(self, turned: Tensor, shifts_px: Tensor) -> Tensor:
        """Shifts (..., 2) in the new frame, whose orientations (..., 3, 3) are given."""
        moved: Tensor = shifts_px - turned[..., :2, :].to(shifts_px) @ self.origin_px.to(shifts_px)
        return moved

    def poses(self, poses: Poses) -> Poses:
        """Poses in the new frame."""
        turned = self.rotations(poses.rotations)
        return Poses(turned, self.shifts_px(turned, poses.shifts_px), poses.log_likelihood)

    def draws(self, draws: PoseDraws) -> PoseDraws:
        """Draws in the new frame."""
        turned = self.rotations(draws.rotations)
        return PoseDraws(turned, self.shifts_px(turned, draws.shifts_px), draws.shares)


def register_maps(
    moving: Volume,
    fixed: Volume,
    *,
    ring: float,
    shifts: bool = True,
    shift_radius_px: float = 4.0,
    anywhere: bool = True,
) -> Frame:
    """How to turn, move, and mirror if it must be, a map so that it lies upon another.

    Views of the one are looked for among those of the other. What one of them finds, all are asked about:
    no view alone can tell a specimen from its mirror image, but only one frame suits all.

    Parameters
    ----------
    moving, fixed : Volume
        Of one box; masked, or the noise outside will speak, too.
    ring : float
        Cycles per box up to which the maps are compared, each shell alike.
    shifts : bool
        Move the map, too; otherwise the origins are one.
    shift_radius_px : float
        How far from each other the origins are looked for.
    anywhere : bool
        Look everywhere; otherwise the frames are nearly one already.

    Returns
    -------
    Frame
        For poses of the moving map.
    """
    known = Projector(_whitened(fixed))
    device = fixed.density.device
    seen = random_rotations(_VIEWS, torch.Generator().manual_seed(0)).to(device)
    frequencies = half_plane(fixed.box, ring).to(device)
    slices = Projector(_whitened(moving)).spectra(frequencies, seen)
    views = ImageSpectra(fixed.box, frequencies, slices, torch.ones_like(slices.real))
    frame = Frame.identity(seen)
    if anywhere:
        frame = _anywhere(known, views, seen, ring, shift_radius_px if shifts else 0.0)
    start = torch.zeros(_VIEWS, device=device)
    for _ in range(_REFINED):
        turned = frame.rotations(seen)
        begin = Poses(turned, frame.shifts_px(turned, seen.new_zeros(_VIEWS, 2)), start)
        found = climb(known, views, begin, shifts=shifts)
        told = Frame.identity(seen)._replace(mirrored=frame.mirrored).rotations(seen)
        frame = frame._replace(turn=nearest_rotations(torch.einsum("kab,kac->bc", told, found.rotations)))
        sides = frame.rotations(seen)[:, :2].reshape(-1, 3)
        origin = torch.linalg.lstsq(sides, -found.shifts_px.reshape(-1, 1)).solution[:, 0]
        frame = frame._replace(origin_px=origin)
    return frame


def _anywhere(
    known: Projector, views: ImageSpectra, seen: Tensor, ring: float, shift_radius_px: float
) -> Frame:
    """The frame that suits all views best among those that single ones propose."""
    grid = OrientationGrid(known, _SPACING_DEG, ring)
    found = grid.search(views, shift_radius_px=shift_radius_px, candidates=_CANDIDATES)
    coarse = views.up_to(2 * grid.ring)
    hills = [climb(known, coarse, found[:, k]).rotations for k in range(_CANDIDATES)]
    shifts = shift_grid(shift_radius_px, 1.0).to(seen)
    waves = coarse.waves(shifts)
    best, best_fit = None, -math.inf
    for mirrored in (False, True):
        frame = Frame.identity(seen)._replace(mirrored=mirrored)
        told = frame.rotations(seen)
        for turn in torch.cat([told.mT @ hill for hill in hills]):
            slices = known.spectra(coarse.frequencies, told @ turn)
            score = ((coarse.matched * slices.conj()) @ waves.T).real.amax(1)
            fit = float((score - 0.5 * slices.abs().square().sum(1)).sum())
            if fit > best_fit:
                best, best_fit = frame._replace(turn=turn), fit
    assert best is not None
    return best


def _whitened(volume: Volume) -> Volume:
    """A map whose shells have all the same power."""
    box, device = volume.box, volume.density.device
    spectrum = torch.fft.rfftn(volume.density)
    shells = shell_means(spectrum.abs().square()).sqrt()
    shells = shells.clamp(min=1e-6 * float(shells.max())).to(spectrum.real)
    radius = frequency_radius(box, device).round().long().clamp(max=len(shells) - 1)
    return Volume(torch.fft.irfftn(spectrum / shells[radius], s=(box,) * 3), volume.pixel_size_A)

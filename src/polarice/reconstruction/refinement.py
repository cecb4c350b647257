"""Orientations and shifts refined against maps of the particles themselves, half set by half set.

Each half set is compared with its own half map only, up to where half maps agree (0.143), so that what one
half has learned from noise is not in the other, and their correlation tells (Scheres and Chen 2012, Nat.
Methods 9, 853). In a large half set an image is compared with what the other parts show: in a map of its own
it would find its noise again, as it lay before, and stay there. It enters its map in several poses, by how
likely they are, not in the likeliest alone (Scheres 2012, J. Mol. Biol. 415, 406).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import PolariceError
from ..simulation import Projector, Volume
from ..symmetry import point_group
from .frames import Frame, register_maps
from .halves import HalfMaps, half_map, solve_halves
from .image_spectra import ImageSpectra
from .least_squares import NormalEquations
from .likely_poses import climb, draw_poses, near_search
from .masks import soft_mask
from .observed import ImageSource, gather_half
from .orientation_grid import OrientationGrid
from .poses import PoseDraws, Poses

__all__ = [
    "FIRST_RINGS",
    "Matched",
    "RefineSettings",
    "Refined",
    "match_projections",
    "refine_orientations",
]

_BATCH = 128
# Of a half set, one of which is left out of the map that it is compared with; and particles of a half set
# for which that is done: what is left of fewer is too poor to tell how others lie.
_PARTS, _ENOUGH = 8, 500
# How much finer than the first the other global searches are. The first has a map that is known to few rings.
_FINER = 2 / 3
# Cycles per box up to which images are compared whatever half maps say.
FIRST_RINGS = 8
# Frames that lie nearer to each other are one.
_SAME_DEG, _SAME_PX = 0.2, 0.05


@dataclass(frozen=True)
class RefineSettings:
    """How orientations are refined.

    Attributes
    ----------
    rounds : int
        How often maps are made and orientations improved.
    search : {"local", "global"}
        Where the first rounds look: near the orientations that are given, or everywhere.
    global_rounds : int
        How many rounds look everywhere, with a global search; all but the first on a finer grid.
    spacing_deg : float
        Of the grid of the first global search, and the step of the first local one.
    shifts : bool
        Improve shifts, too; otherwise they stay as they are given.
    shift_radius_px : float
        How far from there the first global search looks for particles; the others half as far from where
        they were found.
    symmetry : str
        Point group of the specimen, ``C1`` for none.
    apart : bool
        Orientations of the half sets were found apart. Before each round the second is put into the frame
        of the first, and its mirror image taken if need be, as their maps tell.
    """

    rounds: int = 4
    search: Literal["local", "global"] = "local"
    global_rounds: int = 2
    spacing_deg: float = 7.5
    shifts: bool = True
    shift_radius_px: float = 4.0
    symmetry: str = "C1"
    apart: bool = False


@dataclass(frozen=True)
class Refined:
    """What a refinement has found.

    Attributes
    ----------
    start : Poses
        What was given, in one frame.
    poses : Poses
        The likeliest, of all particles.
    draws : PoseDraws
        Poses around them.
    maps : HalfMaps
        Made with the draws.
    resolution_A : tuple of float
        Of the half maps before each round, and in the end, at 0.143.
    """

    start: Poses
    poses: Poses
    draws: PoseDraws
    maps: HalfMaps
    resolution_A: tuple[float, ...]


class Matched(NamedTuple):
    """Some particles beside a map.

    Attributes
    ----------
    particles : Tensor of int, shape (b,)
        Their numbers.
    best : Poses
        The likeliest, on the device of the images.
    draws : PoseDraws
        Poses around them.
    """

    particles: Tensor
    best: Poses
    draws: PoseDraws


def refine_orientations(
    source: ImageSource,
    rotations: Tensor,
    shifts_px: Tensor | None,
    halves: NDArray[np.int8],
    settings: RefineSettings | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """Improve orientations and shifts by rounds of reconstruction and search.

    Parameters
    ----------
    source : ImageSource
    rotations : Tensor, shape (n, 3, 3)
        Where to start.
    shifts_px : Tensor, shape (n, 2), optional
        Where each particle lies; at the centre by default.
    halves : ndarray of int, shape (n,)
        Half set of each particle, 1 or 2.
    settings : RefineSettings, optional
    progress : callable, optional
        Called with images searched and to be searched, over all rounds.

    Returns
    -------
    Refined

    Raises
    ------
    PolariceError
        A half set is empty, or an orientation or shift is not finite.
    """
    settings = settings or RefineSettings()
    count = len(rotations)
    shifts = torch.zeros(count, 2) if shifts_px is None else shifts_px.float().cpu()
    if not bool(rotations.isfinite().all() & shifts.isfinite().all()):
        raise PolariceError("an orientation or a shift is not finite")
    members = [np.flatnonzero(halves == half) for half in (1, 2)]
    if not all(len(rows) for rows in members):
        raise PolariceError("a half set is empty")
    poses = Poses(rotations.float().cpu().clone(), shifts.clone(), torch.zeros(count))
    draws = poses.as_draws()
    generator = torch.Generator().manual_seed(0)
    resolutions, done, group, ring = [], 0, point_group(settings.symmetry), float(FIRST_RINGS)
    for number in range(settings.rounds + 1):
        gathered = [_Half.gather(source, rows, draws, group, generator) for rows in members]
        if settings.apart:
            frame = _frame_of_second(gathered, source.pixel_size_A, settings, ring, anywhere=number == 0)
            if frame.mirrored or frame.angle_deg > _SAME_DEG or float(frame.origin_px.norm()) > _SAME_PX:
                second = torch.from_numpy(members[1])
                poses.put(second, frame.poses(poses[second]))
                draws.put(second, frame.draws(draws[second]))
                gathered[1] = _Half.gather(source, members[1], draws, group, generator)
        if number == 0:
            start = poses[torch.arange(count)]
        maps = solve_halves(gathered[0].equations, gathered[1].equations, source.pixel_size_A)
        resolutions.append(maps.comparison.resolution_A())
        if number == settings.rounds:
            break
        ring = max(source.box * source.pixel_size_A / resolutions[-1], FIRST_RINGS)
        searched, drawn = [], []
        for half in gathered:
            for matched in half.match(source, poses, maps, settings, generator, ring, number):
                poses.put(matched.particles, matched.best)
                searched.append(matched.particles)
                drawn.append(matched.draws)
                done += len(matched.particles)
                if progress is not None:
                    progress(done, settings.rounds * count)
        draws = PoseDraws.in_order(torch.cat(searched), drawn)
    return Refined(start, poses, draws, maps, tuple(resolutions))


def match_projections(
    source: ImageSource,
    rows: NDArray[np.int64],
    poses: Poses,
    reference: Volume,
    settings: RefineSettings,
    generator: torch.Generator,
    *,
    grid: OrientationGrid | None = None,
    ring: float = math.inf,
    first: bool = True,
) -> Iterator[Matched]:
    """The likeliest poses of particles against a map, and others around them, batch by batch.

    Parameters
    ----------
    source : ImageSource
    rows : ndarray of int
        Particles to look at.
    poses : Poses
        Of all particles, to begin with.
    reference : Volume
    settings : RefineSettings
    generator : torch.Generator
        Draws the others.
    grid : OrientationGrid, optional
        Where else to begin; near the poses alone by default.
    ring : float
        Cycles per box up to which images are compared with the map.
    first : bool
        Look as far around the poses as in the first round.

    Yields
    ------
    Matched
    """
    projector = Projector(reference)
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        spectra, index = ImageSpectra.of(source.read(some), ring), torch.from_numpy(some)
        begin = _on(poses[index], source.device)
        best = _search(projector, spectra, begin, settings, grid, first)
        yield Matched(index, best, draw_poses(projector, spectra, best, generator, shifts=settings.shifts))


@dataclass(frozen=True)
class _Half:
    """A half set, divided at random anew in each round.

    Attributes
    ----------
    rows : list of ndarray of int
        Particles of each part.
    parts : list of NormalEquations
        Theirs, with T in bfloat16: of all that is kept it takes the most memory, and is the least delicate.
    equations : NormalEquations
        Of all parts.
    pixel_size_A : float
    """

    rows: list[NDArray[np.int64]]
    parts: list[NormalEquations]
    equations: NormalEquations
    pixel_size_A: float

    @classmethod
    def gather(
        cls,
        source: ImageSource,
        rows: NDArray[np.int64],
        draws: PoseDraws,
        group: Tensor,
        generator: torch.Generator,
    ) -> _Half:
        mixed = rows[torch.randperm(len(rows), generator=generator).numpy()]
        divided = [np.sort(some) for some in np.array_split(mixed, _PARTS if len(rows) >= _ENOUGH else 1)]
        together, parts = None, []
        for some in divided:
            part = gather_half(
                source, some, draws.rotations, draws.shifts_px, shares=draws.shares, symmetry=group
            )
            together = part if together is None else together + part
            parts.append(NormalEquations(part.right, part.response.bfloat16(), part.images))
        assert together is not None
        return cls(divided, parts, together, source.pixel_size_A)

    def match(
        self,
        source: ImageSource,
        poses: Poses,
        maps: HalfMaps,
        settings: RefineSettings,
        generator: torch.Generator,
        ring: float,
        number: int,
    ) -> Iterator[Matched]:
        """Poses of its particles, each against a map of the other parts, if there are others."""
        grid = None
        if settings.search == "global" and number < settings.global_rounds:
            # Where it finds something is no more than a place to begin.
            spacing = settings.spacing_deg * (_FINER if number else 1)
            grid = OrientationGrid(Projector(self._reference(self.equations, maps)), spacing, ring)
        for rows, part in zip(self.rows, self.parts, strict=True):
            others = self._reference(self.equations - part if len(self.parts) > 1 else self.equations, maps)
            yield from match_projections(
                source, rows, poses, others, settings, generator, grid=grid, ring=ring, first=number == 0
            )

    def _reference(self, equations: NormalEquations, maps: HalfMaps) -> Volume:
        return Volume(equations.solve(maps.prior) * maps.mask, self.pixel_size_A)


def _frame_of_second(
    halves: Sequence[_Half],
    pixel_size_A: float,
    settings: RefineSettings,
    ring: float,
    *,
    anywhere: bool,
) -> Frame:
    """What puts poses of the second half set into the frame of the first."""
    maps = (half_map(half.equations) for half in halves)
    first, second = (Volume(one * soft_mask(one, pixel_size_A), pixel_size_A) for one in maps)
    # The origin is known where shifts are.
    return register_maps(
        second,
        first,
        ring=ring,
        shifts=settings.shifts,
        shift_radius_px=settings.shift_radius_px,
        anywhere=anywhere,
    )


def _search(
    projector: Projector,
    spectra: ImageSpectra,
    begin: Poses,
    settings: RefineSettings,
    grid: OrientationGrid | None,
    first: bool,
) -> Poses:
    """The likeliest poses of a batch: uphill from where it begins, or from anywhere if that is higher."""
    if grid is not None:
        radius = settings.shift_radius_px / (1 if first else 2) if settings.shifts else 0.0
        found = grid.search(spectra, begin.shifts_px, shift_radius_px=radius)
        coarse = spectra.up_to(2 * grid.ring)
        starts = [begin, *(found[:, k] for k in range(found.log_likelihood.shape[1]))]
        hills = [climb(projector, coarse, start, steps=4, shifts=settings.shifts) for start in starts]
        highest = torch.stack([hill.log_likelihood for hill in hills], 1).argmax(1)
        rows = torch.arange(len(highest), device=highest.device)
        begin = Poses(
            torch.stack([hill.rotations for hill in hills], 1)[rows, highest],
            torch.stack([hill.shifts_px for hill in hills], 1)[rows, highest],
            torch.stack([hill.log_likelihood for hill in hills], 1)[rows, highest],
        )
    elif first:
        begin = near_search(projector, spectra, begin, settings.spacing_deg, shifts=settings.shifts)
    return climb(projector, spectra, begin, shifts=settings.shifts)


def _on(poses: Poses, device: torch.device) -> Poses:
    return Poses(poses.rotations.to(device), poses.shifts_px.to(device), poses.log_likelihood.to(device))

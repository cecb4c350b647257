r"""Which way an image shows a volume: likelihoods of orientations and shifts, and the search for the best.

With the image's spectrum y, its CTF C, the inverse variance w of its noise and the volume's slice P, the
logarithm of the likelihood, less that of an empty volume, is

.. math::

    \mathrm{Re} \sum_k w C y \, \overline{P} \, e^{2\pi i k \cdot s / L}
    - \tfrac{1}{2} \sum_k w C^2 |P|^2 .

Only frequencies up to a ring are looked at, so that an image is a few hundred numbers; all images of a batch
meet all orientations of a grid in one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..conventions import euler_to_matrix
from ..simulation import Projector
from .observed import Observation

__all__ = [
    "ImageSpectra",
    "OrientationGrid",
    "PoseDraws",
    "Poses",
    "climb",
    "draw_poses",
    "grid_ring",
    "near_search",
    "rotation_grid",
    "small_rotations",
]

# How far from the axis a particle's mass lies, as a fraction of the box, for the choice of a grid.
_REACH = 0.3
_ORIENTATIONS_AT_ONCE = 1 << 12
# Points of a grid that may lie on one hill.
_PER_HILL = 6
_DAMPING, _EASE = 0.3, 3.0
# Of the logarithm of the likelihood: poses that differ by less are equally likely.
_LEAST_GAIN = 0.01
_LONGEST_TURN, _LONGEST_SHIFT = math.radians(6.0), 1.5
# A hill's width, as standard deviations: poses farther off are not drawn though the image may allow them.
_WIDEST_TURN, _WIDEST_SHIFT = math.radians(10.0), 2.0


@dataclass(frozen=True)
class Poses:
    """Orientation and place of ``n`` particles.

    Attributes
    ----------
    rotations : Tensor, shape (n, 3, 3)
        Specimen to image coordinates.
    shifts_px : Tensor, shape (n, 2)
        Where each particle lies, (x, y) from the centre of the box.
    log_likelihood : Tensor, shape (n,)
        How much likelier, natural logarithm, than that the image shows nothing.
    """

    rotations: Tensor
    shifts_px: Tensor
    log_likelihood: Tensor

    def __getitem__(self, index: Any) -> Poses:
        return Poses(self.rotations[index], self.shifts_px[index], self.log_likelihood[index])

    def as_draws(self) -> PoseDraws:
        """A copy, each alone."""
        return PoseDraws(
            self.rotations[:, None].clone(),
            self.shifts_px[:, None].clone(),
            torch.ones_like(self.shifts_px[:, :1]),
        )

    def put(self, index: Tensor, others: Poses) -> None:
        """Write others, wherever they are, in the place of some."""
        self.rotations[index] = others.rotations.to(self.rotations)
        self.shifts_px[index] = others.shifts_px.to(self.shifts_px)
        self.log_likelihood[index] = others.log_likelihood.to(self.log_likelihood)


@dataclass(frozen=True)
class PoseDraws:
    """Several poses of each of ``n`` particles, for all those that its image allows.

    Attributes
    ----------
    rotations : Tensor, shape (n, k, 3, 3)
        Specimen to image coordinates.
    shifts_px : Tensor, shape (n, k, 2)
        Where each particle lies, (x, y) from the centre of the box.
    shares : Tensor, shape (n, k)
        How likely each pose is; together 1.
    """

    rotations: Tensor
    shifts_px: Tensor
    shares: Tensor

    def __getitem__(self, index: Any) -> PoseDraws:
        return PoseDraws(self.rotations[index], self.shifts_px[index], self.shares[index])

    def put(self, index: Tensor, others: PoseDraws) -> None:
        """Write others, wherever they are, in the place of some."""
        self.rotations[index] = others.rotations.to(self.rotations)
        self.shifts_px[index] = others.shifts_px.to(self.shifts_px)
        self.shares[index] = others.shares.to(self.shares)

    @classmethod
    def in_order(cls, index: Tensor, parts: Sequence[PoseDraws]) -> PoseDraws:
        """Those of some particles after those of others, put into the order of their numbers."""
        order = index.argsort()
        return cls(
            torch.cat([part.rotations.to(index.device) for part in parts])[order],
            torch.cat([part.shifts_px.to(index.device) for part in parts])[order],
            torch.cat([part.shares.to(index.device) for part in parts])[order],
        )


@dataclass(frozen=True)
class ImageSpectra:
    """Images at the frequencies up to a ring, weighted as likelihoods need them.

    Attributes
    ----------
    box : int
        Side of the images.
    frequencies : Tensor, shape (m, 2)
        (x, y), cycles per box; of two opposite ones, one.
    matched : Tensor, shape (b, m), complex
        w C y.
    power : Tensor, shape (b, m)
        w C².
    """

    box: int
    frequencies: Tensor
    matched: Tensor
    power: Tensor

    def __len__(self) -> int:
        return len(self.matched)

    @classmethod
    def of(cls, seen: Observation, ring: float) -> ImageSpectra:
        """Spectra of images up to a ring.

        Parameters
        ----------
        seen : Observation
        ring : float
            Cycles per box; the Nyquist frequency and what is beyond it is left out in any case.
        """
        images = seen.images
        box = images.shape[-1]
        frequencies = half_plane(box, ring).to(images)
        x, y = frequencies.long().unbind(-1)
        index = y % box * (box // 2 + 1) + x
        spectra = torch.fft.rfft2(torch.fft.ifftshift(images, dim=(-2, -1))).flatten(1)[:, index]
        # Each frequency stands for its opposite, too.
        weight = seen.weights if seen.weights.ndim == 3 else seen.weights[:, None, None]
        weight = weight.expand(-1, box, box // 2 + 1).flatten(1)[:, index] * (2 / box**2)
        transfer = torch.ones_like(weight) if seen.transfer is None else seen.transfer.flatten(1)[:, index]
        return cls(box, frequencies, weight * transfer * spectra, weight * transfer.square())

    def __getitem__(self, rows: Tensor) -> ImageSpectra:
        return ImageSpectra(self.box, self.frequencies, self.matched[rows], self.power[rows])

    def waves(self, shifts_px: Tensor) -> Tensor:
        """``exp(2πi k·s / L)`` of shifts (..., 2), shape (..., m)."""
        angle = (2 * math.pi / self.box) * (shifts_px @ self.frequencies.T)
        return torch.polar(torch.ones_like(angle), angle)

    def up_to(self, ring: float) -> ImageSpectra:
        """The same up to a lower ring."""
        kept = self.frequencies.norm(dim=-1) <= ring
        return ImageSpectra(self.box, self.frequencies[kept], self.matched[:, kept], self.power[:, kept])


def half_plane(box: int, ring: float) -> Tensor:
    """Frequencies (m, 2) along (x, y), cycles per box, up to a ring and below Nyquist's.

    Of two opposite ones, one; the origin is not among them.
    """
    fy = (torch.fft.fftfreq(box) * box).round()[:, None].expand(-1, box // 2 + 1)
    fx = (torch.fft.rfftfreq(box) * box).round().expand_as(fy)
    radius = torch.hypot(fx, fy)
    once = ((fx > 0) | (fy > 0)) & (radius <= ring) & (radius < box / 2)
    return torch.stack([fx[once], fy[once]], -1)


def small_rotations(vectors: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) in radians."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    matrices: Tensor = torch.linalg.matrix_exp(torch.stack(rows, -2))
    return matrices


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


def near_search(
    projector: Projector, spectra: ImageSpectra, start: Poses, step_deg: float, *, shifts: bool = True
) -> Poses:
    """The likeliest of an orientation and its 26 neighbours on a cubic lattice of small rotations.

    Detail that the step is too coarse for is not looked at.

    Parameters
    ----------
    projector : Projector
    spectra : ImageSpectra
        Of ``b`` images as they are.
    start : Poses
        Of ``b`` images.
    step_deg : float
        Of the lattice.
    shifts : bool
        Look around for the particle, too; otherwise it stays where it is.
    """
    spectra = spectra.up_to(2 * grid_ring(step_deg))
    device = spectra.matched.device
    around = torch.cartesian_prod(*[torch.tensor([0.0, 1.0, -1.0], device=device)] * 3)
    near = small_rotations(around * math.radians(step_deg)) @ start.rotations[:, None]
    slices = projector.spectra(spectra.frequencies, near.flatten(0, 1)).view(*near.shape[:2], -1)
    steps = shift_grid(1.5 if shifts else 0.0, 1.0).to(device)
    centred = spectra.matched * spectra.waves(start.shifts_px)
    score = ((centred[:, None] * slices.conj()) @ spectra.waves(steps).T).real
    score = score - 0.5 * (slices.abs().square() @ spectra.power[..., None])
    best, place = score.flatten(1).max(1)
    rows = torch.arange(len(place), device=device)
    turned, step = near[rows, place // len(steps)], steps[place % len(steps)]
    return Poses(turned, start.shifts_px + step, best)


def climb(
    projector: Projector, spectra: ImageSpectra, start: Poses, *, steps: int = 8, shifts: bool = True
) -> Poses:
    """Climb to the likeliest orientation and shift nearby, by Fisher scoring with Levenberg's damping.

    A step that does not raise the likelihood is taken back, and tried shorter. Images whose next step
    promises next to nothing are done.

    Parameters
    ----------
    projector : Projector
    spectra : ImageSpectra
        Of ``b`` images as they are.
    start : Poses
        Of ``b`` images.
    steps : int
        How many, at most.
    shifts : bool
        Move the particle, too; otherwise it stays where it is.
    """
    best = Poses(
        start.rotations.clone(),
        start.shifts_px.clone(),
        torch.full_like(start.log_likelihood, -torch.inf),
    )
    rows = torch.arange(len(spectra), device=spectra.matched.device)
    ways = 5 if shifts else 3
    gradient = spectra.power.new_zeros(len(spectra), ways)
    information = spectra.power.new_zeros(len(spectra), ways, ways)
    damping = spectra.power.new_full((len(spectra),), _DAMPING)
    tried, some = best[rows], spectra
    for step in range(steps + 1):
        slices, turned = projector.turning_spectra(some.frequencies, tried.rotations)
        centred = some.matched * some.waves(tried.shifts_px)
        score = (centred * slices.conj()).real.sum(1) - 0.5 * (some.power * slices.abs().square()).sum(1)
        better = score > best.log_likelihood[rows]
        gained = rows[better]
        best.rotations[gained], best.shifts_px[gained] = tried.rotations[better], tried.shifts_px[better]
        best.log_likelihood[gained] = score[better]
        if step == steps:
            break
        slope = _slopes(some, slices, turned, shifts)[better]
        power = some.power[better]
        residual = torch.view_as_real(centred[better] - power * slices[better]).flatten(1)
        gradient[gained] = (slope @ residual[..., None])[..., 0]
        information[gained] = _information(slope, power)
        damping[rows] = torch.where(better, damping[rows] / _EASE, damping[rows] * _EASE**2)
        diagonal = information[rows].diagonal(dim1=1, dim2=2)
        ridge = diagonal * damping[rows, None] + 1e-6 * diagonal.amax(1, keepdim=True)
        move = torch.linalg.solve(information[rows] + torch.diag_embed(ridge), gradient[rows])
        # What a step may gain is half of this, where the likelihood is a paraboloid.
        going = (move * gradient[rows]).sum(1) > 2 * _LEAST_GAIN
        if not going.any():
            break
        if not going.all():
            rows, move, some = rows[going], move[going], some[going]
        turn = move[:, :3] * (_LONGEST_TURN / move[:, :3].norm(dim=1, keepdim=True)).clamp(max=1)
        place = best.shifts_px[rows]
        if shifts:
            place = place + move[:, 3:] * (_LONGEST_SHIFT / move[:, 3:].norm(dim=1, keepdim=True)).clamp(
                max=1
            )
        tried = Poses(small_rotations(turn) @ best.rotations[rows], place, best.log_likelihood[rows])
    return best


def draw_poses(
    projector: Projector,
    spectra: ImageSpectra,
    best: Poses,
    generator: torch.Generator,
    *,
    pairs: int = 4,
    shifts: bool = True,
) -> PoseDraws:
    """Poses around the likeliest one of each image, as far from it as the image leaves open.

    They are drawn from the Gaussian that the Fisher information gives, in pairs on opposite sides of the
    best, and count as much as the likelihood, within a hill of 10 degrees and two pixels, is larger.

    Parameters
    ----------
    projector : Projector
    spectra : ImageSpectra
        Of ``b`` images as they are.
    best : Poses
        Of ``b`` images, on top of their hills.
    generator : torch.Generator
    pairs : int
    shifts : bool
        Draw shifts, too; otherwise particles stay where they are.
    """
    slices, turned = projector.turning_spectra(spectra.frequencies, best.rotations)
    information = _information(_slopes(spectra, slices, turned, shifts), spectra.power)
    hill = information.new_tensor([_WIDEST_TURN**-2] * 3 + [_WIDEST_SHIFT**-2] * 2)[: 5 if shifts else 3]
    factor = torch.linalg.cholesky(information + hill.diag())
    plain = torch.randn(*information.shape[:2], pairs, generator=generator, device=generator.device)
    plain = torch.cat([plain, -plain], 2).to(information)
    moves = torch.linalg.solve_triangular(factor.mT, plain, upper=True).mT
    rotations = small_rotations(moves[..., :3]) @ best.rotations[:, None]
    places = best.shifts_px[:, None] + (moves[..., 3:] if shifts else torch.zeros_like(moves[..., :2]))
    slices = projector.spectra(spectra.frequencies, rotations.flatten(0, 1)).unflatten(0, moves.shape[:2])
    centred = spectra.matched[:, None] * spectra.waves(places)
    score = (centred * slices.conj()).real.sum(2)
    score = score - 0.5 * (slices.abs().square() @ spectra.power[..., None])[..., 0]
    score = score - 0.5 * moves.square() @ hill
    return PoseDraws(rotations, places, torch.softmax(score + 0.5 * plain.square().sum(1), 1))


def _slopes(spectra: ImageSpectra, slices: Tensor, turned: Tensor, shifts: bool) -> Tensor:
    """Derivatives (b, 3 or 5, 2 m) of slices by turns and shifts, complex numbers as two real ones."""
    if shifts:
        waves = (-2j * math.pi / spectra.box) * spectra.frequencies.T
        turned = torch.cat([turned, waves * slices[:, None]], 1)
    return torch.view_as_real(turned).flatten(2)


def _information(slopes: Tensor, power: Tensor) -> Tensor:
    """Fisher's information (b, 3 or 5, 3 or 5) of an image's likelihood."""
    return (slopes * power.repeat_interleave(2, 1)[:, None]) @ slopes.mT

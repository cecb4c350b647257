r"""Which poses near a given one an image allows: the likeliest, and others by how likely they are.

With the image's spectrum y, its CTF C, the inverse variance w of its noise and the volume's slice P, the
logarithm of the likelihood, less that of an empty volume, is

.. math::

    \mathrm{Re} \sum_k w C y \, \overline{P} \, e^{2\pi i k \cdot s / L}
    - \tfrac{1}{2} \sum_k w C^2 |P|^2 .
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..simulation import Projector
from .image_spectra import ImageSpectra
from .orientation_grid import grid_ring, shift_grid
from .poses import PoseDraws, Poses

__all__ = ["climb", "draw_poses", "near_search", "small_rotations"]

_DAMPING, _EASE = 0.3, 3.0
# Of the logarithm of the likelihood: poses that differ by less are equally likely.
_LEAST_GAIN = 0.01
_LONGEST_TURN, _LONGEST_SHIFT = math.radians(6.0), 1.5
# A hill's width, as standard deviations: poses farther off are not drawn though the image may allow them.
_WIDEST_TURN, _WIDEST_SHIFT = math.radians(10.0), 2.0


def small_rotations(vectors: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) in radians."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    matrices: Tensor = torch.linalg.matrix_exp(torch.stack(rows, -2))
    return matrices


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

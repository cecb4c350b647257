"""Which rotations and shifts bring the images of one view into one frame, found by correlation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..imaging import frequency_grid, move_images, radius_grid, shift_images, turn_matrices

__all__ = ["align_sets"]

_ANGLES = 96
_STEP = 2 * math.pi / _ANGLES
_ITERATIONS = 6
_CENTRINGS = 3


def align_sets(
    seen: Tensor, transfer: Tensor, damping: Tensor, max_shift_px: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Align the images of each set, every one of which shows the same view.

    Images are first centred on the rotational average of their set, if shifts are searched for. Then
    angles are chosen that agree with those of all pairs (the top eigenvector of the matrix of relative
    rotations), and at last each image is aligned to the average of the others, again and again.

    Parameters
    ----------
    seen : Tensor, shape (s, k, l, l)
        Low-passed images, filtered by their CTF.
    transfer : Tensor, shape (s, k, l, l // 2 + 1)
        Squared CTFs.
    damping : Tensor, shape (s, 1, l, l // 2 + 1)
        Noise over signal power.
    max_shift_px : float
        Largest shift that is searched for, in pixels of these images.

    Returns
    -------
    matrices : Tensor, shape (s, k, 2, 2)
    shifts : Tensor, shape (s, k, 2)
        Image k at ``M_k p + t_k`` shows what the common frame shows at p.

    References
    ----------
    A. Singer, Appl. Comput. Harmon. Anal. 30, 20 (2011), for angles from all pairs; P. A. Penczek,
    M. Radermacher, J. Frank, Ultramicroscopy 40, 33 (1992), for alignment to a running average.
    """
    sets, size, low = seen.shape[:3]
    offset = seen.new_zeros(sets, size, 2)
    centres = offset
    if max_shift_px > 0:
        centres = _centres(seen, transfer, damping, max_shift_px)
        seen = shift_images(seen, -centres)
    turns = turn_matrices(_STEP * torch.arange(_ANGLES, device=seen.device))
    frames = turns.expand(sets, size, -1, -1, -1), seen.new_zeros(sets, size, _ANGLES, 2)
    copies = move_images(seen, *frames)
    filtered = torch.fft.irfft2(torch.fft.rfft2(seen) / (transfer + damping), s=(low, low))
    steps = _agree_on_angles(copies, filtered)
    if size > 1:
        spectra = torch.fft.rfft2(copies)
        for _ in range(_ITERATIONS):
            index = steps.round().long() % _ANGLES
            index = index[..., None, None, None].expand(-1, -1, 1, *spectra.shape[-2:])
            aligned = spectra.gather(2, index)[:, :, 0] * _ramp(low, offset)
            others = aligned.sum(1, keepdim=True) - aligned
            others = others / (transfer.sum(1, keepdim=True) - transfer + damping)
            steps, offset = _best_poses(spectra, others, max_shift_px)
    matrices = turn_matrices(steps * _STEP)
    return matrices, (matrices @ offset[..., None])[..., 0] + centres


def _centres(seen: Tensor, transfer: Tensor, damping: Tensor, max_shift_px: float) -> Tensor:
    """Where the particles lie, by correlation with the set's rotational average, shape (s, k, 2)."""
    low = seen.shape[-1]
    spectra = torch.fft.rfft2(seen)
    offset = seen.new_zeros(*seen.shape[:2], 2)
    for _ in range(_CENTRINGS):
        total = (spectra * _ramp(low, offset)).sum(1, keepdim=True)
        mean = torch.fft.irfft2(total / (transfer.sum(1, keepdim=True) + damping), s=(low, low))
        template = torch.fft.rfft2(_rotational_mean(mean)).expand_as(spectra)
        _, offset = _best_poses(spectra[:, :, None], template, max_shift_px)
    return offset


def _agree_on_angles(copies: Tensor, filtered: Tensor) -> Tensor:
    """Steps by which to turn each image, shape (s, k), so that they fit the angles of all pairs best."""
    size = filtered.shape[1]
    scores = copies.flatten(-2).flatten(1, 2) @ filtered.flatten(-2).transpose(-1, -2)
    scores = scores.unflatten(1, (size, -1)).permute(0, 1, 3, 2)
    # Image k turned by θ upon image j is image j turned by −θ upon image k.
    scores = scores + scores.transpose(1, 2).flip(-1).roll(1, -1)
    relative = scores.argmax(-1) * _STEP
    # A step of half a turn has no sign: the lower triangle repeats the upper one.
    relation = torch.polar(torch.ones_like(relative), relative).triu(1)
    relation = relation + relation.mH + torch.eye(size, device=relation.device)
    steps: Tensor = torch.linalg.eigh(relation).eigenvectors[..., -1].angle() / _STEP
    return steps


def _best_poses(spectra: Tensor, references: Tensor, max_shift_px: float) -> tuple[Tensor, Tensor]:
    """Rotation and offset at which each image fits its reference best.

    Parameters
    ----------
    spectra : Tensor, shape (s, k, m, l, l // 2 + 1)
        Of each image at m rotations.
    references : Tensor, shape (s, k, l, l // 2 + 1)
    max_shift_px : float

    Returns
    -------
    steps : Tensor, shape (s, k)
        Rotation, in steps and fractions of a step.
    offset : Tensor, shape (s, k, 2)
        (x, y).
    """
    scores = _scores(spectra, references, max_shift_px)
    turns, side = scores.shape[2], scores.shape[-1]
    best = scores.flatten(2).argmax(-1)
    step, row, column = best // side**2, best // side % side, best % side

    def at(turn: int, down: int, right: int) -> Tensor:
        place = ((step + turn) % turns * side + row + down) * side + column + right
        found: Tensor = scores.flatten(2).gather(2, place[..., None])[..., 0]
        return found

    def vertex(*one: int) -> Tensor:
        before, here, after = at(*(-i for i in one)), at(0, 0, 0), at(*one)
        fraction = 0.5 * (after - before) / (2 * here - before - after).clamp_min(1e-12)
        # Outside of what is allowed the score is minus infinity.
        return fraction.nan_to_num(0, 0, 0).clamp(-0.5, 0.5)

    steps = step + vertex(1, 0, 0) if turns > 2 else step.to(scores.dtype)
    if side == 1:
        return steps, scores.new_zeros(*steps.shape, 2)
    centre = side // 2
    return steps, torch.stack([column - centre + vertex(0, 0, 1), row - centre + vertex(0, 1, 0)], -1)


def _scores(spectra: Tensor, references: Tensor, max_shift_px: float) -> Tensor:
    """Correlations (s, k, m, n, n) at offsets about (n // 2, n // 2), with a margin of minus infinity."""
    low = spectra.shape[-2]
    products = spectra * references.conj()[:, :, None]
    if max_shift_px == 0:
        twice = torch.full_like(products.real[0, 0, 0, 0], 2)
        twice[0] = twice[-1] = 1
        unmoved: Tensor = (products.real * twice).sum((-2, -1))[..., None, None]
        return unmoved
    reach = min(int(max_shift_px) + 1, low // 2 - 1)
    near = torch.arange(-reach, reach + 1, device=spectra.device) % low
    scores = torch.fft.irfft2(products, s=(low, low))[..., near, :][..., near]
    distance = radius_grid(2 * reach + 1, device=spectra.device)
    inside: Tensor = scores.masked_fill((distance > max_shift_px) | (distance >= reach), -torch.inf)
    return inside


def _ramp(box: int, offset: Tensor) -> Tensor:
    """Phases that show an image at ``p + offset``."""
    fy, fx = frequency_grid(box, device=offset.device, dtype=offset.dtype)
    angle = 2 * math.pi * (offset[..., 1, None, None] * fy + offset[..., 0, None, None] * fx)
    return torch.polar(torch.ones_like(angle), angle)


def _rotational_mean(images: Tensor) -> Tensor:
    """Images (..., l, l) made equal along circles."""
    rings = radius_grid(images.shape[-1], device=images.device).round().long().flatten()
    count = torch.bincount(rings).to(images.dtype)
    sums = images.new_zeros(*images.shape[:-2], len(count)).index_add_(-1, rings, images.flatten(-2))
    mean: Tensor = (sums / count)[..., rings].view(images.shape)
    return mean

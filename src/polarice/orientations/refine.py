"""Orientations that make the rays agree along which images should meet.

Where two images meet follows from their orientations. The sum over pairs of the log ratio that the two rays
there are one, rather than strangers, is a smooth function of all orientations and shifts; from a good start
it is climbed by gradients. It uses what the search for the best rays of each pair throws away: how much worse
all others are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .common_lines import RayModel
from .rays import Rays

__all__ = ["Refined", "best_orientations", "meeting_angles", "refine_orientations"]

_STEPS = 120
# Others that an image is compared with in a step.
_PARTNERS = 64
_FIRST_STEP, _LAST_STEP = math.radians(1.0), math.radians(0.02)
# Steps after which the correlation of rays is measured anew, on views whose sine is larger.
_RELEARN = 10
_APART = 0.3
_PIXELS_PER_RADIAN = 10.0
# Numbers of rays at once, where candidates are compared: more would not stay in a processor's cache.
_CANDIDATES_AT_ONCE = 500_000


class Refined(NamedTuple):
    """Orientations and shifts after a refinement.

    Attributes
    ----------
    rotations : Tensor, shape (n, 3, 3)
    shifts_px : Tensor, shape (n, 2)
        Where each particle lies, (x, y) from the origin.
    confidence : Tensor, shape (n,)
        Share of the images with which each meets along rays that are likelier to be one than strangers.
    """

    rotations: Tensor
    shifts_px: Tensor
    confidence: Tensor


def meeting_angles(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where images of known orientations meet.

    Parameters
    ----------
    first, second : Tensor, shape (..., 3, 3)
        From specimen to image coordinates.

    Returns
    -------
    mine, theirs : Tensor, shape (...)
        Direction of the common line in either image, radians from x towards y.
    sine : Tensor, shape (...)
        Of the angle between the views: near 0 any line is a common one.
    """
    line = torch.linalg.cross(first[..., 2, :], second[..., 2, :])
    mine = (first[..., :2, :] * line[..., None, :]).sum(-1)
    theirs = (second[..., :2, :] * line[..., None, :]).sum(-1)
    return _angle(mine), _angle(theirs), line.detach().norm(dim=-1)


def _angle(vector: Tensor) -> Tensor:
    return torch.atan2(vector[..., 1], vector[..., 0])


def refine_orientations(
    rays: Rays,
    model: RayModel,
    rotations: Tensor,
    generator: torch.Generator,
    *,
    shifts: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Refined:
    """Climb from orientations to better ones.

    Parameters
    ----------
    rays : Rays
        Of n images.
    model : RayModel
    rotations : Tensor, shape (n, 3, 3)
        To start with.
    generator : torch.Generator
        Chooses who is compared with whom.
    shifts : bool
        Find out where the particles lie, too.
    progress : callable
        Called with steps done and in all.
    """
    count = len(rotations)
    whitened = Rays(model.whitened(rays), rays.radii)
    model = model._replace(power=torch.ones_like(model.power))
    start = rotations.to(rays.radii)
    turn = torch.zeros(count, 3, device=start.device, requires_grad=True)
    shift = torch.zeros(count, 2, device=start.device, requires_grad=shifts)
    optimiser = torch.optim.Adam([turn, shift] if shifts else [turn], betas=(0.8, 0.95))
    partners = min(count - 1, _PARTNERS)

    def compare(number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rays at which each image meets some others, and the sines between the views."""
        current = torch.linalg.matrix_exp(_skew(turn)) @ start
        rows, others = _partners(count, number, generator, start.device)
        mine, theirs, sine = meeting_angles(current[rows], current[others])
        first, second = whitened.at(rows, mine), whitened.at(others, theirs)
        if shifts:
            moved = shift * _PIXELS_PER_RADIAN
            along = _along(moved[rows], mine) - _along(moved[others], theirs)
            phase = 2 * math.pi * along[..., None] * rays.radii
            first = first * torch.polar(torch.ones_like(phase), phase)
        return first, second, sine

    for step in range(_STEPS):
        rate = _FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** (step / (_STEPS - 1))
        for group in optimiser.param_groups:
            group["lr"] = rate
        first, second, sine = compare(partners // 2)
        if step % _RELEARN == 0:
            apart = sine > _APART
            if not apart.any():
                break
            model = model.relearned(first.detach()[apart], second.detach()[apart])
        loss = -(model.log_ratio(first, second) * sine.square()).sum() / sine.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress(step + 1, _STEPS)
    progress(_STEPS, _STEPS)
    with torch.no_grad():
        first, second, sine = compare(partners)
        one = ((model.log_ratio(first, second) > 0) & (sine > _APART)).float().sum(1)
        confidence = one / (sine > _APART).float().sum(1).clamp_min(1)
        rotations = torch.linalg.matrix_exp(_skew(turn)) @ start
        return Refined(rotations, shift * _PIXELS_PER_RADIAN, confidence)


@torch.no_grad()
def best_orientations(
    rays: Rays,
    model: RayModel,
    rotations: Tensor,
    members: Tensor,
    rows: Tensor,
    candidates: Tensor,
) -> tuple[Tensor, Tensor]:
    """The best of several orientations for each of some images, judged by images that have theirs.

    Parameters
    ----------
    rays : Rays
        Of n images.
    model : RayModel
    rotations : Tensor, shape (n, 3, 3)
        Looked at where they are known.
    members : Tensor of int, shape (m,)
        Images that judge.
    rows : Tensor of int, shape (b,)
        Images that are judged.
    candidates : Tensor, shape (b, c, 3, 3) or (1, c, 3, 3)

    Returns
    -------
    rotations : Tensor, shape (b, 3, 3)
    ratio : Tensor, shape (b,)
        Mean log ratio at the common lines.
    """
    judges = rotations[members]
    whitened = Rays(model.whitened(rays), rays.radii)
    model = model._replace(power=torch.ones_like(model.power))
    options = candidates.expand(len(rows), -1, -1, -1)
    each = len(members) * len(rays.radii)
    at_once = max(1, _CANDIDATES_AT_ONCE // each)
    best, ratio = [], []
    for some in torch.arange(len(rows), device=rows.device).split(max(1, at_once // options.shape[1])):
        told, means = options[some], []
        for part in told.split(at_once, 1):
            mine, theirs, sine = meeting_angles(part[:, :, None], judges[None, None])
            first = whitened.at(rows[some, None, None].expand_as(mine), mine)
            second = whitened.at(members.expand_as(mine), theirs)
            weight = sine.square()
            means.append((model.log_ratio(first, second) * weight).sum(-1) / weight.sum(-1))
        largest, place = torch.cat(means, 1).max(1)
        best.append(told[torch.arange(len(some), device=rows.device), place])
        ratio.append(largest)
    return torch.cat(best), torch.cat(ratio)


def _partners(
    count: int, number: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Each image (n, m), and as many others for each, all of them equally often."""
    offsets = torch.randperm(count - 1, generator=generator, device=generator.device)[:number] + 1
    rows = torch.arange(count, device=device)[:, None].expand(-1, len(offsets))
    return rows, (rows + offsets.to(device)) % count


def _along(shift: Tensor, angle: Tensor) -> Tensor:
    return shift[..., 0] * angle.cos() + shift[..., 1] * angle.sin()


def _skew(vector: Tensor) -> Tensor:
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    skew: Tensor = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return skew

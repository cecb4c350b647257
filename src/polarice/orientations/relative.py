"""How two images lie to each other, from their common line and from those with third images.

Two planes that share a line are known but for the angle between them. The lines of three images tell it: the
three directions are the corners of a spherical triangle whose sides are the angles between lines within
images (van Heel 1987). Its sign stays open, which is the hand. Every third image gives one answer, and the
answers vote (Singer & Shkolnisky 2012).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .common_lines import CommonLines

__all__ = ["RelativeRotations", "relative_rotations", "rotations_about"]

_BINS = 90
_SMOOTHING_DEG = 4.0
# Third images that vote about a pair, at most.
_VOTERS = 256
_AT_ONCE = 4_000_000
# Triangles that miss being one by more than this cosine do not vote.
_SLACK = 0.05


class RelativeRotations(NamedTuple):
    """Rotations between images, each up to its hand.

    Attributes
    ----------
    rotations : Tensor, shape (n, n, 3, 3)
        ``rotations[i, j]`` takes coordinates of image j to those of image i, or its mirror image
        J R J, J = diag(1, 1, -1), does; ``rotations[j, i]`` is its transpose, identities on the diagonal.
    votes : Tensor, shape (n, n)
        Share of the voters that agree, 0 to 1.
    """

    rotations: Tensor
    votes: Tensor


def rotations_about(axis: int, angle: Tensor) -> Tensor:
    """Rotations (..., 3, 3) by angles (...) about x (0) or z (2), right-handed."""
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    if axis == 0:
        rows = [one, zero, zero, zero, c, -s, zero, s, c]
    else:
        rows = [c, -s, zero, s, c, zero, zero, zero, one]
    rotations: Tensor = torch.stack(rows, -1).unflatten(-1, (3, 3))
    return rotations


def relative_rotations(lines: CommonLines, voters: int = _VOTERS) -> RelativeRotations:
    """Rotations between all pairs of images.

    Parameters
    ----------
    lines : CommonLines
    voters : int
        Third images that are asked about a pair; spread over the stack, where it has more.
    """
    angles = lines.angles
    count = len(angles)
    tilt, votes = angles.new_zeros(count, count), angles.new_zeros(count, count)
    asked = min(count, voters)
    for rows in torch.arange(count, device=angles.device).split(max(1, _AT_ONCE // (count * asked))):
        # Others for every part of the images, so that nobody's errors are everybody's.
        third = (torch.linspace(0, count - 1, asked, device=angles.device).round().long() + rows[0]) % count
        found = _vote(angles, rows, third)
        tilt[rows], votes[rows] = found
    # The two orders of a pair have asked different images where not all are asked.
    better = votes < votes.T
    tilt, votes = torch.where(better, tilt.T, tilt), torch.maximum(votes, votes.T)
    rotations = rotations_about(2, angles) @ rotations_about(0, tilt) @ rotations_about(2, -angles.T)
    upper = torch.ones_like(votes, dtype=torch.bool).triu(1)[..., None, None]
    rotations = torch.where(upper, rotations, rotations.transpose(0, 1).mT)
    rotations[range(count), range(count)] = torch.eye(3, device=angles.device, dtype=angles.dtype)
    return RelativeRotations(rotations, votes.fill_diagonal_(0))


def _vote(angles: Tensor, rows: Tensor, third: Tensor) -> tuple[Tensor, Tensor]:
    """Angles between the planes of images ``rows`` and all others, and the share of voters behind each."""
    # (i, j, k): what lies between two lines within the first, the second and the third image.
    mine = angles[rows][:, third][:, None] - angles[rows][..., None]
    theirs = angles[:, third][None] - angles[:, rows].T[..., None]
    voter = angles[third][:, rows].T[:, None] - angles[third].T[None]
    sines = mine.sin() * theirs.sin()
    cosine = (voter.cos() - mine.cos() * theirs.cos()) / torch.where(sines.abs() < 1e-6, 1e-6, sines)
    # An image is no third to itself, and flat triangles tell nothing.
    everybody = torch.arange(len(angles), device=angles.device)
    asked = sines.abs() * (third != rows[:, None])[:, None] * (third != everybody[:, None])
    counts = asked * (cosine.abs() < 1 + _SLACK)
    tilt = cosine.clamp(-1, 1).acos()
    shape = tilt.shape[:2]
    place = (tilt * (_BINS / math.pi)).long().clamp_max(_BINS - 1)
    histogram = counts.new_zeros(*shape, _BINS).scatter_add_(-1, place, counts)
    centres = (torch.arange(_BINS, device=angles.device, dtype=angles.dtype) + 0.5) * (math.pi / _BINS)
    width = math.radians(_SMOOTHING_DEG)
    near = torch.exp(-(centres[:, None] - centres).square() / (2 * width**2))
    smooth = histogram @ near
    # A flat histogram has its largest value anywhere; at the ends half of the window lies outside.
    peak = centres[smooth.argmax(-1)]
    agree = torch.exp(-(tilt - peak[..., None]).square() / (2 * width**2)) * counts
    total = agree.sum(-1)
    refined = (agree * tilt).sum(-1) / total.clamp_min(1e-12)
    return refined, total / asked.sum(-1).clamp_min(1e-12)

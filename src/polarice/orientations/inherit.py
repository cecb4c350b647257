"""Orientations of many images from those of a few, through neighbours that show the same view."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..conventions import nearest_rotations
from .relative import rotations_about

__all__ = ["choose_representatives", "inherit_orientations", "offered_orientations"]

_NOBODY = -1
_ROUNDS = 50


def choose_representatives(neighbours: NDArray[np.int64], likely: NDArray[np.float32], count: int) -> Tensor:
    """Images whose neighbours, one after another, take in most of those that are not yet taken in.

    Parameters
    ----------
    neighbours : ndarray of int, shape (n, k)
        Rows, -1 in empty places.
    likely : ndarray, shape (n, k)
        How surely each shows the view.
    count : int
        Images wanted.

    Returns
    -------
    Tensor of int, shape (min(n, count),)
        In the order of the rows.
    """
    total = len(neighbours)
    sure = np.where(neighbours == _NOBODY, 0, likely).astype(np.float64)
    # What is not yet taken in of each image.
    left = np.ones(total + 1)
    left[total] = 0
    reach = np.concatenate([np.arange(total)[:, None], np.where(neighbours == _NOBODY, total, neighbours)], 1)
    weight = np.concatenate([np.ones((total, 1)), sure], 1)
    chosen: list[int] = []
    gains = np.full(total, np.inf)
    for _ in range(min(count, total)):
        # Gains only fall: the largest that is still true is the largest.
        while True:
            best = int(gains.argmax())
            now = float((weight[best] * left[reach[best]]).sum())
            if now >= gains[best] - 1e-12:
                break
            gains[best] = now
        chosen.append(best)
        gains[best] = -1
        np.multiply.at(left, reach[best], 1 - weight[best] * 0.5)
    return torch.from_numpy(np.sort(np.array(chosen, np.int64)))


def inherit_orientations(
    rotations: Tensor,
    known: Tensor,
    neighbours: Tensor,
    angles_deg: Tensor,
    weights: Tensor,
    mirrored: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Give images the orientations of their neighbours, from neighbour to neighbour where it must be.

    A neighbour that, turned by an angle, lies upon an image has its view: A_i = R_z(angle) A_j. One that must
    be mirrored along y before sees it from the other side: A_i = R_z(angle) diag(1, -1, -1) A_j.

    Parameters
    ----------
    rotations : Tensor, shape (n, 3, 3)
        Looked at where they are known.
    known : Tensor of bool, shape (n,)
    neighbours : Tensor of int, shape (n, k)
        Rows, -1 in empty places.
    angles_deg, weights : Tensor, shape (n, k)
        How far each neighbour must be turned from x towards y, and what it counts.
    mirrored : Tensor of bool, shape (n, k), optional
        Nobody by default.

    Returns
    -------
    rotations : Tensor, shape (n, 3, 3)
        The chordal mean of what neighbours tell; as they were where they were known.
    reached : Tensor of bool, shape (n,)
        Images that are known now. To the others no path leads; their rotations are identities.
    """
    turn = _turns(angles_deg.to(rotations), mirrored)
    there = neighbours != _NOBODY
    rows = neighbours.clamp_min(0)
    counts = torch.where(there, weights.to(rotations), 0).clamp_min(0)
    identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    current = torch.where(known[:, None, None], rotations, identity)
    reached = known.clone()
    for _ in range(_ROUNDS):
        share = counts * reached[rows]
        mean = torch.einsum("nk,nkab,nkbc->nac", share, turn, current[rows])
        found = (share.sum(1) > 0) & ~known
        new = found & ~reached
        current = torch.where(found[:, None, None], nearest_rotations(mean + 1e-9 * identity), current)
        reached = reached | found
        if not new.any():
            break
    return current, reached


def offered_orientations(
    rotations: Tensor, neighbours: Tensor, angles_deg: Tensor, mirrored: Tensor | None = None
) -> Tensor:
    """What each neighbour says of an image's orientation, as for `inherit_orientations`.

    Returns
    -------
    Tensor, shape (n, k + 1, 3, 3)
        The image's own first, and again in empty places.
    """
    offered = _turns(angles_deg.to(rotations), mirrored) @ rotations[neighbours.clamp_min(0)]
    own = rotations[:, None]
    told = torch.where((neighbours != _NOBODY)[..., None, None], offered, own)
    return torch.cat([own, told], 1)


def _turns(angles_deg: Tensor, mirrored: Tensor | None) -> Tensor:
    """Rotations (..., 3, 3) from a neighbour's orientation to the image's."""
    turn = rotations_about(2, torch.deg2rad(angles_deg))
    if mirrored is None:
        return turn
    opposite = torch.where(mirrored[..., None], turn.new_tensor([1, -1, -1]), turn.new_ones(3))
    return turn * opposite[..., None, :]

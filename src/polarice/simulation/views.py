"""Orientations of simulated particles, each drawn from its own generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..conventions import random_rotations
from .noise import item_generator

__all__ = ["cluster_views", "uniform_views", "view_sets"]

_VIEW, _SET = 101, 102  # what a generator is for


def uniform_views(n: int, seed: int) -> Tensor:
    """Rotation matrices drawn uniformly, the i-th from (seed, i) alone.

    Returns
    -------
    Tensor, shape (n, 3, 3), float32
    """
    return torch.cat([random_rotations(1, item_generator(seed, _VIEW, i)) for i in range(n)])


def view_sets(n: int, set_size: int, set_angle_deg: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rotation matrices in sets that look at the molecule from about the same side.

    The directions of sets are uniform on the sphere; those of the particles in a set are uniform on the
    cap within ``set_angle_deg`` of it. Rotations in the image plane are uniform.

    Parameters
    ----------
    n : int
        Particles; the last set is smaller where ``set_size`` does not divide n.
    set_size : int
    set_angle_deg : float
        0 gives directional sets: the same view, rotated in the plane.
    seed : int

    Returns
    -------
    rotations : Tensor, shape (n, 3, 3), float32
    sets : Tensor, shape (n,), int64
        Number of each particle's set, from 0.
    """
    sets = torch.arange(n) // set_size
    centres = [random_rotations(1, item_generator(seed, _SET, s)) for s in range(-(-n // set_size))]
    draws = torch.stack(
        [torch.rand(3, generator=item_generator(seed, _VIEW, i), dtype=torch.float64) for i in range(n)]
    )
    # The area of a cap grows as 1 - cos; (1 - cos t) = 2 sin²(t / 2) keeps its digits for small angles.
    tilt = 2 * torch.asin(math.sin(math.radians(set_angle_deg) / 2) * draws[:, 0].sqrt())
    towards, in_plane = 2 * math.pi * draws[:, 1], 2 * math.pi * draws[:, 2]
    turn = _about_z(in_plane) @ _about_y(tilt) @ _about_z(towards)
    return (turn @ torch.cat(centres).double()[sets]).float(), sets


def cluster_views(rotations: Tensor, size: int) -> Tensor:
    """Divide orientations into sets of nearly one size that look from about the same side.

    Halves are halved again, each across the direction in which it is widest; in-plane rotations do not count.
    That is what somebody would make who knew the truth.

    Parameters
    ----------
    rotations : Tensor, shape (n, 3, 3)
    size : int
        Of a set; one more or less where halves are not even.

    Returns
    -------
    Tensor, shape (n,), int64
        Number of each orientation's set, from 0.
    """
    towards = rotations[:, 2].double()
    sets = torch.zeros(len(towards), dtype=torch.int64)
    waiting, done = [torch.arange(len(towards))], 0
    while waiting:
        rows = waiting.pop()
        parts = round(len(rows) / size)
        if parts <= 1:
            sets[rows] = done
            done += 1
            continue
        apart = towards[rows] - towards[rows].mean(0)
        widest = torch.linalg.eigh(apart.T @ apart).eigenvectors[:, -1]
        order = rows[(apart @ widest).argsort()]
        cut = round(len(rows) * (parts // 2) / parts)
        waiting += [order[cut:], order[:cut]]
    return sets


def _about_z(angle: Tensor) -> Tensor:
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, s, zero, -s, c, zero, zero, zero, one], -1).view(-1, 3, 3)


def _about_y(angle: Tensor) -> Tensor:
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, zero, -s, zero, one, zero, s, zero, c], -1).view(-1, 3, 3)

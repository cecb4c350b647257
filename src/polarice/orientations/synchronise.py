"""Orientations of all images from rotations between pairs, each of which may have the wrong hand.

J R J, J = diag(1, 1, -1), is what a rotation looks like in the mirror. Split rotations into what the mirror
leaves and what it turns round, R = P + Q, J R J = P - Q. Three rotations around a triangle give
tr R₁R₂R₃ = 3 if their hands agree, and with hands s the trace is
tr P₁P₂P₃ + s₁s₂ tr Q₁Q₂P₃ + s₂s₃ tr P₁Q₂Q₃ + s₃s₁ tr Q₁P₂Q₃: traces with one Q or three vanish. Summed over
all triangles that is a quadratic form of the hands, whose power iteration is one product of 3n x 3n matrices
(Shkolnisky & Singer 2012 and Pragier et al. 2016 compare hands triangle by triangle).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..conventions import nearest_rotations

__all__ = ["Synchronised", "agree_on_hands", "synchronise"]

_HAND_ROUNDS = 40
_SETTLED = 1e-3
_ROUNDS = 12
_EIGEN_ROUNDS = 60
_SUBSPACE = 8
# Standard deviations of rotations between pairs that are right, radians: not below what lines can tell.
_SHARPEST, _BLUNTEST = math.radians(1), math.radians(30)


class Synchronised(NamedTuple):
    """Orientations that rotations between pairs agree on.

    Attributes
    ----------
    rotations : Tensor, shape (n, 3, 3)
        From specimen to image coordinates, up to one rotation and one mirror image of all.
    probability : Tensor, shape (n, n)
        That the rotation between a pair is right.
    spread_deg : float
        Standard deviation of those that are, about each axis.
    """

    rotations: Tensor
    probability: Tensor
    spread_deg: float


def agree_on_hands(
    relative: Tensor,
    weights: Tensor,
    generator: torch.Generator,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Give rotations between pairs one hand.

    Parameters
    ----------
    relative : Tensor, shape (n, n, 3, 3)
        Each right or mirrored, ``relative[j, i]`` the transpose of ``relative[i, j]``.
    weights : Tensor, shape (n, n)
        Of pairs, symmetric, from 0 on.
    generator : torch.Generator
    progress : callable
        Called with rounds done and at most.

    Returns
    -------
    Tensor, shape (n, n, 3, 3)
        All of one hand, one of two that no image tells apart.
    """
    odd = _odd(relative)
    size = odd.square().sum((-1, -2)).sqrt()
    unit = odd / size.clamp_min(1e-6)[..., None, None]
    even = _matrix((relative - odd) * weights[..., None, None])
    start = torch.randn(weights.shape, generator=generator, device=generator.device).to(weights)
    hands = (start + start.T) * weights
    for done in range(_HAND_ROUNDS):
        # S² = P² + Q² + PQ + QP: what the mirror turns round of it is linear in Q.
        whole = even + _matrix(unit * hands[..., None, None])
        product = _blocks(whole @ whole)
        after = (product * unit).sum((-1, -2)) * weights
        after = after / after.norm() * hands.norm()
        changed = float((after - hands).norm() / hands.norm())
        hands = after
        progress(done + 1, _HAND_ROUNDS)
        if changed < _SETTLED:
            break
    progress(_HAND_ROUNDS, _HAND_ROUNDS)
    return torch.where((hands < 0)[..., None, None], relative - 2 * odd, relative)


def synchronise(
    relative: Tensor,
    weights: Tensor,
    generator: torch.Generator,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Synchronised:
    """Orientations of images, and which of the rotations between them are right.

    If all were right, the 3n x 3n matrix of blocks A_i A_jᵀ would have rank three, and its leading
    eigenvectors were the A_i. Angles between what is told and what follows are then those of a mixture:
    rotations that are right but for a Gaussian error, and any rotations. Its posterior weighs the pairs in
    the next round, in which each pair also takes the hand that fits.

    Parameters
    ----------
    relative : Tensor, shape (n, n, 3, 3)
        Of one hand (`agree_on_hands`).
    weights : Tensor, shape (n, n)
        Of pairs in the first round, symmetric.
    generator : torch.Generator
    progress : callable
        Called with rounds done and in all.
    """
    odd = _odd(relative)
    off_diagonal = ~torch.eye(len(relative), dtype=torch.bool, device=relative.device)
    spread, share = _BLUNTEST, 0.5
    rotations = _leading_rotations(relative, weights, generator)
    probability = weights
    for done in range(_ROUNDS):
        expected = torch.einsum("iab,jcb->ijac", rotations, rotations)
        fit = (relative * expected).sum((-1, -2))
        mirrored = fit - 2 * (odd * expected).sum((-1, -2))
        angle = ((torch.maximum(fit, mirrored) - 1) / 2).clamp(-1, 1).acos()
        for _ in range(5):
            # Both densities have the factor 1 - cos: what is left of them.
            right = share * torch.exp(-angle.square() / (2 * spread**2)) / _gaussian_volume(spread)
            probability = right / (right + (1 - share) / math.pi)
            inside = probability[off_diagonal]
            total = float(inside.sum())
            share = min(max(total / len(inside), 1e-3), 0.999)
            # Three axes share the squared angle.
            squared = float((inside * angle[off_diagonal].square()).sum()) / max(total, 1e-12) / 3
            spread = min(max(math.sqrt(squared), _SHARPEST), _BLUNTEST)
        told = torch.where((mirrored > fit)[..., None, None], relative - 2 * odd, relative)
        # Among those that are right, the more exact ones count more.
        counts = probability / (angle.square() + spread**2)
        rotations = _leading_rotations(told, counts.fill_diagonal_(0), generator)
        progress(done + 1, _ROUNDS)
    return Synchronised(rotations, probability.fill_diagonal_(0), math.degrees(spread))


def _gaussian_volume(spread: float) -> float:
    """∫ (1 - cos t) exp(-t² / 2σ²) dt from 0 to infinity, σ in radians."""
    return math.sqrt(math.pi / 2) * spread * (1 - math.exp(-(spread**2) / 2))


def _leading_rotations(relative: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Rotations (n, 3, 3) from the three leading eigenvectors of the weighted matrix of blocks."""
    count = len(relative)
    degree = weights.sum(1).clamp_min(1e-12).rsqrt()
    normalised = weights * degree[:, None] * degree
    matrix = _matrix(relative * normalised[..., None, None])
    basis = torch.randn(3 * count, _SUBSPACE, generator=generator, device=generator.device).to(matrix)
    basis = torch.linalg.qr(basis)[0]
    for _ in range(_EIGEN_ROUNDS):
        # The eigenvalues lie between -1 and 1; moved up, the largest is the largest in size.
        basis = torch.linalg.qr(matrix @ basis + basis)[0]
    _, vectors = torch.linalg.eigh(basis.T @ (matrix @ basis))
    leading = (basis @ vectors[:, -3:]).unflatten(0, (count, 3))
    # One hand for all: that of most.
    sign = torch.linalg.det(leading).sign().sum()
    if sign < 0:
        leading = leading * leading.new_tensor([1, 1, -1])
    return nearest_rotations(leading)


def _odd(rotations: Tensor) -> Tensor:
    """What the mirror turns round: the entries that join z to x and y."""
    mask = rotations.new_tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0]])
    return rotations * mask


def _matrix(blocks: Tensor) -> Tensor:
    """Blocks (n, n, 3, 3) as a matrix (3n, 3n)."""
    count = len(blocks)
    return blocks.transpose(1, 2).reshape(3 * count, 3 * count)


def _blocks(matrix: Tensor) -> Tensor:
    count = len(matrix) // 3
    return matrix.view(count, 3, count, 3).transpose(1, 2)

"""Where the Fourier transforms of two images meet: their common line.

The transforms of two projections of one molecule are central slices of its own, and two planes through the
origin meet in a line. So every pair of images has a pair of rays along which the two agree, and the angles of
these rays tell how the images lie to each other (Crowther 1970; van Heel 1987).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .rays import Rays

__all__ = ["CommonLines", "RayModel", "common_lines_of", "find_common_lines", "learn_ray_model"]

# Scores that are in memory at once.
_AT_ONCE = 24_000_000
# Images from which the model of rays is learned, and how often.
_LEARNED_FROM = 96
_LEARNED = 3
# What is taken for possible: nothing is certain, and nothing says nothing.
_CORRELATIONS = 0.02, 0.9999


class CommonLines(NamedTuple):
    """Common lines of every pair of n images.

    Attributes
    ----------
    angles : Tensor, shape (n, n)
        ``angles[i, j]`` is the direction of the line of i and j in image i, from x towards y, in radians;
        ``angles[j, i]`` the same direction in image j. Nothing on the diagonal.
    score : Tensor, shape (n, n)
        How much likelier the two rays are to be one than to be of strangers, natural logarithm.
    """

    angles: Tensor
    score: Tensor


class RayModel(NamedTuple):
    """What two rays that are one have in common: Gaussian, every radius by itself.

    Attributes
    ----------
    power : Tensor, shape (r,)
        Mean of |value|² of a ray.
    correlation : Tensor, shape (r,)
        Of two measurements of the same ray.
    """

    power: Tensor
    correlation: Tensor

    def whitened(self, rays: Rays) -> Tensor:
        """Rays (b, m, r) of unit mean power."""
        whitened: Tensor = rays.values / self.power.sqrt()
        return whitened

    @property
    def product_weight(self) -> Tensor:
        """What the product of two whitened values adds to the log ratio, shape (r,)."""
        return 2 * self.correlation / (1 - self.correlation.square())

    @property
    def power_weight(self) -> Tensor:
        """What the square of each takes from it, shape (r,)."""
        return self.correlation.square() / (1 - self.correlation.square())

    @property
    def offset(self) -> Tensor:
        """What stands alone."""
        return -torch.log1p(-self.correlation.square()).sum()

    def relearned(self, first: Tensor, second: Tensor) -> RayModel:
        """The same with the correlation of pairs of rays (p, r), more than half of which are one.

        Medians, because the others are strangers.
        """
        apart = (first - second).abs().square().median(0).values
        powers = (first.abs().square() + second.abs().square()).median(0).values
        return RayModel(self.power, (1 - apart / powers.clamp_min(1e-30)).clamp(*_CORRELATIONS))

    def log_ratio(self, first: Tensor, second: Tensor) -> Tensor:
        """How much likelier whitened rays (..., r) are to be one than strangers, natural logarithm.

        For complex Gaussians x, y of unit power with correlation ρ,
        log p(x, y) / p(x) p(y) = -log(1 - ρ²) + (2ρ Re x̄y - ρ²(|x|² + |y|²)) / (1 - ρ²).
        """
        # Real and imaginary parts side by side, so that a product with the weights is all the sums.
        x, y = (torch.view_as_real(values).flatten(-2) for values in (first, second))
        product, power = (weight.repeat_interleave(2) for weight in (self.product_weight, self.power_weight))
        return (x * y) @ product - (x.square() + y.square()) @ power + self.offset


def common_lines_of(rotations: Tensor) -> CommonLines:
    """Common lines of images whose orientations are known.

    Parameters
    ----------
    rotations : Tensor, shape (n, 3, 3)
        From specimen to image coordinates.

    Returns
    -------
    CommonLines
        With scores of zero.
    """
    towards = rotations[:, 2]
    first, second = torch.broadcast_tensors(towards[:, None], towards[None])
    line = torch.linalg.cross(first, second)
    # The same direction from both sides.
    sign = torch.ones(len(towards), len(towards), dtype=line.dtype, device=line.device).triu()
    line = line * (2 * sign - 1)[..., None]
    seen = torch.einsum("iac,ijc->ija", rotations[:, :2], line)
    angles = torch.atan2(seen[..., 1], seen[..., 0])
    return CommonLines(angles, torch.zeros_like(angles))


def learn_ray_model(rays: Rays) -> RayModel:
    """Learn from a stack how alike the rays of a common line are at each radius.

    Common lines are found with what is known, and say what to know better.

    Parameters
    ----------
    rays : Rays
    """
    count = len(rays.values)
    some = torch.linspace(0, count - 1, min(count, _LEARNED_FROM), device=rays.values.device).round().long()
    sample = Rays(rays.values[some], rays.radii)
    power = sample.values.abs().square().mean((0, 1)).clamp_min(1e-30)
    model = RayModel(power, torch.full_like(power, 0.7))
    upper = torch.triu_indices(len(some), len(some), 1, device=some.device)
    for _ in range(_LEARNED):
        lines = find_common_lines(sample, model)
        score = lines.score[upper[0], upper[1]]
        i, j = upper[:, score >= score.median()]
        model = model.relearned(sample.at(i, lines.angles[i, j]), sample.at(j, lines.angles[j, i]))
    return model


def find_common_lines(
    rays: Rays, model: RayModel, progress: Callable[[int, int], None] = lambda done, total: None
) -> CommonLines:
    """Find the common line of every pair of images.

    Parameters
    ----------
    rays : Rays
        Of n images, m of them in half a turn.
    model : RayModel
    progress : callable
        Called with images done and in all.

    Returns
    -------
    CommonLines
        The best pair of rays of each pair of images, refined between rays by a paraboloid.
    """
    count, half, _ = rays.values.shape
    same, other = _factors(rays, model)
    angles = rays.radii.new_zeros(count, count)
    score = rays.radii.new_zeros(count, count)
    size = max(1, math.isqrt(_AT_ONCE // (2 * half * half)))
    blocks = torch.arange(count, device=rays.radii.device).split(size)
    for number, rows in enumerate(blocks):
        for columns in blocks[number:]:
            mine, theirs, best = _best_lines(same[rows], same[columns], other[columns])
            mine, theirs = (part * (math.pi / half) for part in (mine, theirs))
            # Each pair once: within a block both orders have been looked at.
            pair = rows[:, None] < columns
            i, j = (part[pair] for part in torch.broadcast_tensors(rows[:, None], columns))
            angles[i, j], angles[j, i] = mine[pair], theirs[pair]
            score[i, j] = score[j, i] = best[pair]
        progress(int(rows[-1]) + 1, count)
    return CommonLines(angles, (score + model.offset).fill_diagonal_(0))


def _factors(rays: Rays, model: RayModel) -> tuple[Tensor, Tensor]:
    """Real vectors whose products are the scores: of rays (n, m, f), and of the rays across the origin."""
    whitened = model.whitened(rays)
    weighted = whitened * model.product_weight.sqrt()
    powers = (whitened.abs().square() * model.power_weight).sum(-1, keepdim=True)
    one = torch.ones_like(powers)

    def joined(values: Tensor) -> Tensor:
        return torch.cat([values.real, values.imag, powers, one], -1)

    return joined(weighted), joined(weighted.conj())


def _swapped(factors: Tensor) -> Tensor:
    """The right-hand factors: what belongs to the left one's power and to its one changes places."""
    return torch.cat([factors[..., :-2], -factors[..., -1:], -factors[..., -2:-1]], -1)


def _best_lines(first: Tensor, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best pairs of rays of images (p, m, f) and (q, m, f), as places among m in half a turn, and scores.

    Returns
    -------
    mine, theirs, score : Tensor, shape (p, q)
    """
    count, half, depth = first.shape
    second = _swapped(torch.cat([same, other], 1))  # (q, 2m, f)
    scores = first.reshape(-1, depth) @ second.reshape(-1, depth).T
    best = scores.view(count, half, len(second), 2 * half).amax(-1)
    mine = best.argmax(1)  # (p, q)
    del scores, best
    # The rays beside the best: across the origin they go on with the conjugate.
    places = mine[..., None] + torch.arange(-1, 2, device=first.device)
    across = (places < 0) | (places >= half)
    near = first[torch.arange(count, device=first.device)[:, None, None], places % half]
    near = torch.where(across[..., None], _conjugate(near), near)  # (p, q, 3, f)
    rows = torch.einsum("pqkf,qmf->pqkm", near, second)
    theirs = rows[:, :, 1].argmax(-1)
    columns = (theirs[..., None] + torch.arange(-1, 2, device=first.device)) % (2 * half)
    patch = rows.gather(-1, columns[:, :, None].expand(-1, -1, 3, -1))
    dy, dx = _paraboloid_peak(patch)
    return mine + dy, theirs + dx, patch[..., 1, 1]


def _conjugate(factors: Tensor) -> Tensor:
    radii = (factors.shape[-1] - 2) // 2
    return torch.cat([factors[..., :radii], -factors[..., radii : 2 * radii], factors[..., -2:]], -1)


def _paraboloid_peak(patch: Tensor) -> tuple[Tensor, Tensor]:
    """Where the paraboloid through 3 x 3 values (..., 3, 3) is largest, within half a step of the middle."""
    gy = (patch[..., 2, 1] - patch[..., 0, 1]) / 2
    gx = (patch[..., 1, 2] - patch[..., 1, 0]) / 2
    hyy = patch[..., 2, 1] + patch[..., 0, 1] - 2 * patch[..., 1, 1]
    hxx = patch[..., 1, 2] + patch[..., 1, 0] - 2 * patch[..., 1, 1]
    hxy = (patch[..., 2, 2] + patch[..., 0, 0] - patch[..., 2, 0] - patch[..., 0, 2]) / 4
    determinant = hyy * hxx - hxy.square()
    peaked = (determinant > 0) & (hyy < 0)
    safe = torch.where(peaked, determinant, 1)
    dy = torch.where(peaked, (hxy * gx - hxx * gy) / safe, 0)
    dx = torch.where(peaked, (hxy * gy - hyy * gx) / safe, 0)
    return dy.clamp(-0.5, 0.5), dx.clamp(-0.5, 0.5)

"""What the guards measure on denoised stacks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...denoising import DenoiseResult
from ...imaging import divide_rings, filter_images, ring_products
from ...neighbours import NOBODY
from ...particles import ParticleStack
from ..seen import bright
from .sample import Sample

__all__ = [
    "Denoised",
    "RingSums",
    "beyond_shell",
    "correlations",
    "invented_share",
    "shell_for",
    "taken_from",
]

# Detail beyond the shell has this share of the denoised energy, if it begins early enough.
_BEYOND = 0.05
_LOWEST_SHELL = 4
# Rings beyond the shell to which the window carries what is below it.
_MARGIN = 2


class Denoised:
    """A denoised stack, read in units of the noise with protein bright.

    Parameters
    ----------
    result : DenoiseResult
    """

    def __init__(self, result: DenoiseResult) -> None:
        self.result = result
        self._stack = ParticleStack.open(result.star, pixel_size_A=result.settings.pixel_size_A)

    def __len__(self) -> int:
        return len(self._stack)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(bright(self.result, self._stack, self._stack.rows(rows)))


class RingSums(NamedTuple):
    """Products of two stacks' images in rings, within the sample's window, summed over images.

    Each of shape (rings,).

    Attributes
    ----------
    cross, first, second : Tensor
    scatter : Tensor
        Sum of the squares of the images' cross products.
    """

    cross: Tensor
    first: Tensor
    second: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, sample: Sample, first: Denoised, second: Denoised) -> RingSums:
        """Of two denoised stacks of the same rows."""
        window = sample.window()
        total = torch.zeros(4, sample.stack.box // 2 + 1, dtype=torch.float64)
        for part in sample.batches():
            a, b = (stack[part].double() * window for stack in (first, second))
            cross = ring_products(a, b)
            products = cross, ring_products(a, a), ring_products(b, b), cross.square()
            total += torch.stack([each.sum(0) for each in products])
        return cls(*total)

    @property
    def correlation(self) -> Tensor:
        """Ring correlation, pooled over images."""
        return divide_rings(self.cross, (self.first * self.second).sqrt())

    @property
    def error(self) -> Tensor:
        """What it scatters by where there is none."""
        return divide_rings(self.scatter.sqrt(), (self.first * self.second).sqrt())


def shell_for(power: Tensor, most: int) -> int:
    """The ring that a stack's phases are kept up to.

    A twentieth of the denoised energy lies beyond it, so that there is something to be wrong; but at least
    four rings stay, and ``most`` at most.

    Parameters
    ----------
    power : Tensor, shape (rings,)
        Of the denoised images, summed over each ring.
    most : int
    """
    beyond = 1 - power.cumsum(0) / power.sum()
    shell = int((beyond > _BEYOND).sum()) - 1
    return min(max(shell, _LOWEST_SHELL), most)


def beyond_shell(sums: RingSums, shell: int, last: int) -> dict[str, Any]:
    """What two denoised stacks have in common beyond a ring.

    Parameters
    ----------
    sums : RingSums
        Of the stack with random phases first, of the untouched one second.
    shell : int
    last : int
        Ring of the model's Nyquist frequency.
    """
    rings = slice(shell + 1 + _MARGIN, last)
    some = RingSums(*(each[rings] for each in sums))
    pooled = float(some.cross.sum() / (some.first.sum() * some.second.sum()).sqrt().clamp_min(1e-30))
    return {
        "shell_ring": shell,
        "first_ring_judged": rings.start,
        "last_ring_judged": last - 1,
        # Rings weighted by their energy: most of them hold next to none.
        "correlation": pooled,
        "mean_abs_ring_correlation": float(some.correlation.abs().mean()),
        "chance_level": float(some.error.mean()),
        "energy_beyond": float(some.second.sum() / sums.second.sum()),
        "energy_beyond_randomised": float(some.first.sum() / sums.second.sum()),
        # Least squares: how much of the untouched detail comes without its phases.
        "share_from_prior": float(some.cross.sum() / some.second.sum().clamp_min(1e-30)),
    }


def invented_share(sample: Sample, randomised: Denoised, shell: int, last: int) -> tuple[float, float] | None:
    """How much of the detail drawn beyond a shell is in the particles, which did not show it.

    The factor by which the detail fits the particles best, once their CTF is put back on: 1 if it is all
    true, 0 if none is. The particles' noise beyond the shell is new to it: it was made of random phases.

    Returns
    -------
    (float, float) or None
        The factor and its standard error; None without CTFs, or without any detail.
    """
    window, cross, energy = sample.window(), [], []
    for part in sample.batches():
        seen, transfer = sample.flipped(part)
        if transfer is None:
            return None
        drawn = filter_images(randomised[part], transfer) * window
        rings = slice(shell + 1 + _MARGIN, last)
        cross.append(ring_products(drawn, seen * window)[:, rings].sum(1))
        energy.append(ring_products(drawn, drawn)[:, rings].sum(1))
    products, energies = torch.cat(cross).double(), torch.cat(energy).double()
    if not float(energies.sum()) > 0:
        return None
    share = products.sum() / energies.sum()
    error = (products - share * energies).square().sum().sqrt() / energies.sum()
    return float(share), float(error)


def correlations(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of images (n, y, x) without their means, shape (n,); 0 where one is empty."""
    a, b = ((x - x.mean((-2, -1), keepdim=True)).flatten(1) for x in (first, second))
    return torch.nn.functional.cosine_similarity(a, b, dim=1)


def taken_from(result: DenoiseResult, of: NDArray[np.int64], among: NDArray[np.bool_]) -> dict[str, float]:
    """Whom some particles were denoised with.

    Parameters
    ----------
    result : DenoiseResult
        Of a joint model.
    of : ndarray of int
        Rows that are asked about.
    among : ndarray of bool, shape (n,)
        Rows that are looked for among their neighbours.

    Returns
    -------
    dict
        ``neighbours``, ``weight``: share of these rows among neighbours, and of the attention.
    """
    assert result.neighbours is not None
    assert result.weights is not None
    rows, weights = result.neighbours[of], result.weights[of]
    there = rows != NOBODY
    found = there & among[rows]
    return {
        "neighbours": float(found.sum() / max(1, there.sum())),
        "weight": float((weights * found).sum() / max(1e-12, float((weights * there).sum()))),
    }

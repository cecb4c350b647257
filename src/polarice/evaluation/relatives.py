"""Averages of original images that a run's attention brings together, as a check of what it made of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..denoising import aligned_sums
from ..imaging import fourier_resample, move_images, turn_matrices
from ..neighbours import NOBODY

__all__ = ["Relatives", "average_upon", "relatives_of", "shifts_upon"]

# What a sum is divided by beyond its images' CTFs, in images.
_DAMPING = 2.0
# Particles may lie this much of the box apart.
_MOST_SHIFT = 0.1


class Relatives(NamedTuple):
    """Particles that a graph of neighbours joins to one.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Closest first.
    angles_deg : ndarray, shape (m,)
        How far each must be turned, from x towards y, to lie upon the one.
    """

    rows: NDArray[np.int64]
    angles_deg: NDArray[np.float64]


def relatives_of(
    row: int,
    neighbours: NDArray[np.int64],
    weights: NDArray[np.float32],
    angles_deg: NDArray[np.float32],
    *,
    most: int,
) -> Relatives:
    """Neighbours of a particle, whose neighbour it is, and the neighbours of all these.

    The share that one took from another is multiplied along the way, and angles are added.

    Parameters
    ----------
    row : int
    neighbours, weights, angles_deg : ndarray, shape (n, k)
        Of a denoising run.
    most : int
        Of them, those with the largest share.
    """
    own = neighbours[row] != NOBODY
    fans, place = np.nonzero(neighbours == row)
    first = np.concatenate([neighbours[row][own], fans])
    share = np.concatenate([weights[row][own], weights[fans, place]]).astype(np.float64)
    angle = np.concatenate([angles_deg[row][own], -angles_deg[fans, place]]).astype(np.float64)
    second = neighbours[first]
    further = (share[:, None] * weights[first])[second != NOBODY]
    turned = (angle[:, None] + angles_deg[first])[second != NOBODY]
    rows = np.concatenate([first, second[second != NOBODY]])
    share, angle = np.concatenate([share, further]), np.concatenate([angle, turned])
    share[rows == row] = 0
    # Of several ways to the same particle the surest.
    order = np.argsort(-share, kind="stable")
    order = order[share[order] > 0]
    _, once = np.unique(rows[order], return_index=True)
    order = order[np.sort(once)][:most]
    return Relatives(rows[order], angle[order])


def shifts_upon(images: Tensor, matrices: Tensor, target: Tensor) -> Tensor:
    """Whole shifts with which turned images lie upon another, by correlation.

    Parameters
    ----------
    images : Tensor, shape (m, y, x)
    matrices : Tensor, shape (m, 2, 2)
        Image at ``M p`` shows what the target shows at p, but for a shift.
    target : Tensor, shape (y, x)

    Returns
    -------
    Tensor, shape (m, 2)
        t, such that image at ``M p + t`` shows what the target shows at p.
    """
    box = target.shape[-1]
    laid = torch.fft.rfft2(move_images(images, matrices, images.new_zeros(len(images), 2)))
    score = torch.fft.irfft2(laid * torch.fft.rfft2(target).conj(), s=(box, box))
    reach = max(1, round(_MOST_SHIFT * box))
    steps = torch.arange(-reach, reach + 1)
    near = score[:, steps[:, None] % box, steps % box].flatten(1)
    best = near.argmax(1)
    offset = torch.stack([steps[best % len(steps)], steps[best // len(steps)]], -1).to(images.dtype)
    shifts: Tensor = (matrices @ offset[..., None])[..., 0]
    return shifts


def average_upon(
    seen: Tensor, ctf: Tensor | None, denoised: Tensor, angles_deg: NDArray[np.float64]
) -> Tensor:
    """Average of original images that lie upon the first: ``Σ c y / (Σ c² + 2)``.

    Where they lie is taken from their denoised versions, so that the noise of the images has hardly a part
    in it.

    Parameters
    ----------
    seen : Tensor, shape (1 + m, y, x)
        Original images as the network saw them, phases flipped; the first is the one.
    ctf : Tensor, shape (1 + m, y, x // 2 + 1), optional
        Magnitudes.
    denoised : Tensor, shape (1 + m, y', x')
        Of another box, if need be.
    angles_deg : ndarray, shape (m,)
        From `relatives_of`.

    Returns
    -------
    Tensor, shape (y, x)
    """
    box = seen.shape[-1]
    clean = denoised if denoised.shape[-1] == box else fourier_resample(denoised, box)
    angles = torch.from_numpy(np.concatenate([[0.0], angles_deg])).float()
    matrices = turn_matrices(-torch.deg2rad(angles))
    shifts = shifts_upon(clean, matrices, clean[0])
    weighted, weight = aligned_sums(
        seen[None], matrices[None], shifts[None], None if ctf is None else ctf[None]
    )
    average: Tensor = torch.fft.irfft2(weighted[0] / (weight[0] + _DAMPING), s=(box, box))
    return average

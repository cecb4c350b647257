"""Orientations of a stack's denoised images, from common lines and from who shows whose view."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..imaging import soft_disc
from ..orientations import (
    Orientations,
    choose_representatives,
    estimate_orientations,
    extend_orientations,
)
from ..particles import ParticleStack
from ..stacks import NEIGHBOUR_FILE, Progress, labelled

__all__ = ["orient_denoised"]

# Pixels at the edge of an image whose mean is its background.
_EDGE_PX = 4.0


def orient_denoised(
    denoised: ParticleStack,
    device: torch.device,
    *,
    halves: NDArray[np.int8] | None = None,
    representatives: int,
    shifts: bool,
    seed: int,
    progress: Progress,
) -> tuple[Orientations, NDArray[np.int64]]:
    """Orientations of all images, and the rows between which common lines were looked for.

    Parameters
    ----------
    denoised : ParticleStack
        As `polarice denoise` has written it; beside it the file of neighbours, if there are more images than
        representatives.
    device : torch.device
    halves : ndarray of int, shape (n,), optional
        Half set of each image, 1 or 2: each is oriented apart, in a frame and with a hand of its own.
        Together by default.
    representatives : int
        Images, of each half set where these are apart, between which common lines are looked for; the
        others begin with what their neighbours say.
    shifts : bool
        Find out where the particles lie.
    seed : int
    progress : callable
        Called with (stage, done, in all).

    Raises
    ------
    PolariceError
        All images show one view.
    """
    images = _on_background(torch.from_numpy(denoised.images(slice(None))))
    path = denoised.path.with_name(NEIGHBOUR_FILE)
    neighbours = _Neighbours.load(path) if path.is_file() else None
    halves = np.ones(len(images), np.int8) if halves is None else halves
    parts, members = [], []
    for half in np.unique(halves):
        rows = np.flatnonzero(halves == half)
        found, chosen = _orient(
            images[rows].to(device),
            None if neighbours is None else neighbours.among(rows),
            torch.Generator().manual_seed(seed),
            representatives=representatives,
            shifts=shifts,
            progress=labelled(progress, f"half set {half}") if len(rows) < len(images) else progress,
        )
        parts.append((rows, found))
        members.append(rows[chosen])
    order = np.concatenate([rows for rows, _ in parts]).argsort()
    together = (torch.cat(values)[order] for values in zip(*(found for _, found in parts), strict=True))
    return Orientations(*together), np.concatenate(members)


class _Neighbours(NamedTuple):
    """Who shows whose view, (n, k) each."""

    rows: NDArray[np.int64]
    likely: NDArray[np.float32]
    angles_deg: NDArray[np.float32]

    @classmethod
    def load(cls, path: Path) -> _Neighbours:
        with np.load(path, allow_pickle=False) as file:
            rows, likely, angles_deg = (file[name] for name in ("neighbours", "weights", "angles_deg"))
            return cls(rows, likely * file["probability"] if "probability" in file else likely, angles_deg)

    def among(self, rows: NDArray[np.int64]) -> _Neighbours:
        """Of some images, numbered anew; the others are nobody's neighbours."""
        # The last place is that of nobody, -1.
        number = np.full(len(self.rows) + 1, -1)
        number[rows] = np.arange(len(rows))
        return _Neighbours(number[self.rows[rows]], self.likely[rows], self.angles_deg[rows])


def _orient(
    images: Tensor,
    neighbours: _Neighbours | None,
    generator: torch.Generator,
    *,
    representatives: int,
    shifts: bool,
    progress: Progress,
) -> tuple[Orientations, NDArray[np.int64]]:
    """Orientations of images in one frame, and the rows of representatives."""
    told: dict[str, Any] = {"shifts": shifts, "progress": progress}
    if neighbours is None or len(images) <= representatives:
        return estimate_orientations(images, generator, **told), np.arange(len(images))
    members = choose_representatives(neighbours.rows, neighbours.likely, representatives)
    known = members.to(images.device)
    some = estimate_orientations(images[known], generator, **told)
    parts = (torch.from_numpy(part).to(images.device) for part in neighbours)
    rows, weights, angles = parts
    found = extend_orientations(images, known, some.rotations, rows, angles, weights, generator, **told)
    return found, members.numpy()


def _on_background(images: Tensor) -> Tensor:
    """Images (n, y, x) whose background is zero."""
    box = images.shape[-1]
    edge = 1 - soft_disc(box, box / 2 - _EDGE_PX / 2, _EDGE_PX)
    background = (images * edge).sum((1, 2)) / edge.sum()
    return images - background[:, None, None]

"""Orientations of a stack's denoised images, from common lines and from who shows whose view."""

from __future__ import annotations

from typing import Any

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
from ..stacks import NEIGHBOUR_FILE, Progress

__all__ = ["orient_denoised"]

# Pixels at the edge of an image whose mean is its background.
_EDGE_PX = 4.0


def orient_denoised(
    denoised: ParticleStack,
    device: torch.device,
    *,
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
    representatives : int
        Images between which common lines are looked for; the others begin with what their neighbours say.
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
    images = _on_background(torch.from_numpy(denoised.images(slice(None)))).to(device)
    generator = torch.Generator().manual_seed(seed)
    told: dict[str, Any] = {"shifts": shifts, "progress": progress}
    path = denoised.path.with_name(NEIGHBOUR_FILE)
    if not path.is_file() or len(images) <= representatives:
        return estimate_orientations(images, generator, **told), np.arange(len(images))
    with np.load(path, allow_pickle=False) as file:
        rows, likely, angles_deg = (file[name] for name in ("neighbours", "weights", "angles_deg"))
        likely = likely * file["probability"] if "probability" in file else likely
    members = choose_representatives(rows, likely, representatives)
    known = members.to(device)
    some = estimate_orientations(images[known], generator, **told)
    neighbours, angles, weights = (torch.from_numpy(part).to(device) for part in (rows, angles_deg, likely))
    found = extend_orientations(images, known, some.rotations, neighbours, angles, weights, generator, **told)
    return found, members.numpy()


def _on_background(images: Tensor) -> Tensor:
    """Images (n, y, x) whose background is zero."""
    box = images.shape[-1]
    edge = 1 - soft_disc(box, box / 2 - _EDGE_PX / 2, _EDGE_PX)
    background = (images * edge).sum((1, 2)) / edge.sum()
    return images - background[:, None, None]

"""Spectra of volumes shell by shell, as `polarice.imaging.rings` has them of images ring by ring.

A shell ``i`` holds the spatial frequencies of ``i ± 1/2`` cycles per box; there are ``box // 2 + 1``
of them, and what lies beyond the last is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["frequency_radius", "shell_means"]


def frequency_radius(box: int, device: torch.device | str | None = None) -> Tensor:
    """Distance from zero of each frequency of a half spectrum, (box, box, box // 2 + 1), cycles per box."""
    axis = torch.fft.fftfreq(box, 1 / box, device=device, dtype=torch.float64)
    last = torch.fft.rfftfreq(box, 1 / box, device=device, dtype=torch.float64)
    squares = axis[:, None, None] ** 2 + axis[:, None] ** 2 + last**2
    radius: Tensor = squares.sqrt()
    return radius


def shell_means(values: Tensor) -> Tensor:
    """Means over the shells of the full spectrum.

    Parameters
    ----------
    values : Tensor, shape (box, box, box // 2 + 1)
        Half spectrum of a volume, real.

    Returns
    -------
    Tensor, shape (box // 2 + 1,), float64
    """
    box = values.shape[0]
    shell = frequency_radius(box, values.device).round().long().flatten()
    weight = torch.full((box // 2 + 1,), 2.0, device=values.device, dtype=torch.float64)
    weight[0] = 1
    if box % 2 == 0:
        weight[-1] = 1
    sums = torch.bincount(shell, (values * weight).flatten())
    counts = torch.bincount(shell, weight.expand_as(values).flatten())
    means: Tensor = (sums / counts)[: box // 2 + 1]
    return means

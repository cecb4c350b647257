"""Particles as a run saw them, for pages to show."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..imaging import filter_images, frequency_grid
from ..particles import ParticleStack, Preprocessor, StackScan

__all__ = ["LOW_PASS_A", "Run", "bright", "low_pass", "magnitudes", "model_images"]

# What pages blur noisy images to.
LOW_PASS_A = 20.0


class Run(Protocol):
    """Whatever has read a stack for a network."""

    @property
    def preprocessor(self) -> Preprocessor:
        """What was done to the images."""

    @property
    def found(self) -> StackScan:
        """What was measured in them."""


def model_images(run: Run, source: ParticleStack, rows: np.ndarray) -> Tensor:
    """What the network saw of some rows, shape (n, y, x)."""
    images = torch.from_numpy(source.images(rows))
    statistics = run.found.statistics[torch.from_numpy(rows)]
    known = run.preprocessor.ctf_known
    ctf = run.preprocessor.transfer(source.ctf(rows), statistics) if known else None
    return run.preprocessor.forward(images, ctf, statistics)


def magnitudes(run: Run, source: ParticleStack, rows: np.ndarray) -> Tensor | None:
    """What the signal in `model_images` has passed through, (n, y, x // 2 + 1); None if not known."""
    if not run.preprocessor.ctf_known:
        return None
    transfer = run.preprocessor.transfer(source.ctf(rows), run.found.statistics[torch.from_numpy(rows)])
    return None if transfer is None else transfer.abs()


def bright(run: Run, stack: ParticleStack, rows: np.ndarray) -> np.ndarray:
    """Images of a stack in units of the noise with protein bright, shape (n, y, x)."""
    statistics = run.found.statistics[torch.from_numpy(rows)]
    images = torch.from_numpy(stack.images(rows)) - statistics.background[:, None, None]
    scaled = images * run.preprocessor.sign / statistics.noise_sigma[:, None, None]
    return scaled.numpy()


def low_pass(images: Tensor, pixel_size_A: float) -> Tensor:
    """Gaussian low-pass with a standard deviation of 1 / 20 Å, so that the eye sees something."""
    fy, fx = frequency_grid(images.shape[-1])
    squared = (fy * fy + fx * fx) * (LOW_PASS_A / pixel_size_A) ** 2
    return filter_images(images, torch.exp(-squared / 2))

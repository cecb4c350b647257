"""A user's stack as a reconstruction sees it: original pixels, what the signal passed through, the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..particles import Contrast, ParticleStack, StackScan, scan

__all__ = ["Observation", "ObservedStack"]


class Observation(NamedTuple):
    """Some images, as `BackProjection.add` wants them.

    Attributes
    ----------
    images : Tensor, shape (b, L, L)
        Background 0, protein bright, in the stack's grey scale.
    transfer : Tensor, shape (b, L, L // 2 + 1), or None
        CTFs, with the sign changes that are still there.
    weights : Tensor, shape (b,) or (b, L, L // 2 + 1)
        Inverse variance of the noise.
    """

    images: Tensor
    transfer: Tensor | None
    weights: Tensor


@dataclass(frozen=True)
class ObservedStack:
    """A stack that was measured; images are read as they are needed.

    Attributes
    ----------
    stack : ParticleStack
    found : StackScan
        Background and noise of every image.
    contrast : {"bright", "dark"}
    ctf : bool
        Whether CTFs are used.
    device : torch.device
    """

    stack: ParticleStack
    found: StackScan
    contrast: Contrast
    ctf: bool
    device: torch.device

    @classmethod
    def measure(
        cls,
        stack: ParticleStack,
        device: torch.device,
        *,
        contrast: Contrast | None = None,
        ctf: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> ObservedStack:
        """Read all pixels once.

        Parameters
        ----------
        stack : ParticleStack
        device : torch.device
            Of what is read later.
        contrast : {"bright", "dark"}, optional
            Of the protein; found out by default, and bright where that is not significant.
        ctf : bool
            Use CTFs.
        progress : callable, optional
            Called with the number of images measured.

        Raises
        ------
        ParticleFileError
            If an image is constant or not finite.
        """
        found = scan(stack, stack.box, progress=progress)
        return cls(stack, found, contrast or found.contrast or "bright", ctf, device)

    def read(self, rows: slice | NDArray[np.int64]) -> Observation:
        """Some images with what is known of them."""
        statistics = self.found.statistics[rows if isinstance(rows, slice) else torch.from_numpy(rows)]
        statistics = statistics.to(self.device)
        images = torch.from_numpy(self.stack.images(rows)).to(self.device)
        images = images - statistics.background[:, None, None]
        transfer, weights = None, statistics.noise_sigma.square().reciprocal()
        if self.ctf:
            transfer = self.stack.ctf(rows).to(self.device).evaluate(self.stack.box, self.stack.pixel_size_A)
            transfer = transfer.abs() if self.stack.phase_flipped else transfer
            whitening = statistics.whitening(self.stack.box)
            if whitening is not None:
                weights = weights[:, None, None] * whitening.square()
        return Observation(images if self.contrast == "bright" else -images, transfer, weights)

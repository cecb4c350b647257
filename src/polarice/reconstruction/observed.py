"""A user's stack as a reconstruction sees it: original pixels, what the signal passed through, the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..particles import Contrast, ParticleStack, StackScan, scan
from .least_squares import BackProjection, NormalEquations

__all__ = ["ImageSource", "Observation", "ObservedImages", "ObservedStack", "gather_half"]

_BATCH = 64


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


class ImageSource(Protocol):
    """Where a reconstruction reads images: a stack on disk, or tensors."""

    @property
    def box(self) -> int:
        """Side of the images in pixels."""

    @property
    def pixel_size_A(self) -> float:
        """Å per pixel."""

    @property
    def device(self) -> torch.device:
        """Where images are read to."""

    def read(self, rows: NDArray[np.int64]) -> Observation:
        """Some images with what is known of them."""


@dataclass(frozen=True)
class ObservedImages:
    """Images in memory.

    Attributes
    ----------
    seen : Observation
        All of them.
    pixel_size_A : float
    """

    seen: Observation
    pixel_size_A: float

    @property
    def box(self) -> int:
        """Side of the images in pixels."""
        return self.seen.images.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.seen.images.device

    def read(self, rows: NDArray[np.int64]) -> Observation:
        """Some of them."""
        index = torch.from_numpy(rows).to(self.device)
        return Observation(*(None if part is None else part[index] for part in self.seen))  # type: ignore[arg-type]


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

    @property
    def box(self) -> int:
        """Side of the images in pixels."""
        return self.stack.box

    @property
    def pixel_size_A(self) -> float:
        """Å per pixel."""
        return self.stack.pixel_size_A

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


def gather_half(
    source: ImageSource,
    rows: NDArray[np.int64],
    rotations: Tensor,
    shifts_px: Tensor | None,
    weights: Tensor | None = None,
    *,
    shares: Tensor | None = None,
    symmetry: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> NormalEquations:
    """Normal equations of some particles; images are read a batch at a time.

    Parameters
    ----------
    source : ImageSource
    rows : ndarray of int
        Which particles.
    rotations : Tensor, shape (n, 3, 3) or (n, k, 3, 3)
        Of all particles; of each one, or several among which it is shared out.
    shifts_px : Tensor, shape (n, 2) or (n, k, 2), optional
        Where each particle lies.
    weights : Tensor, shape (n,), optional
        How much each particle counts, beside what its noise says.
    shares : Tensor, shape (n, k), optional
        Of each particle's poses.
    symmetry : Tensor, shape (order, 3, 3), optional
        Point group of the specimen; none by default.
    progress : callable, optional
        Called with the number of images done.
    """
    back = BackProjection(source.box, source.device, symmetry=symmetry)
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        index = torch.from_numpy(some)
        seen = source.read(some)
        known = seen.weights
        if weights is not None:
            counts = weights[index].to(known)
            known = known * counts.view(-1, *[1] * (known.ndim - 1))
        turned, shift, share = (
            None if part is None else part[index].to(source.device) for part in (rotations, shifts_px, shares)
        )
        assert turned is not None
        back.add(seen.images, turned, shift, seen.transfer, known, share)
        if progress is not None:
            progress(start + len(some))
    return back.equations()

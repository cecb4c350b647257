"""A stack that was measured, as a network sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..neighbours import groups_of
from ..particles import ParticleStack, Preprocessor, StackScan, scan
from .settings import StackSettings

__all__ = ["PreparedStack", "Progress", "labelled", "timed"]

Progress = Callable[[str, int, int], None]

_BATCH = 64


@dataclass(frozen=True)
class PreparedStack:
    """A stack that was measured, as a network sees it.

    Attributes
    ----------
    stack : ParticleStack
    preprocessor : Preprocessor
    found : StackScan
    device : torch.device
    seconds : dict
        Gets the time of each stage.
    report : callable
        Called with (stage, images done, images in all).
    """

    stack: ParticleStack
    preprocessor: Preprocessor
    found: StackScan
    device: torch.device
    seconds: dict[str, float]
    report: Progress

    @classmethod
    def measure(
        cls,
        stack: ParticleStack,
        settings: StackSettings,
        box: int,
        device: torch.device,
        report: Progress,
    ) -> PreparedStack:
        """Read all pixels once and choose the preprocessing for a network of a box.

        Raises
        ------
        ParticleFileError
            If an image is constant or not finite.
        """
        seconds: dict[str, float] = {}
        count = len(stack)
        with timed(seconds, "check and measure"):
            found = scan(stack, box, progress=lambda done: report("check and measure", done, count))
        preprocessor = Preprocessor.for_stack(
            stack,
            found,
            contrast=settings.contrast,
            mask_diameter_A=settings.mask_diameter_A,
            ctf=settings.ctf,
            whiten=settings.whiten,
        )
        return cls(stack, preprocessor, found, device, seconds, report)

    def __len__(self) -> int:
        return len(self.stack)

    @cached_property
    def halves(self) -> NDArray[np.int64]:
        """Half set of each particle, numbered from 0; one for all where nobody says."""
        return groups_of(len(self), self.stack.half_sets)

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know about how the stack was read."""
        stack, box = self.stack, self.preprocessor.model_box
        notices = [*self.preprocessor.notices]
        copies = self.found.copies
        if len(copies):
            row = int(copies[0])
            notices.append(
                f"{len(copies):,} particles repeat the pixels of an earlier row (row {row + 1} those of row "
                f"{int(self.found.original[row]) + 1}): copies are not counted as neighbours of each other."
            )
        unlike = int(self.found.outlier.sum())
        if unlike:
            notices.append(
                f"{unlike:,} particles are unlike the others in background, noise or brightest pixel "
                "(_polariceOutlier): they are kept."
            )
        if stack.several_geometries:
            notices.append(
                "The optics groups differ in box or pixel size: all were brought to "
                f"{stack.box} pixels of {stack.pixel_size_A:.4g} Å, which the output has too."
            )
        if stack.box != box:
            notices.append(
                f"The images were resampled in Fourier space from {stack.box} to the model's {box} pixels "
                f"({stack.pixel_size_A * stack.box / box:.2f} Å/px) and back."
            )
        return tuple(notices)

    @property
    def half_set_notices(self) -> tuple[str, ...]:
        """What the user should know of neighbours and half sets."""
        if self.stack.given_half_sets is not None:
            return ("The particles were divided into half sets at random (_rlnRandomSubset).",)
        if self.stack.half_sets is not None:
            return ()
        return (
            "No half-set labels (_rlnRandomSubset): neighbours come from the whole stack, so half maps made "
            "of these images would not be independent; --split-halves makes half sets.",
        )

    def normalised(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Rows, images and CTFs as the network wants them, in the stack's order."""
        for start in range(0, len(self.stack), _BATCH):
            rows = slice(start, min(start + _BATCH, len(self.stack)))
            with timed(self.seconds, "read and normalise"):
                images, ctf = self.seen(rows)
            yield rows, images, ctf

    def seen(self, rows: slice | NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """Some images as the network wants them, and the magnitudes of their CTFs where these are known."""
        images = torch.from_numpy(self.stack.images(rows)).to(self.device)
        chosen = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        statistics = self.found.statistics[chosen].to(self.device)
        known = self.preprocessor.ctf_known
        ctf = self.preprocessor.transfer(self.stack.ctf(rows).to(self.device), statistics) if known else None
        return self.preprocessor.forward(images, ctf, statistics), None if ctf is None else ctf.abs()


def labelled(progress: Progress | None, label: str) -> Progress:
    """Progress whose stages begin with a label; silent if there is nobody to tell."""

    def report(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{label}: {stage}", done, total)

    return report


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time of a block to a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start

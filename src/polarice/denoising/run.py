"""One pass of a network over a whole stack: read, normalise, denoise, calibrate, write."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models import PolarTransformer
from ..neighbours import NOBODY, DiscHarmonics, find_companions, groups_of
from ..particles import ParticleStack, ParticleWriter, Preprocessor, StackScan
from .calibration import measure_gain
from .graph import attend_graph, encode_stack
from .result import DenoiseSettings

__all__ = ["SCRATCH", "Progress", "StackRun", "timed"]

Progress = Callable[[str, int, int], None]

SCRATCH = ".scratch-"
_BATCH = 64
# Images on which the grey scale is measured, and members of a set among them.
_SAMPLE = 256
_LARGEST_SET = 16
# A gain that is less certain than this is not used.
_LARGEST_ERROR = 0.15


@dataclass(frozen=True)
class StackRun:
    """One pass of a network over a stack.

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
        known = self.preprocessor.ctf_known
        ctf = self.preprocessor.transfer(self.stack.ctf(rows).to(self.device)) if known else None
        chosen = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        statistics = self.found.statistics[chosen].to(self.device)
        return self.preprocessor.forward(images, ctf, statistics), None if ctf is None else ctf.abs()

    def gain(self, denoise: Callable[[Tensor, Tensor], Tensor], rows: NDArray[np.int64]) -> float:
        """Grey scale of the denoised images, measured on some rows; 1 where that is too uncertain."""
        mask = self.preprocessor.mask().to(self.device)
        with timed(self.seconds, "measure the grey scale"):
            seen, ctf = self.seen(rows)
            assert ctf is not None
            gain, error = measure_gain(lambda images: denoise(images, ctf), seen, ctf, mask)
        return gain if gain > 0 and error < _LARGEST_ERROR * gain else 1.0

    def write(
        self, writer: ParticleWriter, rows: slice, denoised: Tensor, gains: NDArray[np.float32]
    ) -> None:
        """Put denoised images back into the stack's grey scale and append them."""
        with timed(self.seconds, "write"):
            statistics = self.found.statistics[rows].to(self.device)
            scale = torch.from_numpy(gains[rows]).to(denoised)[:, None, None]
            masked = denoised * scale * self.preprocessor.mask().to(denoised)
            writer.append(self.preprocessor.inverse(masked, statistics).cpu().numpy())

    @torch.inference_mode()
    def singly(self, network: nn.Module, writer: ParticleWriter) -> NDArray[np.float32]:
        """Denoise every image alone; returns the gain of each."""
        halves = groups_of(len(self.stack), self.stack.half_sets)
        gains = np.ones(len(halves), np.float32)
        if self.preprocessor.ctf_known:
            for half in np.unique(halves):
                members = np.flatnonzero(halves == half)
                sample = members[:: max(1, len(members) // _SAMPLE)][:_SAMPLE]
                gains[members] = self.gain(
                    lambda images, ctf: torch.cat(
                        [network(*part) for part in zip(images.split(_BATCH), ctf.split(_BATCH), strict=True)]
                    ),
                    sample,
                )
        for rows, images, ctf in self.normalised():
            with timed(self.seconds, "denoise"):
                denoised = network(images, ctf)
            self.write(writer, rows, denoised, gains)
            self.report("denoise", rows.stop, len(self.stack))
        return gains

    def jointly(
        self,
        network: PolarTransformer,
        writer: ParticleWriter,
        settings: DenoiseSettings,
        folder: Path,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Denoise every image with its neighbours; returns these, their weights, angles, and gains."""
        total = len(self.stack)
        sets = None if settings.sets_from is None else self.stack.column(settings.sets_from.removeprefix("_"))
        halves = groups_of(total, self.stack.half_sets)
        groups = groups_of(total, halves, None if sets is None else np.array(sets))
        with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as name:
            scratch = Path(name)
            before = self.seconds.get("read and normalise", 0.0)
            with timed(self.seconds, "encode"):
                batches = ((images, ctf) for _, images, ctf in self.normalised())
                encoded = encode_stack(
                    network, batches, total, scratch, lambda done: self.report("encode", done, total)
                )
            self.seconds["encode"] -= self.seconds["read and normalise"] - before
            with timed(self.seconds, "find neighbours"):
                companions = find_companions(
                    DiscHarmonics(network.box),
                    encoded.views,
                    settings.neighbours,
                    halves,
                    groups,
                    self.device,
                    lambda done: self.report("find neighbours", done, total),
                )
            neighbours = companions.rows
            gains = self._joint_gains(network, neighbours, halves)
            rounds = len(network.rounds)
            with timed(self.seconds, "attend and decode"):
                result = attend_graph(
                    network,
                    encoded,
                    neighbours,
                    halves,
                    scratch,
                    self.device,
                    lambda index, done: self.report(f"attend ({index + 1} of {rounds})", done, total),
                )
            for start in range(0, total, _BATCH):
                rows = slice(start, min(start + _BATCH, total))
                self.write(writer, rows, torch.from_numpy(result.images[rows]).to(self.device), gains)
        return neighbours, result.weights, result.angles_deg, gains

    def _joint_gains(
        self, network: PolarTransformer, neighbours: NDArray[np.int64], halves: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Gain of each particle, measured for each half set on some particles and their neighbours."""
        gains = np.ones(len(halves), np.float32)
        if not self.preprocessor.ctf_known:
            return gains
        partners = neighbours[:, :_LARGEST_SET]
        size = partners.shape[1] + 1

        def denoise(images: Tensor, ctf: Tensor) -> Tensor:
            sets = zip(images.split(size), ctf.split(size), strict=True)
            return torch.cat([network(one[None], None, told[None]).images[0] for one, told in sets])

        for half in np.unique(halves):
            whole = np.flatnonzero((halves == half) & (partners != NOBODY).all(1))
            wanted = max(1, _SAMPLE // (2 * size))
            chosen = whole[:: max(1, len(whole) // wanted)][:wanted]
            if len(chosen):
                rows = np.concatenate([chosen[:, None], partners[chosen]], 1).ravel()
                gains[halves == half] = self.gain(denoise, rows)
        return gains


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time of a block to a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start

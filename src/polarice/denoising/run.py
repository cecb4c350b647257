"""One pass of a network over a whole stack: denoise, calibrate, write."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..files import give_back
from ..models import PolarTransformer
from ..neighbours import NOBODY, groups_of
from ..particles import ParticleWriter
from ..stacks import SCRATCH, GivenNeighbours, PreparedStack, search_stack, timed
from .calibration import measure_gain
from .graph import attend_graph, encode_stack
from .result import DenoiseSettings

__all__ = ["JointRun", "StackRun"]

_BATCH = 64
# Images on which the grey scale is measured, and members of a set among them.
_SAMPLE = 256
_LARGEST_SET = 16
# A gain that is less certain than this is not used.
_LARGEST_ERROR = 0.15


class JointRun(NamedTuple):
    """What a joint run has learned on the way.

    Attributes
    ----------
    neighbours : ndarray of int64, shape (n, k)
    probability : ndarray of float32, shape (n, k), or None
        Of one view; None if nobody knows.
    weights, angles_deg : ndarray of float32, shape (n, k)
        From the last round of attention.
    gains : ndarray of float32, shape (n,)
    informed : bool
        Whether the search, if there was one, found anything that tells views apart.
    """

    neighbours: NDArray[np.int64]
    probability: NDArray[np.float32] | None
    weights: NDArray[np.float32]
    angles_deg: NDArray[np.float32]
    gains: NDArray[np.float32]
    informed: bool


@dataclass(frozen=True)
class StackRun:
    """One pass of a network over a stack."""

    prepared: PreparedStack

    def gain(self, denoise: Callable[[Tensor, Tensor], Tensor], rows: NDArray[np.int64]) -> float:
        """Grey scale of the denoised images, measured on some rows; 1 where that is too uncertain."""
        mask = self.prepared.preprocessor.mask().to(self.prepared.device)
        with timed(self.prepared.seconds, "measure the grey scale"):
            seen, ctf = self.prepared.seen(rows)
            assert ctf is not None
            gain, error = measure_gain(lambda images: denoise(images, ctf), seen, ctf, mask)
        return gain if gain > 0 and error < _LARGEST_ERROR * gain else 1.0

    def write(
        self, writer: ParticleWriter, rows: slice, denoised: Tensor, gains: NDArray[np.float32]
    ) -> None:
        """Put denoised images back into the stack's grey scale and append them."""
        with timed(self.prepared.seconds, "write"):
            statistics = self.prepared.found.statistics[rows].to(self.prepared.device)
            scale = torch.from_numpy(gains[rows]).to(denoised)[:, None, None]
            masked = denoised * scale * self.prepared.preprocessor.mask().to(denoised)
            writer.append(self.prepared.preprocessor.inverse(masked, statistics).cpu().numpy())

    @torch.inference_mode()
    def singly(self, network: nn.Module, writer: ParticleWriter) -> NDArray[np.float32]:
        """Denoise every image alone; returns the gain of each."""
        halves = self.prepared.halves
        gains = np.ones(len(halves), np.float32)
        if self.prepared.preprocessor.ctf_known:
            for half in np.unique(halves):
                members = np.flatnonzero(halves == half)
                sample = members[:: max(1, len(members) // _SAMPLE)][:_SAMPLE]
                gains[members] = self.gain(
                    lambda images, ctf: torch.cat(
                        [network(*part) for part in zip(images.split(_BATCH), ctf.split(_BATCH), strict=True)]
                    ),
                    sample,
                )
        for rows, images, ctf in self.prepared.normalised():
            with timed(self.prepared.seconds, "denoise"):
                denoised = network(images, ctf)
            self.write(writer, rows, denoised, gains)
            self.prepared.report("denoise", rows.stop, len(self.prepared))
        return gains

    def jointly(
        self,
        network: PolarTransformer,
        writer: ParticleWriter,
        settings: DenoiseSettings,
        folder: Path,
        given: GivenNeighbours | None = None,
    ) -> JointRun:
        """Denoise every image with its neighbours, which are searched for if nobody gives them."""
        prepared = self.prepared
        total, seconds = len(prepared), prepared.seconds
        with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as name:
            scratch = Path(name)
            before = seconds.get("read and normalise", 0.0)
            with timed(seconds, "encode"):
                batches = ((images, ctf) for _, images, ctf in prepared.normalised())
                encoded = encode_stack(
                    network, batches, total, scratch, lambda done: prepared.report("encode", done, total)
                )
            seconds["encode"] -= seconds["read and normalise"] - before
            informed = True
            if given is None:
                groups = self._groups(settings.sets_from)
                table = search_stack(prepared, encoded.views, settings.neighbours, groups)
                informed = table.informed
                given = GivenNeighbours(table.rows, table.probability, 0)
            neighbours = given.rows
            gains = self._joint_gains(network, neighbours)
            rounds = len(network.rounds)
            with timed(seconds, "attend and decode"):
                result = attend_graph(
                    network,
                    encoded,
                    neighbours,
                    prepared.halves,
                    scratch,
                    prepared.device,
                    lambda index, done: prepared.report(f"attend ({index + 1} of {rounds})", done, total),
                )
            for start in range(0, total, _BATCH):
                rows = slice(start, min(start + _BATCH, total))
                self.write(writer, rows, torch.from_numpy(result.images[rows]).to(prepared.device), gains)
                give_back(result.images)
        return JointRun(neighbours, given.probability, result.weights, result.angles_deg, gains, informed)

    def _groups(self, sets_from: str | None) -> NDArray[np.int64]:
        """Group of each particle: those of a half set that a column, if there is one, puts together."""
        halves = self.prepared.halves
        if sets_from is None:
            return halves
        sets = np.array(self.prepared.stack.column(sets_from.removeprefix("_")))
        return groups_of(len(halves), halves, sets)

    def _joint_gains(self, network: PolarTransformer, neighbours: NDArray[np.int64]) -> NDArray[np.float32]:
        """Gain of each particle, measured for each half set on some particles and their neighbours."""
        halves = self.prepared.halves
        gains = np.ones(len(halves), np.float32)
        if not self.prepared.preprocessor.ctf_known:
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

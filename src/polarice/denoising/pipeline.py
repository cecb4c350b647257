"""A particle stack in, a denoised particle stack out."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..devices import resolve_device
from ..models import PolarTransformer, load_model
from ..particles import (
    ParticleStack,
    ParticleWriter,
    Preprocessor,
    StackScan,
    denoised_columns,
    scan,
)
from .graph import attend_graph, encode_stack
from .neighbours import find_neighbours, groups_of
from .preflight import check, prepare_output, require_room
from .result import DenoiseResult, DenoiseSettings, effective_neighbours

__all__ = ["denoise_stack"]

Progress = Callable[[str, int, int], None]

_BATCH = 64
# What a run leaves; report.html is the command line's.
_FILES = ("denoised.star", "denoised.mrcs", "neighbours.npz", "denoise.json", "report.html")
_SCRATCH = ".scratch-"


def denoise_stack(
    particles: str | Path,
    out: str | Path,
    settings: DenoiseSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DenoiseResult:
    """Denoise a particle stack, file to file.

    Parameters
    ----------
    particles : path-like
        ``.star``, ``.mrcs`` or ``.mrc``.
    out : path-like
        Folder for ``denoised.star``, ``denoised.mrcs``, ``neighbours.npz`` (joint networks) and
        ``denoise.json``.
    settings : DenoiseSettings, optional
    overwrite : bool
        Allow a folder that is not empty.
    progress : callable, optional
        Called with (stage, images done, images in all).

    Returns
    -------
    DenoiseResult

    Raises
    ------
    PolariceError
        Anything wrong with the input, the model, the device or the output, before any computing.
    """
    settings, out = settings or DenoiseSettings(), Path(out)
    report = progress or (lambda stage, done, total: None)
    prepare_output(out, overwrite)
    device = resolve_device(settings.device)
    network, card = load_model(settings.model, device)
    stack = ParticleStack.open(particles, pixel_size_A=settings.pixel_size_A)
    check(stack, settings, jointly=isinstance(network, PolarTransformer))
    require_room(out, stack, network)
    seconds: dict[str, float] = {}
    box = cast(int, network.box)
    count = len(stack)
    with _timed(seconds, "check and measure"):
        found = scan(stack, box, progress=lambda done: report("check and measure", done, count))
    preprocessor = Preprocessor.for_stack(
        stack, found, contrast=settings.contrast, mask_diameter_A=settings.mask_diameter_A, ctf=settings.ctf
    )
    notices = [*preprocessor.notices, *_notices(stack, box)]
    out.mkdir(parents=True, exist_ok=True)
    marks = denoised_columns(stack, phase_flipped=preprocessor.phase_flip)
    writer = ParticleWriter(
        out,
        "denoised",
        box=stack.box,
        pixel_size_A=stack.pixel_size_A,
        source=stack,
        particles=marks["particles"],
        optics=marks["optics"],
        overwrite=overwrite,
    )
    _clear(out)
    runner = _Run(stack, preprocessor, found, device, seconds, report)
    neighbours = weights = angles = None
    with writer:
        if isinstance(network, PolarTransformer):
            neighbours, weights, angles = runner.jointly(network, writer, settings, out)
            writer.set_columns(
                particles={
                    "polariceConfidence": weights.sum(1),
                    "polariceEffectiveNeighbours": effective_neighbours(weights),
                }
            )
        else:
            runner.singly(network, writer)
    files = {str(writer.star_path): "denoised particles", str(writer.stack_path): "their images"}
    if neighbours is not None and weights is not None and angles is not None:
        table = out / "neighbours.npz"
        _save_arrays(table, {"neighbours": neighbours, "weights": weights, "angles_deg": angles})
        files[str(table)] = "neighbours of each particle, their weights and in-plane angles"
    result = DenoiseResult(
        stack.path,
        writer.star_path,
        settings,
        card,
        preprocessor,
        found,
        neighbours,
        weights,
        angles,
        seconds,
        tuple(notices),
        files,
    )
    configuration = out / "denoise.json"
    files[str(configuration)] = "resolved configuration and figures"
    text = json.dumps({"configuration": result.configuration(), "figures": result.summary()}, indent=1)
    partial = configuration.with_name("denoise.json.partial")
    partial.write_text(text)
    partial.rename(configuration)
    return result


def _clear(out: Path) -> None:
    """Remove what an earlier run has left, so that no mixture of two can remain."""
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
    for scratch in out.glob(f"{_SCRATCH}*"):
        shutil.rmtree(scratch)


def _notices(stack: ParticleStack, box: int) -> list[str]:
    notices = []
    if stack.half_sets is None:
        notices.append(
            "No half-set labels (_rlnRandomSubset): neighbours come from the whole stack, "
            "so half maps made of these images would not be independent."
        )
    if stack.box != box:
        notices.append(
            f"The images were resampled in Fourier space from {stack.box} to the model's {box} pixels "
            f"({stack.pixel_size_A * stack.box / box:.2f} Å/px) and back."
        )
    return notices


@dataclass(frozen=True)
class _Run:
    """One pass of a network over a stack."""

    stack: ParticleStack
    preprocessor: Preprocessor
    found: StackScan
    device: torch.device
    seconds: dict[str, float]
    report: Progress

    def normalised(self) -> Iterator[tuple[slice, Tensor]]:
        """Images as the network wants them, in the stack's order."""
        for start in range(0, len(self.stack), _BATCH):
            rows = slice(start, min(start + _BATCH, len(self.stack)))
            with _timed(self.seconds, "read and normalise"):
                images = torch.from_numpy(self.stack.images(rows)).to(self.device)
                ctf = self.stack.ctf(rows).to(self.device) if self.preprocessor.phase_flip else None
                statistics = self.found.statistics[rows].to(self.device)
                model_images = self.preprocessor.forward(images, ctf, statistics)
            yield rows, model_images

    def write(self, writer: ParticleWriter, rows: slice, denoised: Tensor) -> None:
        """Put denoised images back into the stack's grey scale and append them."""
        with _timed(self.seconds, "write"):
            statistics = self.found.statistics[rows].to(self.device)
            masked = denoised * self.preprocessor.mask().to(denoised)
            writer.append(self.preprocessor.inverse(masked, statistics).cpu().numpy())

    @torch.inference_mode()
    def singly(self, network: nn.Module, writer: ParticleWriter) -> None:
        """Denoise every image alone."""
        for rows, images in self.normalised():
            with _timed(self.seconds, "denoise"):
                denoised = network(images)
            self.write(writer, rows, denoised)
            self.report("denoise", rows.stop, len(self.stack))

    def jointly(
        self,
        network: PolarTransformer,
        writer: ParticleWriter,
        settings: DenoiseSettings,
        folder: Path,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Denoise every image with its neighbours; returns these, their weights and angles."""
        total = len(self.stack)
        sets = None if settings.sets_from is None else self.stack.column(settings.sets_from.removeprefix("_"))
        halves = groups_of(total, self.stack.half_sets)
        groups = groups_of(total, halves, None if sets is None else np.array(sets))
        with tempfile.TemporaryDirectory(dir=folder, prefix=_SCRATCH) as name:
            scratch = Path(name)
            before = self.seconds.get("read and normalise", 0.0)
            with _timed(self.seconds, "encode"):
                batches = (images for _, images in self.normalised())
                encoded = encode_stack(
                    network, batches, total, scratch, lambda done: self.report("encode", done, total)
                )
            self.seconds["encode"] -= self.seconds["read and normalise"] - before
            with _timed(self.seconds, "find neighbours"):
                neighbours = find_neighbours(encoded.embedding, settings.neighbours, groups)
            rounds = network.config.rounds
            with _timed(self.seconds, "attend and decode"):
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
                self.write(writer, rows, torch.from_numpy(result.images[rows]).to(self.device))
        return neighbours, result.weights, result.angles_deg


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.rename(path)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start

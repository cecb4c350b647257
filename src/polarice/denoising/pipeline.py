"""A particle stack in, a denoised particle stack out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..devices import keep_freed_memory, mixed_precision, resolve_device
from ..errors import ModelError
from ..files import whole
from ..models import PolarTransformer, load_model
from ..particles import (
    ParticleStack,
    ParticleWriter,
    Preprocessor,
    denoised_columns,
    scan,
)
from .preflight import check, prepare_output, require_room
from .result import DenoiseResult, DenoiseSettings, effective_neighbours
from .run import SCRATCH, Progress, StackRun, timed

__all__ = ["denoise_stack"]


# What a run leaves; report.html is the command line's.
_FILES = ("denoised.star", "denoised.mrcs", "neighbours.npz", "denoise.json", "report.html")


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
    if getattr(network, "jointly", False) and not isinstance(network, PolarTransformer):
        reason = f"a {card.architecture} has no embedding that could find neighbours in a stack"
        raise ModelError(reason, hint="use a polar-transformer")
    stack = ParticleStack.open(particles, pixel_size_A=settings.pixel_size_A)
    check(stack, settings, jointly=isinstance(network, PolarTransformer))
    require_room(out, stack, network)
    seconds: dict[str, float] = {}
    box = cast(int, network.box)
    count = len(stack)
    with timed(seconds, "check and measure"):
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
    runner = StackRun(stack, preprocessor, found, device, seconds, report)
    neighbours = weights = angles = None
    if device.type == "cpu":
        keep_freed_memory()
    with writer, mixed_precision(device, settings.mixed_precision):
        if isinstance(network, PolarTransformer):
            neighbours, weights, angles, gains = runner.jointly(network, writer, settings, out)
            writer.set_columns(
                particles={
                    "polariceConfidence": weights.sum(1),
                    "polariceEffectiveNeighbours": effective_neighbours(weights),
                }
            )
        else:
            gains = runner.singly(network, writer)
    if bool((gains == 1).any()):
        why = "is too uncertain" if preprocessor.ctf_known else "needs a CTF"
        notices.append(
            f"The grey scale was not measured, because that {why}: "
            "the amplitudes are the network's own guess, the shapes are surer."
        )
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
        gains,
        seconds,
        tuple(notices),
        files,
    )
    configuration = out / "denoise.json"
    files[str(configuration)] = "resolved configuration and figures"
    text = json.dumps({"configuration": result.configuration(), "figures": result.summary()}, indent=1)
    with whole(configuration) as partial:
        partial.write_text(text)
    return result


def _clear(out: Path) -> None:
    """Remove what an earlier run has left, so that no mixture of two can remain."""
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
    for scratch in out.glob(f"{SCRATCH}*"):
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


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    with whole(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)

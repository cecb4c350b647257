"""A particle stack in, a denoised particle stack out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..devices import Workers, keep_freed_memory, mixed_precision, resolve_device, workers
from ..errors import DiskError, ModelError, OutputError
from ..files import make_folder, prepare_output, save_arrays
from ..models import PolarTransformer, load_model
from ..particles import ParticleStack, ParticleWriter, denoised_columns
from ..stacks import (
    GUESSES,
    NEIGHBOUR_FILE,
    GivenNeighbours,
    PreparedStack,
    Progress,
    Work,
    clear_outputs,
    open_stack,
    require_fit,
    run_identity,
    stack_digest,
    write_record,
)
from .agreement import agreement_columns
from .preflight import misfits, require_scratch_room
from .result import DenoiseResult, DenoiseSettings, effective_neighbours
from .run import JointRun, SingleRun, StackRun

__all__ = ["denoise_stack"]


# What an interrupted run has done.
UNFINISHED = ".unfinished"
# What a run leaves; report.html is the command line's.
_FILES = ("denoised.star", "denoised.mrcs", "denoised.cs", NEIGHBOUR_FILE, "denoise.json", "report.html")


def denoise_stack(
    particles: str | Path,
    out: str | Path,
    settings: DenoiseSettings | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    finish: Callable[[DenoiseResult], None] | None = None,
) -> DenoiseResult:
    """Denoise a particle stack, file to file.

    What an interrupted run has done stays in the folder, for another to go on with. The processes that
    ``torchrun`` has started on one machine share the work; the first of them writes the result.

    Parameters
    ----------
    particles : path-like
        ``.star``, ``.cs``, ``.mrcs`` or ``.mrc``.
    out : path-like
        Folder for ``denoised.star``, ``denoised.mrcs``, ``denoised.cs`` (of a ``.cs`` file),
        ``neighbours.npz`` (joint networks) and ``denoise.json``.
    settings : DenoiseSettings, optional
    overwrite : bool
        Allow a folder that is not empty.
    resume : bool
        Go on with a run that was interrupted in this folder, if there is one; the result is the same as if
        it had not been.
    progress : callable, optional
        Called with (stage, images done, images in all).
    finish : callable, optional
        Called with the result once that is written, by one process. What it does belongs to the run, which
        counts as interrupted until it returns.

    Returns
    -------
    DenoiseResult

    Raises
    ------
    PolariceError
        Anything wrong with the input, the model, the device or the output, before any computing.
    """
    settings, out = settings or DenoiseSettings(), Path(out)
    with workers() as team:
        return _denoise(Path(particles), out, settings, overwrite, resume, progress, finish, team)


def _denoise(
    particles: Path,
    out: Path,
    settings: DenoiseSettings,
    overwrite: bool,
    resume: bool,
    progress: Progress | None,
    finish: Callable[[DenoiseResult], None] | None,
    team: Workers,
) -> DenoiseResult:
    report = progress or (lambda stage, done, total: None)
    unfinished = out / UNFINISHED
    resume = resume and unfinished.is_dir()
    if unfinished.is_dir() and not (resume or overwrite):
        hint = "go on with --resume, or start anew with --overwrite"
        raise OutputError("a run was interrupted here", path=out, hint=hint)
    prepare_output(out, overwrite or resume)
    device = resolve_device(settings.device)
    network, card = load_model(settings.model, device)
    if getattr(network, "jointly", False) and not isinstance(network, PolarTransformer):
        reason = f"a {card.architecture} has no embedding that could find neighbours in a stack"
        raise ModelError(reason, hint="use a polar-transformer")
    stack = open_stack(particles, settings, split_halves=settings.split_halves)
    require_fit(stack, misfits(stack, settings, jointly=isinstance(network, PolarTransformer)))
    there = sum(file.stat().st_blocks * 512 for file in unfinished.glob("*")) if resume else 0
    require_scratch_room(out, stack, network, settings, there)
    notices: list[str] = []
    given = None
    if settings.neighbours_from is not None:
        given = GivenNeighbours.load(settings.neighbours_from, stack, settings.neighbours)
        if given.mirror_images:
            notices.append(
                f"{given.mirror_images:,} of the neighbours are mirror images, which denoising leaves out."
            )
    prepared = PreparedStack.measure(stack, settings, cast(int, network.box), device, report)
    preprocessor = prepared.preprocessor
    notices += [*prepared.notices, *prepared.half_set_notices]
    if card.figures.get("adapted_to_half_set", "unlabelled") != "unlabelled" and stack.half_sets is not None:
        notices.append(
            f"The network was adapted to particles of half set {card.figures['adapted_to_half_set']} of "
            f"{card.figures['adapted_to']}: half maps made of these images would not be independent if it "
            "denoised the other half set as well."
        )
    # From here on the folder changes: nobody may still be looking what lies in it.
    team.wait()
    make_folder(out)
    marks = denoised_columns(stack, phase_flipped=preprocessor.phase_flip)
    writer = ParticleWriter(
        out,
        "denoised",
        box=stack.box,
        pixel_size_A=stack.pixel_size_A,
        source=stack,
        particles=marks["particles"],
        optics=marks["optics"],
        overwrite=overwrite or resume,
    )
    if team.leads:
        clear_outputs(out, _FILES)
        if not resume:
            shutil.rmtree(unfinished, ignore_errors=True)
    team.wait()
    # Adapted weights have learned the grey scale, with errors that count as in images without CTFs.
    adapted = card.figures.get("adapted_steps", 0) > 0
    runner = StackRun(prepared, scaled=not adapted)
    if device.type == "cpu":
        keep_freed_memory()
    identity = run_identity(stack, prepared.found, settings, network)
    with (
        _kept_for_resume(),
        Work(unfinished, identity, team) as work,
        mixed_precision(device, settings.mixed_precision),
    ):
        if isinstance(network, PolarTransformer):
            made: JointRun | SingleRun = runner.jointly(network, settings, work, given)
        else:
            made = runner.singly(network, work)
    joint = made if isinstance(made, JointRun) else None
    if joint is not None and not joint.informed:
        notices.append(GUESSES)
    if not adapted and bool((made.gains == 1).any()):
        why = "is too uncertain" if preprocessor.ctf_known else "needs a CTF"
        notices.append(
            f"The grey scale was not measured, because that {why}: "
            "the amplitudes are the network's own guess, the shapes are surer."
        )
    result = DenoiseResult(
        stack.path,
        writer.star_path,
        settings,
        card,
        preprocessor,
        prepared.found,
        None if joint is None else joint.rows,
        None if joint is None else joint.weights,
        None if joint is None else joint.angles_deg,
        None if joint is None else joint.probability,
        made.gains,
        prepared.seconds,
        tuple(notices),
        agreement=None if joint is None else joint.agreement,
        presence=None if joint is None else joint.presence,
    )
    if team.leads:
        with _kept_for_resume():
            _write(out, result, writer, runner, made)
            if finish is not None:
                finish(result)
        work.remove()
    return result


@contextmanager
def _kept_for_resume() -> Iterator[None]:
    """Say of a disk that refuses what the run has to write, that it can go on later."""
    try:
        yield
    except DiskError as error:
        hint = f"{error.hint}; what is done is kept, to go on with --resume"
        raise DiskError(error.reason, path=error.path, hint=hint) from None


def _write(
    out: Path, result: DenoiseResult, writer: ParticleWriter, runner: StackRun, made: JointRun | SingleRun
) -> None:
    """Leave the stack, the neighbours and the record, and count them among the result's files."""
    with writer:
        runner.write(writer, made)
        writer.set_columns(particles={"polariceOutlier": result.found.outlier.int().numpy()})
        if isinstance(made, JointRun):
            writer.set_columns(
                particles={
                    "polariceConfidence": result.confidence,
                    "polariceEffectiveNeighbours": effective_neighbours(made.weights),
                }
            )
            if made.agreement is not None:
                side_A = runner.prepared.stack.box * runner.prepared.stack.pixel_size_A
                writer.set_columns(particles=agreement_columns(made.agreement, side_A))
    result.files.update({str(path): what for path, what in writer.paths.items()})
    if isinstance(made, JointRun):
        table = out / NEIGHBOUR_FILE
        save_arrays(table, _arrays(made, runner.prepared.stack))
        result.files[str(table)] = "neighbours of each particle, their weights and in-plane angles"
    write_record(out / "denoise.json", result)


def _arrays(joint: JointRun, stack: ParticleStack) -> dict[str, NDArray[Any]]:
    """What a joint run has learned of neighbours, to be read by people and by `GivenNeighbours`."""
    arrays: dict[str, NDArray[Any]] = {
        "neighbours": joint.rows,
        "weights": joint.weights,
        "angles_deg": joint.angles_deg,
        "presence": joint.presence,
        "stack": np.array(stack_digest(stack)),
    }
    if joint.probability is not None:
        arrays["probability"] = joint.probability
    if joint.agreement is not None:
        arrays["agreement"] = joint.agreement
    return arrays

"""What can be wrong with a run: found before any pixel is read and anything is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import nn

from ..errors import ModelError, OutputError, ParticleFileError, PolariceError, PreflightError
from ..models import PolarTransformer
from ..neighbours import groups_of
from ..particles import ParticleStack
from .graph import scratch_bytes
from .result import DenoiseSettings

__all__ = ["check", "prepare_output", "require_room"]


def prepare_output(out: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be made, or that holds something, unless told to overwrite.

    Raises
    ------
    OutputError
    """
    if out.exists() and not out.is_dir():
        raise OutputError("is a file, not a folder", path=out)
    there = _nearest(out)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"the folder cannot be made: {there} cannot be written to", path=out)
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise OutputError("the folder is not empty", path=out, hint="name another, or say --overwrite")


def require_room(out: Path, stack: ParticleStack, network: nn.Module) -> None:
    """Raise where the disk is too small: memory maps on a full one would end the program.

    Raises
    ------
    OutputError
    """
    needed = 4 * len(stack) * stack.box**2
    if isinstance(network, PolarTransformer):
        needed += scratch_bytes(network, len(stack))
    free = shutil.disk_usage(_nearest(out)).free
    if free < needed:
        reason = f"the run needs {needed / 1e9:.1f} GB of disk for a while, there are {free / 1e9:.1f} GB"
        raise OutputError(reason, path=out, hint="name a folder on a larger disk")


def _nearest(out: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())


def check(stack: ParticleStack, settings: DenoiseSettings, *, jointly: bool) -> None:
    """Raise if the stack is broken or the settings do not fit it.

    Parameters
    ----------
    stack : ParticleStack
    settings : DenoiseSettings
    jointly : bool
        Whether the network denoises sets.

    Raises
    ------
    PolariceError
        The one problem found, or a `PreflightError` that lists them all.
    """
    problems = stack.problems()
    if not len(stack):
        raise problems[0]
    try:
        for problem in _misfits(stack, settings, jointly):
            problems.append(problem)
    except PolariceError:
        # The stack is too broken to be asked; what it says of itself is why.
        if not problems:
            raise
    if problems:
        raise problems[0] if len(problems) == 1 else PreflightError(problems)


def _misfits(stack: ParticleStack, settings: DenoiseSettings, jointly: bool) -> Iterator[PolariceError]:
    if jointly and settings.neighbours < 1:
        yield PolariceError("a joint model needs at least one neighbour")
    name = (settings.sets_from or "").removeprefix("_")
    if name and not jointly:
        yield ModelError(f"{settings.model} denoises single images and has no use for sets")
    elif name and not stack.has_column(name):
        hint = "see `polarice info`"
        yield ParticleFileError(f"there is no column _{name}", path=stack.path, hint=hint)
    if stack.denoised:
        yield ParticleFileError("these particles are denoised already", path=stack.path)
    if settings.ctf and stack.has_column("rlnDefocusU") and not stack.has_ctf and not stack.phase_flipped:
        missing = ", ".join(f"_{column}" for column in stack.missing_ctf_columns)
        hint = "add the columns, or ignore the CTF with --no-ctf"
        yield ParticleFileError(f"the CTF lacks {missing}", path=stack.path, hint=hint)
    if jointly and not name:
        yield from _too_few(stack, settings.neighbours)
    diameter_A, side_A = settings.mask_diameter_A, stack.box * stack.pixel_size_A
    if diameter_A is not None and not 0 < diameter_A <= side_A * (1 + 1e-6):
        reason = f"a mask diameter of {diameter_A:g} Å does not fit a box of {side_A:.1f} Å"
        yield ParticleFileError(reason, path=stack.path)


def _too_few(stack: ParticleStack, neighbours: int) -> Iterator[PolariceError]:
    halves = groups_of(len(stack), stack.half_sets)
    fewest = int(np.bincount(halves).min())
    if fewest > neighbours:
        return
    what = "has a half set of" if halves.any() else "has"
    fewer = f"ask for fewer with --neighbours {fewest - 1}, or " if fewest > 1 else ""
    yield ParticleFileError(
        f"{what} {fewest} particles, too few for {neighbours} neighbours each",
        path=stack.path,
        hint=f"{fewer}use a single-image model",
    )

"""A stack is opened, and what can be wrong with it and its settings is found, before any pixel is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import ParticleFileError, PolariceError, PreflightError
from ..neighbours import groups_of
from ..particles import ParticleStack
from .settings import StackSettings

__all__ = ["open_stack", "require_fit", "too_few_for", "unreadable"]

# Noise is told from signal by rings of frequency, of which a smaller box has too few.
_SMALLEST_BOX = 16


def open_stack(path: str | Path, settings: StackSettings, *, split_halves: bool = False) -> ParticleStack:
    """Open a stack, and divide it if that is asked for.

    Raises
    ------
    ParticleFileError
        It cannot be read, or says itself how it is divided.
    """
    stack = ParticleStack.open(path, pixel_size_A=settings.pixel_size_A)
    if split_halves:
        if stack.has_column("rlnRandomSubset"):
            reason = "these particles have half sets already (_rlnRandomSubset)"
            raise ParticleFileError(reason, path=stack.path, hint="leave out --split-halves")
        stack.split_halves()
    return stack


def require_fit(stack: ParticleStack, misfits: Iterable[PolariceError]) -> None:
    """Raise if the stack is broken, or if something does not fit it.

    Parameters
    ----------
    stack : ParticleStack
    misfits : iterable of PolariceError
        Looked at after the stack, of which they may ask things.

    Raises
    ------
    PolariceError
        The one problem found, or a `PreflightError` that lists them all.
    """
    problems = stack.problems()
    if not len(stack):
        raise problems[0]
    try:
        for problem in misfits:
            problems.append(problem)
    except PolariceError:
        # The stack is too broken to be asked; what it says of itself is why.
        if not problems:
            raise
    if problems:
        raise problems[0] if len(problems) == 1 else PreflightError(problems)


def unreadable(stack: ParticleStack, settings: StackSettings) -> Iterator[PolariceError]:
    """Why a stack cannot be read in this way."""
    if stack.denoised:
        yield ParticleFileError("these particles are denoised already", path=stack.path)
    defocus = any(stack.has_column(f"rlnDefocus{axis}") for axis in "UV")
    if settings.ctf and defocus and not stack.has_ctf and not stack.phase_flipped:
        missing = ", ".join(f"_{column}" for column in stack.missing_ctf_columns)
        hint = "add the columns, or ignore the CTF with --no-ctf"
        yield ParticleFileError(f"the CTF lacks {missing}", path=stack.path, hint=hint)
    if stack.box < _SMALLEST_BOX:
        reason = f"a box of {stack.box} pixels is too small to denoise: at least {_SMALLEST_BOX} are needed"
        yield ParticleFileError(
            reason, path=stack.path, hint="extract or resample the particles to a larger one"
        )
    diameter_A, side_A = settings.mask_diameter_A, stack.box * stack.pixel_size_A
    if isinstance(diameter_A, float | int) and not 0 < diameter_A <= side_A * (1 + 1e-6):
        reason = f"a mask diameter of {diameter_A:g} Å does not fit a box of {side_A:.1f} Å"
        yield ParticleFileError(reason, path=stack.path)


def too_few_for(stack: ParticleStack, neighbours: int, instead: str) -> Iterator[PolariceError]:
    """Why particles cannot all get so many neighbours; ``instead`` is another way out than fewer."""
    if neighbours < 1:
        yield PolariceError("each particle needs at least one neighbour")
        return
    halves = groups_of(len(stack), stack.half_sets)
    fewest = int(np.bincount(halves).min())
    if fewest > neighbours:
        return
    what = "has a half set of" if halves.any() else "has"
    fewer = f"ask for fewer with --neighbours {fewest - 1}, or " if fewest > 1 else ""
    yield ParticleFileError(
        f"{what} {fewest} particles, too few for {neighbours} neighbours each",
        path=stack.path,
        hint=f"{fewer}{instead}",
    )

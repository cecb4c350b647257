"""What is wrong with a particle stack, found before any pixel is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import ParticleFileError, PolariceError
from .stack import ParticleStack

__all__ = ["find_problems"]

# Nothing on a grid is so far off, nor is an angle turned so often.
_FAR = 1e6
# Beyond these is no microscope: units are mixed up, or the file is damaged.
_BELIEVABLE = {
    "rlnDefocusU": (-1e6, 1e6, " Å"),
    "rlnDefocusV": (-1e6, 1e6, " Å"),
    "rlnDefocusAngle": (-_FAR, _FAR, "°"),
    "rlnVoltage": (1, 1e4, " kV"),
    "rlnSphericalAberration": (-1e3, 1e3, " mm"),
    "rlnAmplitudeContrast": (-1, 1, ""),
    "rlnPhaseShift": (-_FAR, _FAR, "°"),
    "rlnCtfBfactor": (-1e3, 1e6, " Å²"),
}
# Larger squares are micrographs; reading them one by one would take gigabytes.
_SMALLEST_BOX, _LARGEST_BOX = 4, 4096
# More broken stack files than this are counted, not listed.
_MOST_FILES = 20


def find_problems(stack: ParticleStack) -> list[PolariceError]:
    """List every fault of a stack that its tables and its files' headers and sizes show.

    Parameters
    ----------
    stack : ParticleStack

    Returns
    -------
    list of PolariceError
        Each file and each kind of fault once, with its first row.
    """
    problems: list[PolariceError] = []
    if not len(stack):
        problems.append(ParticleFileError("has no particles", path=stack.path))
        return problems
    problems += _image_problems(stack)
    for check in (_read_optics, _read_pixel_size, _read_ctf, _read_half_sets, _read_flags, _read_poses):
        problem = _error_of(check, stack)
        if problem is not None and str(problem) not in {str(known) for known in problems}:
            problems.append(problem)
    return problems


def _image_problems(stack: ParticleStack) -> Iterator[PolariceError]:
    bad = np.flatnonzero(stack.names.file < 0)
    if len(bad):
        yield _with_count(stack.bad_name(int(bad[0])), len(bad))
    several = _several_geometries(stack)
    first_box: tuple[int, int] | None = None
    own_box = np.zeros(len(stack.names.files) + 1)
    box_named: set[tuple[int, int]] = set()
    broken = 0
    order = np.argsort(stack.names.file, kind="stable")
    starts = np.searchsorted(stack.names.file[order], np.arange(len(stack.names.files) + 1))
    for file, (start, stop) in enumerate(pairwise(starts.tolist())):
        rows = order[start:stop]
        try:
            header = stack.stack_header(file)
        except PolariceError as error:
            broken += 1
            row = error.row or (int(rows[0]) + 1 if stack.tables else None)
            if broken <= _MOST_FILES:
                yield type(error)(error.reason, path=error.path, row=row, hint=error.hint)
            continue
        past = rows[stack.names.index[rows] >= header.shape[0]]
        if len(past):
            yield _with_count(stack.past_end(int(past[0]), header), len(past))
        box = (header.shape[1], header.shape[2])
        first_box = first_box or box
        own_box[file] = box[0] if box[0] == box[1] and (several or box == first_box) else 0
        if box in box_named:
            continue
        box_named.add(box)
        fault = _box_fault(box, box if several else first_box)
        if fault is not None:
            row = int(rows[0]) + 1 if stack.tables else None
            yield ParticleFileError(
                f"has images of {box[0]} x {box[1]} pixels{fault[0]}",
                path=header.path,
                row=row,
                hint=fault[1],
            )
    if broken > _MOST_FILES:
        yield ParticleFileError(
            f"{broken} of {len(stack.names.files)} stack files are missing or broken", path=stack.path
        )
    yield from _optics_box_problems(stack, own_box[stack.names.file])


def _several_geometries(stack: ParticleStack) -> bool:
    try:
        return stack.several_geometries
    except PolariceError:
        return False  # `find_problems` says why


def _box_fault(box: tuple[int, int], first: tuple[int, int]) -> tuple[str, str] | None:
    if box[0] != box[1]:
        return ", which are not square", "Extract the particles again with a square box"
    if not _SMALLEST_BOX <= box[0] <= _LARGEST_BOX:
        size = "small" if box[0] < _SMALLEST_BOX else "large"
        return f", which are too {size} for a particle's", "Give the stack of extracted particles"
    if box[0] % 2:
        return ": an odd box", "Extract or resample the particles to an even box"
    if box != first:
        return f", other stacks of {first[0]} x {first[1]}", "Bring all particles to one box"
    return None


def _optics_box_problems(stack: ParticleStack, box: NDArray[np.float64]) -> Iterator[PolariceError]:
    """Where the tables say another box than each particle's (n,) stack file, of 0 where that is not known."""
    try:
        sizes = stack.numeric("rlnImageSize")
    except PolariceError as error:
        yield error
        return
    if sizes is None:
        return
    differs = np.flatnonzero((sizes != box) & (box > 0))
    if len(differs):
        row = int(differs[0])
        yield ParticleFileError(
            f"says _rlnImageSize {sizes[row]:.0f}, the images have {box[row]:.0f} pixels",
            path=stack.path, row=row + 1, hint="Correct the optics table",
        )  # fmt: skip


def _with_count(error: PolariceError, count: int) -> PolariceError:
    """Add to the error of the first row how many further rows have it."""
    if count == 1:
        return error
    more = f"{error.reason} (and {count - 1} more rows like it)"
    return type(error)(more, path=error.path, row=error.row, hint=error.hint)


def _error_of(check: Callable[[ParticleStack], object], stack: ParticleStack) -> PolariceError | None:
    try:
        check(stack)
    except PolariceError as error:
        return error
    return None


def _read_pixel_size(stack: ParticleStack) -> None:
    if stack.format != "MRC" or _error_of(lambda s: s.stack_header(0), stack) is None:
        _ = stack.pixel_size_A


def _read_optics(stack: ParticleStack) -> None:
    _ = stack.optics_groups
    if stack.optics is not None:
        # Which row of the table each particle's is.
        stack.column(next(iter(stack.optics.columns)))


def _read_ctf(stack: ParticleStack) -> None:
    for name, (low, high, unit) in _BELIEVABLE.items():
        # Where nothing is to be computed from it, 0 says that the voltage is not known.
        _require_between(stack, name, 0 if name == "rlnVoltage" and not stack.has_ctf else low, high, unit)


def _require_between(stack: ParticleStack, name: str, low: float, high: float, unit: str) -> None:
    """Raise unless all values of a column, if it is there, are numbers that mean something."""
    values = stack.numeric(name)
    if values is None:
        return
    bad = np.flatnonzero(~((values >= low) & (values <= high)))
    if len(bad):
        row = int(bad[0])
        raise ParticleFileError(
            f"column _{name} has {values[row]:g}, which makes no sense", path=stack.path, row=row + 1,
            hint=f"It lies between {low:g} and {high:g}{unit}: correct it, or remove the particle",
        )  # fmt: skip


def _read_half_sets(stack: ParticleStack) -> None:
    _ = stack.half_sets


def _read_flags(stack: ParticleStack) -> None:
    for name in ("rlnCtfDataArePhaseFlipped", "rlnCtfDataAreCtfPremultiplied", "polariceDenoised"):
        _require_between(stack, name, 0, 1, "")
    _ = stack.phase_flipped, stack.denoised


def _read_poses(stack: ParticleStack) -> None:
    for name in ("AngleRot", "AngleTilt", "AnglePsi"):
        _require_between(stack, f"rln{name}", -_FAR, _FAR, "°")
    for name, unit in (("OriginXAngst", " Å"), ("OriginYAngst", " Å"), ("OriginX", ""), ("OriginY", "")):
        _require_between(stack, f"rln{name}", -_FAR, _FAR, unit)

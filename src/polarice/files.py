"""Files that are whole or not there, and the folders that they go to."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DiskError, OutputError

__all__ = [
    "gather",
    "give_back",
    "make_folder",
    "prepare_output",
    "require_place",
    "require_room",
    "require_writable",
    "save_arrays",
    "whole",
    "writing",
]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAKE_ROOM = "make room there, or name a folder on another disk"
_NOT_YOURS = "name a folder that can be written to"
_PARTIAL = ".partial"
_ROWS_AT_ONCE = 64


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Say clearly what the system has against a file or folder that a block writes, and the way out.

    Raises
    ------
    DiskError
    """
    path = Path(path)
    try:
        yield
    except OSError as error:
        hint = _MAKE_ROOM if error.errno in _FULL else _NOT_YOURS
        reason = f"cannot be written ({error.strerror or error})"
        # The final name says more to a user.
        path = path.with_name(path.name.removesuffix(_PARTIAL))
        raise DiskError(reason, path=path, hint=hint) from None


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Write a file beside its final name; it gets that name when the block ends well, else it goes.

    It gets it when the disk has all of it: some systems say only then that there was no room.

    Parameters
    ----------
    path : path-like
        The final name.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    DiskError
        The system refuses.
    """
    path = Path(path)
    partial = path.with_name(path.name + _PARTIAL)
    with writing(path):
        try:
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def save_arrays(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a compressed ``.npz`` file that is whole or not there."""
    with whole(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def prepare_output(out: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be made, or that holds something, unless told to overwrite.

    Raises
    ------
    OutputError
    """
    if out.exists() and not out.is_dir():
        raise OutputError("is a file, not a folder", path=out, hint="name another")
    require_writable(out)
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise OutputError("the folder is not empty", path=out, hint="name another, or say --overwrite")


def require_writable(out: Path) -> None:
    """Raise if nobody may write into a folder, or make it where it is to be.

    Raises
    ------
    OutputError
    """
    there = _nearest(out)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return
    what = "it" if there == out.absolute() else f"the folder cannot be made: {there}"
    raise OutputError(f"{what} cannot be written to", path=out, hint=_NOT_YOURS)


def require_place(path: Path) -> None:
    """Raise if a file cannot be written, because its folder is absent or not the user's to write to.

    Raises
    ------
    OutputError
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        reason = "the output folder does not exist"
        raise OutputError(reason, path=folder, hint="make it, or name another")
    if path.is_dir():
        raise OutputError("is a folder, not a file", path=path, hint="name another")
    require_writable(folder)


def make_folder(out: Path) -> None:
    """Make a folder, and those above it, if it is not there.

    Raises
    ------
    DiskError
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


def require_room(out: Path, needed: int) -> None:
    """Raise where a disk has less room than so many bytes: memory maps on a full one would end the program.

    Raises
    ------
    OutputError
    """
    free = shutil.disk_usage(_nearest(out)).free
    if free < needed:
        reason = f"the run needs {needed / 1e9:.1f} GB of disk for a while, there are {free / 1e9:.1f} GB"
        raise OutputError(reason, path=out, hint=_MAKE_ROOM)


def give_back(*arrays: NDArray[Any]) -> None:
    """Let go of what has been read and written of arrays in files; other arrays are left alone.

    The system keeps it while there is room. But what a process has touched counts as its own memory until it
    says this, and a cluster's scheduler ends processes that have more than they asked for.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for array in arrays:
        if isinstance(array.base, mmap.mmap):
            array.base.madvise(mmap.MADV_DONTNEED)


def gather(array: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows (...) from here and there of an array in a file, of which little is in memory at a time.

    A system may put megabytes into memory for each row, wherever it lies.
    """
    found = np.empty((rows.size, *array.shape[1:]), array.dtype)
    for start in range(0, rows.size, _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        found[some] = array[rows.reshape(-1)[some]]
        give_back(array)
    return found.reshape(*rows.shape, *array.shape[1:])


def _nearest(out: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(folder for folder in (out.absolute(), *out.absolute().parents) if os.path.lexists(folder))

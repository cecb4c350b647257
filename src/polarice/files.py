"""Files that are whole or not there, and the folders that they go to."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import OutputError

__all__ = ["gather", "give_back", "prepare_output", "require_room", "save_arrays", "whole"]


_ROWS_AT_ONCE = 64


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Write a file beside its final name; it gets that name when the block ends well, else it goes.

    Parameters
    ----------
    path : path-like
        The final name.

    Yields
    ------
    Path
        Where to write.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
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
        raise OutputError("is a file, not a folder", path=out)
    there = _nearest(out)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"the folder cannot be made: {there} cannot be written to", path=out)
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise OutputError("the folder is not empty", path=out, hint="name another, or say --overwrite")


def require_room(out: Path, needed: int) -> None:
    """Raise where a disk has less room than so many bytes: memory maps on a full one would end the program.

    Raises
    ------
    OutputError
    """
    free = shutil.disk_usage(_nearest(out)).free
    if free < needed:
        reason = f"the run needs {needed / 1e9:.1f} GB of disk for a while, there are {free / 1e9:.1f} GB"
        raise OutputError(reason, path=out, hint="name a folder on a larger disk")


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
    return next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())

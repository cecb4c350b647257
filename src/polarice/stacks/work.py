"""The folder of a run that has not ended: arrays in files, and a journal of what of them is done.

Work is cut into parts. A part is done when its numbers are on the disk and then the journal says so: a run
that was killed at any moment can go on with the parts that are not done, and ends as if nothing had happened.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import OutputError

__all__ = ["Work"]

Part = TypeVar("Part")


class Work:
    """What a run has done so far, in a folder of its own; a context manager that lets others go on with it.

    Parameters
    ----------
    folder : Path
        Made if absent. What an earlier run has left there is gone on with.
    identity : str
        Of everything that determines the result; a run is only gone on with if it is the same.

    Raises
    ------
    OutputError
        What lies in the folder is of another identity, another process works on it, or the folder cannot be
        written.
    """

    def __init__(self, folder: Path, identity: str = "") -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._journal = (folder / "journal").open("a+", encoding="utf-8")
        self._lock()
        self._journal.seek(0)
        # A line that was not finished tells of nothing that can be relied upon.
        whole, _, torn = self._journal.read().rpartition("\n")
        lines = whole.split("\n") if whole else []
        if torn:
            self._journal.truncate(len(f"{whole}\n".encode()) if whole else 0)
        self._done = set(lines[1:])
        if not lines:
            self._write(identity)
        elif lines[0] != identity:
            self._journal.close()
            raise OutputError(
                "the run that was interrupted here had another stack, model, version or other settings",
                path=folder.parent,
                hint="go on with the very same, or start anew with --overwrite",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._journal.close()
            raise OutputError("another process is at work on this run", path=self.folder.parent) from None

    def _write(self, line: str) -> None:
        self._journal.write(f"{line}\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def array(self, name: str, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
        """An array in a file, of which the system keeps in memory what it has room for.

        Raises
        ------
        OutputError
            The disk is full.
        """
        path = self.folder / name
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not path.exists() or path.stat().st_size != size:
            try:
                with path.open("wb") as file:
                    # Room for all of it, or the system would end the program where it runs out.
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, size)
                    file.truncate(size)
            except OSError as error:
                raise OutputError(f"cannot be written ({error})", path=path) from None
        return np.memmap(path, dtype, "r+", shape=shape)

    def drop(self, *names: str) -> None:
        """Remove files that nobody needs any more; arrays that are still in use keep what they have."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def has(self, stage: str) -> bool:
        """Whether a stage is done."""
        return stage in self._done

    def finish(self, stage: str, *arrays: NDArray[Any]) -> None:
        """Note that a stage, or a part of one, is done once these arrays are on the disk."""
        for array in arrays:
            if isinstance(array, np.memmap):
                array.flush()
        self._write(stage)
        self._done.add(stage)

    def parts(self, stage: str, parts: Sequence[Part], *arrays: NDArray[Any]) -> Iterator[Part]:
        """The parts of a stage that are not done; each counts as done when the next is asked for.

        Parameters
        ----------
        stage : str
        parts : sequence
        *arrays : ndarray
            That the stage writes.
        """
        for number, part in enumerate(parts):
            name = f"{stage}, part {number + 1}"
            if name not in self._done:
                yield part
                self.finish(name, *arrays)

    def remove(self) -> None:
        """End the run: nothing of the folder remains."""
        shutil.rmtree(self.folder)

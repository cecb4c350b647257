"""The folder of a run that has not ended: arrays in files, and a journal of what of them is done.

Work is cut into parts. A part is done when its numbers are on the disk and then the journal says so: a run
that was killed at any moment can go on with the parts that are not done, and ends as if nothing had happened.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..devices import Workers
from ..errors import OutputError
from ..files import make_folder, writing

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
    team : Workers
        Processes of one machine that share the work; all must ask for the same in the same order.

    Raises
    ------
    OutputError
        What lies in the folder is of another identity, another process works on it, or the folder cannot be
        written.
    """

    def __init__(self, folder: Path, identity: str = "", team: Workers | None = None) -> None:
        self.folder, self.team = folder, team or Workers()
        make_folder(folder)
        with writing(folder):
            self._journal = (folder / f"journal-{self.team.rank}").open("a+", encoding="utf-8")
        self._lock()
        self._done: set[str] = set()
        try:
            self._mend(identity)
            self.team.wait()
            # Whoever has done it before: there may have been more of them.
            for journal in folder.glob("journal-*"):
                self._done.update(self._read(journal, identity)[1:])
        except OutputError:
            self.__exit__()
            raise

    def _mend(self, identity: str) -> None:
        """Begin the journal, or leave out a line that was not finished: it tells of nothing to rely on."""
        path = Path(self._journal.name)
        whole, newline, torn = path.read_text(encoding="utf-8").rpartition("\n")
        if torn:
            self._journal.truncate(len((whole + newline).encode()))
        if not self._read(path, identity):
            self._write(identity)

    def _read(self, journal: Path, identity: str) -> list[str]:
        """Whole lines of a journal, the first of which must be this run's identity."""
        lines = journal.read_text(encoding="utf-8").split("\n")[:-1]
        if lines and lines[0] != identity:
            raise OutputError(
                "the run that was interrupted here had another stack, model, version or other settings",
                path=self.folder.parent,
                hint="go on with the very same, or start anew with --overwrite",
            )
        return lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A line that a full disk has refused would be refused again.
        with suppress(OSError):
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
        with writing(self._journal.name):
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
        if self.team.leads and (not path.exists() or path.stat().st_size != size):
            with writing(path), path.open("wb") as file:
                # Room for all of it, or the system would end the program where it runs out.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                file.truncate(size)
        self.team.wait()
        return np.memmap(path, dtype, "r+", shape=shape)

    def drop(self, *names: str) -> None:
        """Remove files that nobody needs any more; arrays that are still in use keep what they have."""
        for name in names if self.team.leads else ():
            (self.folder / name).unlink(missing_ok=True)

    def has(self, stage: str) -> bool:
        """Whether a stage is done."""
        return stage in self._done

    def finish(self, stage: str) -> None:
        """Note that a stage is done, when all have come here."""
        self.team.wait()
        self._done.add(stage)
        if self.team.leads:
            self._write(stage)

    def parts(self, stage: str, parts: Sequence[Part], *arrays: NDArray[Any]) -> Iterator[Part]:
        """The parts of a stage that nobody has done; each counts as done when the next is asked for.

        They come to an end when all processes have done theirs.

        Parameters
        ----------
        stage : str
        parts : sequence
        *arrays : ndarray
            That the stage writes.
        """
        names = [f"{stage}, part {number + 1}" for number in range(len(parts))]
        share = slice(self.team.rank, None, self.team.size)
        for name, part in zip(names[share], parts[share], strict=True):
            if name in self._done:
                continue
            yield part
            with writing(self.folder):
                for array in arrays:
                    if isinstance(array, np.memmap):
                        array.flush()
            self._write(name)
        self.team.wait()
        self._done.update(names)

    def remove(self) -> None:
        """End the run: nothing of the folder remains."""
        if self.team.leads:
            shutil.rmtree(self.folder)

"""RELION's image names: ``000012@Extract/job007/stack.mrcs``, and where their files lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImageNames", "StackLocator", "parse_image_names"]


@dataclass(frozen=True)
class ImageNames:
    """Parsed image names of ``n`` particles.

    Attributes
    ----------
    files : list of str
        Each stack file once, as written, in order of first appearance.
    file : ndarray, shape (n,), int32
        Index into `files`; -1 for a name that makes no sense.
    index : ndarray, shape (n,), int64
        Image within the stack, counted from 0.
    """

    files: list[str]
    file: NDArray[np.int32]
    index: NDArray[np.int64]


def parse_image_names(names: Sequence[str]) -> ImageNames:
    """Split image names into stack file and index; a name without ``@`` is the file's first image."""
    files: dict[str, int] = {}
    file = np.full(len(names), -1, dtype=np.int32)
    index = np.zeros(len(names), dtype=np.int64)
    for row, name in enumerate(names):
        number, at, path = name.partition("@")
        if not at:
            number, path = "1", name
        digits = number.lstrip("0")
        # Longer numbers are no images', nor do they fit 64 bits.
        if path and digits.isdecimal() and len(digits) <= 18:
            file[row] = files.setdefault(path, len(files))
            index[row] = int(digits) - 1
    return ImageNames(list(files), file, index)


class StackLocator:
    """Finds the stack files that a STAR or cryoSPARC file names.

    RELION and cryoSPARC write names relative to the project folder, which is some ancestor of the file's
    folder. Looked at: the file's folder, each of its ancestors, and the working folder.

    Parameters
    ----------
    source : Path
        The STAR or cryoSPARC file.
    files : list of str
        The names in it; the folder in which the first of them is found is tried first for the rest.
    """

    def __init__(self, source: Path, files: Sequence[str]) -> None:
        folder = source.absolute().parent
        self.folders = list(dict.fromkeys([folder, *folder.parents, Path.cwd()]))
        self._found: dict[str, Path | None] = {}
        for name in files[:1]:
            home = next((folder for folder in self.folders if _is_file(folder / name)), None)
            if home is not None and not Path(name).is_absolute():
                self.folders.remove(home)
                self.folders.insert(0, home)

    def find(self, name: str) -> Path | None:
        """Path of a stack file, or None if it is nowhere."""
        if name not in self._found:
            # An absolute name stays itself when joined to a folder.
            candidates = (folder / name for folder in self.folders)
            self._found[name] = next((path for path in candidates if _is_file(path)), None)
        return self._found[name]

    def places(self, name: str) -> str:
        """Where `find` looks for a name, in words."""
        if Path(name).is_absolute():
            return str(Path(name).parent)
        return ", ".join(map(str, self.folders))


def _is_file(path: Path) -> bool:
    """Whether there is a file; a name that no file can have, or a folder that is closed, has none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False

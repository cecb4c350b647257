"""The folder that a simulation writes: refused if it holds something, cleared of an earlier simulation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import whole

__all__ = ["check_folder", "clear_folder", "reported", "write_config"]

_FILES = ("simulation.json", "particles.star", "particles.mrcs", "clean.star", "clean.mrcs", "volume.mrc")


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise OutputError unless the folder is empty, or may be written into."""
    if folder.exists() and not folder.is_dir():
        raise OutputError("the output folder is a file", path=folder)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise OutputError(
            "the output folder is not empty", path=folder, hint="Choose another folder, or say --overwrite"
        )


def clear_folder(folder: Path) -> None:
    """Make the folder and remove an earlier simulation, so that no mixture of two can remain."""
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)


@contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Turn the system's refusals to write into OutputError."""
    try:
        yield
    except OSError as problem:
        raise OutputError(f"the folder cannot be written: {problem}", path=folder) from problem


def write_config(folder: Path, chosen: dict[str, Any]) -> Path:
    """Write ``simulation.json``, which says that a simulation is whole."""
    path = folder / "simulation.json"
    with whole(path) as partial:
        partial.write_text(json.dumps(chosen | {"polarice": version("polarice")}, indent=2) + "\n")
    return path

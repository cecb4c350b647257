"""The folder that a simulation writes: cleared of an earlier one, and whole when its settings are there."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..files import make_folder, whole, writing

__all__ = ["clear_folder", "write_config"]

_FILES = ("simulation.json", "particles.star", "particles.mrcs", "clean.star", "clean.mrcs", "volume.mrc")


def clear_folder(folder: Path) -> None:
    """Make the folder and remove an earlier simulation, so that no mixture of two can remain."""
    make_folder(folder)
    with writing(folder):
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)


def write_config(folder: Path, chosen: dict[str, Any]) -> Path:
    """Write ``simulation.json``, which says that a simulation is whole."""
    path = folder / "simulation.json"
    with whole(path) as partial:
        partial.write_text(json.dumps(chosen | {"polarice": version("polarice")}, indent=2) + "\n")
    return path

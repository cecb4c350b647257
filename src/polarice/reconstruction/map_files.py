"""Half maps, the map of both, its mask and their correlation as files."""

from __future__ import annotations

from pathlib import Path

from ..particles import write_star
from ..simulation import Volume, write_map
from .fsc_files import fsc_tables
from .halves import HalfMaps

__all__ = ["MAP_FILES", "write_maps"]

_RELION_31 = 30001
_MAPS = ("half1", "half2", "map", "mask")
MAP_FILES = (*(f"{name}.mrc" for name in _MAPS), "fsc.star", "fsc.png")


def write_maps(maps: HalfMaps, out: Path) -> dict[str, str]:
    """Write maps and their correlation to a folder; returns the files and what they are."""
    volumes = (maps.first, maps.second, maps.whole, maps.mask)
    said = (
        "map of half set 1, not filtered",
        "map of half set 2, not filtered",
        "map of all particles, filtered by its correlation, within the mask",
        "the mask",
    )
    files = {}
    for name, volume, what in zip(_MAPS, volumes, said, strict=True):
        path = out / f"{name}.mrc"
        write_map(path, Volume(volume, maps.comparison.pixel_size_A))
        files[str(path)] = what
    path = out / "fsc.star"
    write_star(path, fsc_tables(maps.comparison), version=_RELION_31)
    files[str(path)] = "Fourier shell correlation of the half maps"
    return files

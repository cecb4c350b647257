"""From STAR to cryoSPARC files and back: metadata only, the images stay where they are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import OutputError, ParticleFileError
from ..files import require_place
from .cryosparc import make_dataset, write_cs
from .cryosparc_fields import SIGN
from .image_names import StackLocator
from .stack import ParticleStack
from .star import write_star
from .star_cryosparc import dataset_of

__all__ = ["Conversion", "convert_metadata"]


@dataclass(frozen=True)
class Conversion:
    """What has been converted.

    Attributes
    ----------
    path : Path
        The file that was written.
    particles : int
    notices : tuple of str
        What its user should know.
    """

    path: Path
    particles: int
    notices: tuple[str, ...]


def convert_metadata(
    source: str | Path,
    target: str | Path,
    *,
    passthrough: str | Path | None = None,
    pixel_size_A: float | None = None,
    contrast: Literal["bright", "dark"] = "bright",
    overwrite: bool = False,
) -> Conversion:
    """Write the metadata of a particle stack in another program's format.

    Parameters
    ----------
    source : path-like
        ``.star`` or ``.cs``.
    target : path-like
        ``.star`` (RELION 3.1's tables, unless the source has its own) or ``.cs``. Image paths that do not
        lead from there to the files that they name are written relative to its folder.
    passthrough : path-like, optional
        Passthrough file of a ``.cs`` source; found by its name by default.
    pixel_size_A : float, optional
        Å per pixel, where the source does not say.
    contrast : {"bright", "dark"}
        Of the protein in images of a STAR source, see `dataset_of`.
    overwrite : bool
        Replace the target.

    Returns
    -------
    Conversion

    Raises
    ------
    ParticleFileError
        If the source is broken, or is a bare stack.
    OutputError
        If the target has another suffix, is there already, is the source, or cannot be written.
    """
    target = Path(target)
    stack = ParticleStack.open(source, pixel_size_A=pixel_size_A, passthrough=passthrough)
    if not stack.tables:
        raise ParticleFileError(
            "has no metadata to convert", path=stack.path, hint="Give a .star or .cs file"
        )
    _require_target(target, stack.path, overwrite)
    places, lost = _places(stack, target)
    notices = []
    if lost:
        notices.append(
            f"{lost} of {len(places)} stack files were not found; their paths are left as they are."
        )
    if target.suffix.lower() == ".cs":
        _write_cs(stack, target, places, contrast)
        if stack.missing_ctf_columns:
            notices.append(f"no CTF is written: _{', _'.join(stack.missing_ctf_columns)} is missing.")
    else:
        _write_star(stack, target, places)
        notices += _relion_notices(stack)
    return Conversion(target, len(stack), tuple(notices))


def _require_target(target: Path, source: Path, overwrite: bool) -> None:
    if target.suffix.lower() not in (".star", ".cs"):
        raise OutputError(
            f"'{target.suffix}' files are not written", path=target, hint="End it in .star or .cs"
        )
    require_place(target)
    if target.exists() and target.samefile(source):
        raise OutputError(
            "would be replaced by what is made from it", path=target, hint="Choose another name"
        )
    if target.exists() and not overwrite:
        hint = "Choose another name, or say --overwrite"
        raise OutputError("the file exists already", path=target, hint=hint)


def _places(stack: ParticleStack, target: Path) -> tuple[list[str], int]:
    """Each stack file's name as seen from the target, and how many files are nowhere."""
    from_target = StackLocator(target, stack.names.files)
    places, lost = [], 0
    for name in stack.names.files:
        found, seen = stack.locator.find(name), from_target.find(name)
        lost += found is None
        stays = found is None or (seen is not None and seen.samefile(found))
        places.append(name if stays or found is None else os.path.relpath(found, target.absolute().parent))
    return places, lost


def _write_star(stack: ParticleStack, target: Path, places: list[str]) -> None:
    assert stack.particles is not None
    old = stack.particles.columns["rlnImageName"]
    rows = zip(old, stack.names.file.tolist(), stack.names.index.tolist(), strict=True)
    names = [
        name if file < 0 or places[file] == stack.names.files[file] else f"{index + 1:06d}@{places[file]}"
        for name, file, index in rows
    ]
    particles = stack.particles.with_columns({"rlnImageName": names})
    tables = [particles if table is stack.particles else table for table in stack.tables]
    write_star(target, tables, version=stack.version)


def _write_cs(
    stack: ParticleStack, target: Path, places: list[str], contrast: Literal["bright", "dark"]
) -> None:
    dataset = dataset_of(stack, contrast=contrast) if stack.dataset is None else stack.dataset
    if places != stack.names.files:
        paths = np.array([place.encode() for place in places], dtype=np.bytes_)
        dataset = make_dataset({"blob/path": paths[stack.names.file]}, dataset)
    write_cs(target, dataset)


def _relion_notices(stack: ParticleStack) -> list[str]:
    """Where images that suit cryoSPARC do not suit RELION."""
    notices = []
    sign = stack.numeric(SIGN)
    if sign is not None and (sign < 0).any():
        notices.append("the protein is dark in these images; RELION wants it bright: invert their contrast.")
    if any(name.endswith(".mrc") for name in stack.names.files):
        notices.append("RELION takes an .mrc file for one image: give the stacks links that end in .mrcs.")
    return notices

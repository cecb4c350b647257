"""A stack's tables with other columns, its images left where they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .stack import ParticleStack
from .star import StarTable, format_values

__all__ = ["origin_columns", "particle_tables"]


def particle_tables(stack: ParticleStack, columns: Mapping[str, Any]) -> list[StarTable]:
    """The stack's tables with columns set; RELION 3.1 tables are made for a bare stack.

    Image names are made such that RELION finds the images from the working folder.

    Parameters
    ----------
    stack : ParticleStack
    columns : mapping of str to scalar or sequence
        Of the particle table, named without the underscore.
    """
    told: dict[str, Any] = {"rlnImageName": _names(stack)}
    if not stack.tables:
        told["rlnOpticsGroup"] = 1
    told |= columns
    text = {name: format_values(values, len(stack)) for name, values in told.items()}
    if stack.particles is not None:
        changed = stack.particles.with_columns(text)
        return [changed if table is stack.particles else table for table in stack.tables]
    optics = {
        "rlnOpticsGroupName": "opticsGroup1",
        "rlnOpticsGroup": 1,
        "rlnVoltage": 0.0,
        "rlnSphericalAberration": 0.0,
        "rlnImagePixelSize": stack.pixel_size_A,
        "rlnImageSize": stack.box,
        "rlnImageDimensionality": 2,
    }
    group = StarTable("optics", {name: format_values(value, 1) for name, value in optics.items()})
    return [group, StarTable("particles", text)]


def origin_columns(stack: ParticleStack, centre_px: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """RELION's origins, in the terms of the stack's version: they say how an image must be moved.

    Parameters
    ----------
    stack : ParticleStack
    centre_px : ndarray, shape (n, 2)
        Where each particle lies, (x, y) in pixels of the stack from the centre of the box.
    """
    if stack.format == "RELION 3.0":
        return {"rlnOriginX": -centre_px[:, 0], "rlnOriginY": -centre_px[:, 1]}
    origin_A = -centre_px * np.float32(stack.pixel_size_A)
    return {"rlnOriginXAngst": origin_A[:, 0], "rlnOriginYAngst": origin_A[:, 1]}


def _names(stack: ParticleStack) -> list[str]:
    """Image names that RELION finds from the working folder, as it wants them."""
    places = []
    for name in stack.names.files:
        found = stack.locator.find(name)
        places.append(name if found is None or Path(name).exists() else str(found.absolute()))
    pairs = zip(stack.names.index.tolist(), stack.names.file.tolist(), strict=True)
    return [f"{index + 1:06d}@{places[file]}" for index, file in pairs]

"""Classes and their members as STAR tables, in RELION's terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..particles import ParticleStack, StarTable, format_values

__all__ = ["class_tables", "member_tables"]


def member_tables(
    stack: ParticleStack,
    label: NDArray[np.int64],
    probability: NDArray[np.float32],
    evidence: NDArray[np.float32],
    angles_deg: NDArray[np.float32],
    centre_px: NDArray[np.float32],
) -> list[StarTable]:
    """The stack's tables with each particle's class, angle and shift, as after a 2D classification.

    Parameters
    ----------
    stack : ParticleStack
    label : ndarray of int, shape (n,)
        From 0.
    probability, evidence : ndarray, shape (n,)
    angles_deg : ndarray, shape (n,)
        How far an image must be turned from x towards y to lie upon its class.
    centre_px : ndarray, shape (n, 2)
        Where each particle lies, (x, y) in pixels of the stack from the centre of the box.
    """
    columns: dict[str, Any] = {"rlnImageName": _names(stack)}
    if not stack.tables:
        columns["rlnOpticsGroup"] = 1
    columns |= {
        "rlnClassNumber": label + 1,
        "rlnAngleRot": 0.0,
        "rlnAngleTilt": 0.0,
        "rlnAnglePsi": angles_deg,
    }
    # RELION's origin says how an image must be moved.
    if stack.format == "RELION 3.0":
        columns |= {"rlnOriginX": -centre_px[:, 0], "rlnOriginY": -centre_px[:, 1]}
    else:
        origin_A = -centre_px * stack.pixel_size_A
        columns |= {"rlnOriginXAngst": origin_A[:, 0], "rlnOriginYAngst": origin_A[:, 1]}
    columns |= {"rlnMaxValueProbDistribution": probability, "rlnLogLikeliContribution": evidence}
    text = {name: format_values(values, len(stack)) for name, values in columns.items()}
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


def _names(stack: ParticleStack) -> list[str]:
    """Image names that RELION finds from the working folder, as it wants them."""
    places = []
    for name in stack.names.files:
        found = stack.locator.find(name)
        places.append(name if found is None or Path(name).exists() else str(found.absolute()))
    pairs = zip(stack.names.index.tolist(), stack.names.file.tolist(), strict=True)
    return [f"{index + 1:06d}@{places[file]}" for index, file in pairs]


def class_tables(stack: ParticleStack, averages: Path, members: NDArray[np.int64]) -> list[StarTable]:
    """What RELION reads of the classes of a 2D classification.

    Parameters
    ----------
    stack : ParticleStack
    averages : Path
        The stack of class averages.
    members : ndarray of int, shape (k,)
        Of each class.
    """
    general = {
        "rlnReferenceDimensionality": 2,
        "rlnDataDimensionality": 2,
        "rlnOriginalImageSize": stack.box,
        "rlnPixelSize": stack.pixel_size_A,
        "rlnNrClasses": len(members),
    }
    classes = {
        "rlnReferenceImage": [f"{k + 1:06d}@{averages}" for k in range(len(members))],
        "rlnClassDistribution": members / members.sum(),
    }
    return [
        StarTable("model_general", {name: format_values(value, 1) for name, value in general.items()}, False),
        StarTable(
            "model_classes", {name: format_values(values, len(members)) for name, values in classes.items()}
        ),
    ]

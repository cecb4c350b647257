"""Classes and their members as STAR tables, in RELION's terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..particles import ParticleStack, StarTable, format_values, origin_columns, particle_tables

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
    columns: dict[str, Any] = {
        "rlnClassNumber": label + 1,
        "rlnAngleRot": 0.0,
        "rlnAngleTilt": 0.0,
        "rlnAnglePsi": angles_deg,
    }
    columns |= origin_columns(stack, centre_px)
    columns |= {"rlnMaxValueProbDistribution": probability, "rlnLogLikeliContribution": evidence}
    return particle_tables(stack, columns)


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

"""What charts are drawn from: plain data, one kind for each kind of chart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AngleProfile",
    "AttentionMap",
    "Directions",
    "Floats",
    "Histogram",
    "RadialCurve",
    "RadialCurves",
    "ViewMap",
]

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class AttentionMap:
    """Attention of queries (rows) to images (columns), summed over in-plane angles.

    Attributes
    ----------
    weights : array, shape (queries, images)
    query_label, image_label : str
        What the axes count.
    note : str
        Which particles these are.
    """

    weights: Floats
    query_label: str = "query"
    image_label: str = "image attended to"
    note: str = ""


@dataclass(frozen=True)
class ViewMap:
    """Particles in the plane, those that look alike close together.

    Attributes
    ----------
    names : tuple of str
        Of the points.
    position : array, shape (n, 2)
        Within -1 and 1.
    share : array, shape (n,)
        Between 0 and 1, for the colours.
    pinned : tuple of int
        Points whose images are shown; the first is number 1, as among the classes.
    images : tuple of array, shape (y, x)
        Theirs.
    note : str
        Which particles these are.
    share_name : str
    """

    names: tuple[str, ...]
    position: Floats
    share: Floats
    pinned: tuple[int, ...] = ()
    images: tuple[Floats, ...] = ()
    note: str = ""
    share_name: str = "confidence"


@dataclass(frozen=True)
class AngleProfile:
    """Attention of one query to some neighbours as a function of the in-plane angle.

    Attributes
    ----------
    label : str
        Which query.
    angles_deg : array, shape (m,)
    weights : array, shape (neighbours, m)
    names : tuple of str
        One for each neighbour.
    """

    label: str
    angles_deg: Floats
    weights: Floats
    names: tuple[str, ...]


@dataclass(frozen=True)
class RadialCurve:
    """A curve over the rings 0 … box // 2 of the spectrum."""

    label: str
    values: Floats


@dataclass(frozen=True)
class RadialCurves:
    """Curves over spatial frequency.

    Attributes
    ----------
    box : int
        Side of the images in pixels.
    pixel_size_A : float
    gain : tuple of RadialCurve
        Amplitude kept, relative to the truth or to the input.
    gain_reference : str
        Relative to what, in words.
    frc : tuple of RadialCurve
        Fourier ring correlations.
    frc_reference : str
        Between what, in words.
    frc_levels : tuple of float
        Where the correlation is read, marked by dashed lines.
    power : tuple of RadialCurve
        Mean power in each ring.
    power_note : str
        How to read it.
    """

    box: int
    pixel_size_A: float
    gain: tuple[RadialCurve, ...] = ()
    gain_reference: str = "the truth"
    frc: tuple[RadialCurve, ...] = ()
    frc_reference: str = "the truth"
    frc_levels: tuple[float, ...] = (0.5,)
    power: tuple[RadialCurve, ...] = ()
    power_note: str = ""


@dataclass(frozen=True)
class Histogram:
    """How a number that each particle has is spread.

    Attributes
    ----------
    title : str
    axis_label : str
    values : array, shape (n,)
    note : str
        How to read it.
    """

    title: str
    axis_label: str
    values: Floats
    note: str = ""


@dataclass(frozen=True)
class Directions:
    """From which sides particles are seen.

    Attributes
    ----------
    title : str
    towards : array, shape (n, 3)
        Unit vectors in the specimen's coordinates.
    note : str
        How to read it.
    """

    title: str
    towards: Floats
    note: str = ""

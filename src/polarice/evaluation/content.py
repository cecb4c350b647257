"""What a report says: plain data, every section of it optional.

Images are float arrays; whoever fills a report in has already rotated, filtered and labelled them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .chart_data import AngleProfile, AttentionMap, Directions, Floats, Histogram, RadialCurves, ViewMap

__all__ = [
    "Chapter",
    "ClassTile",
    "Comparison",
    "FileWritten",
    "Gallery",
    "GalleryRow",
    "GuardCheck",
    "Heading",
    "KeyFigure",
    "MapShown",
    "Neighbour",
    "Neighbourhood",
    "Notice",
    "ReportContent",
    "StageTime",
]


@dataclass(frozen=True)
class KeyFigure:
    """A number that a reader should see first.

    Attributes
    ----------
    label : str
        What it is, in a few words.
    value : str
        The number as it should be read, with its unit.
    note : str
        What it means or compares with, one short phrase.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Notice:
    """Something that the reader must know before believing the rest."""

    text: str
    level: Literal["good", "note", "warning"] = "warning"


@dataclass(frozen=True)
class GalleryRow:
    """The same particles at one step of the way.

    Attributes
    ----------
    label : str
        Name of the row, such as "Denoised".
    note : str
        What was done to the images, in words.
    images : array, shape (n, y, x)
    grey : (float, float), optional
        Grey values of black and white; by default nearly the whole range of the row's images.
    """

    label: str
    note: str
    images: Floats
    grey: tuple[float, float] | None = None


@dataclass(frozen=True)
class Gallery:
    """Some particles, one a column, at several steps, one a row.

    Attributes
    ----------
    columns : tuple of str
        Name of each particle, such as "row 12".
    rows : tuple of GalleryRow
    """

    columns: tuple[str, ...]
    rows: tuple[GalleryRow, ...]


@dataclass(frozen=True)
class Comparison:
    """Many particles before and after, to be compared under a slider.

    Attributes
    ----------
    names : tuple of str
        Of the particles, such as "row 12".
    before, after : array, shape (n, y, x)
        In one grey range each.
    before_name, after_name : str
    note : str
        Which particles these are.
    share : array, shape (n,), optional
        Between 0 and 1, by which the particles can be put in order.
    share_name : str
    """

    names: tuple[str, ...]
    before: Floats
    after: Floats
    before_name: str = "before"
    after_name: str = "after"
    note: str = ""
    share: Floats | None = None
    share_name: str = "confidence"


@dataclass(frozen=True)
class Neighbour:
    """An image that a particle was denoised with.

    Attributes
    ----------
    label : str
        Which particle it is.
    image : array, shape (y, x)
        Already rotated into the query's frame.
    angle_deg : float
        In-plane angle by which it was rotated.
    weight : float
        Share of the query's attention, 0 to 1.
    """

    label: str
    image: Floats
    angle_deg: float
    weight: float


@dataclass(frozen=True)
class Neighbourhood:
    """One particle, what it looked at, and what came out.

    Attributes
    ----------
    label : str
    query, denoised : array, shape (y, x)
    neighbours : tuple of Neighbour
        Strongest first.
    note : str
        For instance the effective number of images.
    outcome : str
        What the last image is.
    """

    label: str
    query: Floats
    neighbours: tuple[Neighbour, ...]
    denoised: Floats
    note: str = ""
    outcome: str = "denoised"


@dataclass(frozen=True)
class MapShown:
    """A map in three dimensions.

    Attributes
    ----------
    label, note : str
    density : array, shape (L, L, L)
        Axes (z, y, x).
    """

    label: str
    note: str
    density: Floats


@dataclass(frozen=True)
class GuardCheck:
    """What became of pure white noise.

    Attributes
    ----------
    noise_energy : float
        Output energy over input energy for the noise.
    particle_energy : float
        The same for the particles.
    gallery : Gallery, optional
        Some of the noise, before and after; the latter needs the grey range of denoised particles, or
        else the faintest remainder fills the range and looks like something.
    """

    noise_energy: float
    particle_energy: float
    gallery: Gallery | None = None


@dataclass(frozen=True)
class StageTime:
    """Seconds that one stage of the run took."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class FileWritten:
    """A file that the run left, and what it is for."""

    path: Path
    what: str


@dataclass(frozen=True)
class ClassTile:
    """A class of particles.

    Attributes
    ----------
    label, note : str
    images : tuple of array, shape (y, x)
        Its averages, such as of original and of denoised pixels.
    """

    label: str
    note: str
    images: tuple[Floats, ...]


@dataclass(frozen=True)
class Heading:
    """What a section is called, and what is said before its pictures."""

    title: str
    lead: str


@dataclass(frozen=True)
class Chapter:
    """A section that a page of its own kind brings: words, then pictures, then curves.

    Attributes
    ----------
    anchor : str
    heading : Heading
    gallery : Gallery, optional
    radial : RadialCurves, optional
    histograms : tuple of Histogram
    directions : Directions, optional
    """

    anchor: str
    heading: Heading
    gallery: Gallery | None = None
    radial: RadialCurves | None = None
    histograms: tuple[Histogram, ...] = ()
    directions: Directions | None = None


BEFORE_AND_AFTER = Heading(
    "Before and after",
    "Each column is one particle, each row one step. All images of a row share the grey range stated "
    "beside its name, from black to white.",
)
DENOISED_WITH = Heading(
    "What a particle was denoised with",
    "First a particle as it came, then the images that it drew on, each already turned into the "
    "particle’s own frame by the angle beneath it; bar and percentage are that image’s share of the "
    "attention. Last, what came out. Where the neighbours do not look like the particle, do not trust "
    "the result.",
)


CLASSES = Heading(
    "Classes",
    "Averages of the particles of each class, turned and moved upon each other; the largest class first. "
    "Where there are two, original pixels above, denoised ones below.",
)


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page; a section whose data is None or empty is left out.

    Attributes
    ----------
    title, summary : str
        The summary is one sentence that says what happened.
    provenance : str
        Program, version, date: one line at the foot.
    configuration : mapping
        The resolved configuration; values may be mappings themselves.
    """

    title: str
    summary: str
    provenance: str = ""
    key_figures: tuple[KeyFigure, ...] = ()
    notices: tuple[Notice, ...] = ()
    comparison: Comparison | None = None
    gallery: Gallery | None = None
    neighbourhoods: tuple[Neighbourhood, ...] = ()
    attention: AttentionMap | None = None
    angle_profiles: tuple[AngleProfile, ...] = ()
    radial: RadialCurves | None = None
    spectra: RadialCurves | None = None
    optics: tuple[Histogram, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    guard: GuardCheck | None = None
    timings: tuple[StageTime, ...] = ()
    files: tuple[FileWritten, ...] = ()
    configuration: Mapping[str, object] | None = None
    classes: tuple[ClassTile, ...] = ()
    chapters: tuple[Chapter, ...] = ()
    view_map: ViewMap | None = None
    maps: tuple[MapShown, ...] = ()
    gallery_heading: Heading = BEFORE_AND_AFTER
    neighbours_heading: Heading = DENOISED_WITH
    classes_heading: Heading = CLASSES

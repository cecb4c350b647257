"""The report of a denoising run: which particles are shown, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..denoising import DenoiseResult, agreement_columns, effective_neighbours
from ..particles import ParticleStack
from .chart_data import Histogram
from .content import FileWritten, KeyFigure, Notice, ReportContent, StageTime
from .figures import gallery_picture
from .fragments import duration
from .noise_check import noise_check
from .report import write_report
from .run_graph import VIEWS, angle_profiles, attention, neighbourhoods, views
from .run_images import STEPS, compare, optics, spectra, steps
from .summary import evaluation_curves, evaluation_figures

__all__ = ["run_report", "verdict"]

_SHOWN = 12
# A lower confidence is as good as none; and the share of particles with it that is worth a warning.
_ALONE, _MANY = 0.1, 0.2


def run_report(
    path: str | Path,
    result: DenoiseResult,
    *,
    truth: str | Path | None = None,
    evaluation: Mapping[str, Any] | None = None,
    beside: Mapping[str, Path] | None = None,
    picture: str | Path | None = None,
) -> Path:
    """Write the page of a denoising run.

    Parameters
    ----------
    path : path-like
        The HTML file.
    result : DenoiseResult
    truth : path-like, optional
        Clean stack with the same rows, shown beside.
    evaluation : mapping, optional
        What `evaluate` returned for it.
    beside : mapping of str to Path, optional
        Other denoised stacks of the same rows, shown under these names.
    picture : path-like, optional
        Write the gallery as a PNG too.

    Returns
    -------
    Path
    """
    source = ParticleStack.open(result.source, pixel_size_A=result.settings.pixel_size_A)
    denoised = ParticleStack.open(result.star, pixel_size_A=result.settings.pixel_size_A)
    clean = None if truth is None else ParticleStack.open(truth)
    rows = np.unique(np.linspace(0, len(source) - 1, _SHOWN).astype(int))
    jointly = result.weights is not None
    how = f"each with up to {result.settings.neighbours} neighbours" if jointly else "each alone"
    summary = (
        f"{len(source):,} particles of {result.source.name} were denoised, {how}, "
        f"by {Path(result.settings.model).stem}."
    )
    gallery = steps(result, source, denoised, clean, rows, beside or {})
    if picture is not None:
        gallery_picture(picture, gallery)
    classes, view_map = views(result, source, denoised)
    content = ReportContent(
        title=f"Denoised particles: {result.source.name}",
        summary=summary,
        provenance=f"polarice {__version__}",
        key_figures=(*(evaluation_figures(evaluation) if evaluation else ()), *_key_figures(result, source)),
        notices=(*verdict(result), *(Notice(text, "note") for text in result.notices)),
        comparison=compare(result, source, denoised),
        gallery=gallery,
        gallery_heading=STEPS,
        classes=classes,
        classes_heading=VIEWS,
        view_map=view_map,
        neighbourhoods=neighbourhoods(result, source, denoised),
        attention=attention(result),
        angle_profiles=angle_profiles(result, source),
        radial=evaluation_curves(evaluation) if evaluation else None,
        spectra=spectra(result, source, denoised),
        optics=optics(source),
        histograms=_histograms(result),
        guard=noise_check(result, source, denoised),
        timings=tuple(StageTime(stage, seconds) for stage, seconds in result.seconds.items()),
        files=tuple(FileWritten(Path(file), what) for file, what in result.files.items()),
        configuration=result.configuration(),
    )
    return write_report(path, content)


def _key_figures(result: DenoiseResult, source: ParticleStack) -> tuple[KeyFigure, ...]:
    count, seconds = len(result.found.statistics), sum(result.seconds.values())
    found = "found in the stack" if result.found.contrast is not None else "assumed"
    preprocessor = result.preprocessor
    flipped = "phases flipped, " if preprocessor.phase_flip else ""
    figures = [
        KeyFigure("Particles", f"{count:,}", f"{count / seconds:.0f} a second, file to file"),
        KeyFigure("Time", duration(seconds), "file to file, without this page"),
        KeyFigure(
            "Images",
            f"{source.box} px",
            f"{flipped}{source.pixel_size_A:.3g} Å/px",
        ),
        KeyFigure(
            "Contrast",
            preprocessor.contrast,
            f"protein, {found if result.settings.contrast is None else 'as given'}",
        ),
    ]
    if result.weights is not None:
        taken, sure = result.weights.sum(1), result.confidence
        equal = effective_neighbours(result.weights).mean()
        figures.append(KeyFigure("Taken from neighbours", f"{taken.mean():.0%}", "mean over particles"))
        figures.append(
            KeyFigure("Confidence", f"{sure.mean():.2f}", "the same, from neighbours of one view; mean")
        )
        figures.append(
            KeyFigure(
                "Effective neighbours", f"{equal:.1f}", "as many with equal weights would count the same"
            )
        )
    return tuple(figures)


def verdict(result: DenoiseResult) -> tuple[Notice, ...]:
    """What the confidences say of the run as a whole."""
    if result.weights is None:
        return ()
    sure = result.confidence
    taken, mean = float(result.weights.sum(1).mean()), float(sure.mean())
    alone = float((sure < _ALONE).mean())
    if taken < _ALONE:
        words = (
            f"Hardly anything came from neighbours ({taken:.0%}): the particles were denoised nearly alone. "
            "Empty picks, a wrong contrast, too few particles or too much noise do this."
        )
        return (Notice(words),)
    if mean < _ALONE:
        words = (
            f"On the mean {taken:.0%} of an image comes from others, but nothing in the stack says that "
            f"these show the same view (confidence {mean:.2f}). What is to be seen may be what all particles "
            "share. Neighbours in crowded boxes do this (a --mask-diameter of 1.4 times the particle hides "
            "them), particles that look alike from all sides, empty picks and too much noise."
        )
        return (Notice(words),)
    if alone > _MANY:
        words = (
            f"{alone:.0%} of the particles found hardly any neighbour of their view (confidence below "
            f"{_ALONE:g}): rare views, junk or empty picks. What they show rests on the network, and on "
            "particles of other views."
        )
        return (Notice(words),)
    words = (
        f"{1 - alone:.0%} of the particles found neighbours of their view; on the mean {mean:.0%} of an "
        "image comes from them."
    )
    return (Notice(words, "good"),)


def _histograms(result: DenoiseResult) -> tuple[Histogram, ...]:
    if result.weights is None:
        return ()
    return (
        Histogram(
            "Effective neighbours",
            "effective neighbours",
            effective_neighbours(result.weights),
            "How many with equal weights would count the same.",
        ),
        Histogram(
            "Confidence",
            "confidence",
            result.confidence,
            "Share of an image that comes from neighbours of the same view, as likely as they are. Far to "
            "the left lie particles that found nobody of their view.",
        ),
        *_agreement(result),
    )


def _agreement(result: DenoiseResult) -> tuple[Histogram, ...]:
    """How far two estimates of each particle agree, where that was asked for."""
    if result.agreement is None:
        return ()
    values = agreement_columns(result.agreement, 1.0)["polariceAgreement"]
    note = "By neighbours that know nothing of each other. It tells what is not noise, not what is true."
    return (Histogram("Agreement of two estimates", "mean ring correlation", values, note),)

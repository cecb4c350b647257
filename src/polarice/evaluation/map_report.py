"""The page of an initial model: the map, how far to trust it, and, where it is known, the truth beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..imaging import shift_images
from ..particles import ParticleStack
from ..reconstruction import AbInitioResult
from ..simulation import Projector, Volume
from .chart_data import Directions, Histogram, RadialCurve, RadialCurves
from .content import (
    Chapter,
    FileWritten,
    Gallery,
    GalleryRow,
    Heading,
    KeyFigure,
    MapShown,
    Notice,
    ReportContent,
    StageTime,
)
from .report import write_report
from .seen import LOW_PASS_A, low_pass
from .truth import Compared, Truth

__all__ = ["map_report"]

_SHOWN = 12
_BESIDE = Heading(
    "Particles and the map",
    "Each column is one particle, from the surest to the least sure. The projection of the map in the "
    "orientation that was found should look like the particle; the denoised one was looked at to find the "
    "orientation, and has no part in the map.",
)


def map_report(path: str | Path, result: AbInitioResult, truth: Truth | None = None) -> dict[str, Any]:
    """Write the page of an initial model.

    Parameters
    ----------
    path : path-like
        The HTML file.
    result : AbInitioResult
    truth : Truth, optional
        Of the same particles.

    Returns
    -------
    dict
        How far the result lies from the truth, as plain values; empty without one.
    """
    compared, lines = None, None
    if truth is not None:
        halves = result.observed.stack.half_sets
        assert halves is not None
        compared = truth.compare(result.observed, result.refined.poses, halves, result.refined.draws)
        lines = truth.errors_deg(torch.from_numpy(result.from_lines))
    figures = {} if compared is None else compared.figures()
    if lines is not None:
        figures["mean_error_of_common_lines_deg"] = round(float(lines.mean()), 3)
    content = ReportContent(
        title=f"Initial model: {result.source.name}",
        summary=f"A map of {len(result.rotations):,} particles, whose orientations nobody gave.",
        key_figures=_key_figures(result, compared),
        notices=(
            *(Notice(text, "warning") for text in result.warnings),
            *(Notice(text, "note") for text in result.notices),
        ),
        maps=_maps(result, compared, truth),
        radial=_curves(result, compared),
        chapters=(
            Chapter("particles", _BESIDE, gallery=_gallery(result)),
            Chapter(
                "orientations",
                Heading("Orientations", "From where the particles are seen, and how well they fit together."),
                directions=Directions(
                    "Directions of view",
                    result.rotations[:, 2],
                    "Equal areas of the picture are equal areas of the sphere. Empty regions leave the map "
                    "without detail along some directions.",
                ),
                histograms=_histograms(result, compared),
            ),
        ),
        timings=tuple(StageTime(stage, seconds) for stage, seconds in result.seconds.items()),
        files=tuple(FileWritten(Path(file), what) for file, what in result.files.items()),
        configuration=result.configuration(),
    )
    write_report(path, content)
    return figures


def _key_figures(result: AbInitioResult, compared: Compared | None) -> tuple[KeyFigure, ...]:
    comparison = result.maps.comparison
    found = [
        KeyFigure("Particles", f"{len(result.rotations):,}"),
        KeyFigure("Half maps agree to", f"{comparison.resolution_A():.1f} Å", "at 0.143"),
        KeyFigure("Confidence", f"{result.confidence.mean():.2f}", "mean over particles"),
    ]
    if compared is not None:
        found += [
            KeyFigure(
                "Error of orientations", f"{compared.errors_deg.mean():.1f}°", "mean; guesses have 126.5°"
            ),
            KeyFigure("", f"{compared.errors_deg.median():.1f}°", "median"),
            KeyFigure("Map and truth agree to", f"{compared.fsc.resolution_A(0.5):.1f} Å", "at 0.5"),
        ]
    return tuple(found)


def _maps(result: AbInitioResult, compared: Compared | None, truth: Truth | None) -> tuple[MapShown, ...]:
    if compared is None or truth is None:
        note = "of the original images; its hand is open"
        return (MapShown("The map", note, result.maps.whole.cpu().numpy()),)
    return (
        MapShown(
            "The map", "of the original images, turned as the truth is", compared.maps.whole.cpu().numpy()
        ),
        MapShown("The truth", "what was projected", truth.volume.density.numpy()),
    )


def _curves(result: AbInitioResult, compared: Compared | None) -> RadialCurves:
    comparison = result.maps.comparison
    names = {"corrected": "half maps, masked, corrected", "unmasked": "half maps, not masked"}
    curves = comparison.curves()
    shown = [
        RadialCurve(label, curves[name].cpu().numpy()) for name, label in names.items() if name in curves
    ]
    if compared is not None:
        shown.append(RadialCurve("map and truth, masked", compared.fsc.best.cpu().numpy()))
    return RadialCurves(
        box=comparison.box,
        pixel_size_A=comparison.pixel_size_A,
        frc=tuple(shown),
        frc_reference="the other map, over shells instead of rings",
        frc_levels=(0.5, 0.143),
    )


def _histograms(result: AbInitioResult, compared: Compared | None) -> tuple[Histogram, ...]:
    found = [
        Histogram(
            "Confidence",
            "share of others that it meets",
            result.confidence,
            "Share of the other particles with which one meets along rays that are likelier to be one than "
            "strangers.",
        )
    ]
    if compared is not None:
        found.append(
            Histogram(
                "Errors of orientations",
                "angle to the truth (°)",
                compared.errors_deg.numpy(),
                "After the best rotation and hand of all together.",
            )
        )
    return tuple(found)


def _gallery(result: AbInitioResult) -> Gallery:
    """Some particles as they came, as they were denoised, and as the map says they are."""
    order = np.argsort(-result.confidence, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().astype(int)]
    rows = np.unique(rows)
    rows = rows[np.argsort(-result.confidence[rows], kind="stable")]
    pixel_size_A = result.observed.pixel_size_A
    seen = result.observed.read(rows).images.cpu()
    project = Projector(Volume(result.maps.whole.cpu(), pixel_size_A))
    shown = shift_images(
        project(torch.from_numpy(result.rotations[rows])), torch.from_numpy(result.centre_px[rows])
    )
    denoised = ParticleStack.open(result.denoised).images(rows)
    sign = 1.0 if result.observed.contrast == "bright" else -1.0
    return Gallery(
        tuple(f"row {row + 1}" for row in rows),
        (
            GalleryRow(
                "As it came",
                f"low-passed to {LOW_PASS_A:.0f} Å for the eye",
                low_pass(seen, pixel_size_A).numpy(),
            ),
            GalleryRow("Denoised", "what was looked at", sign * denoised),
            GalleryRow("The map", "projected as it was found to lie", shown.numpy()),
        ),
    )

"""The report of a denoising run: which particles are shown, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..denoising import (
    DenoiseResult,
    SetDenoiser,
    agreement_columns,
    confidence,
    effective_neighbours,
)
from ..neighbours import NOBODY
from ..particles import ParticleStack
from .content import (
    AngleProfile,
    AttentionMap,
    FileWritten,
    Gallery,
    GalleryRow,
    Histogram,
    KeyFigure,
    Neighbour,
    Neighbourhood,
    Notice,
    ReportContent,
    StageTime,
)
from .figures import gallery_picture
from .noise_check import noise_check
from .report import write_report
from .seen import LOW_PASS_A, bright, low_pass, model_images
from .summary import evaluation_curves, evaluation_figures

__all__ = ["run_report"]

_SHOWN = 12
_NEIGHBOURHOODS = 3


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
    gallery = _gallery(result, source, denoised, clean, rows, beside or {})
    if picture is not None:
        gallery_picture(picture, gallery)
    content = ReportContent(
        title=f"Denoised particles: {result.source.name}",
        summary=summary,
        key_figures=(*(evaluation_figures(evaluation) if evaluation else ()), *_key_figures(result)),
        notices=tuple(Notice(text, "note") for text in result.notices),
        gallery=gallery,
        neighbourhoods=_neighbourhoods(result, source, denoised),
        attention=_attention(result, source),
        angle_profiles=_angle_profiles(result, source),
        radial=evaluation_curves(evaluation) if evaluation else None,
        histograms=_histograms(result),
        guard=noise_check(result, source, denoised),
        timings=tuple(StageTime(stage, seconds) for stage, seconds in result.seconds.items()),
        files=tuple(FileWritten(Path(file), what) for file, what in result.files.items()),
        configuration=result.configuration(),
    )
    return write_report(path, content)


def _key_figures(result: DenoiseResult) -> tuple[KeyFigure, ...]:
    count, seconds = len(result.found.statistics), sum(result.seconds.values())
    found = "found in the stack" if result.found.contrast is not None else "assumed"
    figures = [
        KeyFigure("Particles", f"{count:,}", f"{count / seconds:.0f} a second, file to file"),
        KeyFigure(
            "Contrast",
            f"{result.preprocessor.contrast} protein",
            found if result.settings.contrast is None else "as given",
        ),
    ]
    if result.weights is not None:
        taken = result.weights.sum(1).mean()
        equal = effective_neighbours(result.weights).mean()
        figures.append(KeyFigure("Taken from neighbours", f"{taken:.0%}", "mean over particles"))
        figures.append(
            KeyFigure(
                "Effective neighbours", f"{equal:.1f}", "as many with equal weights would count the same"
            )
        )
    return tuple(figures)


def _gallery(
    result: DenoiseResult,
    source: ParticleStack,
    denoised: ParticleStack,
    clean: ParticleStack | None,
    rows: np.ndarray,
    beside: Mapping[str, Path],
) -> Gallery:
    seen = model_images(result, source, rows)
    pixel = result.preprocessor.model_pixel_size_A
    clearer = low_pass(seen, pixel).numpy()
    flipped = ", phases flipped" if result.preprocessor.phase_flip else ""
    shown = bright(result, denoised, rows)
    grey = (float(np.quantile(shown, 0.001)), float(np.quantile(shown, 0.999)))
    table = [
        GalleryRow("As they came", "in the file's own grey scale", source.images(rows)),
        GalleryRow(
            "Low-passed",
            f"what the network sees: protein bright{flipped}; blurred to {LOW_PASS_A:.0f} Å",
            clearer,
        ),
    ]
    for name, star in beside.items():
        images = bright(result, ParticleStack.open(star), rows)
        table.append(GalleryRow(name, "in the grey range of the next row", images, grey))
    table.append(
        GalleryRow(
            f"Denoised by {Path(result.settings.model).stem}",
            "protein bright, in units of the noise",
            shown,
            grey,
        )
    )
    if clean is not None:
        images = bright(result, clean, rows)
        table.append(GalleryRow("Truth", "the noiseless images, in the same grey range", images, grey))
    return Gallery(tuple(f"row {row + 1}" for row in rows), tuple(table))


def turned(images: Tensor, angles_deg: Tensor) -> Tensor:
    """Images (n, y, x) turned about the origin pixel, from x towards y."""
    size = images.shape[-1]
    angle = torch.deg2rad(angles_deg)
    axis = torch.arange(size, dtype=images.dtype) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    # A turned image takes each pixel from where the inverse turn leads.
    from_x, from_y = cos * x + sin * y, -sin * x + cos * y
    place = (torch.stack([from_x, from_y], -1) + size // 2) * 2 / (size - 1) - 1
    turned = torch.nn.functional.grid_sample(images[:, None], place, mode="bicubic", align_corners=True)
    return turned[:, 0]


def _chosen(result: DenoiseResult) -> np.ndarray:
    """Rows whose neighbours are shown: of high, middling and low confidence."""
    assert result.weights is not None
    order = np.argsort(-effective_neighbours(result.weights), kind="stable")
    return order[[int(f * (len(order) - 1)) for f in np.linspace(0.1, 0.9, _NEIGHBOURHOODS)]]


def _neighbourhoods(
    result: DenoiseResult, source: ParticleStack, denoised: ParticleStack
) -> tuple[Neighbourhood, ...]:
    if result.neighbours is None or result.weights is None or result.angles_deg is None:
        return ()
    pixel = result.preprocessor.model_pixel_size_A
    found = []
    for row in _chosen(result):
        places = np.flatnonzero(result.neighbours[row] != NOBODY)
        places = places[np.argsort(-result.weights[row, places], kind="stable")][:8]
        partners = result.neighbours[row, places]
        angles = result.angles_deg[row, places]
        aligned = turned(model_images(result, source, partners), torch.from_numpy(angles))
        views = low_pass(aligned, pixel).numpy()
        query = low_pass(model_images(result, source, np.array([row])), pixel)[0].numpy()
        found.append(
            Neighbourhood(
                f"row {row + 1}",
                query,
                tuple(
                    Neighbour(f"row {p + 1}", view, float(angle), float(result.weights[row, place]))
                    for p, view, angle, place in zip(partners, views, angles, places, strict=True)
                ),
                bright(result, denoised, np.array([row]))[0],
                f"low-passed to {LOW_PASS_A:.0f} Å for the eye",
            )
        )
    return tuple(found)


def _attention(result: DenoiseResult, source: ParticleStack) -> AttentionMap | None:
    if result.neighbours is None or result.weights is None:
        return None
    members = _family(result)
    weights = np.zeros((len(members), len(members)))
    for i, row in enumerate(members):
        for j, other in enumerate(members):
            weights[i, j] = result.weights[row, result.neighbours[row] == other].sum()
    note = "a particle and its neighbours: how much each (row) took from each other (column)"
    return AttentionMap(weights, note=note)


def _family(result: DenoiseResult) -> np.ndarray:
    assert result.neighbours is not None
    row = int(_chosen(result)[0])
    partners = result.neighbours[row]
    return np.concatenate([[row], partners[partners != NOBODY]])


def _angle_profiles(result: DenoiseResult, source: ParticleStack) -> tuple[AngleProfile, ...]:
    """Attention over the angle for one particle and its family, from a fresh look at that set."""
    if result.weights is None:
        return ()
    members = _family(result)[:17]
    denoiser = SetDenoiser(result.settings.model, "cpu")
    coefficients = denoiser(model_images(result, source, members)[None]).attention[0, 0]
    best = torch.argsort(coefficients.sum(-1), descending=True)[:4]
    angles = np.arange(coefficients.shape[-1]) * 360 / coefficients.shape[-1]
    names = tuple(f"row {members[int(i)] + 1}" for i in best)
    label = f"row {members[0] + 1} and the four that it took most from"
    return (AngleProfile(label, angles, coefficients[best].numpy(), names),)


def _histograms(result: DenoiseResult) -> tuple[Histogram, ...]:
    if result.weights is None:
        return ()
    return (
        Histogram(
            "Effective neighbours",
            "neighbours with equal weights that would count the same",
            effective_neighbours(result.weights),
        ),
        Histogram(
            "Confidence",
            "share that comes from neighbours of the same view, as likely as they are",
            confidence(result.weights, result.probability),
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

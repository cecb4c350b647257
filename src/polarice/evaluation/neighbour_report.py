"""The page of a neighbour search: which particles are shown, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..denoising import aligned_sums
from ..imaging import move_images
from ..neighbours import NOBODY
from ..particles import ParticleStack
from ..stacks import NeighbourResult
from .chart_data import Histogram
from .content import (
    FileWritten,
    Heading,
    KeyFigure,
    Neighbour,
    Neighbourhood,
    Notice,
    ReportContent,
    StageTime,
)
from .report import write_report
from .seen import LOW_PASS_A, low_pass, model_images

__all__ = ["neighbour_report"]

_NEIGHBOURHOODS = 8
_SHOWN = 8
# What an average is divided by beyond its images' CTFs, in images.
_DAMPING = 2.0

_HEADING = Heading(
    "Who shows the same view",
    "First a particle, then its likeliest neighbours, each laid upon it by the angle beneath; bar and "
    "percentage say how probable it is that they show one view. Last, the average of the particle and all "
    "its neighbours, each counted as probable as it is. From particles with the surest neighbours down to "
    "those with none.",
)


def neighbour_report(path: str | Path, result: NeighbourResult) -> Path:
    """Write the page of a neighbour search.

    Parameters
    ----------
    path : path-like
        The HTML file.
    result : NeighbourResult

    Returns
    -------
    Path
    """
    source = ParticleStack.open(result.source, pixel_size_A=result.settings.pixel_size_A)
    table = result.table
    expected = table.probability.sum(1)
    order = np.argsort(-expected, kind="stable")
    places = np.linspace(0.02, 0.98, _NEIGHBOURHOODS) * (len(order) - 1)
    shown = np.unique(places.round().astype(int))
    both = ", seen from either side" if result.settings.mirrored else ""
    content = ReportContent(
        title=f"Neighbours: {result.source.name}",
        summary=f"Which of {len(source):,} particles show one view{both}, found by the stack alone.",
        key_figures=(
            KeyFigure("Particles", f"{len(source):,}", f"{result.summary()['images_per_s']} a second"),
            KeyFigure(
                "Neighbours of one view",
                f"{expected.mean():.1f}",
                f"of {table.rows.shape[1]}, the mean of what is expected of each particle",
            ),
        ),
        notices=tuple(Notice(text, "note") for text in result.notices),
        neighbourhoods=tuple(_neighbourhood(result, source, int(row)) for row in order[shown]),
        neighbours_heading=_HEADING,
        histograms=(
            Histogram("Sure neighbours", "sum of the neighbours' probabilities", expected),
            Histogram(
                "Probability", "that two neighbours show one view", table.probability[table.rows != NOBODY]
            ),
        ),
        timings=tuple(StageTime(stage, seconds) for stage, seconds in result.seconds.items()),
        files=tuple(FileWritten(Path(file), what) for file, what in result.files.items()),
        configuration=result.configuration(),
    )
    return write_report(path, content)


def _neighbourhood(result: NeighbourResult, source: ParticleStack, row: int) -> Neighbourhood:
    table, preprocessor = result.table, result.preprocessor
    places = np.flatnonzero(table.rows[row] != NOBODY)
    partners = table.rows[row, places]
    family = np.concatenate([[row], partners])
    images = model_images(result, source, family)
    statistics = result.found.statistics[torch.from_numpy(family)]
    ctf = preprocessor.transfer(source.ctf(family), statistics) if preprocessor.ctf_known else None
    matrices, shifts = (torch.from_numpy(part).float() for part in table.frames(row, places))
    shifts = shifts * (preprocessor.model_box / preprocessor.box)
    laid = low_pass(move_images(images[1:], matrices, shifts), preprocessor.model_pixel_size_A).numpy()
    itself = torch.eye(2)[None], torch.zeros(1, 2)
    matrices, shifts = torch.cat([itself[0], matrices]), torch.cat([itself[1], shifts])
    share = torch.cat([torch.ones(1), torch.from_numpy(table.probability[row, places])])
    # Each image alone, so that each can count as it is probable.
    weighted, weight = aligned_sums(
        images[:, None], matrices[:, None], shifts[:, None], None if ctf is None else ctf.abs()[:, None]
    )
    counted = share[:, None, None]
    average = torch.fft.irfft2((counted * weighted).sum(0) / ((counted * weight).sum(0) + _DAMPING))
    neighbours = tuple(
        Neighbour(
            f"row {partner + 1}" + (", mirrored" if table.mirrored[row, place] else ""),
            image,
            float(table.angles_deg[row, place]),
            float(table.probability[row, place]),
        )
        for partner, place, image in zip(partners[:_SHOWN], places, laid, strict=False)
    )
    return Neighbourhood(
        f"row {row + 1}",
        low_pass(images[:1], preprocessor.model_pixel_size_A)[0].numpy(),
        neighbours,
        average.numpy(),
        f"low-passed to {LOW_PASS_A:.0f} Å for the eye, but for the average",
        "average",
    )

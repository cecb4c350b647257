"""The page of a classification."""

from __future__ import annotations

from pathlib import Path

from ..classification import ClassifyResult
from .chart_data import Histogram
from .content import ClassTile, FileWritten, KeyFigure, Notice, ReportContent, StageTime
from .report import write_report

__all__ = ["class_report"]


def class_report(path: str | Path, result: ClassifyResult) -> Path:
    """Write the page of a classification.

    Parameters
    ----------
    path : path-like
        The HTML file.
    result : ClassifyResult

    Returns
    -------
    Path
    """
    members = result.members
    sides = [result.averages] + ([] if result.denoised_averages is None else [result.denoised_averages])
    tiles = tuple(
        ClassTile(f"{number + 1}", f"{members[number]:,} particles", tuple(side[number] for side in sides))
        for number in range(len(members))
    )
    figures = result.summary()
    content = ReportContent(
        title=f"Classes: {result.source.name}",
        summary=f"{len(result.label):,} particles in {len(members)} classes of one view each.",
        key_figures=(
            KeyFigure("Particles", f"{len(result.label):,}", f"{figures['images_per_s']} a second"),
            KeyFigure("Classes", f"{len(members)}", f"of {members.min():,} to {members.max():,} particles"),
        ),
        notices=tuple(Notice(text, "note") for text in result.notices),
        classes=tiles,
        histograms=(
            Histogram("Probability", "of a particle’s class among all classes", result.probability),
            Histogram(
                "Evidence",
                "evidence",
                result.evidence,
                "How much likelier a particle is of its class than of any view, natural logarithm. Particles "
                "far below the others show something else, or nothing.",
            ),
        ),
        timings=tuple(StageTime(stage, seconds) for stage, seconds in result.seconds.items()),
        files=tuple(FileWritten(Path(file), what) for file, what in result.files.items()),
        configuration=result.configuration(),
    )
    return write_report(path, content)

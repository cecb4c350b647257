"""The page of a stack's guards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .chart_data import Histogram, RadialCurve, RadialCurves
from .content import (
    Chapter,
    FileWritten,
    Gallery,
    GalleryRow,
    Heading,
    KeyFigure,
    Notice,
    ReportContent,
    StageTime,
)
from .guards import GuardResult
from .report import write_report

__all__ = ["guard_report"]

_TITLES = {
    "noise": "Pure noise",
    "phases": "Random phases",
    "foreign": "Another protein",
    "duplicates": "Copies",
    "agreement": "Two estimates",
}


def guard_report(path: str | Path, result: GuardResult) -> Path:
    """Write the page of a stack's guards.

    Parameters
    ----------
    path : path-like
        The HTML file.
    result : GuardResult

    Returns
    -------
    Path
    """
    failed = [one for one in result.verdicts if one.passed is False]
    unjudged = [one for one in result.verdicts if one.passed is None]
    passed = len(result.verdicts) - len(failed) - len(unjudged)
    content = ReportContent(
        title=f"Guards: {result.source.name}",
        summary=f"{passed} of {len(result.verdicts)} guards against structure that is not in the data pass, "
        f"for {len(result.rows):,} particles and {Path(result.settings.denoising.model).stem}.",
        key_figures=tuple(
            KeyFigure(
                _TITLES[one.guard], one.figure or "–", one.word + (f"; goal: {one.goal}" if one.goal else "")
            )
            for one in result.verdicts
        ),
        notices=(
            *(Notice(f"{_TITLES[one.guard]}: {one.figure} is the {one.why}.", "warning") for one in failed),
            *(Notice(f"{_TITLES[one.guard]}: not judged, because {one.why}.", "note") for one in unjudged),
            *(Notice(text, "note") for text in result.sample.notices),
        ),
        chapters=tuple(_chapters(result)),
        timings=tuple(StageTime(stage, seconds) for stage, seconds in result.seconds.items()),
        files=tuple(FileWritten(Path(file), what) for file, what in result.files.items()),
        configuration=result.configuration(),
    )
    return write_report(path, content)


def _chapters(result: GuardResult) -> list[Chapter]:
    found = {one.guard: one for one in result.verdicts}
    makers = {"noise": _noise, "phases": _phases, "foreign": _foreign, "agreement": _agreement}
    chapters = [
        make(result) for guard, make in makers.items() if guard in found and result.figures.get(guard)
    ]
    copies = result.figures.get("duplicates")
    if copies:
        lead = (
            f"{copies['found']} of {copies['planted']} particles that name the image of an earlier one were "
            f"found; the stack itself has {copies['of_the_stack']:,} copies. Copies share their noise, and "
            "are never each other’s neighbours."
        )
        chapters.append(Chapter("duplicates", Heading(_TITLES["duplicates"], lead)))
    return chapters


def _gallery(result: GuardResult, guard: str, words: tuple[tuple[str, str], ...]) -> Gallery:
    """What went in, what came out, and beside it what it is compared with, in one grey range."""
    shown = result.shown[guard]
    both = np.stack([shown.after, shown.beside])
    low, high = float(np.quantile(both, 0.001)), float(np.quantile(both, 0.999))
    grey = (low, high if high > low else low + 1)
    rows = tuple(
        GalleryRow(label, note, images, None if index == 0 else grey)
        for index, ((label, note), images) in enumerate(
            zip(words, (shown.before, shown.after, shown.beside), strict=True)
        )
    )
    return Gallery(tuple(f"{number + 1}" for number in range(len(shown.before))), rows)


def _curves(result: GuardResult, reference: str, *curves: tuple[str, str]) -> RadialCurves:
    """Ring correlations that the guards have drawn."""
    drawn = tuple(RadialCurve(label, result.curves[name]) for label, name in curves)
    box = 2 * (len(drawn[0].values) - 1)
    preprocessor = result.sample.preprocessor
    pixel_A = preprocessor.box * preprocessor.pixel_size_A / box
    return RadialCurves(box, pixel_A, frc=drawn, frc_reference=reference)


def _noise(result: GuardResult) -> Chapter:
    given = result.settings.noise_from
    whose = "the stack itself" if given is None else Path(given).name
    lead = (
        "As many images as there are particles, of Gaussian noise with the particles’ CTFs and level and the "
        f"spectrum of {whose}, went through the whole pipeline: they were measured, found their own "
        "neighbours, and were denoised together. What came out has "
        f"{result.figures['noise']['energy']:.2%} of the energy of the denoised particles. A denoiser that "
        "draws molecules into noise would show here."
    )
    words = (
        ("Noise in", "as the network sees it"),
        ("Noise out", "in the grey range of the next row"),
        ("Denoised particles", "of the same rows"),
    )
    return Chapter("noise", Heading(_TITLES["noise"], lead), _gallery(result, "noise", words))


def _phases(result: GuardResult) -> Chapter:
    figures: dict[str, Any] = result.figures["phases"]
    true = figures["true_share"]
    lead = (
        f"Beyond {figures['shell_A']:.1f} Å all phases of all images were made random, which takes away what "
        "they show in that detail and leaves its power; then they were denoised again. What the result still "
        "has in common with the denoised particles out there was not seen in an image but comes from the "
        f"network’s idea of molecules: {max(0.0, figures['share_from_prior']):.1%} of the detail’s "
        "amplitude."
    )
    if true is not None:
        share, error = true
        lead += (
            " Guesses may be right: measured on the particles themselves, whose detail the network had not "
            f"seen, {share:.0%} ± {error:.0%} of what it drew is there."
        )
    words = (
        ("In", "with random phases beyond the shell, as the network sees it"),
        ("Out", "in the grey range of the next row"),
        ("Denoised particles", "of the same rows, with all their phases"),
    )
    curves = _curves(
        result,
        "the untouched particles, denoised",
        ("phases random beyond the shell", "phases"),
        ("what chance gives", "chance"),
    )
    return Chapter("phases", Heading(_TITLES["phases"], lead), _gallery(result, "phases", words), curves)


def _foreign(result: GuardResult) -> Chapter:
    figures: dict[str, Any] = result.figures["foreign"]
    lead = (
        f"{figures['planted']} particles of another protein took the place of as many of the stack’s, each "
        "with its CTF, with noise of the stack’s spectrum, and with as much signal. They must come back as "
        f"themselves: with their truth they correlate by {figures['correlation_with_truth']:.3f}, with the "
        f"stack’s average by {figures['with_the_stacks_average']:.3f} (their truth does by "
        f"{figures['truth_with_the_stacks_average']:.3f})."
    )
    own, taken = figures["in_a_stack_of_their_own"], figures.get("foreign_among_their_neighbours")
    if own is not None:
        lead += f" In a stack of their own their correlation is {own:.3f}."
    if taken is not None:
        share = figures["planted"] / len(result.rows)
        lead += (
            f" They are {share:.0%} of the stack, {taken['neighbours']:.0%} of each other’s neighbours, and "
            f"have {taken['weight']:.0%} of each other’s attention."
        )
    words = (
        ("In", "as the network sees it"),
        ("Out", "in the grey range of the next row"),
        ("Truth", "without CTF and noise"),
    )
    return Chapter("foreign", Heading(_TITLES["foreign"], lead), _gallery(result, "foreign", words))


def _agreement(result: GuardResult) -> Chapter:
    lead = (
        "The particles were divided into two parts, and each was denoised for itself, so that nothing of one "
        "is in the other. Each particle has two estimates then: its own, and the mean of its neighbours of "
        "the other part, laid upon it. How far they agree says what is not noise. It does not say what is "
        "true: where a network has one idea of all molecules, both estimates share it. Noise, denoised in "
        "the same way, shows how much that is."
    )
    curves = _curves(
        result, "the other estimate", ("particles, mean", "agreement"), ("noise", "agreement of noise")
    )
    assert result.agreement is not None
    mean = result.agreement[:, 1 : (result.agreement.shape[1] - 1) // 2 + 1].mean(1)
    histogram = Histogram(
        "Agreement",
        "mean correlation over the rings of the lower half of frequencies",
        mean,
        "Particles far below the others are like no others, or show nothing: do not trust what they show.",
    )
    return Chapter("agreement", Heading(_TITLES["agreement"], lead), None, curves, (histogram,))

"""The command that finds orientations and a map without a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .options import Out, Output, Overwrite, Reading

__all__ = ["abinitio"]


def abinitio(
    particles: Annotated[Path, Parameter(help="The original stack: a .star, .cs, .mrcs or .mrc file.")],
    *,
    out: Out,
    denoised: Annotated[
        Path | None,
        Parameter(help="The stack as `polarice denoise` has written it; it is denoised first by default."),
    ] = None,
    model: Annotated[
        str, Parameter(help="Model to denoise with: a shipped model's name, or a weights file.")
    ] = "polar-transformer-64",
    neighbours: Annotated[
        int, Parameter(help="Other particles that each particle is denoised with, at most.")
    ] = 16,
    representatives: Annotated[
        int,
        Parameter(help="Images of each half set between which common lines are looked for; others follow."),
    ] = 500,
    shifts: Annotated[bool, Parameter(help="Find out where particles lie in their boxes.")] = True,
    rounds: Annotated[int, Parameter(help="Of refinement against half maps of the original images.")] = 3,
    truth: Annotated[
        Path | None, Parameter(help="Folder of `polarice simulate`, to compare with on the page.")
    ] = None,
    seed: int = 0,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, Parameter(help="Go on with a run that was interrupted in this folder.", negative="")
    ] = False,
    reading: Reading | None = None,
    output: Output | None = None,
) -> int:
    """Find orientations without a reference, by common lines of denoised images, and map the originals."""
    from ..denoising import DenoiseSettings
    from ..evaluation import Truth, map_report, shell_correlation_picture
    from ..reconstruction import AbInitioSettings
    from ..reconstruction import abinitio as find

    console = (output or Output()).console()
    settings = AbInitioSettings(
        denoised=denoised,
        denoising=DenoiseSettings(model=model, neighbours=neighbours, **(reading or Reading()).settings()),
        representatives=representatives,
        shifts=shifts,
        rounds=rounds,
        seed=seed,
    )
    known = None if truth is None else Truth.load(truth)
    if known is not None:
        known.require_fit(particles)
    with console.progress():
        result = find(particles, out, settings, overwrite=overwrite, resume=resume, progress=console.step)
    for warning in result.warnings:
        console.note(f"warning: {warning}")
    for notice in result.notices:
        console.note(f"note: {notice}")
    picture, page = out / "fsc.png", out / "report.html"
    shell_correlation_picture(picture, result.maps.comparison)
    compared = map_report(page, result, known)
    figures = result.summary() | compared
    figures["files"] = {
        **figures["files"],
        str(picture): "the same, to look at",
        str(page): "what happened",
    }
    console.say(
        f"{figures['particles']:,} particles, half maps agree to {result.resolution_A[-1]:.2f} Å: "
        f"{out / 'map.mrc'}"
    )
    for name, value in compared.items():
        console.say(f"{name}: {value}")
    console.say(f"the page: {page}")
    console.finish(figures)
    return 0

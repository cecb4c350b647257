"""The command that finds orientations without a reference."""

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
        int, Parameter(help="Images between which common lines are looked for; the others follow these.")
    ] = 500,
    shifts: Annotated[bool, Parameter(help="Find out where particles lie in their boxes.")] = True,
    seed: int = 0,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, Parameter(help="Go on with a run that was interrupted in this folder.", negative="")
    ] = False,
    reading: Reading | None = None,
    output: Output | None = None,
) -> int:
    """Find the orientations of particles without a reference, from the common lines of denoised images."""
    from ..denoising import DenoiseSettings
    from ..reconstruction import AbInitioSettings
    from ..reconstruction import abinitio as find

    console = (output or Output()).console()
    settings = AbInitioSettings(
        denoised=denoised,
        denoising=DenoiseSettings(model=model, neighbours=neighbours, **(reading or Reading()).settings()),
        representatives=representatives,
        shifts=shifts,
        seed=seed,
    )
    with console.progress():
        result = find(particles, out, settings, overwrite=overwrite, resume=resume, progress=console.step)
    for notice in result.notices:
        console.note(f"note: {notice}")
    figures = result.summary()
    console.say(
        f"{figures['particles']:,} particles, mean confidence {figures['mean_confidence']:.2f}: {result.star}"
    )
    console.finish(figures)
    return 0

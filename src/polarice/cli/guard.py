"""The command that looks for structure that is not in the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .options import Out, Output, Overwrite, Reading, SplitHalves

__all__ = ["guard"]


def guard(
    particles: Annotated[Path, Parameter(help="A .star, .cs, .mrcs or .mrc file.")],
    /,
    *,
    out: Out,
    model: Annotated[
        str, Parameter(help="A shipped model's name, or a weights file.")
    ] = "polar-transformer-64",
    look_at: Annotated[
        int,
        Parameter(name="--particles", help="How many particles are looked at, evenly spread over the stack."),
    ] = 500,
    neighbours: Annotated[
        int, Parameter(help="Other particles that each particle is denoised with, at most.")
    ] = 16,
    noise_from: Annotated[
        Path | None,
        Parameter(help="Images without particles, such as empty ice, whose spectrum the noise shall have."),
    ] = None,
    foreign: Annotated[
        Path | None,
        Parameter(help="Structure (PDB, mmCIF) whose particles are planted; one that is made up by default."),
    ] = None,
    split_halves: SplitHalves = False,
    overwrite: Overwrite = False,
    reading: Reading | None = None,
    output: Output | None = None,
) -> int:
    """Look for structure that is not in the data: noise, random phases, another protein, copies."""
    from ..denoising import DenoiseSettings
    from ..evaluation import GuardSettings, guard_report, guard_stack

    console = (output or Output()).console()
    told = DenoiseSettings(
        model=model,
        neighbours=neighbours,
        split_halves=split_halves,
        **(reading or Reading()).settings(),
    )
    settings = GuardSettings(denoising=told, particles=look_at, noise_from=noise_from, foreign=foreign)
    with console.progress():
        result = guard_stack(particles, out, settings, overwrite=overwrite, progress=console.step)
    page = guard_report(out / "guard.html", result)
    for notice in result.sample.notices:
        console.note(f"note: {notice}")
    figures = result.summary()
    figures["files"] = {**figures["files"], str(page): "the guards, to look at"}
    for one in result.verdicts:
        goal = f"goal: {one.goal}" if one.goal else one.why
        console.say(f"{one.guard:<12}{one.figure:<10}{one.word:<12}{goal}")
    for one in result.verdicts:
        if one.passed is False:
            console.say(f"{one.guard} fails: {one.figure} is the {one.why}")
    console.say(f"the page: {page}")
    console.finish(figures)
    return 0

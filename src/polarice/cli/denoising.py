"""Commands of the main job: denoising, neighbours, classes, and a demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from .options import Device, Out, Output, Overwrite, Reading, SplitHalves

JointModel = Annotated[str, Parameter(help="A joint model's name, or a weights file.")]

__all__ = ["classify", "demo", "denoise", "neighbours"]


def neighbours(
    particles: Annotated[Path, Parameter(help="A .star, .cs, .mrcs or .mrc file.")],
    *,
    out: Out,
    model: JointModel = "polar-transformer-64",
    neighbours: Annotated[int, Parameter(help="Neighbours of each particle, at most.")] = 16,
    mirrored: Annotated[
        bool, Parameter(help="Look for views from the other side too: mirror images.", negative="")
    ] = False,
    split_halves: SplitHalves = False,
    overwrite: Overwrite = False,
    reading: Reading | None = None,
    output: Output | None = None,
) -> int:
    """Find which particles show one view: neighbours, angles, shifts, probabilities, and a page of them."""
    from ..evaluation import neighbour_report
    from ..stacks import NeighbourSettings, find_neighbours

    console = (output or Output()).console()
    settings = NeighbourSettings(
        model=model,
        neighbours=neighbours,
        mirrored=mirrored,
        split_halves=split_halves,
        **(reading or Reading()).settings(),
    )
    with console.progress():
        result = find_neighbours(particles, out, settings, overwrite=overwrite, progress=console.step)
    page = neighbour_report(out / "neighbours.html", result)
    for notice in result.notices:
        console.note(f"note: {notice}")
    figures = result.summary()
    figures["files"] = {**figures["files"], str(page): "neighbours, to look at"}
    console.say(
        f"{figures['particles']:,} particles, {figures['images_per_s']} images/s; "
        f"{figures['expected_neighbours']} of {neighbours} neighbours are expected to show a particle's view"
    )
    console.say(f"the page: {page}")
    console.finish(figures)
    return 0


def denoise(
    particles: Annotated[Path, Parameter(help="A .star, .cs, .mrcs or .mrc file.")],
    *,
    out: Out,
    model: Annotated[
        str, Parameter(help="A shipped model's name, or a weights file.")
    ] = "polar-transformer-64",
    neighbours: Annotated[
        int, Parameter(help="Other particles that each particle is denoised with, at most.")
    ] = 16,
    sets_from: Annotated[
        str | None,
        Parameter(help="Column that says which particles belong together, such as rlnClassNumber."),
    ] = None,
    neighbours_from: Annotated[
        Path | None, Parameter(help="Folder that `polarice neighbours` has written, instead of a search.")
    ] = None,
    split_halves: SplitHalves = False,
    agreement: Annotated[
        bool,
        Parameter(help="Denoise twice, to say how far two estimates of each particle agree.", negative=""),
    ] = False,
    truth: Annotated[Path | None, Parameter(help="Clean stack of the same rows, to measure against.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, Parameter(help="Go on with a run that was interrupted in this folder.", negative="")
    ] = False,
    reading: Reading | None = None,
    output: Output | None = None,
) -> int:
    """Denoise a particle stack; write a stack, neighbours and a page that shows what happened."""
    from ..denoising import DenoiseResult, DenoiseSettings, denoise_stack
    from ..evaluation import evaluate as measure
    from ..evaluation import require_correspondence, run_report, verdict
    from ..particles import ParticleStack

    console = (output or Output()).console()
    reading = reading or Reading()
    pixel_size_A = reading.pixel_size
    settings = DenoiseSettings(
        model=model,
        neighbours=neighbours,
        sets_from=sets_from,
        neighbours_from=neighbours_from,
        split_halves=split_halves,
        agreement=agreement,
        **reading.settings(),
    )
    if truth is not None:
        noisy, clean = (
            ParticleStack.open(path, pixel_size_A=reading.pixel_size) for path in (particles, truth)
        )
        # A broken stack is better described by what follows.
        if not noisy.problems():
            require_correspondence(noisy, clean)
    measured: dict[str, Any] | None = None
    page = out / "report.html"

    def show(result: DenoiseResult) -> None:
        nonlocal measured
        console.step("write the page", 0, 1)
        if truth is not None:
            measured = measure(result.star, truth, particles, pixel_size_A=pixel_size_A)
        run_report(page, result, truth=truth, evaluation=measured)
        console.step("write the page", 1, 1)

    try:
        with console.progress():
            result = denoise_stack(
                particles,
                out,
                settings,
                overwrite=overwrite,
                resume=resume,
                progress=console.step,
                finish=show,
            )
    except KeyboardInterrupt:
        console.note(f"What is done is kept in {out}: go on with --resume, or start anew with --overwrite.")
        raise
    if not result.files:
        # One of several processes, of which the first tells what they have done.
        return 0
    warnings = [found.text for found in verdict(result) if found.level != "good"]
    for notice in (*result.notices, *warnings):
        console.note(f"note: {notice}")
    figures: dict[str, Any] = result.summary()
    figures["files"] = {**figures["files"], str(page): "what happened, to look at"}
    if measured is not None:
        figures["evaluation"] = measured
        console.say(f"relative MSE {measured['denoised']['relative_mse']:.4f}")
    console.say(f"{figures['particles']:,} particles, {figures['images_per_s']} images/s: {result.star}")
    console.say(f"the page: {page}")
    console.finish(figures)
    return 0


def classify(
    particles: Annotated[Path, Parameter(help="A .star, .cs, .mrcs or .mrc file.")],
    *,
    out: Out,
    classes: Annotated[int, Parameter(help="How many, at most.")] = 100,
    denoised: Annotated[
        Path | None, Parameter(help="The stack as `polarice denoise` has written it, to average as well.")
    ] = None,
    model: JointModel = "polar-transformer-64",
    overwrite: Overwrite = False,
    reading: Reading | None = None,
    output: Output | None = None,
) -> int:
    """Sort particles into classes of one view each; write averages, members for RELION, and a page."""
    from ..classification import ClassifySettings, classify_stack
    from ..evaluation import class_report

    console = (output or Output()).console()
    settings = ClassifySettings(
        model=model, classes=classes, denoised=denoised, **(reading or Reading()).settings()
    )
    with console.progress():
        result = classify_stack(particles, out, settings, overwrite=overwrite, progress=console.step)
    page = class_report(out / "classes.html", result)
    for notice in result.notices:
        console.note(f"note: {notice}")
    figures = result.summary()
    figures["files"] = {**figures["files"], str(page): "the averages, to look at"}
    console.say(
        f"{figures['particles']:,} particles in {figures['classes']} classes, "
        f"{figures['images_per_s']} images/s: {out / 'classes_data.star'}"
    )
    console.say(f"the page: {page}")
    console.finish(figures)
    return 0


def demo(
    *,
    out: Annotated[Path, Parameter(help="Folder to write.")] = Path("demo-out"),
    particles: Annotated[int, Parameter(help="How many images, at least 64.")] = 800,
    snr: Annotated[float, Parameter(help="mean(clean²) / noise variance, clean after the CTF.")] = 0.05,
    device: Device = "auto",
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Run the main job on an embedded example, and write the page that shows it."""
    from ..evaluation import run_demo

    console = (output or Output()).console()
    with console.progress():
        result = run_demo(
            out, particles=particles, snr=snr, device=device, overwrite=overwrite, progress=console.step
        )
    for name, value in result.relative_mse.items():
        console.say(f"{name:<24} relative MSE {value:8.4f}")
    console.say(f"the page: {result.page.resolve()}")
    console.finish({"relative_mse": result.relative_mse, "files": {"page": str(result.page)}})
    return 0

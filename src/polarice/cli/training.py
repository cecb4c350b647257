"""Commands that make networks: banks, training, adaptation, and what is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from .options import Device, Out, Output, Overwrite, Reading

__all__ = ["adapt", "bank", "models", "train"]

bank = App(name="bank", help="Banks of structures to train on.")


@bank.command
def build(
    source: Annotated[Path, Parameter(help="A folder of PDB or mmCIF files, or of corpus .npz files.")],
    *,
    out: Annotated[Path, Parameter(help="The bank to write, .npz.")],
    output: Output | None = None,
) -> int:
    """Gather structures into a bank to train on."""
    from ..files import require_place
    from ..simulation import build_bank

    console = (output or Output()).console()
    require_place(out)
    with console.progress():
        bank, skipped = build_bank(source, out, progress=lambda d, t: console.step("read", d, t))
    for line in skipped:
        console.note(f"skipped: {line}")
    console.say(f"{len(bank):,} structures, {len(bank.coordinates):,} atoms: {out}")
    figures = {"structures": len(bank), "atoms": len(bank.coordinates), "skipped": skipped}
    console.finish({**figures, "files": {"bank": str(out)}})
    return 0


def train(
    recipe: Annotated[Path, Parameter(help="A TOML recipe.")],
    *,
    bank: Annotated[Path, Parameter(help="A bank from `polarice bank build`.")],
    out: Annotated[Path, Parameter(help="Folder of the run.")],
    resume: Annotated[bool, Parameter(help="Go on from the folder's checkpoint.", negative="")] = False,
    start: Annotated[
        str | None,
        Parameter(name="--from", help="Begin from a shipped model or a weights file."),
    ] = None,
    device: Device = "auto",
    max_minutes: Annotated[
        float | None, Parameter(help="Stop with a checkpoint after so many minutes.")
    ] = None,
    output: Output | None = None,
) -> int:
    """Train a network; it can be interrupted at any time and resumed."""
    from ..simulation import StructureBank
    from ..training import Recipe
    from ..training import train as run

    console = (output or Output()).console()
    plan = Recipe.load(recipe)

    def log(figures: dict[str, float]) -> None:
        validation = [f"{k} {v:.4f}" for k, v in figures.items() if k not in _STEP_FIGURES]
        console.note(
            f"{int(figures['images']):>9,} images  {figures['images_per_s']:6.1f} images/s  "
            f"relative MSE {figures['relative_mse']:.4f}  {'  '.join(validation)}"
        )

    figures = run(
        plan,
        StructureBank.load(bank),
        out,
        resume=resume,
        start=start,
        device=device,
        max_minutes=max_minutes,
        log=log,
    )
    console.say(f"weights: {out / 'weights.safetensors'}; curves: {out / 'curves.png'}")
    files = {"weights": str(out / "weights.safetensors"), "curves": str(out / "curves.png")}
    console.finish({**figures, "files": files})
    return 0


_STEP_FIGURES = ("images", "relative_mse", "images_per_s", "learning_rate")


def adapt(
    particles: Annotated[Path, Parameter(help="A .star, .cs, .mrcs or .mrc file.")],
    *,
    out: Out,
    model: Annotated[
        str, Parameter(help="The joint model to begin with: its name, or a weights file.")
    ] = "polar-transformer-64",
    neighbours: Annotated[int, Parameter(help="Other particles in each particle's set, at most.")] = 16,
    steps: Annotated[int, Parameter(help="Sets to learn from.")] = 150,
    half: Annotated[
        int | None, Parameter(help="Learn from this half set alone (_rlnRandomSubset); from all by default.")
    ] = None,
    max_minutes: Annotated[
        float | None, Parameter(help="Stop learning after so many minutes; --resume goes on.")
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, Parameter(help="Go on with a run that was interrupted in this folder.", negative="")
    ] = False,
    reading: Reading | None = None,
    output: Output | None = None,
) -> int:
    """Adapt a joint model to a stack, from its noisy images alone; write weights for `denoise --model`."""
    from ..training import AdaptSettings
    from ..training import adapt as run

    console = (output or Output()).console()
    settings = AdaptSettings(
        model=model, neighbours=neighbours, steps=steps, half=half, **(reading or Reading()).settings()
    )
    with console.progress():
        result = run(
            particles,
            out,
            settings,
            overwrite=overwrite,
            resume=resume,
            max_minutes=max_minutes,
            progress=console.step,
        )
    for notice in result.notices:
        console.note(f"note: {notice}")
    figures = result.card.figures
    console.say(
        f"error of held-out particles, as estimated: {figures['adapted_error_before']:.4f} before, "
        f"{figures['adapted_error_after']:.4f} after {figures['adapted_steps']} steps "
        f"(difference {figures['adapted_error_difference']:+.4f} "
        f"± {figures['adapted_error_standard_error']:.4f})"
    )
    console.say(f"weights: {result.weights}")
    console.finish(result.summary())
    return 0


def models(*, output: Output | None = None) -> int:
    """List the shipped weights with their cards, and the networks that can be trained."""
    from ..models import model_table

    console = (output or Output()).console()
    table = model_table()
    for entry in table:
        flops, size = entry["flops_per_image"] / 1e9, entry["parameters"] / 1e6
        console.say(f"{entry['name']:<26}{size:7.2f} M parameters {flops:8.3f} GFLOP/image  {entry['what']}")
        for key, value in entry["figures"].items():
            console.say(f"    {key}: {value}")
    console.finish({"models": table})
    return 0

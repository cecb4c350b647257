"""The command line: parse, call the API, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

from . import __version__
from .console import Console
from .errors import OutputError, PolariceError

__all__ = ["app", "main"]

app = App(
    name="polarice",
    version=__version__,
    help="Joint denoising of cryo-EM particle images.",
    suppress_keyboard_interrupt=False,
)
bank_app = App(name="bank", help="Banks of structures to train on.")
app.command(bank_app)
benchmark_app = App(name="benchmark", help="Measure models side by side on structures they have not seen.")
app.command(benchmark_app)

Device = Annotated[str, Parameter(help="Where to compute: auto, cpu, cuda or mps; never a silent fallback.")]
Overwrite = Annotated[bool, Parameter(help="Write into a folder that is not empty.", negative="")]


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """How a command reports."""

    json: Annotated[bool, Parameter(help="End with one JSON object on standard output.", negative="")] = False
    quiet: Annotated[bool, Parameter(help="No progress and no text.", negative="")] = False

    def console(self) -> Console:
        """Where the command prints."""
        return Console(json_output=self.json, quiet=self.quiet)


@app.command
def info(
    particles: Annotated[Path, Parameter(help="A .star, .mrcs or .mrc file.")],
    *,
    pixel_size: Annotated[float | None, Parameter(help="Å per pixel, where the file does not say.")] = None,
    output: Output | None = None,
) -> int:
    """Say what a particle file is, and what is missing or broken."""
    from .particles import describe, format_description

    console = (output or Output()).console()
    description = describe(particles, pixel_size_A=pixel_size)
    console.say(format_description(description))
    console.finish(description)
    return 1 if description.get("problems") else 0


@app.command
def simulate(
    source: Annotated[str, Parameter(help="A PDB or mmCIF file, an MRC map, or the word example.")],
    *,
    out: Annotated[Path, Parameter(help="Folder to write.")],
    particles: Annotated[int, Parameter(help="How many images.")] = 2048,
    box: Annotated[int, Parameter(help="Side of the images in pixels.")] = 64,
    snr: Annotated[float, Parameter(help="mean(clean²) / noise variance, clean after the CTF.")] = 0.03,
    pixel_size: Annotated[
        float | None, Parameter(help="Å per pixel; by default the molecule fills 60 % of the box.")
    ] = None,
    ctf: Annotated[bool, Parameter(help="Apply a CTF to each image.", negative="")] = False,
    defocus: Annotated[tuple[float, float], Parameter(help="Range of the defocus, Å.", negative="")] = (
        15000,
        25000,
    ),
    voltage: Annotated[float, Parameter(help="Acceleration voltage, kV.")] = 300.0,
    cs: Annotated[float, Parameter(help="Spherical aberration, mm.")] = 2.7,
    amplitude_contrast: Annotated[float, Parameter(help="Fraction, 0 to 1.")] = 0.1,
    max_shift: Annotated[float, Parameter(help="Largest displacement from the centre, pixels.")] = 0.0,
    noise: Annotated[Literal["gaussian", "poisson"], Parameter(help="Kind of noise.")] = "gaussian",
    poissonicity: Annotated[
        float, Parameter(help="Grey value of one electron, in standard deviations of the noise.")
    ] = 0.1,
    views: Annotated[
        Literal["uniform", "sets"], Parameter(help="Uniform orientations, or sets that look from one side.")
    ] = "uniform",
    set_size: Annotated[int, Parameter(help="Particles in a set.")] = 8,
    set_angle: Annotated[float, Parameter(help="Largest angle to the set's direction, degrees.")] = 10.0,
    seed: Annotated[int, Parameter(help="Image i depends on the seed and i alone.")] = 0,
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Make particle images of a molecule, with the truth beside them."""
    from . import simulation

    console = (output or Output()).console()
    molecule = simulation.example_structure() if source == "example" else source
    with console.progress():
        result = simulation.simulate(
            molecule,
            out,
            particles=particles,
            box=box,
            snr=snr,
            pixel_size_A=pixel_size,
            ctf=ctf,
            defocus_A=defocus,
            voltage_kV=voltage,
            cs_mm=cs,
            amplitude_contrast=amplitude_contrast,
            max_shift_px=max_shift,
            noise=noise,
            poissonicity=poissonicity,
            views=views,
            set_size=set_size,
            set_angle_deg=set_angle,
            seed=seed,
            overwrite=overwrite,
            progress=lambda done, total: console.step("simulate", done, total),
        )
    console.say(f"{particles:,} particles at {result.pixel_size_A:.3f} Å/px: {result.particles}")
    console.say(f"their truth: {result.clean}")
    files = {
        "particles": str(result.particles),
        "clean": str(result.clean),
        "volume": str(result.volume),
        "config": str(result.config),
    }
    console.finish({"particles": particles, "pixel_size_A": result.pixel_size_A, "files": files})
    return 0


@bank_app.command
def build(
    source: Annotated[Path, Parameter(help="A folder of PDB or mmCIF files, or of corpus .npz files.")],
    *,
    out: Annotated[Path, Parameter(help="The bank to write, .npz.")],
    output: Output | None = None,
) -> int:
    """Gather structures into a bank to train on."""
    from .simulation import build_bank

    console = (output or Output()).console()
    if not out.absolute().parent.is_dir():
        raise OutputError("its folder does not exist", path=out)
    with console.progress():
        bank, skipped = build_bank(source, out, progress=lambda d, t: console.step("read", d, t))
    for line in skipped:
        console.note(f"skipped: {line}")
    console.say(f"{len(bank):,} structures, {len(bank.coordinates):,} atoms: {out}")
    figures = {"structures": len(bank), "atoms": len(bank.coordinates), "skipped": skipped}
    console.finish({**figures, "files": {"bank": str(out)}})
    return 0


@app.command
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
    from .simulation import StructureBank
    from .training import Recipe
    from .training import train as run

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


@app.command
def denoise(
    particles: Annotated[Path, Parameter(help="A .star, .mrcs or .mrc file.")],
    *,
    out: Annotated[Path, Parameter(help="Folder to write.")],
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
    device: Device = "auto",
    pixel_size: Annotated[float | None, Parameter(help="Å per pixel, where the file does not say.")] = None,
    contrast: Annotated[
        Literal["bright", "dark"] | None, Parameter(help="Contrast of the protein; found out by default.")
    ] = None,
    mask_diameter: Annotated[
        float | None,
        Parameter(help="Look at nothing outside a disc of this diameter, Å; the box by default."),
    ] = None,
    ctf: Annotated[bool, Parameter(help="Use the CTF: undo its sign changes, tell the network.")] = True,
    mixed_precision: Annotated[
        bool, Parameter(help="Compute in bfloat16 where the device does so natively: faster.")
    ] = True,
    truth: Annotated[Path | None, Parameter(help="Clean stack of the same rows, to measure against.")] = None,
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Denoise a particle stack; write a stack, neighbours and a page that shows what happened."""
    from .denoising import DenoiseSettings, denoise_stack
    from .evaluation import evaluate as measure
    from .evaluation import require_correspondence, run_report
    from .particles import ParticleStack

    console = (output or Output()).console()
    settings = DenoiseSettings(
        model=model,
        neighbours=neighbours,
        sets_from=sets_from,
        device=device,
        pixel_size_A=pixel_size,
        contrast=contrast,
        mask_diameter_A=mask_diameter,
        ctf=ctf,
        mixed_precision=mixed_precision,
    )
    if truth is not None:
        noisy, clean = (ParticleStack.open(path, pixel_size_A=pixel_size) for path in (particles, truth))
        # A broken stack is better described by what follows.
        if not noisy.problems():
            require_correspondence(noisy, clean)
    with console.progress():
        result = denoise_stack(particles, out, settings, overwrite=overwrite, progress=console.step)
    measured = None if truth is None else measure(result.star, truth, particles, pixel_size_A=pixel_size)
    page = run_report(out / "report.html", result, truth=truth, evaluation=measured)
    for notice in result.notices:
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


@app.command
def evaluate(
    denoised: Annotated[Path, Parameter(help="The denoised stack.")],
    *,
    truth: Annotated[Path, Parameter(help="The clean stack of the same rows.")],
    noisy: Annotated[Path | None, Parameter(help="The stack before denoising, measured beside.")] = None,
    pixel_size: Annotated[float | None, Parameter(help="Å per pixel, where the files do not say.")] = None,
    output: Output | None = None,
) -> int:
    """Measure a denoised stack against the truth."""
    from .evaluation import evaluate as measure
    from .evaluation import evaluation_figures

    console = (output or Output()).console()
    figures = measure(denoised, truth, noisy, pixel_size_A=pixel_size)
    for row in evaluation_figures(figures):
        console.say(f"{row.label:<28}{row.value:>10}   {row.note}")
    console.finish(figures)
    return 0


@benchmark_app.command
def attention(
    bank: Annotated[Path, Parameter(help="A bank of structures that the model has not seen.")],
    *,
    out: Annotated[Path, Parameter(help="Folder to write.")],
    model: Annotated[
        str, Parameter(help="A shipped joint model's name, or a weights file.")
    ] = "polar-transformer-64",
    structures: Annotated[
        int | None, Parameter(help="How many, spread evenly over the bank; all by default.")
    ] = None,
    quick: Annotated[bool, Parameter(help="Ten structures, fewer sets and SNRs.", negative="")] = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Measure what a model's attention knows: in-plane angles, and which images show one view."""
    from .evaluation import QUICK_DIAGNOSTICS, attention_table, benchmark_attention
    from .simulation import StructureBank

    console = (output or Output()).console()
    given = StructureBank.load(bank)
    if quick and structures is None:
        structures = min(10, len(given))
    with console.progress():
        figures = benchmark_attention(
            given,
            out,
            model=model,
            settings=QUICK_DIAGNOSTICS if quick else None,
            structures=structures,
            device=device,
            overwrite=overwrite,
            progress=console.step,
        )
    console.say(attention_table(figures))
    for file, what in figures["files"].items():
        console.say(f"{what}: {file}")
    console.finish(figures)
    return 0


@benchmark_app.command
def paper(
    bank: Annotated[Path, Parameter(help="A bank of structures that no model was trained on.")],
    *,
    out: Annotated[Path, Parameter(help="Folder to write.")],
    models: Annotated[
        list[str] | None,
        Parameter(help="Shipped names or weights files; all that is shipped by default.", negative=""),
    ] = None,
    structures: Annotated[
        int | None, Parameter(help="Use so many of the bank's structures, evenly spaced.")
    ] = None,
    quick: Annotated[bool, Parameter(help="Use a tenth of the structures.", negative="")] = False,
    cwf: Annotated[
        Path | None, Parameter(help="Results of covariance Wiener filtering to show beside, JSON.")
    ] = None,
    seed: Annotated[int, Parameter(help="Of images and intervals.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Measure classical methods, networks and bounds under the paper's conditions."""
    from .evaluation import benchmark
    from .files import prepare_output
    from .simulation import StructureBank

    console = (output or Output()).console()
    prepare_output(out, overwrite)
    test_bank = StructureBank.load(bank)
    settings = benchmark.BenchmarkSettings(
        models=tuple(models) if models else None, structures=structures, seed=seed, device=device
    )
    if quick:
        settings = settings.quick(len(test_bank))
    with console.progress():
        result = benchmark.run_benchmark(test_bank, settings, cwf=cwf, progress=console.step)
    files = benchmark.write_benchmark(result, out)
    for note in result.notes:
        console.note(f"note: {note}")
    for line in benchmark.table_lines(result):
        console.say(line)
    console.say(f"{result.seconds / 60:.1f} minutes; the tables: {files['table']}")
    console.finish({**result.figures(), "files": {name: str(path) for name, path in files.items()}})
    return 0


@app.command
def models(*, output: Output | None = None) -> int:
    """List the shipped weights with their cards, and the networks that can be trained."""
    from .models import model_table

    console = (output or Output()).console()
    table = model_table()
    for entry in table:
        flops, size = entry["flops_per_image"] / 1e9, entry["parameters"] / 1e6
        console.say(f"{entry['name']:<26}{size:7.2f} M parameters {flops:8.3f} GFLOP/image  {entry['what']}")
        for key, value in entry["figures"].items():
            console.say(f"    {key}: {value}")
    console.finish({"models": table})
    return 0


@app.command
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
    from .evaluation import run_demo

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


def main(tokens: Sequence[str] | None = None) -> None:
    """Entry point: an error becomes one clear message on standard error and exit status 2.

    Parameters
    ----------
    tokens : sequence of str, optional
        Arguments; those of the process by default.
    """
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        _fail(f"{error} See `polarice --help`.")
    except PolariceError as error:
        _fail(str(error))
    except BrokenPipeError:
        # Whoever read the output has left; Python would complain again on closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error}.")
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, status: int = 2) -> NoReturn:
    print(f"polarice: {message}", file=sys.stderr)
    sys.exit(status)

"""Commands about particle files: what they are, other formats, simulated ones, how good denoised ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from .options import Out, Output, Overwrite

__all__ = ["convert", "evaluate", "field", "info", "simulate"]


Source = Annotated[
    str, Parameter(help="A PDB or mmCIF file, an MRC map, bank.npz:NAME, or the word example.")
]
PixelSize = Annotated[
    float | None, Parameter(help="Å per pixel; by default the molecule fills 60 % of the box.")
]


def info(
    particles: Annotated[Path, Parameter(help="A .star, .cs, .mrcs or .mrc file.")],
    *,
    pixel_size: Annotated[float | None, Parameter(help="Å per pixel, where the file does not say.")] = None,
    output: Output | None = None,
) -> int:
    """Say what a particle file is, and what is missing or broken."""
    from ..particles import describe, format_description

    console = (output or Output()).console()
    description = describe(particles, pixel_size_A=pixel_size)
    console.say(format_description(description))
    console.finish(description)
    return 1 if description.get("problems") else 0


def convert(
    source: Annotated[Path, Parameter(help="A .star or .cs file.")],
    target: Annotated[Path, Parameter(help="The .star or .cs file to write.")],
    *,
    passthrough: Annotated[
        Path | None, Parameter(help="Passthrough file of a .cs file; found by its name by default.")
    ] = None,
    pixel_size: Annotated[float | None, Parameter(help="Å per pixel, where the file does not say.")] = None,
    contrast: Annotated[
        Literal["bright", "dark"], Parameter(help="Contrast of the protein in images of a .star file.")
    ] = "bright",
    overwrite: Annotated[bool, Parameter(help="Replace the file to write.", negative="")] = False,
    output: Output | None = None,
) -> int:
    """Convert metadata between RELION and cryoSPARC; the images stay where they are."""
    from ..particles import convert_metadata

    console = (output or Output()).console()
    result = convert_metadata(
        source,
        target,
        passthrough=passthrough,
        pixel_size_A=pixel_size,
        contrast=contrast,
        overwrite=overwrite,
    )
    for notice in result.notices:
        console.note(f"note: {notice}")
    console.say(f"{result.particles:,} particles: {result.path}")
    console.finish(
        {
            "particles": result.particles,
            "notices": list(result.notices),
            "files": {str(result.path): "particles"},
        }
    )
    return 0


def simulate(
    source: Source,
    *,
    out: Out,
    particles: Annotated[int, Parameter(help="How many images.")] = 2048,
    box: Annotated[int, Parameter(help="Side of the images in pixels.")] = 64,
    snr: Annotated[float, Parameter(help="mean(clean²) / noise variance, clean after the CTF.")] = 0.03,
    pixel_size: PixelSize = None,
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
    from .. import simulation

    console = (output or Output()).console()
    with console.progress():
        result = simulation.simulate(
            source,
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


def field(
    source: Source,
    *,
    like: Annotated[
        Path,
        Parameter(
            help="A real stack, .star or .cs: CTFs, poses, shifts, half sets are its; no images needed."
        ),
    ],
    out: Out,
    noise: Annotated[
        Path | None, Parameter(help="Images of empty ice, whose spectrum the noise gets; white by default.")
    ] = None,
    stranger: Annotated[
        str, Parameter(help="The other protein among the junk, named as the source.")
    ] = "example",
    particles: Annotated[
        int | None, Parameter(help="The first so many rows of the real stack; all by default.")
    ] = None,
    box: Annotated[int, Parameter(help="Side of the images in pixels.")] = 64,
    snr: Annotated[float, Parameter(help="mean(clean²) / noise variance, clean after the CTF.")] = 0.1,
    pixel_size: PixelSize = None,
    crowding: Annotated[float, Parameter(help="Mean number of other particles around each, 0 to 6.")] = 3.0,
    gradient: Annotated[
        float, Parameter(help="Largest rise of the ice across the box, in standard deviations of the noise.")
    ] = 0.5,
    junk: Annotated[
        float, Parameter(help="Share of noise and of the other protein among the images.")
    ] = 0.05,
    contrast: Annotated[Literal["bright", "dark"], Parameter(help="Contrast of the protein.")] = "bright",
    seed: Annotated[int, Parameter(help="Image i depends on the seed and i alone.")] = 0,
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Make a stack like a real one, with its metadata, coloured noise, crowding and junk, and the truth."""
    from .. import simulation

    console = (output or Output()).console()
    with console.progress():
        result = simulation.field_set(
            source,
            like,
            out,
            noise=noise,
            stranger=stranger,
            particles=particles,
            box=box,
            snr=snr,
            pixel_size_A=pixel_size,
            crowding=crowding,
            gradient=gradient,
            junk=junk,
            contrast=contrast,
            seed=seed,
            overwrite=overwrite,
            progress=lambda done, total: console.step("simulate", done, total),
        )
    for notice in result.notices:
        console.note(f"note: {notice}")
    console.say(f"{result.count:,} particles at {result.pixel_size_A:.3f} Å/px: {result.particles}")
    console.say(f"junk: {result.nothing:,} without a particle, {result.strangers:,} of another protein")
    console.say(f"their truth: {result.clean}")
    console.finish(
        {
            "particles": result.count,
            "pixel_size_A": result.pixel_size_A,
            "nothing": result.nothing,
            "strangers": result.strangers,
            "notices": list(result.notices),
            "files": {
                "particles": str(result.particles),
                "clean": str(result.clean),
                "volume": str(result.volume),
                "config": str(result.config),
            },
        }
    )
    return 0


def evaluate(
    denoised: Annotated[Path, Parameter(help="The denoised stack.")],
    *,
    truth: Annotated[Path, Parameter(help="The clean stack of the same rows.")],
    noisy: Annotated[Path | None, Parameter(help="The stack before denoising, measured beside.")] = None,
    pixel_size: Annotated[float | None, Parameter(help="Å per pixel, where the files do not say.")] = None,
    output: Output | None = None,
) -> int:
    """Measure a denoised stack against the truth."""
    from ..evaluation import evaluate as measure
    from ..evaluation import evaluation_figures

    console = (output or Output()).console()
    figures = measure(denoised, truth, noisy, pixel_size_A=pixel_size)
    for row in evaluation_figures(figures):
        console.say(f"{row.label:<28}{row.value:>10}   {row.note}")
    console.finish(figures)
    return 0

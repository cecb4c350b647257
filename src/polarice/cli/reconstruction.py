"""Commands about maps: made of particles with orientations, and compared with each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from .options import Device, Out, Output, Overwrite, SplitHalves

__all__ = ["fsc", "reconstruct"]

Mask = Annotated[Path | None, Parameter(help="A map between 0 and 1; made from the map by default.")]


def reconstruct(
    particles: Annotated[Path, Parameter(help="A .star or .cs file of original images with orientations.")],
    /,
    *,
    out: Out,
    mask: Mask = None,
    ctf: Annotated[
        bool | None, Parameter(help="Correct for the CTF; by default where its parameters are given.")
    ] = None,
    contrast: Annotated[
        Literal["bright", "dark"] | None, Parameter(help="Contrast of the protein; found out by default.")
    ] = None,
    pixel_size: Annotated[float | None, Parameter(help="Å per pixel, where the file does not say.")] = None,
    symmetry: Annotated[
        str, Parameter(help="Point group of the molecule: C1, C4, D2, T, O, I, …, as in RELION.")
    ] = "C1",
    split_halves: SplitHalves = False,
    allow_denoised: Annotated[
        bool, Parameter(help="Take denoised images: the map will hold a learned prior.", negative="")
    ] = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Make half maps, a map and their correlation from particles with orientations, by least squares."""
    from ..evaluation import shell_correlation_picture
    from ..reconstruction import ReconstructSettings, reconstruct_stack

    console = (output or Output()).console()
    settings = ReconstructSettings(
        device=device,
        pixel_size_A=pixel_size,
        contrast=contrast,
        ctf=ctf,
        mask=mask,
        symmetry=symmetry,
        split_halves=split_halves,
        allow_denoised=allow_denoised,
    )
    with console.progress():
        result = reconstruct_stack(particles, out, settings, overwrite=overwrite, progress=console.step)
    picture = out / "fsc.png"
    shell_correlation_picture(picture, result.maps.comparison)
    for notice in result.notices:
        console.note(f"note: {notice}")
    figures = result.summary()
    figures["files"] = {**figures["files"], str(picture): "the same, to look at"}
    resolution_A = result.maps.comparison.resolution_A()
    console.say(
        f"{sum(result.particles):,} particles, half maps agree to {resolution_A:.2f} Å: {out / 'map.mrc'}"
    )
    console.finish(figures)
    return 0


def fsc(
    first: Annotated[Path, Parameter(help="A map.")],
    second: Annotated[Path, Parameter(help="Another, such as the other half map.")],
    /,
    *,
    mask: Annotated[
        Path | None, Parameter(help="A map between 0 and 1, to compare within and to correct for.")
    ] = None,
    auto_mask: Annotated[bool, Parameter(help="Make the mask from the two maps.", negative="")] = False,
    out: Annotated[Path | None, Parameter(help="Folder for fsc.star and fsc.png; none by default.")] = None,
    overwrite: Overwrite = False,
    output: Output | None = None,
) -> int:
    """Correlate two maps shell by shell: where they stop to agree, in Å."""
    from ..evaluation import shell_correlation_picture
    from ..reconstruction import compare_map_files, write_fsc

    console = (output or Output()).console()
    found = compare_map_files(first, second, mask, auto_mask=auto_mask)
    figures = found.summary()
    if out is not None:
        star = write_fsc(out, found, overwrite=overwrite)
        shell_correlation_picture(out / "fsc.png", found)
        figures["files"] = {str(star): "the curves", str(out / "fsc.png"): "the same, to look at"}
    for name, crossings in figures["resolution_A"].items():
        values = (f"{value or math.inf:.2f} Å at {threshold}" for threshold, value in crossings.items())
        console.say(f"{name:<12}{', '.join(values)}")
    console.finish(figures)
    return 0

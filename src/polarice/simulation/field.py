"""Field sets: stacks like those from a laboratory, whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import PolariceError
from ..files import prepare_output, require_room
from ..particles import ParticleWriter
from .field_images import GOOD, NOTHING, STRANGER, FieldSettings, FieldStack
from .folder import clear_folder, write_config
from .like import RealMetadata
from .molecule import Molecule, molecule_density, read_molecule
from .spectrum import measure_noise_spectrum
from .structure import Structure
from .volume import Volume, write_map

__all__ = ["FieldResult", "field_set"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FieldResult:
    """What `field_set` has written.

    Attributes
    ----------
    particles, clean : Path
        STAR files of the stack and of its truth.
    volume, config : Path
        The map that was projected; everything that was asked for and chosen, as JSON.
    pixel_size_A : float
    count, nothing, strangers : int
        Images, and those among them that show noise alone and the other protein.
    notices : tuple of str
        What the real stack did not say.
    """

    particles: Path
    clean: Path
    volume: Path
    config: Path
    pixel_size_A: float
    count: int
    nothing: int
    strangers: int
    notices: tuple[str, ...]


def field_set(
    source: Molecule,
    like: str | Path,
    out: str | Path,
    *,
    noise: str | Path | None = None,
    stranger: Molecule = "example",
    particles: int | None = None,
    box: int = 64,
    snr: float = 0.1,
    pixel_size_A: float | None = None,
    crowding: float = 3.0,
    gradient: float = 0.5,
    junk: float = 0.05,
    contrast: Literal["bright", "dark"] = "bright",
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FieldResult:
    """Simulate a stack that has a real one's metadata and what makes real ones hard.

    The folder gets ``particles.star`` and ``.mrcs`` (as from a microscope: not phase-flipped), ``clean.star``
    and ``.mrcs`` (the truth: the particle alone, in place, without CTF), ``volume.mrc`` and, last,
    ``simulation.json``. Row i has the defocus, pose, shift, micrograph, optics group and half set of the
    real row i. An image is the particle and those beside it, seen through the CTF, in ice whose noise has the
    standard deviation 1. ``polariceSimulated`` marks all rows; only ``clean.star`` says which are junk, in
    ``polariceJunk``: 1 where there is no particle (the truth is empty), 2 where it is the other protein
    (the truth shows that). Junk has the pose of its row all the same.

    Parameters
    ----------
    source : Structure, Volume or path-like
        What the particles are, see `read_molecule`.
    like : path-like
        The real stack: a ``.star`` or ``.cs`` file with CTFs, whose images may be absent.
    out : path-like
        Folder to write; made if absent.
    noise : path-like, optional
        Images of empty ice, whose spectrum the noise gets (`measure_noise_spectrum`); white without it.
    stranger : Structure, Volume or path-like
        The other protein. Two structures scatter as they do; a map is brought to the other's power.
    particles : int, optional
        The first so many rows of the real stack; all by default.
    box : int
        Side of the images in pixels.
    snr : float
        ``mean(image**2) / noise variance`` of the good particles themselves, after the CTF.
    pixel_size_A : float, optional
        Å per pixel. When absent, a structure fills 60 % of the box, and a map keeps its field of view.
    crowding : float
        Mean number of other particles around each, 0 to 6; those far off do not reach into the box.
    gradient : float
        Largest rise of the ice from one edge of the box to the other, in the noise's standard deviations;
        each image has its own, uniform up to that, in any direction.
    junk : float
        Share of images that show no such particle: half of them nothing, half the other protein.
    contrast : {"bright", "dark"}
        Of the protein, in all files but the map.
    seed : int
        All randomness of image i depends on (seed, i) alone.
    overwrite : bool
        Replace an earlier simulation in a folder that is not empty.
    progress : callable, optional
        Called with the images made and the images to make; each is made twice, the first time to
        measure the signal.

    Raises
    ------
    PolariceError
        For settings that make no sense.
    ParticleFileError
        When the real stack or the noise cannot be used.
    StructureError
        When a molecule cannot be used or does not fit into the box.
    OutputError
        When the folder is not empty and ``overwrite`` is not given, or cannot be written.
    """
    folder, report = Path(out), progress or (lambda done, total: None)
    prepare_output(folder, overwrite)
    real = RealMetadata(like, seed)
    settings = FieldSettings(
        particles=len(real) if particles is None else particles,
        box=box,
        snr=snr,
        pixel_size_A=pixel_size_A,
        junk=junk,
        crowding=crowding,
        gradient=gradient,
        contrast=contrast,
        seed=seed,
    )
    if settings.particles > len(real):
        raise PolariceError(f"{settings.particles} particles are asked for; {like} has {len(real)}")
    spectrum = None if noise is None else measure_noise_spectrum(noise)
    name, molecule = read_molecule(source)
    density = molecule_density(molecule, box, pixel_size_A)
    stranger_name, other = read_molecule(stranger)
    other_density = molecule_density(other, box, density.pixel_size_A)
    if not (isinstance(molecule, Structure) and isinstance(other, Structure)):
        factor = density.density.norm() / other_density.density.norm()
        other_density = Volume(other_density.density * factor, other_density.pixel_size_A)
    stack = FieldStack(density, other_density, real, settings, spectrum)
    require_room(folder, 8 * settings.particles * settings.box**2 + 4 * settings.box**3)
    scale = _grey_scale(stack, report)
    clear_folder(folder)
    write_map(folder / "volume.mrc", Volume(density.density * scale, density.pixel_size_A))
    counts = _write_stacks(stack, scale, folder, report)
    chosen: dict[str, Any] = asdict(settings) | {
        "source": name,
        "like": str(like),
        "noise": None if noise is None else str(noise),
        "stranger": stranger_name,
        "pixel_size_A": density.pixel_size_A,
        "grey_scale": scale,
        "diameter_A": stack.diameter_px * density.pixel_size_A,
        "notices": list(real.notices),
    }
    config = write_config(folder, chosen)
    return FieldResult(
        particles=folder / "particles.star",
        clean=folder / "clean.star",
        volume=folder / "volume.mrc",
        config=config,
        pixel_size_A=density.pixel_size_A,
        count=settings.particles,
        nothing=int(counts[NOTHING]),
        strangers=int(counts[STRANGER]),
        notices=real.notices,
    )


def _grey_scale(stack: FieldStack, report: Progress) -> float:
    """Factor on the density that gives good particles the ratio of signal to noise of variance 1."""
    power, good = 0.0, 0
    for rows in stack.batches():
        is_good = stack.kinds(rows) == GOOD
        _, seen = stack.particle(rows)
        power += float(seen[is_good].double().square().sum()) / stack.box**2
        good += int(is_good.sum())
        report(rows.stop, 2 * stack.settings.particles)
    if not power > 0:
        raise PolariceError("no particle can be seen", hint="Ask for more particles, or less junk")
    return math.sqrt(stack.settings.snr * good / power)


def _write_stacks(stack: FieldStack, scale: float, folder: Path, report: Progress) -> torch.Tensor:
    """Stream the stack and its truth, the stack's STAR file last; how many images are of each kind."""
    count, like = stack.settings.particles, stack.like
    sign = 1.0 if stack.settings.contrast == "bright" else -1.0
    common: dict[str, Any] = {"box": stack.box, "pixel_size_A": stack.pixel_size_A, "overwrite": True}
    poses, optics = like.poses(count) | {"polariceSimulated": 1}, like.optics()
    groups = {name: values for name, values in optics.items() if name.startswith("rlnOpticsGroup")}
    kinds = []
    with (
        ParticleWriter(
            folder, "particles", particles=poses | like.defoci(count), optics=optics, **common
        ) as out,
        ParticleWriter(folder, "clean", particles=poses, optics=groups, **common) as clean_out,
    ):
        for rows in stack.batches():
            clean, seen = stack.particle(rows)
            image = scale * (seen + stack.beside(rows)) + stack.ice(rows)
            out.append((sign * image).numpy())
            clean_out.append((sign * scale * clean).numpy())
            kinds.append(stack.kinds(rows))
            report(count + rows.stop, 2 * count)
        clean_out.set_columns(particles={"polariceJunk": torch.cat(kinds)})
    return torch.cat(kinds).bincount(minlength=3)

"""Particle stacks whose truth is known: from a structure or a map to RELION files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import PolariceError
from ..files import prepare_output, require_room
from ..particles import ParticleWriter
from .folder import clear_folder, write_config
from .forward import SimulatedStack
from .molecule import Molecule, molecule_density, read_molecule
from .noise import add_gaussian_noise, add_poisson_noise, item_generator
from .settings import SimulationSettings
from .volume import Volume, write_map

__all__ = ["SimulationResult", "simulate"]

_NOISE = 104  # what a generator is for

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SimulationResult:
    """What `simulate` has written.

    Attributes
    ----------
    particles, clean : Path
        STAR files of the noisy and of the noiseless stack.
    volume : Path
        The map that was projected.
    config : Path
        Everything that was asked for and chosen, as JSON.
    pixel_size_A : float
        Å per pixel of all three.
    """

    particles: Path
    clean: Path
    volume: Path
    config: Path
    pixel_size_A: float


def simulate(
    source: Molecule,
    out: str | Path,
    *,
    particles: int = 2048,
    box: int = 64,
    snr: float = 0.03,
    pixel_size_A: float | None = None,
    ctf: bool = False,
    defocus_A: tuple[float, float] = (15000.0, 25000.0),
    voltage_kV: float = 300.0,
    cs_mm: float = 2.7,
    amplitude_contrast: float = 0.1,
    max_shift_px: float = 0.0,
    noise: Literal["gaussian", "poisson"] = "gaussian",
    poissonicity: float = 0.1,
    views: Literal["uniform", "sets"] = "uniform",
    set_size: int = 8,
    set_angle_deg: float = 10.0,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SimulationResult:
    """Simulate a particle stack from a molecule.

    The folder gets ``particles.star`` and ``.mrcs`` (noisy, as from a microscope: not phase-flipped),
    ``clean.star`` and ``.mrcs`` (the same rows without CTF and noise, shifted as the particles are),
    ``volume.mrc`` (what was projected) and, last, ``simulation.json``. Protein is bright, the noise has
    the standard deviation 1, and all files share this grey scale: a projection is the sum of the
    volume's voxels. The STAR files (RELION 3.1) hold the true poses; ``rlnRandomSubset`` alternates between 1
    and 2, by sets where there are sets, whose number is ``rlnClassNumber``.

    Parameters
    ----------
    source : Structure, Volume or path-like
        A structure, a density, or the name of one (`read_molecule`).
    out : path-like
        Folder to write; made if absent.
    particles : int
        Number of images.
    box : int
        Side of the images in pixels.
    snr : float
        ``mean(image**2) / noise variance`` over the whole stack, after the CTF.
    pixel_size_A : float, optional
        Å per pixel. When absent, a structure fills 60 % of the box, and a map keeps its field of view.
    ctf : bool
        Apply a CTF to each image.
    defocus_A : (float, float)
        Range of the mean defocus, drawn uniformly; the defoci along the two axes of astigmatism differ
        by up to 500 Å, in any direction.
    voltage_kV, cs_mm, amplitude_contrast : float
        Of the microscope.
    max_shift_px : float
        Particles lie off the centre, uniformly within this distance.
    noise : {"gaussian", "poisson"}
    poissonicity : float
        Grey value of one electron in units of the noise's standard deviation, for Poisson noise.
    views : {"uniform", "sets"}
        Uniform orientations, or sets that look from about one side, see `view_sets`.
    set_size : int
        Particles in a set.
    set_angle_deg : float
        How far from its set's direction a particle's may lie; 0 for rotations in the plane alone.
    seed : int
        All randomness of image i depends on (seed, i) alone.
    overwrite : bool
        Replace an earlier simulation in a folder that is not empty.
    progress : callable, optional
        Called with the images made and the images to make; each is made twice, the first time to
        measure the signal.

    Returns
    -------
    SimulationResult

    Raises
    ------
    PolariceError
        For settings that make no sense.
    StructureError
        When the source cannot be used or does not fit into the box.
    OutputError
        When the folder is not empty and ``overwrite`` is not given, or cannot be written.
    """
    settings = SimulationSettings(
        particles=particles,
        box=box,
        snr=snr,
        pixel_size_A=pixel_size_A,
        ctf=ctf,
        defocus_A=(float(defocus_A[0]), float(defocus_A[1])),
        voltage_kV=voltage_kV,
        cs_mm=cs_mm,
        amplitude_contrast=amplitude_contrast,
        max_shift_px=max_shift_px,
        noise=noise,
        poissonicity=poissonicity,
        views=views,
        set_size=set_size,
        set_angle_deg=set_angle_deg,
        seed=seed,
    )
    folder = Path(out)
    prepare_output(folder, overwrite)
    require_room(folder, 8 * settings.particles * settings.box**2 + 4 * settings.box**3)
    name, molecule = read_molecule(source)
    volume = molecule_density(molecule, box, pixel_size_A, max_shift_px)
    stack = SimulatedStack(volume, settings)
    report = progress or (lambda done, total: None)
    scale = _grey_scale(stack, settings, report)
    clear_folder(folder)
    write_map(folder / "volume.mrc", Volume(volume.density * scale, volume.pixel_size_A))
    _write_stacks(stack, settings, scale, folder, report)
    chosen = asdict(settings) | {
        "source": name,
        "pixel_size_A": volume.pixel_size_A,
        "grey_scale": scale,
    }
    config = write_config(folder, chosen)
    return SimulationResult(
        particles=folder / "particles.star",
        clean=folder / "clean.star",
        volume=folder / "volume.mrc",
        config=config,
        pixel_size_A=volume.pixel_size_A,
    )


def _grey_scale(stack: SimulatedStack, settings: SimulationSettings, report: Progress) -> float:
    """Factor on the density that gives the ratio of signal to noise where the noise has variance 1."""
    power, highest = 0.0, 0.0
    for rows, _, seen in stack.batches():
        power += float(seen.double().square().sum()) / (settings.particles * settings.box**2)
        highest = max(highest, float(seen.max()))
        report(rows.stop, 2 * settings.particles)
    if not power > 0:
        raise PolariceError("the projections are empty", hint="Check that the map holds a molecule")
    scale = math.sqrt(settings.snr / power)
    if settings.noise == "poisson" and highest * scale > 1 / settings.poissonicity:
        raise PolariceError(
            f"at a signal-to-noise ratio of {settings.snr} the molecule takes more electrons than there are",
            hint=f"Lower the poissonicity below {1 / (highest * scale):.3g}, or the ratio",
        )
    return scale


def _write_stacks(
    stack: SimulatedStack, settings: SimulationSettings, scale: float, folder: Path, report: Progress
) -> None:
    """Stream the noisy and the clean stack, the noisy one's STAR file last."""
    common: dict[str, Any] = {"box": settings.box, "pixel_size_A": stack.pixel_size_A, "overwrite": True}
    poses, optics = stack.poses(), stack.optics_columns()
    seen_as = poses | stack.ctf_columns()
    with (
        ParticleWriter(folder, "particles", particles=seen_as, optics=optics, **common) as noisy_out,
        ParticleWriter(folder, "clean", particles=poses, **common) as clean_out,
    ):
        for rows, clean, seen in stack.batches():
            generators = [item_generator(settings.seed, _NOISE, i) for i in range(rows.start, rows.stop)]
            if settings.noise == "poisson":
                noisy = add_poisson_noise(seen * scale, 1.0, settings.poissonicity, generators)
            else:
                noisy = add_gaussian_noise(seen * scale, 1.0, generators)
            noisy_out.append(noisy.numpy())
            clean_out.append((clean * scale).numpy())
            report(settings.particles + rows.stop, 2 * settings.particles)

"""What RELION makes of the same molecule, angles, shifts and CTFs, and of the stacks that polarice writes.

Needs RELION's programs. Prints one table: images beside those of `relion_project`, the map that
`relion_reconstruct` finds in a simulated stack, and which programs open a denoised one.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polarice.conventions import euler_to_matrix
from polarice.denoising import DenoiseSettings, denoise_stack
from polarice.imaging import CTF, filter_images, shift_images
from polarice.particles import ParticleStack, StarTable, read_star, write_star
from polarice.simulation import (
    Volume,
    density_from_structure,
    example_structure,
    project_volume,
    simulate,
    write_map,
)

PIXEL_SIZE_A, BOX = 3.0, 64
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


class Relion:
    """RELION's programs in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run one; who calls looks at how it ended."""
        words = [program, *map(str, arguments)]
        return subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=False)

    def project(self, volume: Volume, columns: Mapping[str, Tensor], *options: str) -> Tensor:
        """Images that `relion_project` makes of a volume for the rows of a particle table."""
        count = len(next(iter(columns.values())))
        text = {name: [f"{value:.6f}" for value in values.tolist()] for name, values in columns.items()}
        names = {"rlnImageName": [f"{k:06d}@absent.mrcs" for k in range(1, count + 1)]}
        optics = {
            "rlnOpticsGroup": ["1"],
            "rlnVoltage": ["300"],
            "rlnSphericalAberration": ["2.7"],
            "rlnAmplitudeContrast": ["0.1"],
            "rlnImagePixelSize": [str(volume.pixel_size_A)],
            "rlnImageSize": [str(volume.box)],
            "rlnImageDimensionality": ["2"],
        }
        particles = {**names, "rlnOpticsGroup": ["1"] * count, **text}
        write_map(self.folder / "in.mrc", volume)
        tables = [StarTable("optics", optics), StarTable("particles", particles)]
        write_star(self.folder / "in.star", tables, version=30001)
        words = ("relion_project", "--i", "in.mrc", "--o", "out", "--ang", "in.star", *options)
        self.run(*words).check_returncode()
        return torch.from_numpy(mrcfile.read(self.folder / "out.mrcs").astype(np.float64))


def line(what: str, found: str) -> None:
    """One row of the table."""
    print(f"{what:<72}{found:>24}", flush=True)


def squared_error(found: Tensor, expected: Tensor) -> str:
    """Relative squared error over all pixels."""
    return f"{float((found - expected).square().sum() / expected.square().sum()):.1e}"


def projections(relion: Relion, count: int) -> None:
    """The same images made twice: without and with a CTF, astigmatic, shifted, by a phase plate."""
    g = torch.Generator().manual_seed(0)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=g, dtype=torch.float64)

    volume = density_from_structure(example_structure(), BOX, PIXEL_SIZE_A)
    volume = Volume(volume.density.double(), PIXEL_SIZE_A)
    angles = torch.stack([draw(0, 360), draw(0, 180), draw(0, 360)], -1)
    shifts = torch.stack([draw(-4, 4), draw(-4, 4)], -1)
    mean, difference, axis, plate = draw(15000, 25000), draw(0, 2000), draw(0, 180), draw(0, 90)
    turned = dict(zip(ANGLES, angles.T, strict=True))
    moved = {"rlnOriginXAngst": -shifts[:, 0] * PIXEL_SIZE_A, "rlnOriginYAngst": -shifts[:, 1] * PIXEL_SIZE_A}
    still = project_volume(volume, euler_to_matrix(angles))
    one = torch.ones(count, dtype=torch.float64)

    def seen(
        images: Tensor,
        columns: Mapping[str, Tensor],
        difference: Tensor,
        phase: Tensor,
        ours: Tensor = axis,
        sign: float = 1,
    ) -> str:
        u, v = mean + difference / 2, mean - difference / 2
        told = {"rlnDefocusU": u, "rlnDefocusV": v, "rlnDefocusAngle": axis, "rlnPhaseShift": phase}
        ctf = CTF(u, v, ours, 300 * one, 2.7 * one, 0.1 * one, phase, 0 * one).evaluate(BOX, PIXEL_SIZE_A)
        return squared_error(
            filter_images(images, sign * ctf), relion.project(volume, {**columns, **told}, "--ctf")
        )

    both = shift_images(still, shifts)
    line("relion_project: relative squared error of our images", "")
    line("  angles alone", squared_error(still, relion.project(volume, turned)))
    line("  and shifts of up to 4 pixels", squared_error(both, relion.project(volume, turned | moved)))
    line("  angles and CTF", seen(still, turned, 0 * one, 0 * one))
    line("  and astigmatism of up to 2000 Å", seen(still, turned, difference, 0 * one))
    line("  and shifts", seen(both, turned | moved, difference, 0 * one))
    line("  and a phase plate of up to 90 degrees", seen(both, turned | moved, difference, plate))
    theirs, astray = relion.project(volume, turned), shift_images(still, -shifts)
    line("  controls, which must fail: mirrored images", squared_error(still.flip(-1).roll(1, -1), theirs))
    line("  shifts with the other sign", squared_error(astray, relion.project(volume, turned | moved)))
    line("  astigmatism along the other axis", seen(still, turned, difference, 0 * one, axis + 90))
    line("  CTF with the other sign", seen(still, turned, 0 * one, 0 * one, sign=-1))


def shell_correlation(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Fourier shell correlation up to the Nyquist frequency, by shells of one Fourier pixel."""
    a, b = np.fft.fftn(first), np.fft.fftn(second)
    k = np.fft.fftfreq(len(first)) * len(first)
    shell = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2).round().astype(int).ravel()

    def total(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(shell, values.ravel())[: len(first) // 2 + 1]

    return total((a * b.conj()).real) / np.sqrt(total(abs(a) ** 2) * total(abs(b) ** 2))


def reconstructions(relion: Relion, count: int) -> None:
    """The map that RELION finds in what we simulate, beside the one it was made of."""
    line("relion_reconstruct: FSC with the map, 0.5 at / mean up to Nyquist", "")
    inside = Relion(relion.folder / "simulated")
    for ctf in (False, True):
        told: dict[str, Any] = {"snr": 1.0, "ctf": ctf, "max_shift_px": 3, "overwrite": True}
        made = simulate(example_structure(), inside.folder, particles=count, box=BOX, **told)
        words = ("--i", "particles.star", "--o", "found.mrc", *(["--ctf"] if ctf else []))
        truth = mrcfile.read(made.volume)
        mirrored = np.roll(truth[:, :, ::-1], 1, axis=2)
        case = f"{'with' if ctf else 'without'} CTF, SNR 1"
        inside.run("relion_reconstruct", *words).check_returncode()
        found = mrcfile.read(inside.folder / "found.mrc")
        line(f"  {case}: the right hand", crossing(truth, found, made.pixel_size_A))
        line(f"  {case}: the mirror image, a control", crossing(mirrored, found, made.pixel_size_A))
        line(f"  {case}: grey scale beside the map's", grey_scale(truth, found))
        invert(ParticleStack.open(made.particles), inside.folder / "particles.mrcs")
        inside.run("relion_reconstruct", *words).check_returncode()
        dark = grey_scale(truth, mrcfile.read(inside.folder / "found.mrc"))
        line(f"  {case}: the same of images with dark protein", dark)


def grey_scale(truth: NDArray[Any], found: NDArray[Any]) -> str:
    """How many times the map is in what was found."""
    return f"{float((truth * found).sum() / (truth**2).sum()):.3f}"


def invert(stack: ParticleStack, path: Path) -> None:
    """Turn the contrast of a stack's images."""
    images = -stack.images(slice(None))
    with mrcfile.mmap(path, "r+") as file:
        file.data[:] = images


def crossing(first: NDArray[Any], second: NDArray[Any], pixel_size_A: float) -> str:
    """Where the FSC falls below one half, and its mean."""
    fsc = shell_correlation(first, second)
    below = np.flatnonzero(fsc[1:] < 0.5)
    last = f"{len(first) * pixel_size_A / (below[0] + 1):.1f} Å" if below.size else "Nyquist"
    return f"{last} / {fsc[1:].mean():.3f}"


def stacks(relion: Relion, count: int, model: str) -> None:
    """Whether RELION opens what polarice has denoised, and what it makes of it."""
    made = simulate(example_structure(), relion.folder / "noisy", particles=count, box=BOX, snr=0.1, ctf=True)
    denoised = denoise_stack(made.particles, relion.folder / "denoised", DenoiseSettings(model=model))
    images = ParticleStack.open(denoised.star).images(slice(None))
    line(f"a stack of {count} particles denoised by {model}", "")
    at = Relion(denoised.star.parent)
    said = at.run("relion_image_handler", "--i", "denoised.star", "--stats")
    rows = [values for values in said.stdout.splitlines() if "@denoised.mrcs" in values]
    means = [float(found[1]) for row in rows if (found := re.search(r"avg ?= (\S+)", row))]
    worst = np.abs(np.array(means) - images.mean((1, 2))).max() if len(means) == count else np.nan
    line("  relion_image_handler --stats: images, largest difference of a mean", f"{len(rows)}, {worst:.0e}")
    at.run("relion_stack_create", "--i", "denoised.star", "--o", "copy").check_returncode()
    copy = ParticleStack.open(at.folder / "copy.star")
    same = np.array_equal(copy.images(slice(None)), images)
    line("  relion_stack_create: pixels", "the same to the bit" if same else "DIFFERENT")
    for name, star in (("the noisy stack", made.particles), ("the denoised stack", denoised.star)):
        line(f"  relion_refine, 2D, K = 4, 5 iterations: {name}", classify(star, made.pixel_size_A))
    half = relion.folder / "half"
    half.mkdir()
    with mrcfile.new(half / "particles.mrcs") as file:
        file.set_data(ParticleStack.open(made.particles).images(slice(None)).astype(np.float16))
        file.set_image_stack()
    (half / "particles.star").write_text(made.particles.read_text())
    ours = ParticleStack.open(half / "particles.star").problems() or "read"
    line("  float16 (mode 12): polarice", str(ours))
    ended = Relion(half).run("relion_image_handler", "--i", "particles.star", "--stats")
    why = re.search(r"ERROR:\s*\n?(.*)", ended.stdout + ended.stderr)
    line("  float16 (mode 12): this RELION", "read" if ended.returncode == 0 else "refused")
    if why:
        print(f"    it says: {why[1].strip()}")


def classify(star: Path, pixel_size_A: float) -> str:
    """How a short 2D classification ends: status, classes with particles, estimated accuracies."""
    options = {
        "--i": star.name,
        "--o": "./run",
        "--iter": 5,
        "--K": 4,
        "--particle_diameter": round(0.8 * BOX * pixel_size_A),
        "--tau2_fudge": 2,
        "--psi_step": 12,
        "--offset_range": 3,
        "--offset_step": 2,
        "--oversampling": 1,
        "--pad": 2,
        "--random_seed": 1,
        "--j": 1,
    }
    flags = ("--ctf", "--norm", "--scale", "--flatten_solvent", "--zero_mask", "--dont_check_norm")
    flags += ("--dont_combine_weights_via_disc",)
    flags += ("--ctf_phase_flipped",) if ParticleStack.open(star).phase_flipped else ()
    words = [word for option in options.items() for word in option]
    ended = Relion(star.parent).run("relion_refine", *words, *flags)
    if ended.returncode:
        return f"status {ended.returncode}: {(ended.stderr.strip().splitlines() or ['?'])[-1]}"
    tables = {table.name: table for table in read_star(star.parent / "run_it005_model.star")[0]}
    found = tables["model_classes"].columns
    share = np.array(found["rlnClassDistribution"], float)
    angle = np.array(found["rlnAccuracyRotations"], float)[share > 0.01].min()
    shift = np.array(found["rlnAccuracyTranslationsAngst"], float)[share > 0.01].min()
    shares = "/".join(f"{100 * part:.0f}" for part in sorted(share, reverse=True))
    return f"status 0, {shares} %, {angle:.1f}°, {shift:.1f} Å"


def main() -> None:
    """Measure and print."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--images", type=int, default=100, help="projected twice")
    parser.add_argument("--reconstructed", type=int, default=2000, help="particles of a map")
    parser.add_argument("--particles", type=int, default=500, help="of the stack that is denoised")
    parser.add_argument("--model", default="polar-transformer-64")
    arguments = parser.parse_args()
    parts: tuple[Callable[[Relion], None], ...] = (
        lambda relion: projections(relion, arguments.images),
        lambda relion: reconstructions(relion, arguments.reconstructed),
        lambda relion: stacks(relion, arguments.particles, arguments.model),
    )
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            part(Relion(Path(folder)))


if __name__ == "__main__":
    main()

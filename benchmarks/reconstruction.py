"""Maps of true orientations beside those of peers: RELION's by shells, ASPIRE's in time and correlation.

Each comparison is made on one simulated stack of 64² pixels. `relion_reconstruct` must be on the path;
ASPIRE (GPL-3.0) runs in a Python environment of its own, as `peers.py` describes, given by
``--aspire-python``. What is not there is left out. Last, true orientations are turned, and refined.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from peers import DATA, ask_aspire
from polarice.particles import ParticleStack
from polarice.reconstruction import (
    ObservedStack,
    RefineSettings,
    fourier_shell_correlation,
    reconstruct_stack,
    refine_orientations,
    small_rotations,
    soft_ball,
)
from polarice.simulation import SimulationResult, StructureBank, read_map, simulate

BOX = 64


def line(what: str, found: str) -> None:
    """One row of the table."""
    print(f"{what:<64}{found:>32}", flush=True)


def correlation(first: Tensor, second: Tensor) -> float:
    """Of grey values, over the whole box."""
    a, b = (volume.double() - volume.double().mean() for volume in (first, second))
    return float((a * b).sum() / (a.norm() * b.norm()))


def first_below(fsc: Tensor, level: float, pixel_size_A: float) -> str:
    """Shell where a curve first falls below a level, and its resolution."""
    below = torch.nonzero(fsc[1:] < level)
    if not len(below):
        return "nowhere"
    shell = int(below[0, 0]) + 1
    return f"{shell} of {len(fsc) - 1}, {BOX * pixel_size_A / shell:.1f} Å"


def against_relion(made: SimulationResult, out: Path, case: str, *, ctf: bool) -> None:
    """FSC of the unfiltered map with RELION's of the same STAR file, within the sphere."""
    words = ["relion_reconstruct", "--i", "particles.star", "--o", "relion.mrc", *(["--ctf"] if ctf else [])]
    start = time.perf_counter()
    subprocess.run(words, cwd=made.particles.parent, check=True, capture_output=True)
    theirs_s = time.perf_counter() - start
    theirs = read_map(made.particles.parent / "relion.mrc").density.float()
    start = time.perf_counter()
    maps = reconstruct_stack(made.particles, out).maps
    ours_s = time.perf_counter() - start
    ours, truth = (maps.first + maps.second) / 2, read_map(made.volume).density
    ball = soft_ball(BOX, BOX / 2, 1.0, theirs)
    fsc = fourier_shell_correlation(ours * ball, theirs * ball)
    mirrored = fourier_shell_correlation(ours * ball, theirs.flip(2).roll(1, 2) * ball)
    line(f"{case}: FSC with RELION's map first below 0.99", first_below(fsc, 0.99, made.pixel_size_A))
    line("  its mean and its value at 3/4 of Nyquist", f"{fsc[1:].mean():.4f}, {fsc[3 * BOX // 8]:.4f}")
    line("  with the mirror image of RELION's, a control: mean", f"{mirrored[1:].mean():.3f}")
    pair = (fourier_shell_correlation(volume * ball, truth)[1:].mean() for volume in (ours, theirs))
    line("  mean FSC with the truth: polarice, RELION", ", ".join(f"{mean:.4f}" for mean in pair))
    line("  seconds, file to file: polarice (three maps), RELION (one)", f"{ours_s:.1f}, {theirs_s:.1f}")


def against_aspire(made: SimulationResult, out: Path, python: Path, threads: int) -> None:
    """Time and correlation beside ASPIRE's MeanEstimator."""
    stack = ParticleStack.open(made.particles)
    rotations = stack.rotations()
    assert rotations is not None
    truth = read_map(made.volume).density
    start = time.perf_counter()
    result = reconstruct_stack(made.particles, out, overwrite=True)
    ours_s = time.perf_counter() - start
    line("polarice: correlation with the truth", f"{correlation(result.maps.whole, truth):.3f}")
    line("polarice: seconds, file to file, half maps, mask and map", f"{ours_s:.1f}")
    np.save(made.particles.parent / "rotations.npy", rotations.mT.numpy())
    files = [(made.particles.with_suffix(".mrcs"), made.particles.parent / "aspire.npy")]
    options = ("--rotations", str(made.particles.parent / "rotations.npy"))
    told = ask_aspire(python, "mean", files, threads, *options)["done"][0]
    theirs = torch.from_numpy(np.load(files[0][1]))
    seconds = told["stages"]["estimate"]
    line("ASPIRE MeanEstimator: correlation with the truth", f"{correlation(theirs, truth):.3f}")
    line("ASPIRE MeanEstimator: seconds of its estimate", f"{seconds:.1f}")
    line("polarice ÷ ASPIRE, seconds", f"{ours_s / seconds:.2f}")


def angles_deg(found: Tensor, truth: Tensor) -> Tensor:
    """Errors of orientations, less the turn of the whole molecule that fits them best."""
    u, _, v = torch.linalg.svd((found.mT @ truth).sum(0).double())
    turn = u @ torch.diag(torch.tensor([1.0, 1.0, float(torch.det(u @ v))]).double()) @ v
    trace = ((found.double() @ turn) * truth.double()).sum((1, 2))
    return torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).arccos())


def refinement(made: SimulationResult, degrees: float, rounds: int) -> None:
    """True orientations, turned by normally distributed small rotations, and refined."""
    stack = ParticleStack.open(made.particles)
    truth, halves = stack.rotations(), stack.half_sets
    assert truth is not None
    assert halves is not None
    generator = torch.Generator().manual_seed(0)
    # The mean length of a vector of three standard normal numbers is 1.6.
    turns = small_rotations(torch.randn(len(stack), 3, generator=generator) * np.radians(degrees) / 1.6)
    source = ObservedStack.measure(stack, torch.device("cpu"), ctf=stack.has_ctf)
    start = time.perf_counter()
    found = refine_orientations(source, turns @ truth, None, halves, RefineSettings(rounds=rounds))
    seconds = time.perf_counter() - start
    before, after = angles_deg(turns @ truth, truth), angles_deg(found.poses.rotations, truth)
    line("mean error of orientations before and after", f"{before.mean():.2f}°, {after.mean():.2f}°")
    line("half maps agree to", ", ".join(f"{value:.1f}" for value in found.resolution_A) + " Å")
    map_correlation = correlation(found.maps.whole, read_map(made.volume).density)
    line("correlation with the truth", f"{map_correlation:.3f}")
    line(f"seconds, {rounds} rounds", f"{seconds:.0f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--aspire-python", type=Path, help="of an environment that has ASPIRE")
    parser.add_argument("--bank", type=Path, default=DATA)
    parser.add_argument("--name", default="1FDO")
    parser.add_argument("--particles", type=int, default=2048)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=["relion", "aspire", "refine"], help="one of the comparisons")
    parser.add_argument("--degrees", type=float, default=8.0, help="mean error that refinement starts from")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bank = StructureBank.load(arguments.bank)
    structure, count = bank[bank.index(arguments.name)].centred(), arguments.particles
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plain = simulate(structure, folder / "plain", particles=count, box=BOX, snr=arguments.snr)
        if arguments.only in (None, "relion") and shutil.which("relion_reconstruct"):
            against_relion(plain, folder / "a", f"SNR {arguments.snr:g}, no CTF", ctf=False)
            for snr in (arguments.snr, 100.0):
                told = {"box": BOX, "snr": snr, "ctf": True, "max_shift_px": 3.0}
                made = simulate(structure, folder / f"ctf{snr:g}", particles=count, **told)
                against_relion(made, folder / f"b{snr:g}", f"SNR {snr:g}, CTF, shifts", ctf=True)
        if arguments.only in (None, "aspire") and arguments.aspire_python is not None:
            against_aspire(plain, folder / "a", arguments.aspire_python, arguments.threads)
        if arguments.only in (None, "refine"):
            refinement(plain, arguments.degrees, arguments.rounds)


if __name__ == "__main__":
    main()

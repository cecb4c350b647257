"""Orientations from common lines: against ASPIRE, and in the paper's experiment.

``clean``: projections without noise, ours and (with ``--aspire-python``) ASPIRE's CLSync3N on the same
images, mean angle to the true orientations after the best rotation and hand, and CPU seconds.
``paper``: the experiment of the paper's section 6.3: images at SNR 0.25 without CTF and shifts, in sets of
eight of one view each, denoised set by set with the true sets, then common lines of all.
``aspire``: images at ``--snr`` without CTF and shifts, classified and averaged, or filtered by their
covariance, by ASPIRE; then its common lines of ``--oriented`` of them. `polarice benchmark threed` does the
same with polarice.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polarice.evaluation import orientation_errors
from polarice.evaluation.benchmark import Condition
from polarice.models import load_model
from polarice.orientations import estimate_orientations
from polarice.particles import ParticleStack
from polarice.simulation import SetSampler, StructureBank, simulate, view_sets

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "structures_test.npz"
WORKER = Path(__file__).with_name("aspire_worker.py")
BOX = 64
MODELS = "polar-transformer-64", "unet-64", "dncnn-64"


def figures(found: Tensor, true: Tensor) -> str:
    """Mean and median of the errors as cells of a table."""
    errors = orientation_errors(found, true)
    return f"{errors.mean_deg:.3f}° | {errors.median_deg:.3f}°"


def ask_aspire(python: Path, stack: Path, out: Path, job: Sequence[str] = ("orientations",)) -> float:
    """ASPIRE's orientations of a stack to a file; returns its CPU seconds."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [
        str(python.absolute()),
        str(WORKER),
        job[0],
        str(stack.resolve()),
        str(out.resolve()),
        *job[1:],
    ]
    with tempfile.TemporaryDirectory() as folder:  # it writes logs into the working directory
        before = os.times()
        done = subprocess.run(command, cwd=folder, env=os.environ | threads, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"ASPIRE failed:\n{done.stderr[-2000:]}")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def compare_clean(arguments: argparse.Namespace, bank: StructureBank) -> None:
    """Projections without noise."""
    print("| structure | images | method | mean | median | CPU s |\n|---|---|---|---|---|---|")
    for name in arguments.names:
        molecule = bank[bank.index(name)].centred()
        for count in arguments.particles:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                made = simulate(molecule, folder / "sim", particles=count, box=BOX)
                stack = ParticleStack.open(made.clean)
                true = stack.rotations()
                assert true is not None
                images = torch.from_numpy(stack.images(slice(None)))
                # The optimiser is imported for the first images: a second that is paid once is not counted.
                estimate_orientations(images[:20], torch.Generator().manual_seed(0), shifts=False)
                start = time.process_time()
                found = estimate_orientations(images, torch.Generator().manual_seed(0), shifts=False)
                seconds = time.process_time() - start
                cells = figures(found.rotations, true)
                print(f"| {name} | {count} | polarice | {cells} | {seconds:.1f} |", flush=True)
                if arguments.aspire_python is not None:
                    path = folder / "aspire.npy"
                    seconds = ask_aspire(arguments.aspire_python, made.clean.with_suffix(".mrcs"), path)
                    cells = figures(torch.from_numpy(np.load(path)), true)
                    print(f"| {name} | {count} | ASPIRE CLSync3N | {cells} | {seconds:.1f} |", flush=True)


@torch.inference_mode()
def denoised_sets(model: str, noisy: Tensor) -> Tensor:
    """Sets (s, k, y, x) denoised by a network, one set at a time."""
    network, _ = load_model(model, torch.device("cpu"))
    if getattr(network, "jointly", False):
        return torch.cat([network(part).images for part in noisy.split(8)])
    return torch.cat([network(part) for part in noisy.flatten(0, 1).split(64)]).view_as(noisy)


def paper_experiment(arguments: argparse.Namespace, bank: StructureBank) -> None:
    """Sets of true views."""
    print("| structure | images | SNR | denoised by | mean | median | CPU s |\n|---|---|---|---|---|---|---|")
    for name in arguments.names:
        for count in arguments.particles:
            for snr in arguments.snr:
                rotations, _ = view_sets(count, 8, 0.0, 0)
                config = Condition("gaussian", snr).sampler(BOX, count)
                sampler = SetSampler(bank.subset([bank.index(name)]), config, seed=0)
                drawn = sampler.batch(0, 1, rotations[None])
                sets = drawn.noisy[0].unflatten(0, (-1, 8))
                for model in (*arguments.models, "noisy"):
                    images = sets if model == "noisy" else denoised_sets(model, sets)
                    start = time.process_time()
                    generator = torch.Generator().manual_seed(0)
                    found = estimate_orientations(images.flatten(0, 1), generator, shifts=False)
                    seconds = time.process_time() - start
                    cells = figures(found.rotations, rotations)
                    print(f"| {name} | {count} | {snr:g} | {model} | {cells} | {seconds:.0f} |", flush=True)


def aspire_chain(arguments: argparse.Namespace, bank: StructureBank) -> None:
    """ASPIRE from a stack that nobody has clustered to orientations of some of its images."""
    if arguments.aspire_python is None:
        raise SystemExit("give --aspire-python")
    print("| structure | images | SNR | ASPIRE | oriented | mean | median | CPU s |\n|" + "---|" * 8)
    for name in arguments.names:
        molecule = bank[bank.index(name)].centred()
        for snr in arguments.snr:
            for denoiser in ("class-average", "cwf"):
                with tempfile.TemporaryDirectory() as temporary:
                    folder, count = Path(temporary), arguments.particles[0]
                    made = simulate(molecule, folder / "sim", particles=count, box=BOX, snr=snr)
                    stack, path = made.particles.with_suffix(".mrcs"), folder / "aspire.npy"
                    told = ["chain", "--denoiser", denoiser, "--images", str(arguments.oriented)]
                    seconds = ask_aspire(arguments.aspire_python, stack, path, told)
                    true = ParticleStack.open(made.particles).rotations()
                    assert true is not None
                    some = np.linspace(0, count - 1, arguments.oriented).round().astype(int)
                    cells = figures(torch.from_numpy(np.load(path)), true[some])
                    print(
                        f"| {name} | {count} | {snr:g} | {denoiser}, CLSync3N | {len(some)} | {cells} "
                        f"| {seconds:.0f} |",
                        flush=True,
                    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=["clean", "paper", "aspire"])
    parser.add_argument("--aspire-python", type=Path, help="of an environment that has ASPIRE")
    parser.add_argument("--bank", type=Path, default=DATA)
    parser.add_argument("--names", nargs="+", default=["1FDO"])
    parser.add_argument("--particles", type=int, nargs="+", help="100 200; else 2048")
    parser.add_argument("--snr", type=float, nargs="+", default=[0.25])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--oriented", type=int, default=100, help="images whose orientations ASPIRE finds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.particles = arguments.particles or ([100, 200] if arguments.job == "clean" else [2048])
    bank = StructureBank.load(arguments.bank)
    {"clean": compare_clean, "paper": paper_experiment, "aspire": aspire_chain}[arguments.job](
        arguments, bank
    )


if __name__ == "__main__":
    main()

"""Orientations from common lines: against ASPIRE, in the paper's experiment, and from a stack alone.

``clean``: projections without noise, ours and (with ``--aspire-python``) ASPIRE's CLSync3N on the same
images, mean angle to the true orientations after the best rotation and hand, and CPU seconds.
``paper``: the experiment of the paper's section 6.3: images at SNR 0.25 without CTF and shifts, in sets of
eight of one view each, denoised set by set with the true sets, then common lines of all.
``stacks``: `polarice abinitio` on simulated stacks; nobody is told anything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polarice.denoising import DenoiseSettings
from polarice.evaluation import orientation_errors
from polarice.evaluation.benchmark import Condition
from polarice.models import load_model
from polarice.orientations import estimate_orientations
from polarice.particles import ParticleStack
from polarice.reconstruction import AbInitioSettings, abinitio
from polarice.simulation import SetSampler, StructureBank, simulate, view_sets

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "structures_test.npz"
WORKER = Path(__file__).with_name("aspire_worker.py")
BOX = 64
MODELS = "polar-transformer-64", "unet-64", "dncnn-64"


def figures(found: Tensor, true: Tensor) -> str:
    """Mean and median of the errors as cells of a table."""
    errors = orientation_errors(found, true)
    return f"{errors.mean_deg:.3f}° | {errors.median_deg:.3f}°"


def ask_aspire(python: Path, stack: Path, out: Path) -> float:
    """ASPIRE's orientations of a stack to a file; returns its CPU seconds."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [str(python.absolute()), str(WORKER), "orientations", str(stack.resolve()), str(out.resolve())]
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
        for count in arguments.particles:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                made = simulate(bank[bank.index(name)], folder / "sim", particles=count, box=BOX)
                stack = ParticleStack.open(made.clean)
                true = stack.rotations()
                assert true is not None
                images = torch.from_numpy(stack.images(slice(None)))
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


def honest_stacks(arguments: argparse.Namespace, bank: StructureBank) -> None:
    """From a stack to orientations."""
    print("| structure | images | SNR | CTF | mean | median | confidence | wall s |\n|" + "---|" * 8)
    for name in arguments.names:
        for count in arguments.particles:
            for snr in arguments.snr:
                with tempfile.TemporaryDirectory() as temporary:
                    folder = Path(temporary)
                    made = simulate(
                        bank[bank.index(name)],
                        folder / "sim",
                        particles=count,
                        box=BOX,
                        snr=snr,
                        ctf=arguments.ctf,
                        max_shift_px=arguments.max_shift,
                    )
                    settings = AbInitioSettings(
                        denoising=DenoiseSettings(model=arguments.models[0], device="cpu")
                    )
                    start = time.perf_counter()
                    result = abinitio(made.particles, folder / "out", settings)
                    seconds = time.perf_counter() - start
                    true = ParticleStack.open(made.particles).rotations()
                    assert true is not None
                    cells = figures(torch.from_numpy(result.rotations), true)
                ctf, sure = "yes" if arguments.ctf else "no", result.confidence.mean()
                print(
                    f"| {name} | {count} | {snr:g} | {ctf} | {cells} | {sure:.2f} | {seconds:.0f} |",
                    flush=True,
                )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=["clean", "paper", "stacks"])
    parser.add_argument("--aspire-python", type=Path, help="of an environment that has ASPIRE")
    parser.add_argument("--bank", type=Path, default=DATA)
    parser.add_argument("--names", nargs="+", default=["1FDO"])
    parser.add_argument("--particles", type=int, nargs="+", help="100 200; else 2048")
    parser.add_argument("--snr", type=float, nargs="+", default=[0.25])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--ctf", action="store_true", help="of stacks")
    parser.add_argument("--max-shift", type=float, default=0.0, help="of particles in stacks, pixels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.particles = arguments.particles or ([100, 200] if arguments.job == "clean" else [2048])
    bank = StructureBank.load(arguments.bank)
    {"clean": compare_clean, "paper": paper_experiment, "stacks": honest_stacks}[arguments.job](
        arguments, bank
    )


if __name__ == "__main__":
    main()

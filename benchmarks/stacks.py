"""Whole simulated stacks, file to file: true error, speed, and the share of time of each stage.

Each structure is seen from uniform directions with CTF and shifts; nobody tells the joint network
which particles belong together.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from polarice.denoising import DenoiseSettings, denoise_stack
from polarice.evaluation import evaluate, run_report
from polarice.simulation import StructureBank, simulate

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "structures_test.npz"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["unet-64", "polar-transformer-64"])
    parser.add_argument("--bank", type=Path, default=DATA)
    parser.add_argument("--structures", nargs="+", default=["1FDO", "3NAL", "6BQN"])
    parser.add_argument("--particles", type=int, default=2048)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1])
    parser.add_argument("--max-shift", type=float, default=2.0)
    parser.add_argument("--pages", type=Path, help="keep the pages in this folder")
    arguments = parser.parse_args()
    bank = StructureBank.load(arguments.bank)
    print(f"{arguments.particles} particles each, CTF, shifts; {torch.get_num_threads()} threads\n")
    print("| structure | SNR | model | relative MSE | noisy | images/s | share of time |")
    print("|---|---|---|---|---|---|---|")
    figures = []
    for name in arguments.structures:
        for snr in arguments.snr:
            with tempfile.TemporaryDirectory() as folder:
                made = simulate(
                    bank[bank.index(name)],
                    Path(folder) / "sim",
                    particles=arguments.particles,
                    snr=snr,
                    ctf=True,
                    max_shift_px=arguments.max_shift,
                )
                for model in arguments.models:
                    out = Path(folder) / Path(model).stem
                    result = denoise_stack(made.particles, out, DenoiseSettings(model=model))
                    measured = evaluate(result.star, made.clean, made.particles)
                    total = sum(result.seconds.values())
                    share = ", ".join(f"{k} {v / total:.0%}" for k, v in result.seconds.items())
                    row = {
                        "structure": name,
                        "snr": snr,
                        "model": Path(model).stem,
                        "relative_mse": measured["denoised"]["relative_mse"],
                        "noisy": measured["noisy"]["relative_mse"],
                        "images_per_s": arguments.particles / total,
                        "seconds": result.seconds,
                    }
                    figures.append(row)
                    cells = f"{row['relative_mse']:.4f} | {row['noisy']:.2f} | {row['images_per_s']:.1f}"
                    print(f"| {name} | {snr:g} | {row['model']} | {cells} | {share} |", flush=True)
                    if arguments.pages:
                        arguments.pages.mkdir(parents=True, exist_ok=True)
                        page = arguments.pages / f"{name}-{snr:g}-{row['model']}.html"
                        run_report(page, result, truth=made.clean, evaluation=measured)
    print("\n" + json.dumps(figures))


if __name__ == "__main__":
    main()

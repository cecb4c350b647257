"""Relative MSE of networks on the test structures, beside each other on the same images.

One molecule after another, directional sets (copies of one view, turned at random), white noise, no
CTF and no shifts unless asked for: the setting of the paper's figure 2a.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from polarice.models import load_model
from polarice.simulation import SamplerConfig, SetSampler, StructureBank
from polarice.training.loop import denoise_batch

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "structures_test.npz"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["unet-64", "polar-transformer-64"])
    parser.add_argument("--bank", type=Path, default=DATA, help="structures (default: the test structures)")
    parser.add_argument("--structures", type=int, help="only so many of them")
    parser.add_argument("--sets", type=int, default=2, help="sets of each structure")
    parser.add_argument("--set-size", type=int, default=8)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.03])
    parser.add_argument(
        "--ctf", action="store_true", help="a CTF of 15,000 to 25,000 Å defocus on every image"
    )
    parser.add_argument("--max-shift", type=float, default=0.0, help="pixels")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bank = StructureBank.load(arguments.bank)
    count = min(arguments.structures or len(bank), len(bank))
    networks = {Path(name).stem if "/" not in name else name: load_model(name) for name in arguments.models}
    images = count * arguments.sets * arguments.set_size
    print(f"{count} structures, {images} images, directional sets of {arguments.set_size}, 1 thread\n")
    print("| model | trained on images | " + " | ".join(f"SNR {snr:g}" for snr in arguments.snr) + " |")
    print("|---|---|" + "---|" * len(arguments.snr))
    figures: dict[str, dict[str, list[float]]] = {}
    for name, (network, card) in networks.items():
        rows: dict[str, list[float]] = {}
        for snr in arguments.snr:
            config = SamplerConfig(
                set_size=arguments.set_size,
                directional=1.0,
                general=0.0,
                neighbourhood=0.0,
                snr=(snr, snr),
                ctf=float(arguments.ctf),
                defocus_A=(15000.0, 25000.0),
                max_shift_px=arguments.max_shift,
                crowded=0.0,
                divided=0.0,
            )
            errors = []
            for index in range(count):
                batch = SetSampler(bank.subset([index]), config, seed=index).batch(0, arguments.sets)
                with torch.inference_mode():
                    denoised, _ = denoise_batch(network, batch)
                error = (denoised - batch.clean).square().sum() / batch.clean.square().sum()
                errors.append(float(error))
            rows[str(snr)] = errors
        figures[name] = rows
        cells = []
        for errors in rows.values():
            values = torch.tensor(errors)
            interval = 1.96 * float(values.std()) / max(len(errors), 1) ** 0.5
            cells.append(f"{float(values.mean()):.4f} ± {interval:.4f}")
        print(f"| {name} | {card.figures.get('images_seen', '?')} | {' | '.join(cells)} |", flush=True)
    means = {name: {s: sum(e) / len(e) for s, e in rows.items()} for name, rows in figures.items()}
    print("\n" + json.dumps({"relative_mse": means}))


if __name__ == "__main__":
    main()

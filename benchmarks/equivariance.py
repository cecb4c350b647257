"""Equivariance of whole networks: turn one image of a set and compare with the turned outputs."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor

from polarice.imaging import soft_disc
from polarice.models import load_model
from polarice.simulation import SamplerConfig, SetSampler, StructureBank
from polarice.training.loop import denoise_batch

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "structures_test.npz"


def shear(images: Tensor, amount: float, axis: int) -> Tensor:
    """Shear images (b, y, x) about the origin by shifting their lines in Fourier space, exactly."""
    size = images.shape[-1]
    lines = torch.arange(size, dtype=images.dtype) - size // 2
    frequency = torch.fft.rfftfreq(size, dtype=images.dtype)
    turned = images if axis == -1 else images.transpose(-1, -2)
    ramp = torch.polar(
        torch.ones(size, len(frequency)).to(images), -2 * math.pi * amount * lines[:, None] * frequency
    )
    sheared = torch.fft.irfft(torch.fft.rfft(turned) * ramp, n=size)
    return sheared if axis == -1 else sheared.transpose(-1, -2)


def turn(images: Tensor, degrees: float) -> Tensor:
    """Turn images (b, y, x) from x towards y about the origin: exact quarter turns, then shears."""
    half = images.shape[-1] // 2
    padded = torch.nn.functional.pad(images, (half, half, half, half))
    quarters = round(degrees / 90)
    for _ in range(quarters % 4):
        # The origin is pixel L // 2, so a quarter turn is a flip that leaves row 0 in place.
        padded = padded.transpose(-1, -2).flip(-1).roll(1, -1)
    rest = math.radians(degrees - 90 * quarters)
    if rest:
        for amount, axis in ((-math.tan(rest / 2), -1), (math.sin(rest), -2), (-math.tan(rest / 2), -1)):
            padded = shear(padded, amount, axis)
    return padded[..., half:-half, half:-half]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["unet-64", "polar-transformer-64"])
    parser.add_argument("--bank", type=Path, default=DATA)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--sets", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = SamplerConfig(set_size=8, directional=1.0, general=0.0, neighbourhood=0.0, crowded=0.0)
    config = SamplerConfig(**{**config.__dict__, "snr": (arguments.snr,) * 2, "ctf": 0.0, "divided": 0.0})
    batch = SetSampler(StructureBank.load(arguments.bank), config, seed=0).batch(0, arguments.sets)
    disc = soft_disc(config.box, config.box / 2 - 1, 6.0)
    noisy = batch.noisy * disc
    figures: dict[str, dict[str, float]] = {}
    print(f"{arguments.sets} sets of 8 at SNR {arguments.snr:g}; one image of each is turned; 1 thread\n")
    print("| model | turn | its own output | the others' outputs |\n|---|---|---|---|")
    for name in arguments.models:
        network, _ = load_model(name)
        with torch.inference_mode():
            before, _ = denoise_batch(network, batch._replace(noisy=noisy))
            for degrees in (90.0, 37.0):
                changed = noisy.clone()
                changed[:, 0] = turn(noisy[:, 0], degrees)
                after, _ = denoise_batch(network, batch._replace(noisy=changed))
                expected = turn(before[:, 0], degrees)
                inner = soft_disc(config.box, config.box / 2 - 2, 4.0)
                own = ((after[:, 0] - expected) * inner).square().sum() / (expected * inner).square().sum()
                others = (after[:, 1:] - before[:, 1:]).square().sum() / before[:, 1:].square().sum()
                figures[f"{name} {degrees:g}"] = {"own": float(own), "others": float(others)}
                print(f"| {name} | {degrees:g}° | {float(own):.2e} | {float(others):.2e} |", flush=True)
    print("\n" + json.dumps(figures))


if __name__ == "__main__":
    main()

"""How well the agreement of two estimates tells how far a denoised particle is from the truth.

Simulates particles of the example, denoises them with `--agreement`, and prints, ring by ring, the mean
correlation of the two estimates and that of the denoised images with the truth; then how well the one ranks
particles by the other.

    python benchmarks/agreement.py OUT [--particles 1000] [--snr 0.1]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from polarice.denoising import DenoiseSettings, denoise_stack
from polarice.imaging import fourier_ring_correlation
from polarice.particles import ParticleStack
from polarice.simulation import example_structure, simulate


def main() -> None:
    """Simulate, denoise twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--snr", type=float, default=0.1)
    told = parser.parse_args()
    simulation = simulate(
        example_structure(),
        told.out / "simulated",
        particles=told.particles,
        snr=told.snr,
        ctf=True,
        max_shift_px=3,
    )
    result = denoise_stack(simulation.particles, told.out / "denoised", DenoiseSettings(agreement=True))
    assert result.agreement is not None
    assert result.weights is not None
    stack = ParticleStack.open(result.star)
    denoised, truth = (
        torch.from_numpy(ParticleStack.open(path).images(slice(None)))
        for path in (result.star, simulation.clean)
    )
    # The background is no part of what was denoised.
    denoised = denoised - result.found.statistics.background[:, None, None]
    true = fourier_ring_correlation(denoised, truth, pooled=False).numpy()
    side_A, rings = stack.box * stack.pixel_size_A, slice(1, stack.box // 4 + 1)
    print("  Å     two estimates   with the truth")
    for ring in range(2, stack.box // 4 + 1, 2):
        print(f"{side_A / ring:6.1f}  {result.agreement[:, ring].mean():8.3f}  {true[:, ring].mean():14.3f}")
    ranked = true[:, rings].mean(1)
    agreement, confidence = (np.array(stack.numeric(f"polarice{n}")) for n in ("Agreement", "Confidence"))
    order = np.argsort(agreement)
    for name, some in (
        ("lowest tenth", order[: len(order) // 10]),
        ("highest tenth", order[-len(order) // 10 :]),
    ):
        print(f"{name} by agreement: {agreement[some].mean():.3f}, with the truth {ranked[some].mean():.3f}")
    print(f"rank correlation with the truth: agreement {spearmanr(agreement, ranked)[0]:.2f}, ", end="")
    print(f"confidence {spearmanr(confidence, ranked)[0]:.2f}")


if __name__ == "__main__":
    main()

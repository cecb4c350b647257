"""What whitening is worth: stacks with noise of several colours, denoised with and without it.

Prints the relative mean squared error against the truth. Of real pairs of images with independent noise
(``--pairs``) it is the correlation of the one, denoised and seen through its CTF, with the other.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from polarice.denoising import DenoiseSettings, denoise_stack
from polarice.evaluation import evaluate
from polarice.imaging import filter_images, soft_disc
from polarice.particles import ParticleStack, ParticleWriter, whitening_filters
from polarice.simulation import example_structure, simulate

BOX = 64
RINGS = torch.arange(BOX // 2 + 1)
COLOURS = {
    "white": torch.ones(len(RINGS)),
    "falling, 3.5 to 0.6": 4 / (1 + (RINGS / 14) ** 2),
    "ice, 4 at low frequency": 1 + 3 * torch.exp(-((RINGS / 6) ** 2)),
    "ice, 10 at low frequency": 1 + 9 * torch.exp(-((RINGS / 6) ** 2)),
}


def add_coloured_noise(folder: Path, clean: Path, like: Path, power: torch.Tensor, snr: float) -> Path:
    """Noiseless images seen through the CTFs of a stack, in noise of a certain power on each ring."""
    truth, source = ParticleStack.open(clean), ParticleStack.open(like)
    transfer = source.ctf(slice(None)).evaluate(BOX, source.pixel_size_A)
    signal = filter_images(torch.from_numpy(truth.images(slice(None))), transfer)
    level = (signal.square().mean() / snr).sqrt()
    white = torch.randn(signal.shape, generator=torch.Generator().manual_seed(1))
    noise = level * filter_images(white, 1 / whitening_filters(power[None], BOX)[0])
    folder.mkdir()
    with ParticleWriter(
        folder, "particles", box=BOX, pixel_size_A=source.pixel_size_A, source=source
    ) as writer:
        writer.append((signal + noise).numpy())
    return folder / "particles.star"


def agreement(denoised: Path, other: Path) -> float:
    """Correlation of denoised images, put through their CTFs, with noisy ones of the same particles."""
    ours, theirs = ParticleStack.open(denoised), ParticleStack.open(other)
    transfer = theirs.ctf(slice(None)).evaluate(theirs.box, theirs.pixel_size_A)
    mask = soft_disc(theirs.box, 0.375 * theirs.box, 4.0)
    expected = filter_images(torch.from_numpy(ours.images(slice(None))), transfer.abs())
    seen = filter_images(torch.from_numpy(theirs.images(slice(None))), transfer.sign())
    flat = [((x - x.mean((1, 2), keepdim=True)) * mask).flatten(1) for x in (expected, seen)]
    one, another = (x - x.mean(1, keepdim=True) for x in flat)
    return float((one * another).sum() / (one.square().sum() * another.square().sum()).sqrt())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--particles", type=int, default=600)
    parser.add_argument("--snr", type=float, default=0.1, help="as if the noise were white, at ring 16 to 32")
    parser.add_argument("--pairs", type=Path, nargs=2, help="two STAR files of the same particles")
    arguments = parser.parse_args()
    ways = (False, True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def denoised(stack: Path, whiten: bool) -> Path:
            return denoise_stack(stack, folder / "out", DenoiseSettings(whiten=whiten), overwrite=True).star

        made = simulate(
            example_structure(), folder / "made", particles=arguments.particles, ctf=True, max_shift_px=3.0
        )
        print(f"{'relative MSE':<28}{'as it is':>10}{'whitened':>10}")
        for number, (colour, power) in enumerate(COLOURS.items()):
            stack = add_coloured_noise(folder / str(number), made.clean, made.particles, power, arguments.snr)
            errors = [
                evaluate(denoised(stack, way), made.clean, stack)["denoised"]["relative_mse"] for way in ways
            ]
            print(f"{colour:<28}" + "".join(f"{error:10.4f}" for error in errors), flush=True)
        if arguments.pairs:
            one, another = arguments.pairs
            found = [agreement(denoised(one, way), another) for way in ways]
            print(f"{'correlation of real pairs':<28}" + "".join(f"{value:10.4f}" for value in found))


if __name__ == "__main__":
    main()

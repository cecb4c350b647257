"""Real pairs of particles with independent noise: how well does one, denoised, predict the other.

The stack ``rest`` is denoised; its images, with the CTF put back on, are compared with the untouched
stack ``frame`` after the best linear scale. The noise of ``frame`` is common to all rows of the
table, so differences between rows are differences in true error. Joint networks are also given nobody, and
companions drawn at random: what the neighbours are worth that were found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polarice.denoising import DenoiseSettings, denoise_stack
from polarice.imaging import filter_images, soft_disc
from polarice.neighbours import NOBODY
from polarice.particles import ParticleStack, scan
from polarice.stacks import NEIGHBOUR_FILE

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "particles" / "apoferritin"


def mean_squared_difference(prediction: Tensor, frame: Tensor, disc: Tensor) -> tuple[float, float, float]:
    """Mean squared difference within a disc after the best scale, its standard error, and the scale."""
    weight = disc.square()
    scale = (prediction * frame * weight).sum() / (prediction.square() * weight).sum().clamp_min(1e-30)
    each = ((scale * prediction - frame).square() * weight).sum((1, 2)) / weight.sum()
    return float(each.mean()), float(each.std() / len(each) ** 0.5), float(scale)


def denoised(source: Path, out: Path, settings: DenoiseSettings) -> Tensor:
    """The stack denoised."""
    return torch.from_numpy(ParticleStack.open(denoise_stack(source, out, settings).star).images(slice(None)))


def other_company(found: Path) -> Iterator[tuple[str, Path]]:
    """Neighbour files like one that was found, with nobody in them, and with anybody."""
    with np.load(found, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    shape, rng = arrays["neighbours"].shape, np.random.default_rng(0)
    others = [rng.choice(np.delete(np.arange(shape[0]), i), shape[1], replace=False) for i in range(shape[0])]
    for name, rows in (("nobody", np.full(shape, NOBODY)), ("anybody", np.stack(others))):
        path = found.with_name(f"{name}.npz")
        np.savez(path, **{**arrays, "neighbours": rows})
        yield name, path


def mask_diameter(text: str) -> float | Literal["auto"] | None:
    """An option's value."""
    if text == "auto":
        return "auto"
    return None if text == "none" else float(text)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["unet-64", "polar-transformer-64"])
    parser.add_argument("--rest", type=Path, default=DATA / "pair_rest_64.star")
    parser.add_argument("--frame", type=Path, default=DATA / "pair_frame_64.star")
    parser.add_argument("--radius", type=float, default=75.0, help="of the disc that is compared, Å")
    parser.add_argument(
        "--mask-diameter", type=mask_diameter, default="auto", help="of polarice denoise: Å, auto or none"
    )
    arguments = parser.parse_args()
    rest, frame = ParticleStack.open(arguments.rest), ParticleStack.open(arguments.frame)
    everything = slice(None)
    disc = soft_disc(rest.box, arguments.radius / rest.pixel_size_A, 3.0)
    found = scan(frame, frame.box).statistics
    target = torch.from_numpy(frame.images(everything)) - found.background[:, None, None]
    target = target / found.noise_sigma[:, None, None]
    measured = scan(rest, rest.box).statistics
    transfer = rest.ctf(everything).evaluate(rest.box, rest.pixel_size_A)

    def standard(images: Tensor) -> Tensor:
        return (images - measured.background[:, None, None]) / measured.noise_sigma[:, None, None]

    raw = standard(torch.from_numpy(rest.images(everything)))
    rows: dict[str, Tensor] = {"nothing (empty image)": torch.zeros_like(raw), "no denoising": raw}
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            settings = DenoiseSettings(model=model, mask_diameter_A=arguments.mask_diameter)
            out, name = Path(folder) / "out", Path(model).stem
            rows[name] = filter_images(standard(denoised(arguments.rest, out, settings)), transfer)
            if (out / NEIGHBOUR_FILE).exists():
                for company, path in other_company(out / NEIGHBOUR_FILE):
                    told = replace(settings, neighbours_from=path)
                    images = standard(denoised(arguments.rest, Path(folder) / company, told))
                    rows[f"{name}, {company}"] = filter_images(images, transfer)
    empty = mean_squared_difference(rows["nothing (empty image)"], target, disc)[0]
    print(f"{len(rest)} pairs; in units of the frame's noise variance, within {arguments.radius:g} Å\n")
    print("| prediction of the frame | mean squared difference | explained, × 1000 | best scale |")
    print("|---|---|---|---|")
    figures = {}
    for name, prediction in rows.items():
        difference, error, scale = mean_squared_difference(prediction, target, disc)
        figures[name] = {"difference": difference, "explained": empty - difference}
        explained = 1000 * (empty - difference)
        print(f"| {name} | {difference:.5f} ± {error:.5f} | {explained:.3f} | {scale:.4f} |", flush=True)
    print("\n" + json.dumps(figures))


if __name__ == "__main__":
    main()

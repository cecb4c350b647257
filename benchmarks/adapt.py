"""Adaptation to a stack: true error before and after, where structure, noise and pixel size are unfamiliar.

Three simulated stacks lie outside of what the shipped network was trained on: a particle that fills less
of the box than any, with pink noise; one that fills more, with twice as much colour as ice gives (in
logarithms); and a map of an experiment, with noise that falls as a detector's transfer function does. Then
real pairs with independent noise: adapted to one stack's training particles, compared with the other stack
on held-out ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polarice.denoising import DenoiseSettings, SetDenoiser, denoise_stack
from polarice.evaluation import evaluate
from polarice.imaging import filter_images, frequency_grid, move_images, soft_disc
from polarice.models import read_card
from polarice.neighbours import NOBODY
from polarice.particles import ParticleStack, ParticleWriter, scan
from polarice.simulation import StructureBank, simulate
from polarice.stacks import NEIGHBOUR_FILE, GivenNeighbours, NeighbourTable, PreparedStack
from polarice.training import AdaptResult, AdaptSettings, adapt
from polarice.training.held_out import hold_out

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BOX = 64


def frequencies() -> Tensor:
    """Cycles per box on the half spectrum."""
    fy, fx = frequency_grid(BOX)
    return BOX * torch.hypot(fy, fx)


def ice_power(path: Path) -> Tensor:
    """Power spectrum of ice between particles, the mean over rings."""
    images = torch.from_numpy(ParticleStack.open(path, pixel_size_A=1.5).images(slice(None)))
    images = images - images.mean((1, 2), keepdim=True)
    power = torch.fft.rfft2(images / images.std((1, 2), keepdim=True)).abs().square().mean(0)
    ring = frequencies().round().long()
    sums = torch.zeros(int(ring.max()) + 1).index_add(0, ring.flatten(), power.flatten())
    means = sums / torch.bincount(ring.flatten())
    means[0] = means[1]
    return means[ring.clamp(max=BOX // 2)]


@dataclass(frozen=True)
class Case:
    """A stack outside of what was trained on."""

    name: str
    source: Any
    pixel_size_A: float | None
    noise: Tensor


def cases(data: Path) -> list[Case]:
    """The three of the table."""
    bank = StructureBank.load(data / "structures_test.npz")
    small, large = (bank[bank.index(name)] for name in ("1FDO", "3NAL"))
    ring = frequencies()
    return [
        Case(
            "1FDO, 0.30 of the box, pink",
            small,
            small.diameter_A / (0.3 * BOX),
            1 + (4 / ring.clamp(min=1)) ** 2,
        ),
        Case(
            "3NAL, 0.93 of the box, ice²",
            large,
            large.diameter_A / (0.93 * BOX),
            ice_power(data / "noise" / "ice_apoferritin_64.mrcs").square(),
        ),
        Case(
            "experimental map, 5.8 Å, detector's MTF",
            data / "maps" / "relion_locres_filtered_90.mrc",
            None,
            torch.exp(-2.5 * (ring / (BOX / 2)).square()) + 0.02,
        ),
    ]


def coloured_stack(case: Case, out: Path, particles: int, snr: float, ctf: bool = True) -> tuple[Path, Path]:
    """Simulate a stack, and give its noise a colour; returns it and the truth."""
    made = simulate(
        case.source,
        out,
        particles=particles,
        snr=snr,
        ctf=ctf,
        pixel_size_A=case.pixel_size_A,
        max_shift_px=2.0,
        seed=11,
    )
    stack = ParticleStack.open(made.particles)
    everything = slice(None)
    clean = torch.from_numpy(ParticleStack.open(made.clean).images(everything))
    seen = clean
    if ctf:
        seen = filter_images(clean, stack.ctf(everything).evaluate(BOX, stack.pixel_size_A))
    white = torch.from_numpy(stack.images(everything)) - seen
    twice = torch.full_like(case.noise, 2.0)
    twice[:, 0] = twice[:, -1] = 1
    # The variance stays 1.
    power = case.noise * twice.sum() / (case.noise * twice).sum()
    with ParticleWriter(out, "coloured", box=BOX, pixel_size_A=stack.pixel_size_A, source=stack) as writer:
        writer.append((seen + filter_images(white, power.sqrt())).numpy())
    return writer.star_path, made.clean


def denoised(particles: Path, out: Path, model: str | Path, neighbours: Path) -> Path:
    """The stack denoised with the neighbours that adaptation has found, which do not depend on it."""
    settings = DenoiseSettings(model=str(model), neighbours_from=neighbours)
    return denoise_stack(particles, out, settings).star


def neighbour_bias(table: Path, clean: Path) -> float:
    """Relative squared distance of what neighbours show, aligned and averaged, from what a particle shows.

    Without any noise: learning from neighbours as noisy views of the same signal would end at this error.
    """
    images = torch.from_numpy(ParticleStack.open(clean).images(slice(None)))
    with np.load(table, allow_pickle=False) as arrays:
        names = ("neighbours", "probability", "angles_deg", "shifts_px", "mirrored", "centre_px")
        found = NeighbourTable(*(arrays[name] for name in names))
    error = []
    for row in range(0, len(images), 4):
        places = np.flatnonzero(found.rows[row] != NOBODY)
        matrices, shifts = (torch.from_numpy(part).float() for part in found.frames(row, places))
        aligned = move_images(images[found.rows[row, places]], matrices, shifts)
        error.append((aligned.mean(0) - images[row]).square().sum() / images[row].square().sum())
    return float(torch.stack(error).mean())


def told(result: AdaptResult) -> str:
    """What the run itself has estimated."""
    figures = read_card(result.weights).figures
    difference, error = (figures[f"adapted_error_{name}"] for name in ("difference", "standard_error"))
    return f"{difference:+.4f} ± {error:.4f}{'' if result.better else ', not kept'}"


def simulated(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """True relative MSE of whole stacks before and after."""
    own = "the run's own estimate of the change"
    print(f"| stack | noisy | shipped | adapted | change | {own} | neighbours, aligned | minutes |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    figures = []
    for number, case in enumerate(cases(arguments.data)):
        if number not in arguments.cases:
            continue
        base = folder / f"case-{number}"
        particles, clean = coloured_stack(
            case, base / "simulated", arguments.particles, arguments.snr, not arguments.no_ctf
        )
        start = time.monotonic()
        result = adapt(particles, base / "adapted", AdaptSettings(steps=arguments.steps))
        minutes = (time.monotonic() - start) / 60
        row: dict[str, Any] = {"stack": case.name, "minutes": minutes, "own": told(result)}
        for name, model in (("shipped", "polar-transformer-64"), ("adapted", result.weights)):
            star = denoised(particles, base / f"denoised-{name}", model, base / "adapted")
            measured = evaluate(star, clean, particles)
            row[name] = measured["denoised"]["relative_mse"]
            row[f"{name}_scaled"] = measured["denoised"]["relative_mse_after_scaling"]
            row["noisy"] = measured["noisy"]["relative_mse"]
        row["neighbours"] = neighbour_bias(base / "adapted" / NEIGHBOUR_FILE, clean)
        figures.append(row)
        change = row["adapted"] / row["shipped"] - 1
        cells = f"{row['noisy']:.2f} | {row['shipped']:.4f} | {row['adapted']:.4f} | {change:+.1%}"
        print(
            f"| {case.name} | {cells} | {row['own']} | {row['neighbours']:.3f} | {minutes:.1f} |", flush=True
        )
    return figures


def pairs(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Adapt to one stack of the pairs, and compare with the other."""
    rest = arguments.data / "particles" / "apoferritin" / "pair_rest_64.star"
    result = adapt(rest, folder / "adapted", AdaptSettings(steps=arguments.steps))
    return {"own": told(result), **pair_differences(arguments.data, folder / "adapted")}


def pair_differences(data: Path, adapted: Path) -> dict[str, Any]:
    """Mean squared difference to the independent frame, of neighbourhoods that were not learned from.

    They are denoised for themselves, each as one set, and put in the frame's grey scale by one factor.
    """
    folder = data / "particles" / "apoferritin"
    rest, frame = (ParticleStack.open(folder / f"pair_{name}_64.star") for name in ("rest", "frame"))
    settings, device = AdaptSettings(), torch.device("cpu")
    prepared = PreparedStack.measure(rest, settings, BOX, device, lambda *_: None)
    rows = GivenNeighbours.load(adapted, rest, settings.neighbours).rows
    division = hold_out(rows, prepared.found.original.numpy(), np.arange(len(rest)), settings.seed)
    judges = np.concatenate(division.judges)
    disc = soft_disc(BOX, 75.0 / rest.pixel_size_A, 3.0).square()
    statistics = scan(frame, BOX).statistics[torch.from_numpy(judges)]
    sight = torch.from_numpy(frame.images(judges)) - statistics.background[:, None, None]
    sight = sight / statistics.noise_sigma[:, None, None]

    def difference(seen: Tensor) -> Tensor:
        scale = (seen * sight * disc).sum() / (seen.square() * disc).sum().clamp_min(1e-30)
        return ((scale * seen - sight).square() * disc).sum((1, 2)) / disc.sum()

    error = {"nothing": difference(torch.zeros_like(sight))}
    for name, model in (("shipped", "polar-transformer-64"), ("adapted", adapted / "adapted.safetensors")):
        denoiser, seen = SetDenoiser(model, "cpu"), []
        for members in division.judges:
            images, ctf = prepared.seen(members)
            assert ctf is not None
            clean = denoiser(images[None], ctf=ctf[None]).images[0]
            transfer = rest.ctf(members).evaluate(BOX, rest.pixel_size_A)
            seen.append(prepared.preprocessor.sign * filter_images(clean, transfer))
        error[name] = difference(torch.cat(seen))
    change = error["adapted"] - error["shipped"]
    between = torch.stack([part.mean() for part in change.split([len(some) for some in division.judges])])
    figures = {name: float(each.mean()) for name, each in error.items()}
    figures["change"] = float(change.mean())
    for name, each in (("particles", change), ("neighbourhoods", between)):
        figures[f"standard_error_{name}"] = float(each.std() / len(each) ** 0.5)
    print(f"\napoferritin pairs: {len(judges)} held-out particles of {len(rest)}\n")
    print("| empty image | shipped | adapted | change × 1000 | standard error: particles, neighbourhoods |")
    print("|---|---|---|---|---|")
    cells = " | ".join(f"{figures[name]:.5f}" for name in error)
    errors = [1000 * figures[f"standard_error_{name}"] for name in ("particles", "neighbourhoods")]
    print(f"| {cells} | {1000 * figures['change']:+.3f} | {errors[0]:.3f}, {errors[1]:.3f} |", flush=True)
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--particles", type=int, default=512)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=75)
    parser.add_argument("--cases", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument(
        "--no-ctf", action="store_true", help="simulate without: then the noise cannot be made white"
    )
    parser.add_argument("--no-pairs", action="store_true")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        figures: dict[str, Any] = {"simulated": simulated(arguments, folder)}
        if not arguments.no_pairs:
            figures["pairs"] = pairs(arguments, folder / "pairs")
    print("\n" + json.dumps(figures))


if __name__ == "__main__":
    main()

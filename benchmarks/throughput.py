"""Images per second of training: each recipe's step, split into its stages, against the machine's peak.

``sample`` makes the images, ``forward`` denoises them and takes the loss, ``backward`` is autograd's, and
``optimiser`` clips the gradient, moves the weights and follows them with their running mean. The split is
measured outside the training loop, so logging, validation and checkpoints do not count. The peak is that
of a product of large matrices in the recipe's precision on the same threads; the operations of a step are
those of convolutions and matrix products, Fourier transforms and all else not counted. Prints a Markdown
table and one JSON line.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from polarice.devices import keep_freed_memory, resolve_device
from polarice.models import build_model
from polarice.models.count import count_parameters
from polarice.simulation import SetBatch, SetSampler, StructureBank
from polarice.training import Recipe, relative_squared_error, view_contrast
from polarice.training.loop import predict
from polarice.training.objectives import squared_distance
from polarice.training.optimiser import make_optimisers

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("sample", "forward", "backward", "optimiser")


def measure(recipe: Recipe, bank: StructureBank, device: torch.device, steps: int) -> dict[str, Any]:
    """Seconds of each stage, summed over the steps; the first step, a warm-up, does not count."""
    torch.manual_seed(0)
    config = recipe.optimiser
    sampler = SetSampler(bank, recipe.data, device=device)
    network = build_model(recipe.architecture, recipe.model).to(device)
    average = copy.deepcopy(network)
    optimisers = make_optimisers(network, config)
    mixed = recipe.run.precision == "bf16-mixed"
    seconds = dict.fromkeys(STAGES, 0.0)

    def tick() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def loss_of(batch: SetBatch) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            prediction = predict(network, batch)
        loss = relative_squared_error(prediction.images, batch.clean).mean()
        if prediction.centre is not None:
            loss = loss + config.centring * squared_distance(prediction.centre, batch)
        if prediction.embedding is not None:
            loss = loss + config.contrast * view_contrast(prediction.embedding.float(), batch.rotations)
        return loss

    # A backward pass computes twice what the forward pass does.
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        loss_of(sampler.batch(0, config.sets_per_step))
    for step in range(steps + 1):
        times = [tick()]
        batch = sampler.batch(step * config.sets_per_step, config.sets_per_step)
        times.append(tick())
        loss = loss_of(batch)
        times.append(tick())
        network.zero_grad()
        loss.backward()
        times.append(tick())
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        for optimiser in optimisers:
            optimiser.step()
        with torch.no_grad():
            for mean, now in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - config.ema)
        times.append(tick())
        if step:
            for stage, start, stop in zip(STAGES, times[:-1], times[1:], strict=True):
                seconds[stage] += stop - start
    images_seen = steps * config.sets_per_step * recipe.data.set_size
    total = sum(seconds.values())
    return {
        "parameters": count_parameters(network),
        "gflops_per_s": round(3 * steps * counter.get_total_flops() / total / 1e9, 1),
        "images_per_s": round(images_seen / total, 1),
        "sampler_images_per_s": round(images_seen / seconds["sample"], 1),
        **{stage: round(seconds[stage] / total, 3) for stage in STAGES},
    }


def peak(device: torch.device, mixed: bool) -> float:
    """GFLOP/s of a product of two large matrices; the best of several."""
    side = 8192 if device.type == "cuda" else 2048
    kind = torch.bfloat16 if mixed else torch.float32
    first, second = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        first @ second
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    default_bank = ROOT.parent / "shared" / "data" / "structures_test.npz"
    recipes = sorted((ROOT / "recipes").glob("*.toml"))
    parser.add_argument("--recipes", type=Path, nargs="+", default=recipes, help="TOML files (default: all)")
    parser.add_argument("--bank", type=Path, default=default_bank, help="structure bank (.npz)")
    parser.add_argument("--steps", type=int, default=3, help="steps to average over")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    if device.type == "cpu":
        keep_freed_memory()
    bank = StructureBank.load(arguments.bank)

    rows = {}
    for path in arguments.recipes:
        recipe = Recipe.load(path)
        precision = recipe.run.precision
        top = peak(device, precision == "bf16-mixed")
        figures = measure(recipe, bank, device, arguments.steps)
        figures["of_peak"] = round(figures["gflops_per_s"] / top, 3)
        rows[path.stem] = {"precision": precision, "set_size": recipe.data.set_size, **figures}

    print(f"Training throughput on {device}, {arguments.threads} thread(s), {len(bank)} structures\n")
    print(
        "| recipe | precision | parameters | images/s | GFLOP/s | of peak | sampler alone, images/s | "
        + " | ".join(STAGES)
        + " |"
    )
    print("|---" * (7 + len(STAGES)) + "|")
    for name, row in rows.items():
        shares = " | ".join(f"{100 * row[stage]:.0f} %" for stage in STAGES)
        sizes = (
            f"{row['parameters']:,} | {row['images_per_s']} | {row['gflops_per_s']} | {row['of_peak']:.0%}"
        )
        sizes += f" | {row['sampler_images_per_s']}"
        print(f"| {name} | {row['precision']} | {sizes} | {shares} |")
    result = {"benchmark": "throughput", "device": str(device), "threads": arguments.threads, "rows": rows}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

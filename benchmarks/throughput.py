"""Images per second of training: each recipe's step, split into its stages.

``sample`` makes the images, ``forward`` denoises them and takes the loss, ``backward`` is autograd's, and
``optimiser`` clips the gradient, moves the weights and follows them with their running mean. The split is
measured outside the training loop, so logging, validation and checkpoints do not count. Prints a Markdown
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

from polarice.devices import resolve_device
from polarice.models import build_model
from polarice.models.count import count_parameters
from polarice.simulation import SetSampler, StructureBank
from polarice.training import Recipe, relative_squared_error, view_contrast
from polarice.training.loop import denoise_batch

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("sample", "forward", "backward", "optimiser")


def measure(recipe: Recipe, bank: StructureBank, device: torch.device, steps: int) -> dict[str, Any]:
    """Seconds of each stage, summed over the steps; the first step, a warm-up, does not count."""
    torch.manual_seed(0)
    config = recipe.optimiser
    sampler = SetSampler(bank, recipe.data, device=device)
    network = build_model(recipe.architecture, recipe.model).to(device)
    average = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    mixed = recipe.run.precision == "bf16-mixed"
    seconds = dict.fromkeys(STAGES, 0.0)

    def tick() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    for step in range(steps + 1):
        times = [tick()]
        batch = sampler.batch(step * config.sets_per_step, config.sets_per_step)
        times.append(tick())
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            images, embedding = denoise_batch(network, batch)
        loss = relative_squared_error(images, batch.clean)
        if embedding is not None:
            loss = loss + config.contrast * view_contrast(embedding.float(), batch.rotations)
        times.append(tick())
        optimiser.zero_grad()
        loss.backward()
        times.append(tick())
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
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
        "images_per_s": round(images_seen / total, 1),
        "sampler_images_per_s": round(images_seen / seconds["sample"], 1),
        **{stage: round(seconds[stage] / total, 3) for stage in STAGES},
    }


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
    bank = StructureBank.load(arguments.bank)

    rows = {}
    for path in arguments.recipes:
        recipe = Recipe.load(path)
        precision = recipe.run.precision
        figures = measure(recipe, bank, device, arguments.steps)
        rows[path.stem] = {"precision": precision, "set_size": recipe.data.set_size, **figures}

    print(f"Training throughput on {device}, {arguments.threads} thread(s), {len(bank)} structures\n")
    print(
        "| recipe | precision | parameters | images/s | sampler alone, images/s | "
        + " | ".join(STAGES)
        + " |"
    )
    print("|---" * (5 + len(STAGES)) + "|")
    for name, row in rows.items():
        shares = " | ".join(f"{100 * row[stage]:.0f} %" for stage in STAGES)
        sizes = f"{row['parameters']:,} | {row['images_per_s']} | {row['sampler_images_per_s']}"
        print(f"| {name} | {row['precision']} | {sizes} | {shares} |")
    result = {"benchmark": "throughput", "device": str(device), "threads": arguments.threads, "rows": rows}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""The field set: build it, denoise it file to file, and see what each of its complications costs.

By default: ENaC with its antibodies (6BQN, which no model was trained on) with the metadata of 2,019 real
particles, noise with the spectrum of real ice, gradients, neighbours, 5 % junk, half of it the protein 3GLG.
Pixels of 7.2 Å are larger than those of 99 % of the training images.

``python benchmarks/field.py --out field`` makes the set and measures it; with ``--ablate`` it is measured
without each complication and with each alone, too, which ``--particles 600`` makes quicker.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from polarice.conventions import view_angle_deg
from polarice.denoising import DenoiseResult, DenoiseSettings, denoise_stack
from polarice.particles import ParticleStack
from polarice.simulation import FieldResult, field_set

DATA = Path(os.environ.get("POLARICE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
PLAIN: dict[str, Any] = {"noise": None, "gradient": 0.0, "crowding": 0.0, "junk": 0.0}
ASKED = 1024
Mask = float | Literal["auto"] | None


def mask_diameter(text: str) -> Mask:
    """An option's value."""
    if text == "auto":
        return "auto"
    return None if text == "none" else float(text)


def build(out: Path, arguments: argparse.Namespace, **changes: Any) -> FieldResult:
    """Make a field set; ``changes`` are settings of `field_set`."""
    bank = DATA / "structures_test.npz"
    settings: dict[str, Any] = {
        "noise": DATA / "noise" / "ice_apoferritin_64.mrcs",
        "stranger": f"{bank}:3GLG",
        "pixel_size_A": 7.2,
        "snr": arguments.snr,
        "contrast": "dark",
        "particles": arguments.particles,
        "overwrite": True,
    }
    like = DATA / "particles" / "metadata_only" / "cryosparc_P12_J24_001_particles.cs"
    return field_set(f"{bank}:{arguments.structure}", like, out, **(settings | changes))


def errors(result: DenoiseResult, made: FieldResult, good: NDArray[np.bool_]) -> dict[str, float]:
    """Relative squared errors of good particles: of the box, and within a diameter about the particle."""
    denoised, clean = ParticleStack.open(result.star), ParticleStack.open(made.clean)
    found, truth = (torch.from_numpy(s.images(np.flatnonzero(good))) for s in (denoised, clean))
    shifts = clean.shifts_px()
    assert shifts is not None
    diameter = json.loads(made.config.read_text())["diameter_A"] / made.pixel_size_A
    box = truth.shape[-1]
    axis = torch.arange(box) - box // 2
    x, y = (torch.from_numpy(shifts[good])[:, k, None, None] for k in (0, 1))
    near = torch.hypot(axis - x, axis[:, None] - y) <= diameter / 2 + 2
    squared, power = (found - truth).square(), truth.square().sum()
    return {
        "relative_mse": float(squared.sum() / power),
        "near": float((squared * near).sum() / power),
        "grey_outside": float(found[~near].mean()),
    }


def auc(bad: NDArray[np.float32], good: NDArray[np.float32]) -> float | None:
    """Probability that a bad one has a lower value than a good one."""
    if not len(bad):
        return None
    return float((bad[:, None] < good).mean() + 0.5 * (bad[:, None] == good).mean())


def neighbours(result: DenoiseResult, kinds: NDArray[np.int64]) -> dict[str, Any]:
    """What the neighbours of good particles are, and whether confidence tells junk."""
    stack = ParticleStack.open(result.star)
    rotations, halves = stack.rotations(), stack.half_sets
    assert rotations is not None
    assert halves is not None
    assert result.neighbours is not None
    rows, good = result.neighbours, kinds == 0
    used = rows >= 0
    own = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
    of_good = used & good[:, None]
    pair = of_good & good[rows]
    angle = view_angle_deg(rotations[own[pair]], rotations[rows[pair]])
    nearest = []
    for row in np.flatnonzero(good)[:: max(1, int(good.sum()) // ASKED)]:
        others = np.flatnonzero(good & (halves == halves[row]) & (np.arange(len(good)) != row))
        every = view_angle_deg(rotations[row], rotations[others])
        nearest.append(every.topk(min(rows.shape[1], len(every)), largest=False).values)
    trust = stack.numeric("polariceConfidence")
    assert trust is not None
    return {
        "angle": float(angle.median()),
        "nearest": float(torch.cat(nearest).median()),
        "junk_share": float((kinds[rows[of_good]] > 0).mean()),
        "confidence": float(trust[good].mean()),
        "auc_nothing": auc(trust[kinds == 1], trust[good]),
        "auc_stranger": auc(trust[kinds == 2], trust[good]),
        "halves_kept": bool((halves[own[used]] == halves[rows[used]]).all()),
    }


def measure(
    made: FieldResult, models: list[str], mask_diameter_A: Mask = "auto", whiten: bool = True
) -> dict[str, Any]:
    """All figures of one stack."""
    junk = ParticleStack.open(made.clean).numeric("polariceJunk")
    assert junk is not None
    kinds = junk.astype(np.int64)
    figures: dict[str, Any] = {"particles": len(kinds), "junk": float((kinds > 0).mean())}
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            settings = DenoiseSettings(model=model, mask_diameter_A=mask_diameter_A, whiten=whiten)
            result = denoise_stack(made.particles, Path(folder) / "out", settings)
            of_model = errors(result, made, kinds == 0)
            of_model["images_per_s"] = len(kinds) / sum(result.seconds.values())
            if result.neighbours is not None:
                figures |= neighbours(result, kinds)
                figures["contrast"] = result.preprocessor.contrast
                figures["contrast_z"] = result.found.contrast_z
                figures["phase_flipped"] = result.preprocessor.phase_flip
                figures["notices"] = list(result.notices)
                of_model["gains"] = sorted({float(gain) for gain in result.gains})
            figures[model] = of_model
    return figures


def line(name: str, row: dict[str, Any], models: list[str]) -> str:
    """One line of the table."""
    cells = [f"{row[m]['relative_mse']:.4f} ({row[m]['near']:.4f})" for m in models]
    aucs = ["–" if row[k] is None else f"{row[k]:.2f}" for k in ("auc_nothing", "auc_stranger")]
    cells += [f"{row['angle']:.1f}° ({row['nearest']:.1f}°)", f"{row['junk_share']:.3f}", *aucs]
    cells += [
        f"{row['contrast']} (z {row['contrast_z']:+.0f})",
        "yes" if row["phase_flipped"] else "no",
        "yes" if row["halves_kept"] else "NO",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="keep the field set in this folder")
    parser.add_argument("--models", nargs="+", default=["unet-64", "polar-transformer-64"])
    parser.add_argument("--structure", default="6BQN")
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--particles", type=int, help="the first so many rows; all by default")
    parser.add_argument(
        "--mask-diameter", type=mask_diameter, default="auto", help="of polarice denoise: Å, auto or none"
    )
    parser.add_argument("--no-whiten", action="store_true", help="of polarice denoise")
    parser.add_argument(
        "--ablate", action="store_true", help="also without each complication, and with each alone"
    )
    arguments = parser.parse_args()
    variants: dict[str, dict[str, Any]] = {"field set": {}}
    if arguments.ablate:
        variants["none of them"] = PLAIN
        variants["gradients four times as steep"] = {"gradient": 2.0}
        names = {"noise": "noise", "gradient": "gradients", "crowding": "neighbours", "junk": "junk"}
        for key, name in names.items():
            said = "white noise" if key == "noise" else f"no {name}"
            variants[said] = {key: PLAIN[key]}
            variants[f"only {'coloured noise' if key == 'noise' else name}"] = {
                other: plain for other, plain in PLAIN.items() if other != key
            }
    heads = [f"relative MSE {Path(model).stem}" for model in arguments.models]
    heads += [
        "angle (nearest)",
        "junk among neighbours",
        "AUC nothing",
        "AUC stranger",
        "contrast",
        "CTF",
        "halves",
    ]
    figures = []
    for name, changes in variants.items():
        with tempfile.TemporaryDirectory() as folder:
            keep = arguments.out is not None and not changes
            made = build(arguments.out if keep else Path(folder) / "field", arguments, **changes)
            row = measure(made, arguments.models, arguments.mask_diameter, not arguments.no_whiten)
        if not figures:
            print(
                f"{row['particles']:,} particles of {arguments.structure}, SNR {arguments.snr:g}; in brackets"
            )
            print("the error within the particle's diameter, and the angle to the nearest that exist\n")
            print("| set | " + " | ".join(heads) + " |\n" + "|---" * (len(heads) + 1) + "|")
        figures.append({"set": name, **row})
        print(line(name, row, arguments.models), flush=True)
    print("\n" + json.dumps(figures))


if __name__ == "__main__":
    main()

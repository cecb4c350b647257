"""How exactly the polar transform is undone: relative squared error of P⁻¹P on projections of molecules.

Three structures of a bank (a small one, a middling one, a large one) are projected in eight random
directions each, at 80 % of the box, blurred by a Gaussian; then each inverse of each grid undoes the
transform. Prints a Markdown table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polarice.conventions import random_rotations
from polarice.polar import PolarGrid, PolarTransform
from polarice.simulation.bank import StructureBank
from polarice.simulation.splat import element_weights, splat_spectra

DIRECTIONS = 8
METHODS = ("inverse", "inverse_cg", "inverse_fourier")
DEFAULT_BANK = Path(__file__).resolve().parents[2] / "shared" / "data" / "structures_test.npz"


def projections(bank: StructureBank, index: int, box: int, blur_px: float) -> Tensor:
    """Clean images (DIRECTIONS, box, box) of one structure that fills 80 % of the box."""
    structure = bank[index].centred()
    position = torch.from_numpy(structure.coordinates_A) * (0.4 * box / structure.radius_A)
    weights = element_weights(torch.from_numpy(structure.atomic_numbers)).expand(DIRECTIONS, -1)
    rotations = random_rotations(DIRECTIONS, torch.Generator().manual_seed(index))
    seen = torch.einsum("bij,aj->bai", rotations[:, :2], position)
    blur = torch.full((DIRECTIONS,), blur_px)
    images: Tensor = torch.fft.irfft2(splat_spectra(seen, weights, box, blur), s=(box, box))
    return images


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bank", type=Path, default=DEFAULT_BANK, help="structure bank (.npz)")
    parser.add_argument("--box", type=int, default=64, help="side of the images in pixels")
    parser.add_argument(
        "--blur-px", type=float, nargs="+", default=[0.6, 1.0], help="Gaussian blurs in pixels"
    )
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    bank = StructureBank.load(arguments.bank)
    by_size = np.argsort(np.diff(bank.offsets))
    chosen = [int(by_size[len(by_size) * part // 10]) for part in (1, 5, 9)]
    rows: list[dict[str, Any]] = []
    for preset in ("paper", "compact"):
        transform = PolarTransform(PolarGrid.preset(preset, arguments.box))
        for method in METHODS:
            for blur_px in arguments.blur_px:
                row: dict[str, Any] = {"grid": preset, "inverse": method, "blur_px": blur_px}
                seconds = 0.0
                for index in chosen:
                    images = projections(bank, index, arguments.box, blur_px)
                    polar = transform(images)
                    start = time.perf_counter()
                    back = getattr(transform, method)(polar)
                    seconds += time.perf_counter() - start
                    error = (back - images).square().sum() / images.square().sum()
                    row[bank.names[index]] = float(error)
                row["images_per_s"] = round(DIRECTIONS * len(chosen) / seconds)
                rows.append(row)

    names = [bank.names[index] for index in chosen]
    threads = torch.get_num_threads()
    print(f"Relative squared error of P⁻¹P, box {arguments.box}, float32, {threads} thread(s)\n")
    print("| grid | inverse | blur (px) | " + " | ".join(names) + " | images/s |")
    print("|---" * (4 + len(names)) + "|")
    for row in rows:
        figures = " | ".join(f"{row[name]:.1e}" for name in names)
        print(f"| {row['grid']} | {row['inverse']} | {row['blur_px']} | {figures} | {row['images_per_s']} |")
    print(json.dumps({"benchmark": "inverse", "box": arguments.box, "threads": threads, "rows": rows}))


if __name__ == "__main__":
    main()

"""Classes of an experimental stack beside a 2D classification by RELION: seconds, sizes, averages.

RELION must be installed (`relion_refine`, `relion_preprocess`). Its run takes a quarter of an hour for two
thousand particles; with --relion-run the averages of one that is there are shown instead.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import time
from pathlib import Path

import matplotlib as mpl
import mrcfile
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from polarice.classification import ClassifySettings, classify_stack
from polarice.particles import ParticleStack

DATA = (
    Path(__file__).resolve().parents[2]
    / "shared"
    / "data"
    / "particles"
    / "apoferritin"
    / "particles_64.star"
)
SHOWN = 10


def run_relion(
    star: Path, out: Path, diameter_A: float, classes: int, iterations: int, threads: int
) -> float:
    """Normalise, invert and classify; returns the seconds of the classification."""
    stack = ParticleStack.open(star)
    (source,) = {stack.locator.find(name) for name in stack.names.files}
    radius = round(0.9 * diameter_A / stack.pixel_size_A / 2)
    out.mkdir(parents=True)
    normalise = ["--norm", "--bg_radius", str(min(radius, stack.box // 2 - 4)), "--invert_contrast"]
    command = ["relion_preprocess", "--operate_on", str(source), "--operate_out", "bright.mrcs", *normalise]
    subprocess.run(command, cwd=out, check=True, capture_output=True)
    text = re.sub(r"@\S+", "@bright.mrcs", star.read_text())
    (out / "bright.star").write_text(text)
    options = {
        "--i": "bright.star",
        "--o": "run",
        "--iter": iterations,
        "--K": classes,
        "--particle_diameter": diameter_A,
        "--tau2_fudge": 2,
        "--psi_step": 12,
        "--offset_range": 5,
        "--offset_step": 2,
        "--oversampling": 1,
        "--pad": 2,
        "--pool": 30,
        "--j": threads,
    }
    flags = [
        "--ctf",
        "--norm",
        "--scale",
        "--flatten_solvent",
        "--zero_mask",
        "--dont_combine_weights_via_disc",
    ]
    told = [str(word) for option in options.items() for word in option]
    start = time.perf_counter()
    subprocess.run(["relion_refine", *told, *flags], cwd=out, check=True, capture_output=True)
    return time.perf_counter() - start


def relion_classes(run: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Averages and shares of the last iteration, largest class first."""
    model = max(run.glob("run_it*_model.star"))
    lines = [line.split() for line in model.read_text().splitlines() if re.match(r"\d{6}@", line)]
    share = np.array([float(line[1]) for line in lines])
    order = np.argsort(-share, kind="stable")
    stack = next(run.glob(model.name.replace("_model.star", "_classes.mrcs")))
    return mrcfile.read(stack)[order], share[order]


def picture(path: Path, rows: dict[str, tuple[NDArray[np.float32], list[str]]]) -> None:
    """The largest classes of each program, bright protein."""
    mpl.use("Agg")
    figure = Figure(figsize=(SHOWN * 0.8 + 1.1, len(rows) * 0.98), layout="constrained")
    for r, (name, (images, sizes)) in enumerate(rows.items()):
        for k, (image, size) in enumerate(zip(images[:SHOWN], sizes, strict=False)):
            axes = figure.add_subplot(len(rows), SHOWN, r * SHOWN + k + 1)
            axes.imshow(image, cmap="gray", vmin=np.quantile(image, 0.005), vmax=np.quantile(image, 0.995))
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(size, fontsize=7, labelpad=1)
            if k == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Classify twice, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--mask-diameter", type=float, default=150.0, help="Å")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--relion-run", type=Path, help="folder of a run that is there")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    settings = ClassifySettings(classes=arguments.classes, mask_diameter_A=arguments.mask_diameter)
    ours = classify_stack(arguments.particles, arguments.out / "polarice", settings, overwrite=True)
    seconds = time.perf_counter() - start
    print(f"polarice classify: {seconds:.1f} s, classes of {ours.members.tolist()}", flush=True)
    run = arguments.relion_run
    if run is None:
        run = arguments.out / "relion"
        relion = run_relion(
            arguments.particles.absolute(),
            run,
            arguments.mask_diameter,
            arguments.classes,
            arguments.iterations,
            arguments.threads,
        )
        print(f"relion_refine: {relion:.1f} s, {relion / seconds:.1f} times as long")
    averages, share = relion_classes(run)
    print(f"RELION's classes: {np.round(share * len(ours.label)).astype(int).tolist()}")
    rows = {
        "polarice": (ours.averages * ours.preprocessor.sign, [f"{size:,}" for size in ours.members]),
        "RELION": (averages, [f"{size:,.0f}" for size in share * len(ours.label)]),
    }
    picture(arguments.out / "classes.png", rows)


if __name__ == "__main__":
    main()

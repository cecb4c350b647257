"""Side by side with peers on the same stacks: error against ASPIRE's covariance Wiener filter, and speed.

Each structure is seen from uniform directions, without CTF and shifts; nobody tells anybody which images
belong together. The covariance Wiener filter (CWF) is told the noise variance. Neighbours are compared with
those of ASPIRE's rotationally invariant classification (RIRClass2D). Speed is from file to
file: against a single-image U-Net of Topaz's size, which goes through the same reader and writer, and
against ASPIRE's class averaging (rotationally invariant classification, K = 8, no shift search).

ASPIRE is GPL-3.0: it runs in a Python environment of its own, made by

    python3 -m venv ASPIRE && ASPIRE/bin/pip install aspire==0.14.3

and given by ``--aspire-python ASPIRE/bin/python``. ``--cwf-table FILE`` does nothing but write the
CWF's error on images as `polarice benchmark paper` makes them, whose ``--cwf`` shows it as a row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, max_pool2d

from polarice.denoising import DenoiseSettings, denoise_stack
from polarice.evaluation import evaluate, neighbour_angles_deg
from polarice.evaluation.benchmark import Condition
from polarice.evaluation.benchmark.statistics import bootstrap, resamples
from polarice.models import ARCHITECTURES, ModelCard, save_model
from polarice.particles import ParticleStack, ParticleWriter
from polarice.simulation import SetSampler, StructureBank, simulate, uniform_views
from polarice.stacks import NeighbourSettings, find_neighbours

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "structures_test.npz"
WORKER = Path(__file__).with_name("aspire_worker.py")
BOX = 64


@dataclass(frozen=True)
class PeerConfig:
    """Shape of a `PeerUNet`."""

    box: int = BOX
    channels_last: bool = False


class PeerUNet(nn.Module):
    """The U-Net of Noise2Noise (Lehtinen et al. 2018) with a wide first kernel (11) and wide last ones (5).

    So it has the 1,105,809 parameters of Topaz's U-Net. Its weights are random: this is about speed.
    """

    jointly = False

    def __init__(self, config: PeerConfig | None = None) -> None:
        super().__init__()
        self.config = config or PeerConfig()
        self.box = self.config.box
        self.down = nn.ModuleList(_conv(1 if i == 0 else 48, 48, 11 if i == 0 else 3) for i in range(6))
        inputs = (96, 144, 144, 144)
        self.up = nn.ModuleList(nn.ModuleList([_conv(i, 96, 3), _conv(96, 96, 3)]) for i in inputs)
        self.last = nn.ModuleList([_conv(97, 64, 5), _conv(64, 32, 5), _conv(32, 1, 5)])
        if self.config.channels_last:
            self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        """Filter images (b, y, x)."""
        x = images[:, None]
        if self.config.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        skips = []
        for convolution in self.down[:5]:
            skips.append(x)
            x = max_pool2d(leaky_relu(convolution(x), 0.1), 2)
        x = leaky_relu(self.down[5](x), 0.1)
        for layers, skip in zip(self.up, skips[:0:-1], strict=True):
            x = torch.cat([interpolate(x, size=skip.shape[-2:], mode="nearest"), skip], 1)
            for convolution in layers:  # type: ignore[attr-defined]
                x = leaky_relu(convolution(x), 0.1)
        x = torch.cat([interpolate(x, scale_factor=2, mode="nearest"), skips[0]], 1)
        for convolution in self.last[:2]:
            x = leaky_relu(convolution(x), 0.1)
        filtered: Tensor = self.last[2](x)
        return filtered[:, 0]


def _conv(inputs: int, outputs: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, width, padding=width // 2)


def ask_aspire(
    python: Path, job: str, files: list[tuple[Path, Path]], threads: int, *options: str
) -> dict[str, Any]:
    """Let ASPIRE work on stacks; returns what it says about each."""
    names = [str(path.resolve()) for pair in files for path in pair]
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    with tempfile.TemporaryDirectory() as folder:  # it writes logs into the working directory
        done = subprocess.run(
            [str(python.absolute()), str(WORKER), job, *names, *options],
            cwd=folder,
            env=os.environ | dict.fromkeys(variables, str(threads)),
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(f"ASPIRE failed:\n{done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def compare_errors(arguments: argparse.Namespace, bank: StructureBank) -> list[dict[str, Any]]:
    """Relative MSE of the joint denoiser and of CWF on the same stacks."""
    print("| structure | SNR | noisy | ASPIRE CWF | " + Path(arguments.model).stem + " | ratio |")
    print("|---|---|---|---|---|---|")
    rows = []
    for snr in arguments.snr:
        for name in arguments.names:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                made = simulate(
                    bank[bank.index(name)], folder / "sim", particles=arguments.particles, box=BOX, snr=snr
                )
                # The bare stack: half sets in a STAR file would keep one half from the other.
                stack = made.particles.with_suffix(".mrcs")
                settings = DenoiseSettings(
                    model=arguments.model, neighbours=arguments.neighbours, device=arguments.device
                )
                joint = denoise_stack(stack, folder / "joint", settings)
                filtered = folder / "cwf.mrcs"
                ask_aspire(arguments.aspire_python, "cwf", [(stack, filtered)], arguments.threads)
                measured = evaluate(joint.star, made.clean, stack)
                row = {
                    "structure": name,
                    "snr": snr,
                    "noisy": measured["noisy"]["relative_mse"],
                    "cwf": evaluate(filtered, made.clean)["denoised"]["relative_mse"],
                    "joint": measured["denoised"]["relative_mse"],
                }
            row["ratio"] = row["joint"] / row["cwf"]
            rows.append(row)
            figures = f"{row['noisy']:.2f} | {row['cwf']:.4f} | {row['joint']:.4f} | {row['ratio']:.3f}"
            print(f"| {name} | {snr:g} | {figures} |", flush=True)
        at = [row for row in rows if row["snr"] == snr]
        cwf, joint = (statistics.mean(row[key] for row in at) for key in ("cwf", "joint"))
        print(f"| **mean** | {snr:g} | | {cwf:.4f} | {joint:.4f} | **{joint / cwf:.3f}** |", flush=True)
    return rows


def compare_neighbours(arguments: argparse.Namespace, bank: StructureBank) -> list[dict[str, Any]]:
    """Median angle between views of neighbours, mirror images among them, on the same stacks."""
    kinds = "random", "nearest", "RIRClass2D", "ours"
    count = arguments.neighbours
    print(f"{count} neighbours of each image, mirror images among them\n")
    print("| structure | SNR | random | nearest that exist | ASPIRE RIRClass2D | polarice |")
    print("|---|---|---|---|---|---|")
    rotations = uniform_views(arguments.particles, 0)
    angle = neighbour_angles_deg(rotations, torch.arange(arguments.particles))
    generator = torch.Generator().manual_seed(0)
    rows = []
    for snr in arguments.snr:
        for name in arguments.names:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                made = simulate(
                    bank[bank.index(name)], folder / "sim", particles=arguments.particles, box=BOX, snr=snr
                )
                stack, theirs = made.particles.with_suffix(".mrcs"), folder / "classes.npy"
                settings = NeighbourSettings(
                    model=arguments.model, neighbours=count, device=arguments.device, mirrored=True
                )
                table = find_neighbours(stack, folder / "ours", settings).table
                options = "--neighbours", str(count)
                ask_aspire(
                    arguments.aspire_python, "neighbours", [(stack, theirs)], arguments.threads, *options
                )
                found = {
                    "random": torch.randint(2 * len(angle), (len(angle), count), generator=generator),
                    "nearest": angle.topk(count, largest=False).indices,
                    "RIRClass2D": torch.from_numpy(np.load(theirs)),
                    "ours": torch.from_numpy(table.rows + len(angle) * table.mirrored),
                }
            medians = {kind: float(angle.gather(1, places).median()) for kind, places in found.items()}
            rows.append({"structure": name, "snr": snr, **medians})
            print(f"| {name} | {snr:g} |", " | ".join(f"{medians[k]:.1f}°" for k in kinds), "|", flush=True)
        at = [row for row in rows if row["snr"] == snr]
        middle = (statistics.median(row[kind] for row in at) for kind in kinds)
        print(f"| **median** | {snr:g} |", " | ".join(f"{value:.1f}°" for value in middle), "|", flush=True)
    return rows


def compare_speed(arguments: argparse.Namespace, bank: StructureBank) -> dict[str, Any]:
    """Images per second from file to file of everybody on one stack, by turns."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = simulate(
            bank[bank.index(arguments.names[0])],
            folder / "sim",
            particles=arguments.particles,
            box=BOX,
            snr=0.1,
        )
        stack = made.particles.with_suffix(".mrcs")
        joint = Path(arguments.model).stem
        models = {joint: arguments.model}
        ARCHITECTURES["peer-unet"] = (PeerUNet, PeerConfig)
        for channels_last, kind in ((False, "U-Net"), (True, "U-Net, channels last")):
            path = folder / f"peer-{channels_last}.safetensors"
            config = PeerConfig(BOX, channels_last)
            card = ModelCard("peer-unet", {"box": BOX, "channels_last": channels_last})
            save_model(path, PeerUNet(config), card)
            models[kind] = str(path)
        parameters = sum(p.numel() for p in PeerUNet().parameters())
        stages: dict[str, dict[str, float]] = {}
        for _ in range(arguments.repeats):
            for name, model in models.items():
                settings = DenoiseSettings(
                    model=model, neighbours=arguments.neighbours, device=arguments.device
                )
                start = time.perf_counter()
                result = denoise_stack(stack, folder / "out", settings, overwrite=True)
                seconds.setdefault(name, []).append(time.perf_counter() - start)
                stages[name] = result.seconds
            told = ask_aspire(
                arguments.aspire_python,
                "class-average",
                [(stack, folder / "averages.mrcs")],
                arguments.threads,
            )
            seconds.setdefault("ASPIRE class averaging", []).append(told["done"][0]["seconds"])
            stages["ASPIRE class averaging"] = told["done"][0]["stages"]
        averages = evaluate(folder / "averages.mrcs", made.clean)["denoised"]["relative_mse"]
    speed = {name: arguments.particles / statistics.median(times) for name, times in seconds.items()}
    print(f"\nU-Net: {parameters:,} parameters, float32\n")
    print(f"| file to file, {arguments.particles} images | images/s | share of time | {joint} ÷ this |")
    print("|---|---|---|---|")
    for name, images in speed.items():
        total = sum(stages[name].values())
        share = ", ".join(f"{k} {v / total:.0%}" for k, v in stages[name].items())
        print(f"| {name} | {images:.1f} | {share} | {speed[joint] / images:.2f} |")
    return {"images_per_s": speed, "seconds": seconds, "class_average_relative_mse_snr_0.1": averages}


def cwf_table(arguments: argparse.Namespace, bank: StructureBank) -> dict[str, Any]:
    """Error of CWF on images as the paper's benchmark makes them, mean over structures and 95 % interval."""
    places = np.linspace(0, len(bank) - 1, arguments.structures).round().astype(int).tolist()
    errors = np.empty((len(arguments.snr), len(places)))
    told: dict[str, Any] = {}
    for column, place in enumerate(places):
        views = uniform_views(arguments.particles, place)
        cleans, files = [], []
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for number, snr in enumerate(arguments.snr):
                config = Condition("gaussian", snr).sampler(BOX, arguments.particles)
                sampler = SetSampler(bank.subset([place]), config, seed=0)
                clean = sampler.batch(place, 1, views[None]).clean[0]
                noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(place))
                with ParticleWriter(folder, f"stack{number}", box=BOX, pixel_size_A=1.0) as writer:
                    writer.append((clean + noise).numpy())
                cleans.append(clean)
                files.append((folder / f"stack{number}.mrcs", folder / f"cwf{number}.mrcs"))
            told = ask_aspire(arguments.aspire_python, "cwf", files, arguments.threads)
            for row, (clean, (_, filtered)) in enumerate(zip(cleans, files, strict=True)):
                images = torch.from_numpy(ParticleStack.open(filtered).images(slice(None)))
                errors[row, column] = float((images - clean).square().sum() / clean.square().sum())
        print(bank.names[place], *(f"{error:.4f}" for error in errors[:, column]), flush=True)
    draws = resamples(len(places), 1000, 0)
    intervals = [bootstrap(row, draws) for row in errors]
    return {
        "relative_mse": {
            f"{snr:g}": {"mean": found.value, "low": found.low, "high": found.high}
            for snr, found in zip(arguments.snr, intervals, strict=True)
        },
        "structures": len(places),
        "images": arguments.particles,
        "aspire": told["aspire"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--aspire-python", type=Path, required=True, help="of an environment that has ASPIRE")
    parser.add_argument("--model", default="polar-transformer-64")
    parser.add_argument("--neighbours", type=int, default=DenoiseSettings().neighbours)
    parser.add_argument("--bank", type=Path, default=DATA)
    parser.add_argument(
        "--names", nargs="+", default=["1FDO", "3NAL", "6BQN"], help="structures to compare on"
    )
    parser.add_argument("--particles", type=int, default=1024)
    parser.add_argument("--snr", type=float, nargs="+", help="0.03 0.1 0.25, and more for the table")
    parser.add_argument("--device", default="cpu", help="of polarice and of the U-Net; ASPIRE has the CPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3, help="of timings; their median counts")
    parser.add_argument("--only", choices=["errors", "neighbours", "speed"], help="one of the comparisons")
    parser.add_argument("--cwf-table", type=Path, metavar="FILE", help="write the error of CWF, and no more")
    parser.add_argument("--structures", type=int, default=100, help="of the table, evenly spaced")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.particles < 400 and arguments.cwf_table is None and arguments.only != "errors":
        parser.error("ASPIRE's classification needs at least 400 images")
    bank = StructureBank.load(arguments.bank)
    if arguments.cwf_table is not None:
        arguments.snr = arguments.snr or [0.01, 0.02, 0.03, 0.05, 0.1, 0.25]
        arguments.structures = min(arguments.structures, len(bank))
        print("relative MSE of CWF at SNR", *arguments.snr)
        text = json.dumps(cwf_table(arguments, bank), indent=1)
        arguments.cwf_table.write_text(text + "\n", encoding="utf-8")
        print(text)
        return
    arguments.snr = arguments.snr or [0.03, 0.1, 0.25]
    where = f"{arguments.device}, {arguments.threads} thread(s)"
    print(f"{arguments.particles} images each, no CTF, no shifts; {where}\n")
    comparisons = {"errors": compare_errors, "neighbours": compare_neighbours, "speed": compare_speed}
    figures: dict[str, Any] = {
        "benchmark": "peers",
        "particles": arguments.particles,
        "threads": arguments.threads,
    }
    for kind, compare in comparisons.items():
        if arguments.only in (None, kind):
            figures[kind] = compare(arguments, bank)
    print("\n" + json.dumps(figures))


if __name__ == "__main__":
    main()

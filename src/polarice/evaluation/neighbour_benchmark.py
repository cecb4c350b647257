"""Neighbours that nobody clustered: how far their views lie, and what joint denoising makes of them."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..conventions import random_rotations, view_angle_deg
from ..denoising import attend_graph, encode_stack
from ..devices import keep_freed_memory, mixed_precision, resolve_device
from ..errors import PolariceError
from ..files import make_folder, prepare_output, whole
from ..models import PolarTransformer, load_model
from ..models.centring import moved
from ..neighbours import (
    Companions,
    DiscHarmonics,
    StackCovariance,
    StackViews,
    find_companions,
    judge_by_averages,
    learn_from_stack,
    likeliest_pairs,
)
from ..simulation import SamplerConfig, SetBatch, SetSampler, StructureBank
from ..stacks import Progress, StackSettings, Work, labelled, load_joint_model

__all__ = [
    "NeighbourBenchmarkSettings",
    "benchmark_neighbours",
    "neighbour_angles_deg",
    "neighbour_benchmark_table",
]

_SET = 16
# Particles whose neighbours are looked at, spread evenly, and images denoised alone at once.
_ASKED, _BATCH = 1024, 64
_CANDIDATES = 200
_COLUMNS = {
    "nearest": "nearest that exist",
    "molecule_known": "molecule known",
    "embedding": "embedding",
    "pairs": "pairs",
    "averages": "averages",
    "one_side": "one side only",
    "alone": "alone",
    "joint": "joint",
    "wiener": "Wiener",
    "images_per_s": "images/s",
}
_ANGLES = 6
# Neighbours are counted as right up to so many degrees, in bins of their probability.
_NEAR_DEG = 25.0
_BELIEFS = (0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0)


@dataclass(frozen=True)
class NeighbourBenchmarkSettings:
    """What is measured.

    Attributes
    ----------
    model, single_model : str
        The joint network, and one that denoises images alone.
    structures : int
        How many of the bank, spread evenly.
    names : tuple of str, optional
        These instead.
    snr : tuple of float
    particles : int
        Uniform views of each structure.
    neighbours : int
    ctf : bool
        CTFs of 10,000 to 25,000 Å and shifts of up to 3 pixels; neither otherwise.
    device : str
    """

    model: str = "polar-transformer-64"
    single_model: str = "unet-64"
    structures: int = 10
    names: tuple[str, ...] | None = None
    snr: tuple[float, ...] = (0.25, 0.1, 0.03)
    particles: int = 1000
    neighbours: int = 16
    ctf: bool = True
    device: str = "auto"


def benchmark_neighbours(
    bank: StructureBank,
    out: str | Path,
    settings: NeighbourBenchmarkSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure neighbour searches and joint denoising of stacks of uniform views, and write it down.

    Parameters
    ----------
    bank : StructureBank
        Structures that the networks have not been trained on.
    out : path-like
        Folder for ``neighbours.json`` and ``neighbours.md``, which grow stack by stack.
    settings : NeighbourBenchmarkSettings, optional
    overwrite : bool
        Allow a folder that is not empty.
    progress : callable, optional
        Called with (stage, images done, images in all).

    Returns
    -------
    dict
        What ``neighbours.json`` holds.

    Raises
    ------
    PolariceError
        The bank has not so many structures, a model cannot be used, or the folder is not empty.
    """
    settings, out = settings or NeighbourBenchmarkSettings(), Path(out)
    prepare_output(out, overwrite)
    if settings.particles <= settings.neighbours:
        raise PolariceError(
            f"{settings.particles} particles are too few for {settings.neighbours} neighbours"
        )
    device = resolve_device(settings.device)
    network, _ = load_joint_model(StackSettings(model=settings.model), device)
    single, _ = load_model(settings.single_model, device)
    if getattr(single, "jointly", False):
        raise PolariceError(f"{settings.single_model} does not denoise single images")
    names = settings.names or _spread(bank, settings.structures)
    unknown = sorted(set(names) - set(bank.names))
    if unknown:
        raise PolariceError(f"the bank has no structure {', '.join(unknown)}")
    if device.type == "cpu":
        keep_freed_memory()
    make_folder(out)
    figures: dict[str, Any] = {"polarice": __version__, "settings": asdict(settings), "rows": []}
    for name in names:
        for snr in settings.snr:
            report = labelled(progress, f"{name}, SNR {snr:g}")
            with torch.inference_mode():
                stack = _Stack(bank, name, network.box, snr, settings)
                row = _measure(network, single, stack, settings, device, report)
            figures["rows"].append({"structure": name, "snr": snr, **row})
            figures["files"] = {str(out / f"neighbours.{kind}"): kind for kind in ("json", "md")}
            with whole(out / "neighbours.json") as partial:
                partial.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            with whole(out / "neighbours.md") as partial:
                partial.write_text(neighbour_benchmark_table(figures), encoding="utf-8")
    return figures


def _spread(bank: StructureBank, count: int) -> tuple[str, ...]:
    if not 1 <= count <= len(bank):
        raise PolariceError(f"the bank has {len(bank)} structures, of which {count} cannot be taken")
    return tuple(bank.names[k] for k in np.linspace(0, len(bank) - 1, count).round().astype(int))


class _Stack:
    """Uniform views of one structure, made again whenever they are asked for."""

    def __init__(
        self, bank: StructureBank, name: str, box: int, snr: float, settings: NeighbourBenchmarkSettings
    ) -> None:
        config = SamplerConfig(
            box=box,
            set_size=_SET,
            snr=(snr, snr),
            ctf=float(settings.ctf),
            defocus_A=(10_000.0, 25_000.0),
            max_shift_px=3.0 if settings.ctf else 0.0,
            diameter=(0.6, 0.6),
            blur_px=(0.7, 0.7),
            crowded=0.0,
            masked=0.0,
            divided=0.0,
        )
        self._sampler = SetSampler(bank.subset([bank.index(name)]), config, seed=0)
        self._sets = settings.particles // _SET
        generator = torch.Generator().manual_seed(5)
        self.rotations = random_rotations(self._sets * _SET, generator)
        self.ctf = settings.ctf

    def __len__(self) -> int:
        return len(self.rotations)

    def batches(self) -> Iterator[tuple[slice, SetBatch]]:
        """Rows and their images, set by set."""
        for index in range(self._sets):
            yield slice(index * _SET, (index + 1) * _SET), self._batch(index)

    def _batch(self, index: int) -> SetBatch:
        rotations = self.rotations[index * _SET : (index + 1) * _SET]
        with torch.autocast("cpu", enabled=False):
            return self._sampler.batch(index, 1, rotations[None])

    def images(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Images and CTFs of some whole sets."""
        batches = [self._batch(index) for index in range(rows.start // _SET, rows.stop // _SET)]
        return torch.cat([batch.noisy[0] for batch in batches]), torch.cat([b.ctf[0] for b in batches])


@contextmanager
def _clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _measure(
    network: PolarTransformer,
    single: nn.Module,
    stack: _Stack,
    settings: NeighbourBenchmarkSettings,
    device: torch.device,
    report: Progress,
) -> dict[str, Any]:
    """All figures of one stack."""
    total, k = len(stack), settings.neighbours
    one = np.zeros(total, np.int64)
    asked = torch.linspace(0, total - 1, min(total, _ASKED)).round().long().unique()
    harmonics = DiscHarmonics(network.box).to(device)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, Work(Path(name)) as work:

        def look(rows: slice) -> tuple[Tensor, Tensor]:
            images, ctf = stack.images(rows)
            return images.to(device), ctf.to(device)

        with _clock(seconds, "encode"), mixed_precision(device):
            views = encode_stack(network, look, total, work, lambda done: report("encode", done, total))
        with _clock(seconds, "search"):
            found = find_companions(
                harmonics, views, k, one, one, device, lambda done: report("search", done, total)
            )
        stages = _stages(harmonics, views, k, device)
        known = _with_the_molecule_known(harmonics, views, stack, asked, k)
        angle = neighbour_angles_deg(stack.rotations, asked)
        figures: dict[str, Any] = {
            "nearest": _median(angle, angle.topk(k, largest=False).indices),
            "molecule_known": _median(angle, known),
            **{stage: _median(angle, rows[asked]) for stage, rows in stages.items()},
            "one_side": _median(angle, torch.from_numpy(found.companions.rows)[asked]),
            "calibration": _calibration(angle, found.companions, asked),
        }
        with _clock(seconds, "attend"), mixed_precision(device):
            result = attend_graph(
                network,
                found.companions.rows,
                one,
                work,
                device,
                lambda index, done: report(f"attend ({index + 1})", done, total),
            )
        figures |= _errors(single, harmonics, stack, views, result.images, device)
    figures |= {f"{stage}_s": time for stage, time in seconds.items()}
    return figures | {"images_per_s": total / sum(seconds.values())}


def _stages(harmonics: DiscHarmonics, views: StackViews, k: int, device: torch.device) -> dict[str, Tensor]:
    """Neighbours (n, k) of each stage of the search; n is added to the rows of mirror images."""
    total = len(views.centre)
    learned = learn_from_stack(harmonics, views, np.arange(total), device)
    candidates, evidence = likeliest_pairs(
        learned.likelihood, learned.features, learned.embedding, _CANDIDATES, mirrored=True
    )
    judged = judge_by_averages(learned.likelihood, learned.features, candidates, evidence).evidence
    codes = torch.from_numpy(views.embedding)
    nearest = [
        (codes[rows] @ codes.T).scatter_(1, rows[:, None], -2).topk(k).indices
        for rows in torch.arange(total).split(_BATCH)
    ]
    return {
        # What a mirror image's embedding would be nobody knows.
        "embedding": torch.cat(nearest),
        "pairs": candidates.gather(1, evidence.topk(k).indices).cpu(),
        "averages": candidates.gather(1, judged.topk(k).indices).cpu(),
    }


def _with_the_molecule_known(
    harmonics: DiscHarmonics, views: StackViews, stack: _Stack, asked: Tensor, k: int
) -> Tensor:
    """Rows (a, k) whose clean images best explain the images asked for, at any in-plane angle.

    Mirror images have n added to their rows. That is what somebody would find who knew the molecule and where
    each particle lies.
    """
    orders = harmonics.orders.cpu()
    by_order = torch.nn.functional.one_hot(orders).bool().T
    weight = torch.where(orders == 0, 0.5, 1.0)
    harmonics = harmonics.cpu()
    truth, shifts = [], []
    for _, batch in stack.batches():
        shifts.append(batch.shifts_px[0])
        centred = harmonics.moved(harmonics.spectra(batch.clean[0]), -shifts[-1])
        truth.append(harmonics.analyse_spectra(centred))
    clean, centre = torch.cat(truth), torch.cat(shifts)
    power = weight * clean.abs().square()
    found = []
    for rows in asked.split(_BATCH):
        spectra = torch.from_numpy(np.array(views.spectra[rows]))
        about = harmonics.analyse_spectra(harmonics.moved(spectra, -centre[rows]))
        passed = torch.from_numpy(np.array(views.passed[rows])).float()
        explained = []
        for seen in (about, about.conj()):
            products = torch.stack([seen[:, of] @ clean[:, of].conj().T for of in by_order], -1)
            by_angle = torch.fft.irfft(products, n=2 * len(by_order), norm="forward")
            likelihood = torch.logsumexp(by_angle, -1) - passed @ power.T
            explained.append(likelihood.scatter_(1, rows[:, None], -torch.inf))
        found.append(torch.cat(explained, 1).topk(k).indices)
    return torch.cat(found)


def neighbour_angles_deg(rotations: Tensor, asked: Tensor) -> Tensor:
    """Degrees between views of particles asked for and those of all, then of all mirror images.

    A mirror image shows the view from the other side; whatever is of the particle itself is 999 away.

    Parameters
    ----------
    rotations : Tensor, shape (n, 3, 3)
    asked : Tensor of int, shape (a,)

    Returns
    -------
    Tensor, shape (a, 2 n)
    """
    angle = torch.cat([view_angle_deg(rotations[rows][:, None], rotations) for rows in asked.split(_BATCH)])
    both = torch.cat([angle, 180 - angle], 1)
    for place in (asked, asked + len(rotations)):
        both.scatter_(1, place[:, None], 999.0)
    return both


def _median(angle: Tensor, columns: Tensor) -> float:
    """Median angle of neighbours (a, k)."""
    return float(angle.gather(1, columns).median())


def _calibration(angle: Tensor, companions: Companions, asked: Tensor) -> dict[str, dict[str, float]]:
    """Of neighbours up to each probability: their share of all, and how many lie within `_NEAR_DEG`."""
    near = angle.gather(1, torch.from_numpy(companions.rows)[asked]) < _NEAR_DEG
    probability = torch.from_numpy(companions.probability)[asked]
    found = {}
    for low, high in pairwise(_BELIEFS):
        here = (probability > low) & (probability <= high)
        if here.any():
            share, right = float(here.float().mean()), float(near[here].float().mean())
            found[f"{low:g}-{high:g}"] = {"share": share, "near": right}
    return found


def _errors(
    single: nn.Module,
    harmonics: DiscHarmonics,
    stack: _Stack,
    views: StackViews,
    joint: np.ndarray,
    device: torch.device,
) -> dict[str, float]:
    """Relative squared error of the stack denoised alone, jointly, and by a covariance Wiener filter."""
    covariance = StackCovariance(harmonics.orders)
    for filtered, passed in _filtered(harmonics, views):
        covariance.add(filtered, passed)
    sums = dict.fromkeys(("alone", "joint", "wiener"), 0.0)
    parts = _filtered(harmonics, views)
    for rows, batch in stack.batches():
        clean, ctf = batch.clean[0], batch.ctf[0].to(device)
        centre = torch.from_numpy(views.centre[rows])
        estimate = harmonics.synthesise(covariance.wiener(*next(parts)))
        with mixed_precision(device):
            alone = single(batch.noisy[0].to(device), ctf).float().cpu()
        images = {
            "alone": alone,
            "joint": torch.from_numpy(np.array(joint[rows])),
            "wiener": moved(estimate, centre),
        }
        for name, found in images.items():
            error = (found - clean).square().sum((1, 2)) / clean.square().sum((1, 2))
            sums[name] += float(error.sum())
    return {name: value / len(stack) for name, value in sums.items()}


def _filtered(harmonics: DiscHarmonics, views: StackViews) -> Iterator[tuple[Tensor, Tensor]]:
    """Coefficients of the sets' images about the centres that the network has found, and squared CTFs."""
    for start in range(0, len(views.centre), _SET):
        rows = slice(start, start + _SET)
        spectra = torch.from_numpy(np.array(views.spectra[rows]))
        about = harmonics.moved(spectra, -torch.from_numpy(views.centre[rows]))
        yield harmonics.analyse_spectra(about), torch.from_numpy(np.array(views.passed[rows])).float()


def neighbour_benchmark_table(figures: dict[str, Any]) -> str:
    """Markdown table of the figures, one row a stack and the medians over structures at last."""
    settings, rows = figures["settings"], figures["rows"]
    told = "CTFs and shifts" if settings["ctf"] else "no CTF, no shifts"
    lines = [
        f"# Neighbours that {Path(settings['model']).stem} finds",
        "",
        f"{settings['particles']:,} uniform views of each structure, {told}; median angle to the views of "
        f"{settings['neighbours']} neighbours, then relative squared errors.",
        "",
        "| structure | SNR | " + " | ".join(_COLUMNS.values()) + " |",
        "|---" * (len(_COLUMNS) + 2) + "|",
    ]
    lines += [_line(row["structure"], row["snr"], row) for row in rows]
    names = dict.fromkeys(row["structure"] for row in rows)
    if len(names) > 1:
        for snr in dict.fromkeys(row["snr"] for row in rows):
            same = [row for row in rows if row["snr"] == snr]
            # Of symmetric molecules views are alike that lie far apart: a mean would be of those.
            middle = {name: float(np.median([row[name] for row in same])) for name in _COLUMNS}
            lines.append(_line(f"median of {len(same)}", snr, middle))
    return "\n".join(lines) + "\n"


def _line(name: str, snr: float, row: dict[str, float]) -> str:
    def cell(index: int, value: float) -> str:
        if index < _ANGLES:
            return f"{value:.1f}°"
        return f"{value:.3f}" if index < len(_COLUMNS) - 1 else f"{value:.0f}"

    cells = [cell(index, row[column]) for index, column in enumerate(_COLUMNS)]
    return f"| {name} | {snr:g} | " + " | ".join(cells) + " |"

"""From a stack to orientations and a map, method beside method: the paper's experiment and the honest one."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..conventions import random_rotations
from ..denoising import DenoiseSettings, denoise_stack
from ..devices import resolve_device
from ..errors import PolariceError
from ..files import make_folder, prepare_output, whole
from ..orientations import estimate_orientations
from ..particles import ParticleStack, read_star, write_star
from ..reconstruction import (
    AbInitioSettings,
    ObservedStack,
    OrientationGrid,
    PoseDraws,
    Poses,
    RefineSettings,
    abinitio,
    match_projections,
    refine_orientations,
)
from ..simulation import Projector, StructureBank, Volume, cluster_views, simulate
from ..stacks import Progress, labelled
from .truth import Truth

__all__ = ["THREED_METHODS", "ThreedBenchmarkSettings", "benchmark_threed", "threed_table"]

_SET = 8
# Between orientations that are tried: as a refinement's second look everywhere has it.
_TRUE_MAP_DEG = 5.0
_SETS = "rlnClassNumber"
THREED_METHODS = ("truth", "true-map", "own", "sets", "unet-64", "dncnn-64", "noisy")
_NAMES = {
    "truth": "true orientations",
    "true-map": "true map, searched everywhere",
    "own": "{model}, own neighbours",
    "sets": "{model}, true sets of 8",
    "noisy": "no denoising",
}
_COLUMNS = {
    "lines_mean_deg": "common lines, mean",
    "lines_median_deg": "median",
    "mean_deg": "refined, mean",
    "median_deg": "median",
    "fsc_half_A": "FSC 0.5",
    "fsc_143_A": "FSC 0.143",
    "half_maps_A": "half maps",
    "seconds": "s",
}


@dataclass(frozen=True)
class ThreedBenchmarkSettings:
    """What is measured.

    Attributes
    ----------
    names : tuple of str
        Structures of the bank.
    snr : tuple of float
    particles : int
        Uniform views of each structure.
    ctf : bool
        CTFs, and shifts of up to 3 pixels; neither otherwise, as in the paper.
    methods : tuple of str
        Of `THREED_METHODS`.
    model : str
        The joint network.
    representatives, rounds : int
        See `AbInitioSettings`.
    device : str
    """

    names: tuple[str, ...] = ("1FDO", "3NAL", "6BQN")
    snr: tuple[float, ...] = (0.25,)
    particles: int = 2048
    ctf: bool = False
    methods: tuple[str, ...] = THREED_METHODS
    model: str = "polar-transformer-64"
    representatives: int = 500
    rounds: int = 3
    device: str = "auto"


def benchmark_threed(
    bank: StructureBank,
    out: str | Path,
    settings: ThreedBenchmarkSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure errors of orientations and maps of simulated stacks, and write them down.

    Parameters
    ----------
    bank : StructureBank
        Structures that the networks have not been trained on.
    out : path-like
        Folder for ``threed.json`` and ``threed.md``, which grow row by row.
    settings : ThreedBenchmarkSettings, optional
    overwrite : bool
        Allow a folder that is not empty.
    progress : callable, optional
        Called with (stage, done, in all).

    Returns
    -------
    dict
        What ``threed.json`` holds.

    Raises
    ------
    PolariceError
        The bank lacks a structure, a method is not known, or the folder is not empty.
    """
    settings, out = settings or ThreedBenchmarkSettings(), Path(out)
    prepare_output(out, overwrite)
    unknown = sorted(set(settings.names) - set(bank.names))
    if unknown:
        raise PolariceError(f"the bank has no structure {', '.join(unknown)}")
    strange = sorted(set(settings.methods) - set(THREED_METHODS))
    if strange:
        raise PolariceError(
            f"{', '.join(strange)} is no method", hint=f"choose from {', '.join(THREED_METHODS)}"
        )
    make_folder(out)
    figures: dict[str, Any] = {"polarice": __version__, "settings": asdict(settings), "rows": []}
    figures["files"] = {str(out / f"threed.{kind}"): kind for kind in ("json", "md")}
    for name in settings.names:
        for snr in settings.snr:
            with tempfile.TemporaryDirectory() as temporary:
                stack = _Stack(bank, name, snr, settings, Path(temporary))
                for method in settings.methods:
                    label = f"{name}, SNR {snr:g}, {stack.name(method)}"
                    row = stack.measure(method, labelled(progress, label))
                    row = {"structure": name, "snr": snr, "method": stack.name(method), **row}
                    figures["rows"].append(row)
                    with whole(out / "threed.json") as partial:
                        partial.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
                    with whole(out / "threed.md") as partial:
                        partial.write_text(threed_table(figures), encoding="utf-8")
    return figures


def threed_table(figures: dict[str, Any]) -> str:
    """The figures as a table in Markdown; angles in degrees, resolutions in Å."""
    head = ["structure", "SNR", "method", *_COLUMNS.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in figures["rows"]:
        values = ["–" if row.get(key) is None else f"{row[key]:.3g}" for key in _COLUMNS]
        lines.append(
            f"| {row['structure']} | {row['snr']:g} | {row['method']} | " + " | ".join(values) + " |"
        )
    return "\n".join(lines) + "\n"


class _Stack:
    """A simulated stack, with what is known of it."""

    def __init__(
        self,
        bank: StructureBank,
        name: str,
        snr: float,
        settings: ThreedBenchmarkSettings,
        folder: Path,
    ) -> None:
        self.settings, self.folder = settings, folder
        self.device = resolve_device(settings.device)
        # Off the centre, whose place is known, a molecule would tell which way it was turned.
        made = simulate(
            bank[bank.index(name)].centred(),
            folder / "simulated",
            particles=settings.particles,
            snr=snr,
            ctf=settings.ctf,
            max_shift_px=3.0 if settings.ctf else 0.0,
        )
        self.particles, self.truth = made.particles, Truth.load(folder / "simulated")

    def name(self, method: str) -> str:
        return _NAMES.get(method, method).format(model=self.settings.model)

    def measure(self, method: str, report: Progress) -> dict[str, Any]:
        """Figures of one method."""
        start = time.perf_counter()
        if method == "truth":
            figures = self._map(self._observed(), self.truth.poses)
        elif method == "true-map":
            figures = self._true_map(report)
        elif method == "noisy":
            figures = self._noisy(report)
        else:
            figures = self._denoised(method, report)
        return figures | {"seconds": time.perf_counter() - start}

    def _observed(self) -> ObservedStack:
        stack = ParticleStack.open(self.particles)
        return ObservedStack.measure(stack, self.device, contrast="bright", ctf=stack.has_ctf)

    def _errors(self, prefix: str, rotations: Tensor) -> dict[str, Any]:
        errors = self.truth.errors_deg(rotations)
        return {f"{prefix}mean_deg": float(errors.mean()), f"{prefix}median_deg": float(errors.median())}

    def _map(self, observed: ObservedStack, poses: Poses, draws: PoseDraws | None = None) -> dict[str, Any]:
        halves = observed.stack.half_sets
        assert halves is not None
        compared = self.truth.compare(observed, poses, halves, draws)
        return {
            "fsc_half_A": compared.fsc.resolution_A(0.5),
            "fsc_143_A": compared.fsc.resolution_A(0.143),
            "half_maps_A": compared.maps.comparison.resolution_A(),
        }

    def _true_map(self, report: Progress) -> dict[str, Any]:
        """The likeliest orientations for somebody who knows the map, in its grey scale, but no pose."""
        observed, truth, count = self._observed(), self.truth, len(self.truth.rotations)
        halves = observed.stack.half_sets
        assert halves is not None
        compared = truth.compare(observed, truth.poses, halves)
        density = truth.volume.density.to(self.device)
        scale = (compared.maps.whole * density).sum() / density.square().sum()
        anywhere = random_rotations(count, torch.Generator().manual_seed(0))
        poses = Poses(anywhere, torch.zeros(count, 2), torch.zeros(count))
        settings = RefineSettings(shifts=self.settings.ctf)
        true, done = Volume(scale * density, truth.volume.pixel_size_A), 0
        grid = OrientationGrid(Projector(true), _TRUE_MAP_DEG)
        generator = torch.Generator().manual_seed(0)
        for matched in match_projections(
            observed, np.arange(count), poses, true, settings, generator, grid=grid
        ):
            poses.put(matched.particles, matched.best)
            done += len(matched.particles)
            report("search", done, count)
        return {**self._errors("", poses.rotations), **self._map(observed, poses)}

    def _noisy(self, report: Progress) -> dict[str, Any]:
        """Common lines of the images as they are."""
        observed = self._observed()
        halves = observed.stack.half_sets
        assert halves is not None
        rows = np.arange(len(observed.stack))
        images = observed.read(rows).images
        found = estimate_orientations(
            images, torch.Generator().manual_seed(0), shifts=self.settings.ctf, progress=report
        )
        refined = refine_orientations(
            observed,
            found.rotations,
            found.shifts_px,
            halves,
            RefineSettings(rounds=self.settings.rounds, search="global", shifts=self.settings.ctf),
            progress=lambda done, total: report("refine", done, total),
        )
        return {
            **self._errors("lines_", found.rotations),
            **self._errors("", refined.poses.rotations),
            **self._map(observed, refined.poses, refined.draws),
        }

    def _denoised(self, method: str, report: Progress) -> dict[str, Any]:
        """Everything that `polarice denoise` and `polarice abinitio` do."""
        jointly = method in ("own", "sets")
        particles = self._with_sets() if method == "sets" else self.particles
        denoising = DenoiseSettings(
            model=self.settings.model if jointly else method,
            sets_from=_SETS if method == "sets" else None,
            contrast="bright",
            device=self.settings.device,
        )
        made = denoise_stack(particles, self.folder / f"denoised-{method}", denoising, progress=report)
        settings = AbInitioSettings(
            denoised=made.star,
            denoising=denoising,
            representatives=self.settings.representatives if jointly else self.settings.particles,
            shifts=self.settings.ctf,
            rounds=self.settings.rounds,
        )
        found = abinitio(particles, self.folder / f"abinitio-{method}", settings, progress=report)
        poses = found.refined.poses
        return {
            **self._errors("lines_", torch.from_numpy(found.from_lines)),
            **self._errors("", poses.rotations),
            **self._map(found.observed, poses, found.refined.draws),
        }

    def _with_sets(self) -> Path:
        """The stack with the sets of somebody who knows the views; half sets are not told apart in them."""
        tables, version = read_star(self.particles)
        sets = (cluster_views(self.truth.rotations, _SET) + 1).tolist()
        told = []
        for table in tables:
            if "rlnImageName" in table.columns:
                table = table.with_columns({_SETS: [str(one) for one in sets]})
                columns = {k: v for k, v in table.columns.items() if k != "rlnRandomSubset"}
                table = type(table)(table.name, columns, table.is_loop)
            told.append(table)
        path = self.particles.with_name("sets.star")
        write_star(path, told, version=version)
        return path

"""Run the benchmark: every method on the same images of structures that no model has seen."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...devices import keep_freed_memory, resolve_device
from ...errors import PolariceError
from ...simulation import StructureBank
from ..content import Gallery, GalleryRow
from .images import ImageSource, Sets
from .methods import (
    ORACLE,
    Method,
    Model,
    classical_methods,
    load_models,
    model_methods,
    oracle_methods,
)
from .result import BenchmarkResult, Curve, Energies, Row, SweepRow
from .settings import BenchmarkSettings, Condition, default_models
from .statistics import Interval

__all__ = ["run_benchmark"]

Progress = Callable[[str, int, int], None]

_BOX = 64


@torch.inference_mode()
def run_benchmark(
    bank: StructureBank,
    settings: BenchmarkSettings | None = None,
    *,
    cwf: Path | None = None,
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Measure classical methods, networks and bounds side by side.

    Parameters
    ----------
    bank : StructureBank
        Structures that no model was trained on.
    settings : BenchmarkSettings, optional
    cwf : Path, optional
        JSON with results of covariance Wiener filtering by the SNR, shown beside:
        ``{"relative_mse": {"0.03": {"mean": ..., "low": ..., "high": ...}}}``.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    BenchmarkResult

    Raises
    ------
    PolariceError
        The settings ask for what cannot be, the device is absent, or ``cwf`` holds something else.
    """
    settings = settings or BenchmarkSettings()
    began = time.monotonic()
    _check(settings, bank)
    elsewhere = {} if cwf is None else _read_cwf(cwf, settings.conditions)
    device = resolve_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    names = default_models() if settings.models is None else settings.models
    models, notes = load_models(names, device)
    source = ImageSource(bank, settings, models[0].box if models else _BOX, device)
    run = _Run(settings, source, models, progress or (lambda stage, done, total: None))

    structures = _spaced(len(bank), settings.structures)
    rows = run.table(structures)
    best = _best_singles(rows, settings.conditions, models)
    curves = {kind: run.curve(kind, model, rows, structures) for kind, model in best.items()}
    if not best:
        notes.append("without a single-image network there is no K_eff")
    few = structures if settings.sweep_structures is None else _some(structures, settings.sweep_structures)
    return BenchmarkResult(
        settings=settings,
        structures=tuple(bank.names[i] for i in structures),
        sweep_structures=tuple(bank.names[i] for i in few),
        box=source.box,
        rows=tuple(_with_bounds(rows, best, settings.conditions)),
        curves=curves,
        sweep=tuple(run.sweep(few)),
        cards={model.name: model.card for model in models},
        galleries=run.galleries(_some(structures, settings.shown), rows),
        notes=tuple(notes),
        cwf=elsewhere,
        seconds=time.monotonic() - began,
    )


class _Run:
    """The parts of one run.

    Parameters
    ----------
    settings : BenchmarkSettings
    source : ImageSource
    models : list of Model
    report : callable
    """

    def __init__(
        self, settings: BenchmarkSettings, source: ImageSource, models: list[Model], report: Progress
    ) -> None:
        self.settings, self.source, self.models, self.report = settings, source, models, report
        self.methods = classical_methods(settings)
        for model in models:
            self.methods += model_methods(model, settings)
        self.methods += oracle_methods(models, settings)

    def table(self, structures: Sequence[int]) -> list[Row]:
        """All methods under all conditions."""
        found = {
            condition.name: self._measure(condition.label, condition, self.methods, structures)
            for condition in self.settings.conditions
        }
        return [
            Row(
                method.name,
                method.label,
                method.family,
                {name: energies[method.name] for name, energies in found.items()},
                dict.fromkeys(found, method.model),
            )
            for method in self.methods
        ]

    def curve(self, kind: str, model: Model, rows: Sequence[Row], structures: Sequence[int]) -> Curve:
        """Error of a single-image network under one kind of condition; the table's errors are taken over."""
        known = {c.snr: c.name for c in self.settings.conditions if c.kind == kind}
        base = next(c for c in self.settings.conditions if c.kind == kind)
        method = model_methods(model, self.settings)[0]
        row = next(row for row in rows if row.name == method.name)
        snrs = sorted({*self.settings.curve_snrs, *known})
        errors = []
        for index, snr in enumerate(snrs):
            if snr in known:
                energies = row.energies[known[snr]]
            else:
                energies = self._measure("", base.at(snr), [method], structures)[method.name]
            errors.append(energies.relative)
            self.report(f"single images, {kind}", index + 1, len(snrs))
        return Curve(model.name, np.array(snrs), np.stack(errors))

    def sweep(self, structures: Sequence[int]) -> list[SweepRow]:
        """Errors against the set's size."""
        settings = self.settings
        condition = Condition("gaussian", settings.sweep_snr)
        largest = max(settings.sweep_sizes, default=0)
        rows = []
        for views in settings.sweep_views:
            sizes = [size for size in settings.sweep_sizes if size % views == 0]
            if not sizes:
                continue
            methods = {size: list(self._sweep_methods(size, views)) for size in sizes}
            sums: dict[tuple[str, int], list[Energies]] = defaultdict(list)
            parts = list(self.source.batches(structures, largest))
            for index, part in enumerate(parts):
                sets = self.source.series(part, condition, views, largest)
                for size in sizes:
                    for method in methods[size]:
                        sums[method.name, size].append(_energies(method(sets), sets, len(part)))
                self.report(f"set size, {views} view{'s' * (views > 1)}", index + 1, len(parts))
            found = {
                method.name: {size: _joined(sums[method.name, size]) for size in sizes}
                for method in methods[sizes[0]]
            }
            least = {size: found[_least(found, size)][size] for size in sizes} if views == 1 else {}
            for method in methods[sizes[0]]:
                if not method.name.startswith(ORACLE):
                    rows.append(SweepRow(method.name, method.label, method.family, views, found[method.name]))
            if least:
                rows.append(SweepRow(ORACLE, "oracle alignment", "bound", views, least))
        return rows

    def galleries(self, structures: Sequence[int], rows: Sequence[Row]) -> dict[str, Gallery]:
        """Some particles through all methods, under one condition of each kind."""
        shown = {c.kind: c for c in self.settings.conditions if c.snr == 0.03 or c.kind != "gaussian"}
        galleries = {}
        for condition in shown.values():
            oracle = _least({row.name: row.energies for row in rows}, condition.name)
            methods = [
                method
                for method in self.methods
                if method.family in ("classical", "single", "joint") or method.name == oracle
            ]
            galleries[condition.name] = self._gallery(structures, condition, methods)
        return galleries

    def _sweep_methods(self, size: int, views: int) -> Iterator[Method]:
        settings = replace(self.settings, set_size=size, views=1)
        joint = [model for model in self.models if model.jointly]
        for model in joint:
            method = model_methods(model, settings)[0]
            yield replace(method, name=model.name, label=model.name)
        if views == 1:
            average = classical_methods(settings)[-1]
            yield replace(average, label="class average")
            for oracle in oracle_methods(self.models, settings):
                yield replace(oracle, label="oracle alignment")

    def _measure(
        self, stage: str, condition: Condition, methods: Sequence[Method], structures: Sequence[int]
    ) -> dict[str, Energies]:
        """Energies of some methods under one condition."""
        settings = self.settings
        parts = list(self.source.batches(structures, settings.views * settings.set_size))
        found: dict[str, list[Energies]] = defaultdict(list)
        for index, part in enumerate(parts):
            views = self.source.views(part, condition)
            near = (
                self.source.neighbourhoods(part, condition)
                if any(m.neighbourhoods for m in methods)
                else views
            )
            for method in methods:
                sets = near if method.neighbourhoods else views
                found[method.name].append(_energies(method(sets), sets, len(part)))
            if stage:
                self.report(stage, index + 1, len(parts))
        return {name: _joined(energies) for name, energies in found.items()}

    def _gallery(self, structures: Sequence[int], condition: Condition, methods: Sequence[Method]) -> Gallery:
        views = self.source.views(structures, condition)
        first = views.clean[:, 0].cpu().numpy()
        grey = float(first.min()), float(np.percentile(first, 99.9))
        rows = [
            GalleryRow("clean", "", first, grey),
            GalleryRow("noisy", "", views.noisy[:, 0].cpu().numpy()),
        ]
        rows += [
            GalleryRow(
                method.label.replace(", ", "\n").replace(" of ", "\nof "),
                "",
                method(views)[:, 0].cpu().numpy(),
                grey,
            )
            for method in methods
            if not method.neighbourhoods
        ]
        names = tuple(self.source.bank.names[i] for i in structures)
        return Gallery(names, tuple(rows))


def _energies(estimate: Tensor, sets: Sets, structures: int) -> Energies:
    """Energies of each structure, whose sets follow each other."""
    counted = sets.measured[..., None, None]

    def sums(images: Tensor) -> np.ndarray:
        energy = (images.double().square() * counted).sum((-2, -1))
        return energy.view(structures, -1).sum(1).cpu().numpy()

    return Energies(sums(estimate - sets.clean), sums(sets.clean))


def _joined(parts: Sequence[Energies]) -> Energies:
    return Energies(
        np.concatenate([part.error for part in parts]), np.concatenate([part.power for part in parts])
    )


def _least(found: Mapping[str, Mapping[Any, Energies]], key: Any) -> str:
    """Name of the bound's method that has the least error."""
    oracles = [name for name in found if name.startswith(ORACLE)]
    return min(oracles, key=lambda name: found[name][key].relative.mean())


def _with_bounds(
    rows: Sequence[Row], best: Mapping[str, Model], conditions: Sequence[Condition]
) -> list[Row]:
    """The table with its two bounds at the end, each the best of its candidates."""
    by_name = {row.name: row for row in rows}
    energies = {row.name: row.energies for row in rows}
    oracles = {c.name: by_name[_least(energies, c.name)] for c in conditions}
    chosen = {"oracle": oracles}
    if best:
        chosen["single image"] = {c.name: by_name[best[c.kind].name] for c in conditions}
    kept = [row for row in rows if not row.name.startswith(ORACLE)]
    for name, of in chosen.items():
        label = "best single image" if name != "oracle" else next(iter(of.values())).label
        found = {condition: row.energies[condition] for condition, row in of.items()}
        models = {condition: row.models[condition] for condition, row in of.items()}
        kept.append(Row(name, label, "bound", found, models))
    return kept


def _best_singles(
    rows: Sequence[Row], conditions: Sequence[Condition], models: Sequence[Model]
) -> dict[str, Model]:
    """For each kind of condition the single-image network with the least error (geometric mean)."""
    singles = {model.name: model for model in models if not model.jointly}
    best: dict[str, Model] = {}
    for kind in dict.fromkeys(condition.kind for condition in conditions):
        names = [condition.name for condition in conditions if condition.kind == kind]
        scores = {
            row.name: sum(np.log(row.energies[name].relative.mean()) for name in names)
            for row in rows
            if row.name in singles
        }
        if scores:
            best[kind] = singles[min(scores, key=lambda name: scores[name])]
    return best


def _spaced(total: int, wanted: int | None) -> list[int]:
    """Places of so many structures, evenly spaced."""
    return _some(range(total), total if wanted is None else wanted)


def _some(structures: Sequence[int], wanted: int) -> list[int]:
    count = min(wanted, len(structures))
    return [structures[i * len(structures) // count] for i in range(count)]


def _check(settings: BenchmarkSettings, bank: StructureBank) -> None:
    if settings.structures is not None and settings.structures < 2:
        raise PolariceError("a benchmark needs at least two structures")
    if len(bank) < 2:
        raise PolariceError(f"a benchmark needs at least two structures, and the bank has {len(bank)}")
    if not 0 <= settings.strangers < settings.set_size:
        raise PolariceError("a neighbourhood set cannot consist of strangers")
    for smaller, larger in pairwise(sorted(settings.sweep_sizes)):
        if larger % smaller:
            raise PolariceError(f"set sizes must divide each other, and {smaller} does not divide {larger}")


def _read_cwf(path: Path, conditions: Sequence[Condition]) -> dict[str, Interval]:
    """Results of covariance Wiener filtering for the Gaussian conditions, by name."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["relative_mse"]
        found = {
            float(snr): Interval(float(one["mean"]), float(one["low"]), float(one["high"]))
            for snr, one in table.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PolariceError("not results of covariance Wiener filtering", path=path) from error
    return {c.name: found[c.snr] for c in conditions if c.kind == "gaussian" and c.snr in found}

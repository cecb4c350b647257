"""What the benchmark has measured, structure by structure, and the figures that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...models import ModelCard
from ..content import Gallery
from .settings import BenchmarkSettings, Condition
from .statistics import EffectiveImages, Floats, Interval, bootstrap, effective_images, resamples

__all__ = ["BenchmarkResult", "Curve", "Energies", "Row", "SweepRow"]


@dataclass(frozen=True)
class Energies:
    """Σ|x̂ − x|² and Σ|x|² over the images of each structure, arrays of shape (structures,)."""

    error: Floats
    power: Floats

    @property
    def relative(self) -> Floats:
        """Relative MSE of each structure."""
        return self.error / self.power

    @property
    def pooled(self) -> float:
        """Relative MSE of all images together."""
        return float(self.error.sum() / self.power.sum())


@dataclass(frozen=True)
class Row:
    """Errors of one method under each condition.

    Attributes
    ----------
    name, label, family : str
    energies : mapping of str to Energies
        By the condition's name.
    models : mapping of str to str
        Which network was behind it, by the condition's name.
    """

    name: str
    label: str
    family: str
    energies: Mapping[str, Energies]
    models: Mapping[str, str]


@dataclass(frozen=True)
class Curve:
    """Error of the best single-image network under one kind of condition against the SNR.

    Attributes
    ----------
    model : str
    snrs : ndarray, shape (n,)
    errors : ndarray, shape (n, structures)
    """

    model: str
    snrs: Floats
    errors: Floats


@dataclass(frozen=True)
class SweepRow:
    """Errors of one method on sets of several sizes, all with as many views.

    Attributes
    ----------
    name, label, family : str
    views : int
    energies : mapping of int to Energies
        By the set's size.
    """

    name: str
    label: str
    family: str
    views: int
    energies: Mapping[int, Energies]


@dataclass(frozen=True)
class BenchmarkResult:
    """Everything that was measured.

    Attributes
    ----------
    settings : BenchmarkSettings
    structures : tuple of str
    sweep_structures : tuple of str
    box : int
    rows : tuple of Row
    curves : mapping of str to Curve
        By the kind of condition; empty without a single-image network.
    sweep : tuple of SweepRow
    cards : mapping of str to ModelCard
    galleries : mapping of str to Gallery
        By the condition's name.
    notes : tuple of str
        What was left out.
    cwf : mapping of str to Interval
        Covariance Wiener filtering measured elsewhere, by the condition's name.
    seconds : float
    """

    settings: BenchmarkSettings
    structures: tuple[str, ...]
    sweep_structures: tuple[str, ...]
    box: int
    rows: tuple[Row, ...]
    curves: Mapping[str, Curve]
    sweep: tuple[SweepRow, ...]
    cards: Mapping[str, ModelCard]
    galleries: Mapping[str, Gallery]
    notes: tuple[str, ...]
    cwf: Mapping[str, Interval]
    seconds: float

    @cached_property
    def _draws(self) -> NDArray[np.int64]:
        return resamples(len(self.structures), self.settings.resamples, self.settings.seed)

    @cached_property
    def _worth(self) -> dict[tuple[str, str], EffectiveImages]:
        """K_eff of every row under every condition that has a curve; it is asked for more than once."""
        worth = {}
        for condition in self.settings.conditions:
            curve = self.curves.get(condition.kind)
            if curve is None:
                continue
            for row in self.rows:
                errors = row.energies[condition.name].relative
                worth[row.name, condition.name] = effective_images(
                    errors, condition.snr, curve.snrs, curve.errors, self._draws
                )
        return worth

    @property
    def reference(self) -> Row | None:
        """The row that others are compared with."""
        singles = [row for row in self.rows if row.family == "single"]
        named = [row for row in singles if row.name == self.settings.reference]
        return next(iter(named + singles), None)

    def error(self, row: Row, condition: Condition) -> Interval:
        """Mean over structures of the relative MSE."""
        return bootstrap(row.energies[condition.name].relative, self._draws)

    def effective(self, row: Row, condition: Condition) -> EffectiveImages | None:
        """K_eff; None without a single-image network."""
        return self._worth.get((row.name, condition.name))

    def ratio(self, row: Row, condition: Condition) -> Interval | None:
        """Mean error over that of the reference on the same structures."""
        if self.reference is None:
            return None
        own, other = (r.energies[condition.name].relative for r in (row, self.reference))
        return bootstrap(own, self._draws, other)

    def swept(self, energies: Energies) -> Interval:
        """Mean over the sweep's structures."""
        settings = self.settings
        draws = resamples(len(self.sweep_structures), settings.resamples, settings.seed)
        return bootstrap(energies.relative, draws)

    def figures(self) -> dict[str, Any]:
        """Everything but the pictures as plain values, ready for JSON."""
        return {
            "polarice": __version__,
            "settings": asdict(self.settings),
            "box": self.box,
            "structures": list(self.structures),
            "seconds": round(self.seconds, 1),
            "notes": list(self.notes),
            "models": {name: _card(card) for name, card in self.cards.items()},
            "rows": [self._row(row) for row in self.rows],
            "cwf": {name: _interval(value) for name, value in self.cwf.items()},
            "single_image_curves": {
                kind: {
                    "model": curve.model,
                    "snr": _numbers(curve.snrs),
                    "relative_mse": _numbers(curve.errors.mean(1)),
                    "relative_mse_per_structure": [_numbers(errors) for errors in curve.errors],
                }
                for kind, curve in self.curves.items()
            },
            "set_size": {
                "snr": self.settings.sweep_snr,
                "structures": list(self.sweep_structures),
                "rows": [self._sweep_row(row) for row in self.sweep],
            },
        }

    def _row(self, row: Row) -> dict[str, Any]:
        conditions: dict[str, Any] = {}
        for condition in self.settings.conditions:
            if condition.name not in row.energies:
                continue
            energies = row.energies[condition.name]
            effective, ratio = self.effective(row, condition), self.ratio(row, condition)
            conditions[condition.name] = {
                "relative_mse": _interval(self.error(row, condition)),
                "relative_mse_pooled": round(energies.pooled, 6),
                "relative_mse_per_structure": _numbers(energies.relative),
                "k_eff": None
                if effective is None
                else {**_rounded(asdict(effective)), "text": str(effective)},
                "model": row.models[condition.name] or None,
                "over_reference": None if ratio is None else _interval(ratio),
            }
        return {
            "name": row.name,
            "label": row.label,
            "family": row.family,
            "conditions": conditions,
        }

    def _sweep_row(self, row: SweepRow) -> dict[str, Any]:
        return {
            "name": row.name,
            "label": row.label,
            "family": row.family,
            "views": row.views,
            "relative_mse": {str(k): _interval(self.swept(one)) for k, one in row.energies.items()},
            "relative_mse_per_structure": {str(k): _numbers(e.relative) for k, e in row.energies.items()},
        }


def _card(card: ModelCard) -> dict[str, Any]:
    return {"architecture": card.architecture, "config": card.config, "figures": card.figures}


def _interval(interval: Interval) -> dict[str, float]:
    return _rounded(asdict(interval))


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: round(one, 6) if isinstance(one, float) else one for name, one in figures.items()}


def _numbers(values: Floats) -> list[float]:
    return [round(float(value), 6) for value in values]

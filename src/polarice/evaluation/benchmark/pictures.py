"""Curves of the benchmark: error against SNR, and against the size of a set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ...files import whole
from ..figures import LIGHT, chart_style
from .result import BenchmarkResult
from .settings import Condition
from .statistics import Interval

__all__ = ["set_size_chart", "snr_chart"]

_DOTS_PER_INCH = 160
_SIZE_IN = (7.6, 4.4)
# One colour family for each kind of method, so that the eye finds them again in both charts.
_COLOURS = {
    "classical": ("#8a8f94", "#b4b9be", "#5f656b"),
    "single": ("#2c6183", "#5a9bc4", "#8fbf9f", "#5d7a3a"),
    "joint": ("#b3622b", "#d98f3d", "#8c2d19", "#7b5c93", "#a884bd", "#533a66"),
    "bound": ("#24292e",),
}
_DASHES = {"classical": (0, (4, 2)), "bound": (0, (1, 1.5))}
_MARKERS = {"classical": "s", "single": "o", "joint": "D", "bound": None}


class _Line(NamedTuple):
    label: str
    family: str
    x: Sequence[float]
    y: Sequence[Interval]


def snr_chart(path: Path, result: BenchmarkResult) -> Path:
    """Relative MSE of every method against the SNR, Gaussian noise, with 95 % intervals; returns the path."""
    conditions = sorted(
        (c for c in result.settings.conditions if c.kind == "gaussian"), key=lambda condition: condition.snr
    )
    snrs = [condition.snr for condition in conditions]
    lines = []
    for row in result.rows:
        if row.family == "input" or row.name == "single image":
            continue
        # What denoises the averages knows a range of SNRs: beyond it the bound is none.
        drawn = [c for c in conditions if row.family != "bound" or _within(result, c)] or conditions
        errors = [result.error(row, condition) for condition in drawn]
        lines.append(_Line(row.label, row.family, [condition.snr for condition in drawn], errors))
    known = [condition for condition in conditions if condition.name in result.cwf]
    if known:
        found = [result.cwf[condition.name] for condition in known]
        lines.append(_Line("CWF, stacks of its own", "classical", [c.snr for c in known], found))
    return _draw(path, lines, "signal-to-noise ratio", snrs)


def set_size_chart(path: Path, result: BenchmarkResult) -> Path:
    """Relative MSE against the size of the set, with 95 % intervals; returns the path."""
    lines = []
    for row in result.sweep:
        label = f"{row.label}, {row.views} view{'s' * (row.views > 1)}"
        errors = [result.swept(one) for one in row.energies.values()]
        lines.append(_Line(label, row.family, list(row.energies), errors))
    return _draw(
        path, lines, f"images in the set, SNR {result.settings.sweep_snr:g}", result.settings.sweep_sizes
    )


def _within(result: BenchmarkResult, condition: Condition) -> bool:
    curve = result.curves.get(condition.kind)
    return curve is None or condition.snr * result.settings.set_size <= curve.snrs[-1]


def _draw(path: Path, lines: Sequence[_Line], x_label: str, ticks: Sequence[float]) -> Path:
    with rc_context(chart_style(LIGHT)):
        figure = Figure(figsize=_SIZE_IN)
        axes = figure.add_subplot()
        drawn: dict[str, int] = {}
        for line in lines:
            index = drawn[line.family] = drawn.get(line.family, -1) + 1
            colours = _COLOURS[line.family]
            colour = colours[index % len(colours)]
            axes.plot(
                line.x,
                [one.value for one in line.y],
                color=colour,
                linestyle=_DASHES.get(line.family, "-"),
                marker=_MARKERS[line.family],
                markersize=3.5,
                linewidth=1.4,
                label=line.label,
            )
            # Faint, for most of this spread is shared: every line has seen the same structures.
            for x, one in zip(line.x, line.y, strict=True):
                axes.plot((x, x), (one.low, one.high), color=colour, alpha=0.3, linewidth=1)
        _logarithmic(axes, ticks, [one for line in lines for one in line.y])
        axes.set_xlabel(x_label)
        axes.set_ylabel("relative MSE")
        # As high as their lines end, and what is to be reached last.
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(lines)), key=lambda i: (lines[i].family == "bound", -lines[i].y[-1].value))
        figure.legend(
            [handles[i] for i in order], [labels[i] for i in order], loc="outside right center", fontsize=8
        )
        with whole(path) as partial:
            figure.savefig(partial, dpi=_DOTS_PER_INCH, format="png")
    return path


def _logarithmic(axes: Axes, ticks: Sequence[float], values: Sequence[Interval]) -> None:
    """Both axes logarithmic, with ticks that can be read."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = min(one.value for one in values), max(one.value for one in values)
    steps = [m * 10.0**e for e in range(-4, 3) for m in (1, 1.5, 2, 3, 5, 7)]
    shown = [step for step in steps if low / 1.3 <= step <= high * 1.3]
    axes.yaxis.set_major_locator(FixedLocator(shown))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(low / 1.2, high * 1.2)

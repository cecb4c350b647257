"""Pictures of what the attention of a joint network knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ..files import whole
from .diagnostics import AttentionDiagnostics
from .figures import DOTS_PER_INCH, LIGHT, chart_style, grey_range

__all__ = ["angle_attention_picture", "angle_error_picture", "attention_matrix_picture", "classes_picture"]

_PANEL_IN = 1.75


def angle_attention_picture(path: str | Path, found: AttentionDiagnostics) -> None:
    """Draw the attention of an image to its rotated copy over angles, at each SNR (paper, Figure 4)."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, len(found.profiles), sharey="row", squeeze=False, height_ratios=(0.5, 1))
        for (above, below), (snr, profile) in zip(panels.T, _descending(found.profiles), strict=True):
            pair = found.pairs[snr].numpy()
            low, high = grey_range(pair)
            above.imshow(np.concatenate(list(pair), -1), cmap="gray", vmin=low, vmax=high)
            above.set(xticks=[], yticks=[], title=f"SNR {snr:g}")
            above.grid(False)
            count = profile.shape[-1]
            angles = (np.arange(count) - count // 2) * (360 / count)
            below.axvline(0, color=LIGHT.quiet, linewidth=1.2)
            for curve, colour, label in zip(
                profile, LIGHT.series, ("this pair", "mean of all"), strict=False
            ):
                below.plot(angles, curve, color=colour, linewidth=1.1, label=label)
            below.set(xlim=(-180, 180), xticks=(-180, -90, 0, 90, 180))
            below.set_xticklabels(["−180", "", "0", "", "180"])
            below.set_ylim(bottom=0)
        panels[1, 0].set_ylabel("attention")
        figure.supxlabel("in-plane angle from the truth (°)", fontsize=9, color=LIGHT.ink)
        figure.legend(*below.get_legend_handles_labels(), loc="outside upper right", ncols=2)

    _draw(path, draw, (_PANEL_IN * len(found.profiles), 3.1))


def angle_error_picture(path: str | Path, figures: Mapping[str, Any]) -> None:
    """Draw the error of in-plane angles against SNR: medians, and lines between the quartiles."""
    errors = figures["angle_error_deg"]
    size = figures["settings"]["set_size"]
    names = {
        "correlation": ("pair, correlation", "o--", LIGHT.series[0]),
        "pair": ("pair, attention", "o-", LIGHT.series[0]),
        "class_average": (f"set of {size}, class average", "o--", LIGHT.series[1]),
        "set": (f"set of {size}, attention", "o-", LIGHT.series[1]),
    }

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, (kind, (name, line, colour)) in enumerate(names.items()):
            aside = 1.035 ** (place - 1.5)
            snrs = np.array([float(snr) for snr in errors[kind]])
            rows = list(errors[kind].values())
            medians = [row["median"] for row in rows]
            axes.plot(snrs * aside, medians, line, color=colour, markersize=3.5, label=name)
            lower, upper = ([row[f"{side}_quartile"] for row in rows] for side in ("lower", "upper"))
            axes.vlines(snrs * aside, lower, upper, color=colour, linewidth=0.8, alpha=0.6)
        axes.set_yscale("log")
        axes.set_yticks([1, 2, 5, 10, 20, 50, 90, 180], ["1", "2", "5", "10", "20", "50", "90", "180"])
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("error of the in-plane angle (°)")
        _snr_axis(axes, snrs)
        axes.legend()

    _draw(path, draw, (4.6, 3.2))


def attention_matrix_picture(path: str | Path, found: AttentionDiagnostics) -> None:
    """Draw who attends to whom in sets of several views, a column for each SNR (paper, Figure 6)."""
    colours = LinearSegmentedColormap.from_list("attention", [LIGHT.paper, LIGHT.series[0], LIGHT.ink])
    most = max(float(matrices.max()) for matrices in found.matrices.values())

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, len(found.matrices), squeeze=False)
        for column, (snr, matrices) in zip(panels.T, _descending(found.matrices), strict=True):
            for axes, matrix in zip(column, matrices, strict=True):
                drawn = axes.imshow(matrix, cmap=colours, vmin=0, vmax=most)
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
            column[0].set_title(f"SNR {snr:g}")
        for axes, label in zip(panels[:, 0], ("one set", "mean of all"), strict=True):
            axes.set_ylabel(label)
        bar = figure.colorbar(drawn, ax=panels, fraction=0.03, pad=0.02)
        bar.set_label("attention, summed over angles")
        bar.outline.set_visible(False)

    _draw(path, draw, (_PANEL_IN * len(found.matrices) + 0.8, 2 * _PANEL_IN + 0.3))


def classes_picture(path: str | Path, figures: Mapping[str, Any]) -> None:
    """Draw how well classes read off the attention agree with the views, against SNR."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for (views, rows), colour in zip(figures["classes"].items(), LIGHT.series, strict=False):
            snrs = np.array([float(snr) for snr in rows])
            for key, line, told in (
                ("adjusted_rand_index", "o-", ""),
                ("adjusted_rand_index_told", "o--", ", number told"),
            ):
                values = [row[key] for row in rows.values()]
                label = f"{views} views{told}"
                means = [value["mean"] for value in values]
                axes.plot(snrs, means, line, color=colour, markersize=3.5, label=label)
                if not told:
                    low, high = ([value[end] for value in values] for end in ("low", "high"))
                    axes.fill_between(snrs, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("adjusted Rand index")
        _snr_axis(axes, snrs)
        axes.legend()

    _draw(path, draw, (4.6, 3.2))


def _descending(by_snr: Mapping[float, Any]) -> list[tuple[float, Any]]:
    """From the clearest images to the noisiest, as the paper's panels go."""
    return sorted(by_snr.items(), reverse=True)


def _snr_axis(axes: Axes, snrs: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(snrs, [f"{snr:g}" for snr in snrs])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("SNR")


def _draw(path: str | Path, draw: Callable[[Figure], None], size_in: tuple[float, float]) -> None:
    """Draw on light paper, without pyplot's global state."""
    style: Any = {
        **chart_style(LIGHT),
        "axes.titlecolor": LIGHT.ink,
        "axes.titlesize": 9,
        "xtick.minor.size": 0,
        "legend.handlelength": 2.4,
    }
    with rc_context(style):
        figure = Figure(figsize=size_in)
        draw(figure)
        with whole(path) as partial:
            figure.savefig(partial, dpi=DOTS_PER_INCH, format="png")

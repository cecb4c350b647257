"""A picture of how far two maps agree, shell by shell."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..files import whole
from ..reconstruction import MapComparison
from .figures import CHART_HEIGHT_IN, CHART_WIDTH_IN, DOTS_PER_INCH, LIGHT, chart_style

__all__ = ["shell_correlation_picture"]

_NAMES = {
    "corrected": "masked, corrected",
    "masked": "masked",
    "unmasked": "not masked",
    "randomised": "masked, random phases",
}
_HALVES = 0.143


def shell_correlation_picture(path: str | Path, found: MapComparison) -> None:
    """Draw the Fourier shell correlations of two maps, titled by where `best` falls below 0.143."""
    curves = found.curves()
    side_A = found.box * found.pixel_size_A
    with rc_context(chart_style(LIGHT)):
        figure = Figure(figsize=(CHART_WIDTH_IN, CHART_HEIGHT_IN))
        axes = figure.add_subplot()
        axes.axhline(0, color=LIGHT.quiet, linewidth=0.8)
        axes.axhline(_HALVES, color=LIGHT.quiet, linewidth=1, linestyle="--")
        for (name, label), colour in zip(_NAMES.items(), LIGHT.series, strict=False):
            if name in curves:
                width = 1.8 if curves[name] is found.best else 1.0
                axes.plot(curves[name][1:].tolist(), color=colour, linewidth=width, label=label)
        last = len(found.unmasked) - 1
        shells = list(range(last // 4, last + 1, max(1, last // 4)))
        axes.set_xticks([shell - 1 for shell in shells], [f"{side_A / shell:.3g}" for shell in shells])
        axes.set(xlim=(0, last - 1), ylim=(min(-0.1, float(found.best.min())), 1.02))
        axes.set_xlabel("resolution (Å)")
        axes.set_ylabel("shell correlation")
        axes.set_title(f"{found.resolution_A(_HALVES):.3g} Å at 0.143", loc="left")
        axes.legend()
        with whole(path) as partial:
            figure.savefig(partial, format="png", dpi=DOTS_PER_INCH)

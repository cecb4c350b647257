"""Pictures for the report: grey images and small charts, as PNG bytes.

Charts are drawn twice, on light and on dark paper, at the size of a phone's screen, so that their
lettering stays readable wherever they are shown.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, NullFormatter
from PIL import Image

from ..files import whole
from ..imaging import fourier_resample
from .chart_data import AngleProfile, AttentionMap, Directions, Floats, Histogram, RadialCurve, RadialCurves
from .content import Gallery

__all__ = [
    "DARK",
    "LIGHT",
    "Chart",
    "Theme",
    "angle_chart",
    "attention_chart",
    "chart_style",
    "direction_chart",
    "frc_chart",
    "gain_chart",
    "gallery_picture",
    "grey_png",
    "grey_range",
    "histogram_chart",
    "power_chart",
]

CHART_WIDTH_IN = 4.6
CHART_HEIGHT_IN = 3.0
DOTS_PER_INCH = 192
LARGEST_SIDE_PX = 128
SMALLEST_PNG_PX = 192


@dataclass(frozen=True)
class Theme:
    """Colours of a chart: paper, lettering, lines that recede, and the series in order."""

    paper: str
    ink: str
    quiet: str
    series: tuple[str, ...]


LIGHT = Theme("#ffffff", "#24292e", "#c9ced3", ("#2c6183", "#b3622b", "#5d7a3a", "#7b5c93", "#8a8f94"))
DARK = Theme("#1b1f23", "#dde1e4", "#4a5157", ("#7db4d8", "#e09a66", "#a5c07c", "#bb9dd3", "#9aa0a5"))


@dataclass(frozen=True)
class Chart:
    """One chart as two PNGs, and the width and height in CSS pixels at which to show it."""

    light: bytes
    dark: bytes
    width_px: int
    height_px: int


def grey_range(images: Floats) -> tuple[float, float]:
    """Grey values that are drawn black and white: the 0.3rd and 99.7th percentile of all images."""
    low, high = np.percentile(images, (0.3, 99.7))
    return (float(low), float(high)) if high > low else (float(low) - 1, float(low) + 1)


def grey_png(image: Floats, low: float, high: float, *, enlarged: bool = True) -> bytes:
    """Draw an image in grey; large ones are Fourier-cropped.

    Parameters
    ----------
    image : array, shape (L, L)
    low, high : float
        Grey values of black and white.
    enlarged : bool
        Give small images larger pixels, so that these can be told apart.
    """
    if image.shape[-1] > LARGEST_SIDE_PX:
        image = fourier_resample(torch.as_tensor(image).float(), LARGEST_SIDE_PX).numpy()
    shade = (np.clip((np.asarray(image) - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    if enlarged:
        # Whole multiples, so that the browser never has to make some pixels wider than others.
        factor = -(-SMALLEST_PNG_PX // image.shape[-1])
        shade = shade.repeat(factor, 0).repeat(factor, 1)
    buffer = io.BytesIO()
    Image.fromarray(shade).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def gallery_picture(path: str | Path, gallery: Gallery) -> None:
    """Draw a gallery as one PNG: a particle in each column, a step of the way in each row."""
    rows, columns = len(gallery.rows), len(gallery.columns)
    with rc_context({"font.size": 8}):
        layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
        figure = Figure(figsize=(0.85 * columns + 1.3, 0.85 * rows), layout=layout)
        for index, row in enumerate(gallery.rows):
            low, high = row.grey or grey_range(row.images)
            for column, image in enumerate(row.images):
                axes = figure.add_subplot(rows, columns, index * columns + column + 1)
                axes.imshow(image, cmap="gray", vmin=low, vmax=high)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if column == 0:
                    label = row.label.replace(" by ", "\nby ")
                    axes.set_ylabel(label, rotation=0, ha="right", va="center")
        with whole(path) as partial:
            figure.savefig(partial, dpi=DOTS_PER_INCH // 2, format="png")


def gain_chart(radial: RadialCurves) -> Chart:
    """Amplitude kept against resolution."""

    def draw(axes: Axes, theme: Theme) -> None:
        _radial(axes, theme, radial, radial.gain)
        axes.axhline(1, color=theme.quiet, linewidth=0.8, zorder=0)
        lowest, highest = _span(radial.gain)
        axes.set_ylim(min(0.0, 1.05 * lowest), max(1.05, 1.05 * highest))
        axes.set_ylabel("amplitude kept")

    return _chart(draw)


def frc_chart(radial: RadialCurves) -> Chart:
    """Fourier ring correlation against resolution, with the levels at which it is read."""

    def draw(axes: Axes, theme: Theme) -> None:
        _radial(axes, theme, radial, radial.frc)
        for level in radial.frc_levels:
            axes.axhline(level, color=theme.ink, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
        axes.set_ylim(min(0.0, 1.05 * _span(radial.frc)[0]), 1.03)
        axes.set_ylabel("ring correlation")

    return _chart(draw)


def power_chart(radial: RadialCurves) -> Chart:
    """Mean power in each ring against resolution, on a logarithmic scale."""

    def draw(axes: Axes, theme: Theme) -> None:
        _radial(axes, theme, radial, radial.power)
        axes.set_yscale("log")
        # Plain numbers: powers of ten would need fonts for formulas.
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("power")

    return _chart(draw)


def histogram_chart(histogram: Histogram) -> Chart:
    """How many particles have which value, with the median marked."""
    values = np.asarray(histogram.values, dtype=np.float64)

    def draw(axes: Axes, theme: Theme) -> None:
        axes.hist(values, bins=min(40, max(8, int(np.sqrt(values.size)))), color=theme.series[0])
        median = float(np.median(values))
        axes.axvline(median, color=theme.series[1], linewidth=1.4, label=f"median {median:.3g}")
        axes.set_xlabel(_plain(histogram.axis_label))
        axes.set_ylabel("particles")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend()

    return _chart(draw)


def direction_chart(directions: Directions) -> Chart:
    """How many particles are seen from where: longitude against the sine of latitude, so areas are true."""
    towards = np.asarray(directions.towards, dtype=np.float64)
    longitude = np.degrees(np.arctan2(towards[:, 1], towards[:, 0]))
    # Cells that ten particles fall into if they come from everywhere.
    rows = int(np.clip(np.sqrt(len(towards) / 20), 3, 18))

    def draw(axes: Axes, theme: Theme) -> None:
        colours = LinearSegmentedColormap.from_list("particles", [theme.paper, theme.series[0], theme.ink])
        *_, drawn = axes.hist2d(
            longitude,
            np.clip(towards[:, 2], -1, 1),
            bins=(2 * rows, rows),
            range=((-180, 180), (-1, 1)),
            cmap=colours,
            vmin=0,
        )
        axes.grid(False)
        axes.set_xticks(range(-180, 181, 90))
        latitudes = (-90, -30, 0, 30, 90)
        axes.set_yticks(np.sin(np.radians(latitudes)), [f"{latitude}°" for latitude in latitudes])
        axes.set_xlabel("longitude (°)")
        axes.set_ylabel("latitude")
        bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.03)
        bar.set_label("particles")
        bar.outline.set_visible(False)

    return _chart(draw)


def attention_chart(attention: AttentionMap) -> Chart:
    """Attention weights as a heat map, queries down, images across."""
    weights = np.asarray(attention.weights, dtype=np.float64)

    def draw(axes: Axes, theme: Theme) -> None:
        colours = LinearSegmentedColormap.from_list("attention", [theme.paper, theme.series[0], theme.ink])
        drawn = axes.imshow(
            weights, cmap=colours, vmin=0, vmax=max(float(weights.max()), 1e-12), aspect="auto"
        )
        axes.grid(False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            axis.set_major_formatter(lambda position, _: f"{position + 1:.0f}")
        axes.set_xlabel(_plain(attention.image_label))
        axes.set_ylabel(_plain(attention.query_label))
        bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.03)
        bar.set_label("attention weight")
        bar.outline.set_visible(False)

    return _chart(draw)


def angle_chart(profile: AngleProfile) -> Chart:
    """Attention of one query against the in-plane angle, a curve for each neighbour."""

    def draw(axes: Axes, theme: Theme) -> None:
        for index, (name, curve) in enumerate(zip(profile.names, profile.weights, strict=True)):
            axes.plot(
                profile.angles_deg, curve, color=theme.series[index % len(theme.series)], label=_plain(name)
            )
        axes.set_xlabel("in-plane angle (°)")
        axes.set_ylabel("attention weight")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 3, 4.5, 6, 9, 10]))
        axes.legend()

    return _chart(draw)


def _radial(axes: Axes, theme: Theme, radial: RadialCurves, curves: tuple[RadialCurve, ...]) -> None:
    """Curves over the rings, their axis lettered in Å; the mean grey value (ring 0) is left out."""
    for index, curve in enumerate(curves):
        rings = np.arange(1, len(curve.values))
        colour = theme.series[index % len(theme.series)]
        axes.plot(rings, np.asarray(curve.values)[1:], color=colour, label=_plain(curve.label))
    last = radial.box // 2
    axes.set_xlim(0, last)
    ticks = np.linspace(0, last, 5)[1:]
    axes.set_xticks(ticks, [f"{radial.box * radial.pixel_size_A / tick:.3g}" for tick in ticks])
    axes.set_xlabel("resolution (Å), finer to the right")
    axes.legend()


def _span(curves: tuple[RadialCurve, ...]) -> tuple[float, float]:
    """Least and greatest value of what `_radial` draws."""
    values = np.concatenate([np.asarray(curve.values)[1:] for curve in curves])
    return float(values.min()), float(values.max())


def _plain(words: str) -> str:
    """Words that matplotlib must not read as a formula."""
    return words.replace("$", r"\$")


def chart_style(theme: Theme) -> Any:
    """Settings for `matplotlib.rc_context` that every chart is drawn with."""
    return {
        "font.size": 9,
        "axes.labelcolor": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "axes.edgecolor": theme.quiet,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": theme.quiet,
        "grid.linewidth": 0.4,
        "legend.frameon": False,
        "legend.handlelength": 1.4,
        "legend.labelcolor": theme.ink,
        "figure.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "figure.constrained_layout.use": True,
    }


def _chart(draw: Callable[[Axes, Theme], None]) -> Chart:
    """Draw on light and on dark paper, without pyplot's global state."""
    pages = []
    for theme in (LIGHT, DARK):
        with rc_context(chart_style(theme)):
            figure = Figure(figsize=(CHART_WIDTH_IN, CHART_HEIGHT_IN))
            draw(figure.add_subplot(), theme)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
        pages.append(buffer.getvalue())
    return Chart(pages[0], pages[1], round(CHART_WIDTH_IN * 96), round(CHART_HEIGHT_IN * 96))

"""Draw how a training run went."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..files import whole

__all__ = ["training_curves"]

COLOURS = ("#2c6183", "#b3622b", "#5d7a3a", "#7b5c93", "#8a8f94")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#c9ced3",
    "axes.grid": True,
    "grid.color": "#e3e6e9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def training_curves(
    path: str | Path,
    errors: Mapping[str, Sequence[tuple[float, float]]],
    learning_rate: Sequence[tuple[float, float]],
    *,
    logarithmic: bool = True,
) -> Path:
    """Draw errors and, beneath, the learning rate against the images seen; write a PNG.

    Parameters
    ----------
    path : path-like
        Where; replaced once the new picture is whole.
    errors : mapping of str to sequence of (images seen, value)
        Loss, relative MSE and the like, each under the name in the legend. Short series get markers.
    learning_rate : sequence of (images seen, value)
    logarithmic : bool
        Draw errors on a logarithmic scale; values that are not positive are then left out.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    DiskError
        The file cannot be written.
    """
    path = Path(path)
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.6))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for index, (name, series) in enumerate(errors.items()):
            points = [(seen, value) for seen, value in series if value > 0 or not logarithmic]
            upper.plot(
                [seen for seen, _ in points],
                [value for _, value in points],
                color=COLOURS[index % len(COLOURS)],
                marker="o" if len(points) <= 30 else None,
                markersize=3,
                linewidth=1.3,
                label=name,
            )
        if logarithmic:
            upper.set_yscale("log")
        upper.set_ylabel("error")
        if errors:
            upper.legend()
        lower.plot(
            [seen for seen, _ in learning_rate],
            [value for _, value in learning_rate],
            color=COLOURS[-1],
            linewidth=1.3,
        )
        lower.set_ylim(bottom=0)
        lower.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        lower.set_ylabel("learning rate")
        lower.set_xlabel("images seen")
        lower.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160)
    with whole(path) as partial:
        partial.write_bytes(buffer.getvalue())
    return path

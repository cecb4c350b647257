"""One run that measures what a network's attention knows, and writes figures, a table and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from .. import __version__
from ..denoising import SetDenoiser
from ..errors import PolariceError
from ..files import make_folder, prepare_output, whole
from ..simulation import StructureBank
from .diagnostic_figures import (
    angle_attention_picture,
    angle_error_picture,
    attention_matrix_picture,
    classes_picture,
)
from .diagnostics import DiagnosticSettings, diagnose_attention

__all__ = ["QUICK_DIAGNOSTICS", "attention_table", "benchmark_attention"]

QUICK_DIAGNOSTICS = DiagnosticSettings(snrs=(0.01, 0.03, 0.1, 0.25), pairs=4, sets=1)


def benchmark_attention(
    bank: StructureBank,
    out: str | Path,
    *,
    model: str | Path | nn.Module = "polar-transformer-64",
    settings: DiagnosticSettings | None = None,
    structures: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure what a network's attention knows about the structures of a bank, and write it down.

    Parameters
    ----------
    bank : StructureBank
        Structures that the network has not been trained on.
    out : path-like
        Folder for ``attention.json``, ``attention.md`` and four pictures.
    model : str, Path or Module
        A shipped model's name, a weights file, or a network.
    settings : DiagnosticSettings, optional
    structures : int, optional
        How many, spread evenly over the bank; all by default.
    device : str
    overwrite : bool
        Allow a folder that is not empty.
    progress : callable, optional
        Called with (stage, structures done, structures in all).

    Returns
    -------
    dict
        What ``attention.json`` holds: the figures of `AttentionDiagnostics`, the model, and ``files``.

    Raises
    ------
    PolariceError
        The bank has not so many structures, the model cannot be used, or the folder is not empty.
    """
    out = Path(out)
    prepare_output(out, overwrite)
    count = len(bank) if structures is None else structures
    if not 1 <= count <= len(bank):
        raise PolariceError(f"the bank has {len(bank)} structures, of which {count} cannot be taken")
    denoiser = SetDenoiser(model, device)
    chosen = bank.subset(np.linspace(0, len(bank) - 1, count).round().astype(int).tolist())
    found = diagnose_attention(chosen, denoiser, settings, progress)
    name = type(model).__name__ if isinstance(model, nn.Module) else str(model)
    figures: dict[str, Any] = {"polarice": __version__, "model": name, "names": list(chosen.names)}
    figures |= {key: _rounded(value) for key, value in found.figures.items()}
    make_folder(out)
    pictures = {
        "angle-attention.png": "attention over angles of a rotated pair",
        "angle-error.png": "error of in-plane angles",
        "attention-matrices.png": "who attends to whom in sets of several views",
        "classes.png": "classes read off the attention",
    }
    angle_attention_picture(out / "angle-attention.png", found)
    angle_error_picture(out / "angle-error.png", figures)
    attention_matrix_picture(out / "attention-matrices.png", found)
    classes_picture(out / "classes.png", figures)
    with whole(out / "attention.md") as partial:
        partial.write_text(attention_table(figures), encoding="utf-8")
    files = {"attention.json": "all figures", "attention.md": "tables", **pictures}
    figures["files"] = {str(out / file): what for file, what in files.items()}
    with whole(out / "attention.json") as partial:
        partial.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def attention_table(figures: dict[str, Any]) -> str:
    """Markdown tables of the figures of `AttentionDiagnostics`."""
    errors, size = figures["angle_error_deg"], figures["settings"]["set_size"]
    lines = [
        f"# What the attention of {Path(figures['model']).stem} knows",
        "",
        f"{figures['structures']} structures that it has not seen; no CTF, no shifts.",
        "",
        "## Error of the in-plane angle, degrees: median (quartiles)",
        "",
        f"| SNR | pair, attention | correlation | set of {size}, attention | class average |",
        "|---|---|---|---|---|",
    ]
    for snr, pair in errors["pair"].items():
        rows = (pair, *(errors[kind][snr] for kind in ("correlation", "set", "class_average")))
        lines.append(f"| {snr} | " + " | ".join(map(_quartiles, rows)) + " |")
    lines += [
        "",
        "The correlation is of low-passed images; at each SNR, the cutoff is the one that does best.",
        f"{figures['symmetric_views']:.0%} of the views look nearly the same after another turn, so that "
        "their angle cannot be told; they count like all others.",
    ]
    images = figures["settings"]["class_set_size"]
    for views, by_snr in figures["classes"].items():
        lines += [
            "",
            f"## Classes read off the attention: {images} images, {views} views",
            "",
            "| SNR | adjusted Rand index (95 %) | number of views told | attention within a view |",
            "|---|---|---|---|",
        ]
        for snr, row in by_snr.items():
            index, told = row["adjusted_rand_index"], row["adjusted_rand_index_told"]
            cells = (
                f"{index['mean']:.2f} ({index['low']:.2f}–{index['high']:.2f})",
                f"{told['mean']:.2f} ({told['low']:.2f}–{told['high']:.2f})",
                f"{row['same_view_share']:.0%} (by chance {row['chance_share']:.0%})",
            )
            lines.append(f"| {snr} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _quartiles(row: dict[str, float]) -> str:
    return f"{row['median']:.3g} ({row['lower_quartile']:.3g}–{row['upper_quartile']:.3g})"


def _rounded(value: Any) -> Any:
    """Plain values with four digits, all that the figures hold."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value

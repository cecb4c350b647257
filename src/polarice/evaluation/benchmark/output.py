"""The benchmark on paper: a Markdown page, JSON, and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...files import make_folder, whole
from ..figures import gallery_picture
from .pictures import set_size_chart, snr_chart
from .result import BenchmarkResult, Row
from .settings import Condition
from .statistics import figure

__all__ = ["markdown", "table_lines", "write_benchmark"]


def write_benchmark(result: BenchmarkResult, out: Path) -> dict[str, Path]:
    """Write ``benchmark.json``, ``benchmark.md`` and the pictures; returns the files by name."""
    make_folder(out)
    files = {"json": out / "benchmark.json", "table": out / "benchmark.md"}
    with whole(files["json"]) as partial:
        partial.write_text(json.dumps(result.figures(), indent=1) + "\n", encoding="utf-8")
    if len([c for c in result.settings.conditions if c.kind == "gaussian"]) > 1:
        files["snr"] = snr_chart(out / "snr.png", result)
    if result.sweep:
        files["set_size"] = set_size_chart(out / "set-size.png", result)
    for name, gallery in result.galleries.items():
        files[f"gallery {name}"] = out / f"gallery-{name}.png"
        gallery_picture(files[f"gallery {name}"], gallery)
    with whole(files["table"]) as partial:
        partial.write_text(markdown(result, files), encoding="utf-8")
    return files


def markdown(result: BenchmarkResult, files: dict[str, Path]) -> str:
    """The whole page."""
    settings, conditions = result.settings, result.settings.conditions
    labels = [condition.label for condition in conditions]
    sections = [
        "# Benchmark\n",
        f"Relative MSE Σ|x̂ − x|² / Σ|x|², mean over {len(result.structures)} structures with its 95 % "
        f"interval (bootstrap over structures), on images of {result.box} pixels. Each structure is shown by "
        f"{settings.views * settings.set_size} images: {settings.views} views, each {settings.set_size} "
        f"times, turned at random. Seed {settings.seed}. Beneath, K_eff: the single-image error at K_eff "
        "times the SNR equals this one; > or < where the measured curve of single images ends.\n",
        _table(["", *labels], [[row.label, *_cells(result, row)] for row in result.rows] + _cwf_row(result)),
    ]
    sections.append(
        "Oracle alignment is a bound only where its averages, of K times the SNR, lie in the range that the "
        "networks were trained on: there they are denoised as well as can be.\n"
    )
    if result.cwf:
        sections.append("CWF was measured on stacks of its own, without K_eff.\n")
    reference = result.reference
    if reference is not None:
        sections += [
            f"## Relative to {reference.label}\n",
            "Ratio of mean errors on the same structures, with its 95 % interval.\n",
            _table(
                ["", *labels],
                [
                    [row.label, *(str(result.ratio(row, condition)) for condition in conditions)]
                    for row in result.rows
                    if row.family in ("classical", "single", "joint", "bound") and row is not reference
                ],
            ),
        ]
    if result.sweep:
        sections += [
            "## Size of the set\n",
            f"Relative MSE at SNR {settings.sweep_snr:g}, {len(result.sweep_structures)} structures; a set's "
            "images show as many views as are named, in equal shares.\n",
            _table(
                ["", "views", *(f"K = {size}" for size in settings.sweep_sizes)],
                [
                    [
                        row.label,
                        str(row.views),
                        *(
                            str(result.swept(row.energies[size])) if size in row.energies else ""
                            for size in settings.sweep_sizes
                        ),
                    ]
                    for row in result.sweep
                ],
            ),
        ]
    if result.cards:
        sections += ["## Models\n", _models(result)]
    if result.notes:
        sections += ["## Notes\n", "\n".join(f"- {note}" for note in result.notes) + "\n"]
    pictures = [(name, path) for name, path in files.items() if path.suffix == ".png"]
    sections += [f"![{name}]({path.name})\n" for name, path in pictures]
    return "\n".join(sections)


def table_lines(result: BenchmarkResult) -> list[str]:
    """The table for a terminal: relative MSE, and K_eff in brackets."""
    conditions = result.settings.conditions
    rows = [["relative MSE (K_eff)", *(_short(condition) for condition in conditions)]]
    for row in result.rows:
        cells = []
        for condition in conditions:
            effective = result.effective(row, condition)
            error = figure(result.error(row, condition).value)
            cells.append(error if effective is None else f"{error} ({effective})")
        rows.append([row.label, *cells])
    if result.cwf:
        rows.append(
            ["CWF", *(figure(result.cwf[c.name].value) if c.name in result.cwf else "" for c in conditions)]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _cells(result: BenchmarkResult, row: Row) -> list[str]:
    cells = []
    for condition in result.settings.conditions:
        effective = result.effective(row, condition)
        error = str(result.error(row, condition))
        worth = "" if effective is None or row.family == "input" else f"<br>K_eff {effective}"
        cells.append(error + worth)
    return cells


def _cwf_row(result: BenchmarkResult) -> list[list[str]]:
    if not result.cwf:
        return []
    found = (result.cwf.get(condition.name) for condition in result.settings.conditions)
    return [["covariance Wiener filter (CWF)", *("" if one is None else str(one) for one in found)]]


def _models(result: BenchmarkResult) -> str:
    rows = []
    for name, card in result.cards.items():
        images, hours = (card.figures.get(key) for key in ("images_seen", "training_hours"))
        rows.append(
            [
                name,
                card.architecture,
                "" if images is None else f"{images:,}",
                "" if hours is None else f"{hours:.1f}",
            ]
        )
    return _table(["model", "architecture", "images seen", "hours of training"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _short(condition: Condition) -> str:
    return condition.name.replace("gaussian-", "SNR ").replace("-", " ")

"""What a particle stack is and what is wrong with it, for people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PolariceError
from .stack import ParticleStack

__all__ = ["describe", "format_description"]

_CTF_COLUMNS = (
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnPhaseShift",
    "rlnCtfBfactor",
)
_MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}


def describe(path: str | Path, *, pixel_size_A: float | None = None) -> dict[str, Any]:
    """Describe a particle stack without reading pixels; a broken one is described as far as it goes.

    Parameters
    ----------
    path : path-like
    pixel_size_A : float, optional
        As for `ParticleStack.open`.

    Returns
    -------
    dict
        Plain values for JSON; ``problems`` lists what is wrong as text, and what could not be found
        out is None.
    """
    try:
        stack = ParticleStack.open(path, pixel_size_A=pixel_size_A)
    except PolariceError as error:
        return {"path": str(path), "format": None, "problems": [str(error)]}
    problems = [str(problem) for problem in stack.problems()]
    return {
        "path": str(stack.path),
        "format": stack.format,
        "particles": len(stack),
        "box": _known(lambda: stack.box),
        "pixel_size_A": _known(lambda: stack.pixel_size_A),
        "stack_files": len(stack.names.files),
        "pixel_types": _known(lambda: _pixel_types(stack)),
        "optics_groups": _known(lambda: np.unique(stack.optics_groups).tolist()),
        "ctf_columns": [name for name in _CTF_COLUMNS if stack.has_column(name)],
        "missing_ctf_columns": stack.missing_ctf_columns,
        "phase_flipped": _known(lambda: stack.phase_flipped),
        "defocus_A": _known(lambda: _range(stack, "rlnDefocusU")),
        "half_sets": _known(lambda: _counts(stack, "rlnRandomSubset")),
        "classes": _known(lambda: _counts(stack, "rlnClassNumber")),
        "poses": all(stack.has_column(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")),
        "shifts": any(stack.has_column(name) for name in ("rlnOriginX", "rlnOriginXAngst")),
        "denoised": _known(lambda: stack.denoised),
        "columns": [] if stack.particles is None else list(stack.particles.columns),
        "other_blocks": [t.name for t in stack.tables if t is not stack.particles and t is not stack.optics],
        "problems": problems,
    }


def _known(ask: Callable[[], Any]) -> Any:
    """Answer, or None where the stack is too broken for one; `problems` says why."""
    try:
        return ask()
    except PolariceError:
        return None


def _pixel_types(stack: ParticleStack) -> list[str]:
    """Types of the pixels in the first stack files; opening thousands would take its time."""
    modes = {stack.stack_header(file).mode for file in range(min(len(stack.names.files), 100))}
    return [f"{_MODES[mode]} (mode {mode})" for mode in sorted(modes)]


def _range(stack: ParticleStack, name: str) -> list[float] | None:
    values = stack.numeric(name)
    return None if values is None or not len(values) else [float(values.min()), float(values.max())]


def _counts(stack: ParticleStack, name: str) -> dict[str, int] | None:
    values = stack.numeric(name)
    if values is None:
        return None
    found, counts = np.unique(values, return_counts=True)
    return {f"{value:g}": int(count) for value, count in zip(found, counts, strict=True)}


def format_description(description: dict[str, Any]) -> str:
    """Lay out a description from `describe` as text.

    Parameters
    ----------
    description : dict

    Returns
    -------
    str
        Several lines without a line break at the end.
    """
    lines = [str(description["path"])]
    if description["format"] is not None:
        lines += [f"  {label:<16}{text}" for label, text in _facts(description)]
    problems = description["problems"]
    if problems:
        lines.append(f"  {len(problems)} problem{'s' if len(problems) > 1 else ''}:")
        lines += [f"    - {problem}" for problem in problems]
    else:
        lines.append("  no problems found")
    return "\n".join(lines)


def _facts(d: dict[str, Any]) -> list[tuple[str, str]]:
    box, pixel = d["box"], d["pixel_size_A"]
    size = "unknown" if box is None else f"{box} px"
    if box is not None and pixel is not None:
        size += f" = {box * pixel:.1f} A"
    files = f"{d['stack_files']} file{'s' if d['stack_files'] != 1 else ''}"
    types = d["pixel_types"]
    ctf = "complete" if not d["missing_ctf_columns"] else "missing " + ", ".join(d["missing_ctf_columns"])
    if not d["ctf_columns"]:
        ctf = "none"
    facts = [
        ("format", d["format"]),
        ("particles", str(d["particles"])),
        ("images", files + (f", {', '.join(types)}" if types else "")),
        ("box", size),
        ("pixel size", "unknown" if pixel is None else f"{pixel:.4g} A"),
        ("optics groups", "unknown" if d["optics_groups"] is None else str(len(d["optics_groups"]))),
        ("CTF", ctf + (", phases flipped already" if d["phase_flipped"] else "")),
    ]
    if d["defocus_A"]:
        facts.append(("defocus", f"{d['defocus_A'][0]:.0f} to {d['defocus_A'][1]:.0f} A"))
    facts.append(("half sets", _count_text(d["half_sets"])))
    if d["classes"]:
        facts.append(("classes", _count_text(d["classes"])))
    facts.append(("poses", ("yes" if d["poses"] else "no") + (", with shifts" if d["shifts"] else "")))
    if d["denoised"]:
        facts.append(("denoised", "yes: not for a final reconstruction"))
    if d["other_blocks"]:
        facts.append(("other blocks", ", ".join(d["other_blocks"])))
    return facts


def _count_text(counts: dict[str, int] | None) -> str:
    if not counts:
        return "none"
    shown = [f"{value}: {count}" for value, count in list(counts.items())[:10]]
    return ", ".join(shown) + (f", ... ({len(counts)} in all)" if len(counts) > 10 else "")

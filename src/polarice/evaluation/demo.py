"""The main job on an embedded example: a made-up protein, its particles, and their denoising."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..denoising import DenoiseSettings, denoise_stack
from ..devices import resolve_device
from ..errors import PolariceError
from ..files import prepare_output
from ..models import find_weights
from ..simulation import example_structure, simulate
from .evaluate import evaluate
from .run_report import run_report

__all__ = ["DemoResult", "run_demo"]

Progress = Callable[[str, int, int], None]

# A single-image network first, for comparison.
_MODELS = ("unet-64", "polar-transformer-64")

_FEWEST = 64


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration has shown.

    Attributes
    ----------
    page : Path
        The HTML page.
    relative_mse : dict
        Of the noisy images, a single-image network and the joint network.
    """

    page: Path
    relative_mse: dict[str, float]


def run_demo(
    out: str | Path,
    *,
    particles: int = 800,
    snr: float = 0.05,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DemoResult:
    """Simulate particles of the example protein, denoise them in two ways, and write the page.

    Parameters
    ----------
    out : path-like
        Folder to write.
    particles : int
        At least 64, so that each half has neighbours enough.
    snr : float
        mean(clean²) / noise variance.
    device : str
    overwrite : bool
    progress : callable, optional
        Called with (stage, done, total).

    Raises
    ------
    PolariceError
        Too few particles, the models are not there, or the device or the output folder cannot be used.
    """
    out = Path(out)
    prepare_output(out, overwrite)
    if particles < _FEWEST:
        raise PolariceError(f"the demonstration needs at least {_FEWEST} particles, not {particles}")
    resolve_device(device)
    for name in _MODELS:
        find_weights(name)
    report = progress or (lambda stage, done, total: None)
    simulation = simulate(
        example_structure(),
        out / "simulated",
        particles=particles,
        snr=snr,
        ctf=True,
        max_shift_px=2,
        views="sets",
        set_size=16,
        set_angle_deg=8,
        overwrite=overwrite,
        progress=lambda done, total: report("simulate", done, total),
    )
    figures: dict[str, float] = {}
    measured: dict[str, Any] = {}
    stacks: dict[str, Path] = {}
    for name in _MODELS:
        settings = DenoiseSettings(model=name, device=device)
        result = denoise_stack(
            simulation.particles,
            out / name,
            settings,
            overwrite=overwrite,
            progress=partial(_prefixed, report, name),
        )
        measured = evaluate(result.star, simulation.clean, simulation.particles)
        figures["noisy"] = measured["noisy"]["relative_mse"]
        figures[name] = measured["denoised"]["relative_mse"]
        stacks[name] = result.star
    page = run_report(
        out / "report.html",
        result,
        truth=simulation.clean,
        evaluation=measured,
        beside={f"Denoised by {name}": stacks[name] for name in _MODELS[:-1]},
        picture=out / "gallery.png",
    )
    return DemoResult(page, figures)


def _prefixed(report: Progress, name: str, stage: str, done: int, total: int) -> None:
    report(f"{name}: {stage}", done, total)

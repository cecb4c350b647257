"""What an evaluation says, in the words and curves of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .chart_data import RadialCurve, RadialCurves
from .content import KeyFigure

__all__ = ["evaluation_curves", "evaluation_figures"]


def evaluation_figures(result: Mapping[str, Any]) -> tuple[KeyFigure, ...]:
    """Key figures of what `evaluate` returned.

    Parameters
    ----------
    result : mapping
        As returned by `evaluate`; the figures before denoising become notes where they are there.
    """
    denoised, noisy = result["denoised"], result.get("noisy")
    span = f"over a grey range of {result['data_range']:.3g}"
    rows = [
        ("Relative MSE", "relative_mse", "{:.3g}", "0 is perfect, 1 is an empty image"),
        ("Relative MSE, rescaled", "relative_mse_after_scaling", "{:.3g}", "with one factor for all"),
        ("PSNR", "psnr_dB", "{:.1f} dB", span),
        ("SSIM", "ssim", "{:.3f}", span),
        ("Agrees with the truth to", "resolution_A", "{:.1f} Å", "where the ring correlation is one half"),
    ]
    figures = []
    for label, key, form, note in rows:
        value = "–" if denoised[key] is None else form.format(denoised[key])
        if noisy is not None and noisy[key] is not None:
            note = f"noisy: {form.format(noisy[key])}; {note}"
        figures.append(KeyFigure(label, value, note))
    return tuple(figures)


def evaluation_curves(result: Mapping[str, Any]) -> RadialCurves:
    """Gain and Fourier ring correlation curves of what `evaluate` returned."""
    stages = [name for name in ("denoised", "noisy") if name in result]
    curves = {
        key: tuple(RadialCurve(name, np.asarray(result[name][key])) for name in stages)
        for key in ("shell_gain", "frc")
    }
    return RadialCurves(
        result["box"], result["pixel_size_A"], gain=curves["shell_gain"][:1], frc=curves["frc"]
    )

"""Compare a denoised stack with the truth, and with the noisy images it came from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import PolariceError
from ..particles import ParticleStack
from .metrics import SSIM_WINDOW_PX, frc_resolution_A, psnr, ring_products, ssim

__all__ = ["evaluate", "require_correspondence"]

PIXELS_PER_BATCH = 2**20


def evaluate(
    denoised_path: str | Path,
    truth_path: str | Path,
    noisy_path: str | Path | None = None,
    *,
    pixel_size_A: float | None = None,
) -> dict[str, Any]:
    """Measure a denoised particle stack against the truth; rows correspond one to one.

    Parameters
    ----------
    denoised_path, truth_path : path-like
        Particle stacks of equal length, box and pixel size.
    noisy_path : path-like, optional
        The images before denoising, measured in the same way beside them.
    pixel_size_A : float, optional
        Å per pixel of all stacks, where the files do not say it or say it wrongly.

    Returns
    -------
    dict
        Plain numbers, lists and strings, ready for JSON: ``images``, ``box``, ``pixel_size_A``,
        ``truth_minimum``, ``truth_maximum``, ``data_range`` (their difference, over all images; that
        of PSNR and SSIM), ``frequency_per_A`` (of the rings), and under ``denoised`` (and ``noisy``):
        ``relative_mse``, ``relative_mse_after_scaling`` (with the one factor ``best_scale``),
        ``psnr_dB`` and ``ssim`` (means over images), the curves ``frc`` and ``shell_gain`` pooled over
        images, and ``resolution_A`` where the former falls below 0.5. What is undefined or infinite is
        None.

    Raises
    ------
    PolariceError
        The stacks do not correspond, a grey value is not a number, or the truth is empty.
    """
    truth = ParticleStack.open(truth_path, pixel_size_A=pixel_size_A)
    estimates = {"denoised": ParticleStack.open(denoised_path, pixel_size_A=pixel_size_A)}
    if noisy_path is not None:
        estimates["noisy"] = ParticleStack.open(noisy_path, pixel_size_A=pixel_size_A)
    for stack in estimates.values():
        require_correspondence(stack, truth)

    low, high = math.inf, -math.inf
    for _, images in _batches(truth):
        low, high = min(low, float(images.min())), max(high, float(images.max()))
    if low == high:
        raise PolariceError("every grey value is the same", path=truth.path, hint="Check the file")

    totals = {name: _Totals(high - low) for name in estimates}
    for rows, images in _batches(truth):
        for name, stack in estimates.items():
            totals[name].add(_finite(stack, rows), images)
    box, pixel = truth.box, truth.pixel_size_A
    return {
        "images": len(truth),
        "box": box,
        "pixel_size_A": pixel,
        "truth_minimum": low,
        "truth_maximum": high,
        "data_range": high - low,
        "frequency_per_A": [ring / (box * pixel) for ring in range(box // 2 + 1)],
        **{name: total.result(box, pixel) for name, total in totals.items()},
    }


class _Totals:
    """Sums over batches, in float64, from which every figure follows."""

    def __init__(self, data_range: float) -> None:
        self.data_range = data_range
        self.images = 0
        self.sums = dict.fromkeys(("error", "cross", "estimate", "truth", "psnr", "ssim"), 0.0)
        self.rings: dict[str, Tensor] = {}

    def add(self, estimate: Tensor, truth: Tensor) -> None:
        """Take in a batch ``(b, L, L)``."""
        estimate, truth = estimate.double(), truth.double()
        self.images += len(truth)
        batch = {
            "error": (estimate - truth).square(),
            "cross": estimate * truth,
            "estimate": estimate.square(),
            "truth": truth.square(),
            "psnr": psnr(estimate, truth, self.data_range),
            "ssim": ssim(estimate, truth, self.data_range),
        }
        for name, values in batch.items():
            self.sums[name] += float(values.sum())
        for name, pair in {
            "cross": (estimate, truth),
            "estimate": (estimate, estimate),
            "truth": (truth, truth),
        }.items():
            self.rings[name] = self.rings.get(name, 0) + ring_products(*pair).sum(0)

    def result(self, box: int, pixel_size_A: float) -> dict[str, Any]:
        """Figures and curves as plain numbers."""
        sums, rings = self.sums, self.rings
        scale = sums["cross"] / sums["estimate"] if sums["estimate"] else 0.0
        frc = rings["cross"] / (rings["estimate"].sqrt() * rings["truth"].sqrt())
        frc = frc.nan_to_num(0.0).clamp(-1, 1)
        figures = {
            "relative_mse": sums["error"] / sums["truth"],
            "relative_mse_after_scaling": max(0.0, 1 - scale * sums["cross"] / sums["truth"]),
            "best_scale": scale,
            "psnr_dB": sums["psnr"] / self.images,
            "ssim": sums["ssim"] / self.images,
            "resolution_A": frc_resolution_A(frc, box, pixel_size_A, 0.5),
        }
        gain = (rings["cross"] / rings["truth"]).nan_to_num(0.0)
        return {
            **{name: value if math.isfinite(value) else None for name, value in figures.items()},
            "frc": frc.tolist(),
            "shell_gain": gain.tolist(),
        }


def _batches(stack: ParticleStack) -> Iterator[tuple[range, Tensor]]:
    """Rows and finite images of consecutive parts of a stack."""
    size = max(1, PIXELS_PER_BATCH // stack.box**2)
    for start in range(0, len(stack), size):
        rows = range(start, min(start + size, len(stack)))
        yield rows, _finite(stack, rows)


def _finite(stack: ParticleStack, rows: range) -> Tensor:
    images = torch.from_numpy(stack.images(rows))
    bad = ~images.isfinite().flatten(1).all(1)
    if bad.any():
        row = rows[int(bad.nonzero()[0])] + 1
        raise PolariceError("the image holds a value that is not a number", path=stack.path, row=row)
    return images


def require_correspondence(stack: ParticleStack, truth: ParticleStack) -> None:
    """Raise unless row i of both stacks can be the same particle.

    Raises
    ------
    PolariceError
        They differ in length, box or pixel size.
    """
    for what, ours, theirs in (
        ("images", len(stack), len(truth)),
        ("pixels a side", stack.box, truth.box),
        ("Å per pixel", stack.pixel_size_A, truth.pixel_size_A),
    ):
        if not math.isclose(ours, theirs, rel_tol=1e-3):
            raise PolariceError(
                f"has {ours:g} {what} where {truth.path} has {theirs:g}",
                path=stack.path,
                hint="Row i of one file must be the same particle as row i of the other",
            )
    if truth.box < SSIM_WINDOW_PX:
        raise PolariceError(f"a box of {truth.box} pixels is too small to measure", path=truth.path)

"""A run's particles before and after: what its page shows of pixels and spectra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..denoising import DenoiseResult
from ..imaging import filter_images, fourier_resample
from ..particles import ParticleStack
from .chart_data import Histogram, RadialCurve, RadialCurves
from .content import Comparison, Gallery, GalleryRow, Heading
from .metrics import radial_power
from .seen import LOW_PASS_A, bright, low_pass, magnitudes, model_images

__all__ = ["STEPS", "compare", "optics", "spectra", "steps"]

# Of the gallery under a slider: particles at most, and pixels a side and in all, which make the page heavy.
_COMPARED, _SIDE_PX, _PIXELS = 384, 96, 384 * 64**2
_SPECTRA_OF = 256

STEPS = Heading(
    "Step by step",
    "Each column is one particle, each row one step. All images of a row share the grey range stated "
    "beside its name, from black to white.",
)


def compare(result: DenoiseResult, source: ParticleStack, denoised: ParticleStack) -> Comparison:
    """Many particles, low-passed and denoised."""
    side = min(_SIDE_PX, result.preprocessor.model_box)
    count = min(len(source), _COMPARED, max(1, _PIXELS // side**2))
    rows = np.unique(np.linspace(0, len(source) - 1, count).astype(int))
    seen = low_pass(model_images(result, source, rows), result.preprocessor.model_pixel_size_A)
    after = torch.from_numpy(bright(result, denoised, rows))
    share = None if result.weights is None else result.confidence[rows]
    which = "All" if count == len(source) else f"{count:,} of all {len(source):,}"
    even = "" if count == len(source) else ", evenly spaced"
    return Comparison(
        tuple(f"row {row + 1}" for row in rows),
        _of_side(seen, side).numpy(),
        _of_side(after, side).numpy(),
        "noisy",
        "denoised",
        f"{which} particles{even}; the noisy ones are blurred to {LOW_PASS_A:.0f} Å for the eye.",
        share,
    )


def _of_side(images: Tensor, side: int) -> Tensor:
    return images if images.shape[-1] == side else fourier_resample(images, side)


@torch.inference_mode()
def spectra(result: DenoiseResult, source: ParticleStack, denoised: ParticleStack) -> RadialCurves:
    """Power of some particles before and after, and of what was taken away, as the network saw them."""
    rows = np.unique(np.linspace(0, len(source) - 1, _SPECTRA_OF).astype(int))
    preprocessor = result.preprocessor
    seen = model_images(result, source, rows)
    clean = _of_side(torch.from_numpy(bright(result, denoised, rows)), preprocessor.model_box)
    ctf = magnitudes(result, source, rows)
    mask = preprocessor.mask(result.found.statistics[torch.from_numpy(rows)])
    again = (clean if ctf is None else filter_images(clean, ctf)) * mask
    noisy, after, rest = (radial_power(images).mean(0) for images in (seen, again, seen - again))
    put_back = "" if ctf is None else ", CTF put back"
    noise = torch.full_like(noisy, float(mask.square().mean()))
    curves = {
        "noisy": noisy,
        f"denoised{put_back}": after,
        "noisy − denoised": rest,
        "white noise of unit variance": noise,
    }
    kept = (after / noisy.clamp_min(1e-12)).sqrt()
    return RadialCurves(
        preprocessor.model_box,
        preprocessor.model_pixel_size_A,
        gain=(RadialCurve("denoised", kept.numpy()),),
        gain_reference="the noisy images, noise included",
        power=tuple(RadialCurve(name, values.numpy()) for name, values in curves.items()),
        power_note="Where what was taken away lies on the line of white noise, it was noise; above it, "
        "signal was lost; below it, noise was left.",
    )


def optics(source: ParticleStack) -> tuple[Histogram, ...]:
    """Defocus of all particles, if it is known and not the same for all."""
    if not source.has_ctf:
        return ()
    ctf = source.ctf(slice(None))
    defocus_um = ((ctf.defocus_u_A + ctf.defocus_v_A) / 2e4).numpy()
    if np.ptp(defocus_um) == 0:
        return ()
    return (Histogram("Defocus", "mean of the two axes, µm", defocus_um, "Underfocus is positive."),)


def steps(
    result: DenoiseResult,
    source: ParticleStack,
    denoised: ParticleStack,
    clean: ParticleStack | None,
    rows: np.ndarray,
    beside: Mapping[str, Path],
) -> Gallery:
    """A few particles at all steps, and what others have made of them."""
    seen = model_images(result, source, rows)
    pixel = result.preprocessor.model_pixel_size_A
    clearer = low_pass(seen, pixel).numpy()
    flipped = ", phases flipped" if result.preprocessor.phase_flip else ""
    shown = bright(result, denoised, rows)
    grey = (float(np.quantile(shown, 0.001)), float(np.quantile(shown, 0.999)))
    table = [
        GalleryRow("As they came", "in the file's own grey scale", source.images(rows)),
        GalleryRow(
            "Low-passed",
            f"what the network sees: protein bright{flipped}; blurred to {LOW_PASS_A:.0f} Å",
            clearer,
        ),
    ]
    for name, star in beside.items():
        images = bright(result, ParticleStack.open(star), rows)
        table.append(GalleryRow(name, "in the grey range of the next row", images, grey))
    table.append(
        GalleryRow(
            f"Denoised by {Path(result.settings.model).stem}",
            "protein bright, in units of the noise",
            shown,
            grey,
        )
    )
    if clean is not None:
        images = bright(result, clean, rows)
        table.append(GalleryRow("Truth", "the noiseless images, in the same grey range", images, grey))
    return Gallery(tuple(f"row {row + 1}" for row in rows), tuple(table))

"""What a network makes of noise like a stack's, for every report: a quick look, not the whole of `guards`."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from ..denoising import DenoiseResult
from ..models import PolarTransformer, load_model
from ..particles import ParticleStack
from .content import Gallery, GalleryRow, GuardCheck
from .guards import Sample, evenly
from .seen import bright, model_images

__all__ = ["noise_check"]

_IMAGES, _MEASURED, _SHOWN = 64, 256, 6
_SET = 16


@torch.inference_mode()
def noise_check(result: DenoiseResult, source: ParticleStack, denoised: ParticleStack) -> GuardCheck:
    """Put noise with a stack's own spectrum and CTFs through the network, in sets.

    Parameters
    ----------
    result : DenoiseResult
    source, denoised : ParticleStack
        Before and after.
    """
    network, _ = load_model(result.settings.model)
    preprocessor, one_group = result.preprocessor, np.zeros(len(source), np.int64)

    rows = evenly(one_group, _MEASURED)
    measured = Sample(source, rows, result.found.statistics[torch.from_numpy(rows)], preprocessor)
    # The spectrum is that of more images than are looked at.
    places = evenly(np.zeros(len(measured), np.int64), _IMAGES)
    noise = measured.noise(places, measured.spectra(), seed=0)
    sample = measured.part(places)
    found = sample.statistics
    noise = noise * found.noise_sigma[:, None, None] + found.background[:, None, None]
    ctf = preprocessor.transfer(source.ctf(sample.rows), found) if preprocessor.ctf_known else None
    seen = preprocessor.forward(noise, ctf, found)
    magnitude = None if ctf is None else ctf.abs()
    if isinstance(network, PolarTransformer):
        size = min(_SET, len(sample))
        sets = len(sample) // size
        seen = seen[: sets * size]
        told = None if magnitude is None else magnitude[: sets * size].unflatten(0, (sets, size))
        out = network(seen.unflatten(0, (sets, size)), None, told).images.flatten(0, 1)
    else:
        out = network(seen, magnitude)
    out = cast(torch.Tensor, out) * preprocessor.mask(found[: len(out)])
    particles = bright(result, denoised, sample.rows)
    grey = (float(np.quantile(particles[:_SHOWN], 0.001)), float(np.quantile(particles[:_SHOWN], 0.999)))
    shown = min(_SHOWN, len(out))
    gallery = Gallery(
        tuple(f"noise {i + 1}" for i in range(shown)),
        (
            GalleryRow("Noise in", "with the stack’s own spectrum", seen[:shown].numpy()),
            GalleryRow("Noise out", "in the grey range of the denoised particles", out[:shown].numpy(), grey),
        ),
    )
    return GuardCheck(
        float(out.square().sum() / seen.square().sum()),
        # Means, because a stack's box may be another than the model's.
        float(np.square(particles).mean() / model_images(result, source, sample.rows).square().mean()),
        gallery,
    )

"""Noise of known strength, each image's from its own generator.

The signal-to-noise ratio is ``mean(clean**2) / noise variance`` over the whole stack, the clean image
taken after the CTF.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["add_gaussian_noise", "add_poisson_noise", "item_generator", "noise_std"]


def item_generator(seed: int, *keys: int) -> torch.Generator:
    """Random generator that depends on the seed and on what it is for, not on what was drawn before.

    Parameters
    ----------
    seed : int
        Not negative.
    *keys : int
        Such as a purpose and the index of an image; none negative.
    """
    state = np.random.SeedSequence([seed, *keys]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def noise_std(signal: Tensor, snr: float) -> float:
    """Noise standard deviation that gives images ``(b, y, x)`` a signal-to-noise ratio over all of them."""
    return float((signal.double().square().mean() / snr).sqrt())


def add_gaussian_noise(images: Tensor, std: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Add white Gaussian noise.

    Parameters
    ----------
    images : Tensor, shape (b, y, x)
        What the detector would see without noise.
    std : float
        Standard deviation of the noise.
    generators : sequence of torch.Generator, length b
        On the CPU, one for each image, so that the noise is the same on every device.
    """
    shape = images.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=g, dtype=images.dtype) for g in generators])
    return images + std * noise.to(images.device)


def add_poisson_noise(
    images: Tensor, std: float, poissonicity: float, generators: Sequence[torch.Generator]
) -> Tensor:
    """Replace images by counts of electrons that the molecule keeps from the detector.

    ``y = η (λ0 − c)`` with ``c ~ Pois(λ0 − x / η)``, where λ0 is the number of electrons that an empty
    pixel receives: the mean is x, and the variance ``η² λ0 − η x``. ``η`` is the poissonicity times the
    standard deviation, so that λ0 = 1 / poissonicity²; as it goes to 0 the noise becomes Gaussian.

    Parameters
    ----------
    images : Tensor, shape (b, y, x)
        What the detector would see without noise; zero in the background.
    std : float
        Standard deviation of the noise in the background.
    poissonicity : float
        Grey value of one electron, in units of ``std``; positive.
    generators : sequence of torch.Generator, length b
        On the CPU, one for each image.

    Raises
    ------
    ValueError
        When a pixel would need a negative number of electrons: ``max(x) > std / poissonicity``.
    """
    eta = poissonicity * std
    background = 1 / poissonicity**2
    rate = (background - images.double() / eta).cpu()
    if bool((rate < 0).any()):
        raise ValueError(
            f"an image of maximum {float(images.max()):.3g} takes more than the {background:.3g} electrons a "
            "pixel receives: lower the poissonicity or the signal-to-noise ratio"
        )
    counts = torch.stack([torch.poisson(r, generator=g) for r, g in zip(rate, generators, strict=True)])
    return (eta * (background - counts)).to(images)

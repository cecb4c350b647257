"""Images unlike the others of their stack: crystals, carbon, broken pixels, another normalisation."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["find_outliers"]

# Of a normal distribution one image in a thousand million lies so far out.
_SIGNIFICANT_Z = 6.0
# No image stands out for less: a hundredth of the noise, or of its logarithm.
_LEAST_SPREAD = 0.01


def find_outliers(background: Tensor, noise_sigma: Tensor, extreme: Tensor) -> Tensor:
    """Which images stand out by their background, by their noise or by their brightest or darkest pixel.

    Parameters
    ----------
    background : Tensor, shape (n,)
        Grey value.
    noise_sigma : Tensor, shape (n,)
        Grey values; positive.
    extreme : Tensor, shape (n,)
        Largest distance of a pixel from the background in units of the noise; positive.

    Returns
    -------
    Tensor of bool, shape (n,)
        Further from the median than six standard deviations, which are told from the median distance.
    """
    typical = noise_sigma.median()
    measures = torch.stack([background / typical, (noise_sigma / typical).log(), extreme.log()])
    away = (measures - measures.median(1, keepdim=True).values).abs()
    # Half of a normal distribution lies within 0.6745 of its standard deviation.
    spread = (away.median(1, keepdim=True).values / 0.6745).clamp_min(_LEAST_SPREAD)
    return (away > _SIGNIFICANT_Z * spread).any(0)

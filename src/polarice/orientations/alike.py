"""Whether images show one view, in which case they have no common lines to find."""

from __future__ import annotations

import torch
from torch import Tensor

from .common_lines import RayModel
from .rays import Rays

__all__ = ["share_alike"]

# Images that are compared with each other.
_COMPARED = 48
# Angles that are tried between two rays; and what is taken for one, though interpolation has its errors.
_FINER = 5
_SURE = 0.95


def share_alike(rays: Rays, model: RayModel) -> float:
    """Share of pairs of images all of whose rays are likelier to be one than strangers.

    They are compared turned by every angle, as they are and in the mirror, for views from opposite sides.

    Parameters
    ----------
    rays : Rays
        Of n images; some of them are looked at.
    model : RayModel
    """
    count = len(rays.values)
    some = torch.linspace(0, count - 1, min(count, _COMPARED), device=rays.radii.device).round().long()
    model = model._replace(correlation=model.correlation.clamp_max(_SURE))
    half = model.whitened(Rays(rays.values[some], rays.radii))
    whole = torch.cat([half, half.conj()], 1).mT  # (n, r, 2m)
    powers = (whole.abs().square().mean(-1) * model.power_weight).sum(-1)
    spectra = torch.fft.fft(whole * model.product_weight.sqrt()[:, None])
    # In the mirror, angles run the other way.
    mirrored = torch.fft.fft(whole.flip(-1) * model.product_weight.sqrt()[:, None])
    best = torch.maximum(_largest_products(spectra, spectra), _largest_products(spectra, mirrored))
    ratio = best - powers[:, None] - powers + model.offset
    return float((ratio > 0)[~torch.eye(len(some), dtype=torch.bool, device=ratio.device)].float().mean())


def _largest_products(first: Tensor, second: Tensor) -> Tensor:
    """Largest mean product of all rays of two images over the angle between them, shape (n, n)."""
    count = first.shape[-1]
    products = torch.fft.fftshift(torch.einsum("irf,jrf->ijf", first, second.conj()), dim=-1)
    # Zeros around the spectrum are angles between the rays.
    padded = torch.nn.functional.pad(products, 2 * (count * (_FINER - 1) // 2,))
    between = torch.fft.ifft(torch.fft.ifftshift(padded, dim=-1)).real * _FINER
    largest: Tensor = between.amax(-1) / count
    return largest

"""Fast projection of atoms: each is added to its four nearest pixels, then blurred in Fourier space.

No volume and no interpolation: any orientation and pixel size will do. The splat's own transfer
function is divided out; what is left of it, which depends on where between the pixels an atom lies, is
1e-4 of an image's energy at a blur of one pixel and falls with the blur. This is what makes endless fresh
training sets cheap.
"""

from __future__ import annotations

import math
from functools import lru_cache

import gemmi
import torch
from torch import Tensor

from ..imaging import frequency_grid

__all__ = ["element_weights", "splat_spectra"]

# Splatting on a finer grid pushes the aliases of the bilinear kernel out of the band that is kept.
_OVERSAMPLING = 2


@lru_cache(maxsize=1)
def _weight_table() -> Tensor:
    weights = torch.zeros(256)
    for number in range(1, 99):
        coefficients = gemmi.Element(number).c4322
        if coefficients is not None:
            weights[number] = sum(coefficients.a)
    return weights


def element_weights(atomic_numbers: Tensor) -> Tensor:
    """Electron scattering amplitude at zero angle f_e(0), Å, of atomic numbers; same shape."""
    return _weight_table().to(atomic_numbers.device)[atomic_numbers.long()]


def splat_spectra(positions_px: Tensor, weights: Tensor, box: int, blur_px: Tensor) -> Tensor:
    """Half spectra of projection images of point atoms blurred by a Gaussian.

    Parameters
    ----------
    positions_px : Tensor, shape (b, atoms, 2)
        (x, y) of each atom from the image's origin, in pixels; atoms outside the box are dropped.
    weights : Tensor, shape (b, atoms)
    box : int
        Side of the image, even.
    blur_px : Tensor, shape (b,)
        Standard deviation of the Gaussian in pixels.

    Returns
    -------
    Tensor, shape (b, box, box // 2 + 1), complex
        `torch.fft.rfft2` of images whose origin is at ``box // 2``.
    """
    fine = _OVERSAMPLING * box
    batch = positions_px.shape[0]
    position = positions_px * _OVERSAMPLING + fine // 2
    corner = position.floor()
    fraction = position - corner
    inside = ((corner >= 0) & (corner < fine - 1)).all(-1)
    corner = corner.clamp(0, fine - 2).long()
    index = corner[..., 1] * fine + corner[..., 0]
    weight = weights * inside
    fx, fy = fraction.unbind(-1)
    right, left = weight * fx, weight * (1 - fx)
    image = positions_px.new_zeros(batch, fine * fine)
    for step, amount in (
        (0, left * (1 - fy)),
        (1, right * (1 - fy)),
        (fine, left * fy),
        (fine + 1, right * fy),
    ):
        image.scatter_add_(1, index + step, amount)
    spectrum = torch.fft.rfft2(image.view(batch, fine, fine))
    half = box // 2
    spectrum = torch.cat([spectrum[:, :half], spectrum[:, -half:]], 1)[..., : half + 1]
    return spectrum * _transfer(box, blur_px)


def _transfer(box: int, blur_px: Tensor) -> Tensor:
    """Gaussian blur over the bilinear kernel's sinc², with the origin's phase and the crop's scale.

    The fine image's origin lies at ``fine / 2`` fine pixels = ``box / 2`` pixels: no phase is needed.
    """
    fy, fx = frequency_grid(box, device=blur_px.device, dtype=blur_px.dtype)
    kernel = (torch.sinc(fx / _OVERSAMPLING) * torch.sinc(fy / _OVERSAMPLING)) ** 2
    squared = fx * fx + fy * fy
    return torch.exp(-2 * math.pi**2 * blur_px[:, None, None] ** 2 * squared) / kernel

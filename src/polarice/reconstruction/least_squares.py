r"""The volume that explains images best, for given orientations, shifts and CTFs.

With the volume's spectrum V, the image y_i is :math:`C_i S_i V(R_i^T k)` and noise of variance
:math:`\sigma_i^2(k)`. The volume v that minimises

.. math:: \sum_{i,k} |C_i S_i V(R_i^T k) - y_i(k)|^2 / \sigma_i^2(k) + \sum_q \lambda(|q|) |V(q)|^2

within the sphere inscribed in the box solves :math:`(T + \Lambda) v = b`. Here b is the sum of the
back-projected images, and T, projection after back-projection, is the convolution with
:math:`\kappa(x) = \sum_{i,k} C_i^2(k) / \sigma_i^2(k) \cos(2\pi\, R_i^T k \cdot x / L)` (Wang, Shkolnisky
and Singer 2013, arXiv:1307.5824). Both sums are made once, in any order and by parts; the
solution by conjugate gradients costs a few Fourier transforms of twice the box and no further look at the
images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..imaging import WaveSum, shift_phases
from .shells import frequency_radius, shell_means

__all__ = ["BackProjection", "NormalEquations"]

# Spread over so many grid points, the convolution kernel is exact to 1e-4 of its power, and with one
# more the right side to 1e-6.
_KERNEL_WIDTH, _IMAGE_WIDTH = 3, 4
_IMAGES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """All that a least-squares volume needs to know of its images; of two sets of images, the sum.

    Attributes
    ----------
    right : Tensor, shape (L, L, L)
        Back-projected images, b.
    response : Tensor, shape (2 L, 2 L, L + 1)
        Spectrum of the convolution kernel, T, on half the frequencies of the padded volume.
    images : int
        How many.
    """

    right: Tensor
    response: Tensor
    images: int

    @property
    def box(self) -> int:
        """Side of the volume."""
        return len(self.right)

    def __add__(self, other: NormalEquations) -> NormalEquations:
        return NormalEquations(
            self.right + other.right, self.response + other.response, self.images + other.images
        )

    def __sub__(self, other: NormalEquations) -> NormalEquations:
        """Those of the images that are not in a part of them."""
        return NormalEquations(
            self.right - other.right, self.response - other.response, self.images - other.images
        )

    def information(self) -> Tensor:
        """Mean of T over each shell, (L // 2 + 1,): inverse variance of what images say of a frequency."""
        shells = shell_means(self.response)
        # Of the padded volume every other shell is one of the volume.
        return shells[::2].clamp(min=0)

    def solve(self, prior: Tensor, *, tolerance: float = 1e-3, most_iterations: int = 50) -> Tensor:
        """The volume, by conjugate gradients.

        Parameters
        ----------
        prior : Tensor, shape (L // 2 + 1,)
            λ, inverse variance of the volume's frequencies by shell, in the units of `information`; positive.
        tolerance : float
            Norm of the residual, beside that of the right side, at which to stop.
        most_iterations : int
            At which to stop in any case.

        Returns
        -------
        Tensor, shape (L, L, L)
            Zero outside the sphere inscribed in the box.
        """
        box = self.box
        radius = frequency_radius(2 * box, self.right.device) / 2
        inverse_variance = _at(prior.to(radius), radius)
        expected = _at(self.information() + prior.to(radius), radius)
        operator = (self.response + inverse_variance).to(self.right)
        near_inverse = (1 / expected).to(self.right)
        inside = _ball(box, self.right)
        residual = self.right * inside
        goal = tolerance * float(residual.norm())
        volume = torch.zeros_like(residual)
        step = torch.zeros_like(residual)
        product = 1.0
        for _ in range(most_iterations):
            if float(residual.norm()) <= goal:
                break
            guess = _convolve(residual, near_inverse) * inside
            before, product = product, float((residual * guess).sum())
            step = guess + (product / before) * step
            image = _convolve(step, operator) * inside
            length = product / float((step * image).sum())
            volume += length * step
            residual -= length * image
        return volume


class BackProjection:
    """Gathers the normal equations of images that come batch by batch.

    Parameters
    ----------
    box : int
        Side of the images.
    device : torch.device
        Where the images are; memory is up to about ``380 box³`` bytes there.
    dtype : torch.dtype
        float32 or float64, of the images.
    symmetry : Tensor, shape (order, 3, 3), optional
        Point group of the specimen (`polarice.symmetry.point_group`): each image is one of all these sides.
    """

    def __init__(
        self,
        box: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        symmetry: Tensor | None = None,
    ) -> None:
        self.box, self.images = box, 0
        group = torch.eye(3)[None] if symmetry is None else symmetry
        self._group = group.to(device, dtype)
        ky, kx = torch.meshgrid(
            torch.fft.fftfreq(box, 1 / box), torch.fft.rfftfreq(box, 1 / box), indexing="ij"
        )
        self._inside = torch.nonzero((ky**2 + kx**2).flatten() < (box / 2) ** 2)[:, 0].to(device)
        self._points = torch.stack([kx.flatten(), ky.flatten()], -1).to(device, dtype)[self._inside]
        # A half spectrum stands for a whole one, and sums over frequencies for sums over pixels.
        self._share = torch.where(self._points[:, 0] == 0, 1.0, 2.0).to(dtype) / box**2
        self._right = WaveSum(box, dtype.to_complex(), device, _IMAGE_WIDTH)
        self._kernel = WaveSum(2 * box, dtype, device, _KERNEL_WIDTH)

    def add(
        self,
        images: Tensor,
        rotations: Tensor,
        shifts_px: Tensor | None = None,
        transfer: Tensor | None = None,
        weights: Tensor | None = None,
        shares: Tensor | None = None,
    ) -> None:
        """Add images.

        Parameters
        ----------
        images : Tensor, shape (b, L, L)
            Background 0.
        rotations : Tensor, shape (b, 3, 3) or (b, k, 3, 3)
            Specimen to image coordinates; of each image one, or several among which it is shared out.
        shifts_px : Tensor, shape (b, 2) or (b, k, 2), optional
            Where each particle lies, (x, y) from the pixel ``(L // 2, L // 2)``.
        transfer : Tensor, shape (b, L, L // 2 + 1), optional
            What the signal has passed through, such as `polarice.imaging.CTF.evaluate`.
        weights : Tensor, shape (b,) or (b, L, L // 2 + 1), optional
            Inverse variance of the noise in one pixel (ring by ring: of white noise that had the ring's
            power), times how much an image counts; 1 by default.
        shares : Tensor, shape (b, k), optional
            Of each image's poses; equal ones by default.
        """
        if rotations.ndim == 3:
            rotations = rotations[:, None]
            shifts_px = None if shifts_px is None else shifts_px[:, None]
        if shares is None:
            shares = rotations.new_full(rotations.shape[:2], 1 / rotations.shape[1])
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            some = slice(start, start + _IMAGES_AT_ONCE)
            parts = (part if part is None else part[some] for part in (shifts_px, transfer, weights))
            self._add(images[some], rotations[some], shares[some], *parts)
        self.images += len(images)

    def _add(
        self,
        images: Tensor,
        rotations: Tensor,
        shares: Tensor,
        shifts_px: Tensor | None,
        transfer: Tensor | None,
        weights: Tensor | None,
    ) -> None:
        spectra = torch.fft.rfft2(torch.fft.ifftshift(images.to(self._points), dim=(-2, -1)))
        weight = self._share.expand(len(images), -1)
        if weights is not None:
            told = weights[:, None] if weights.ndim == 1 else weights.flatten(1)[:, self._inside]
            weight = weight * told.to(weight)
        amplitudes = spectra.flatten(1)[:, self._inside] * weight
        if transfer is not None:
            passed = transfer.flatten(1)[:, self._inside].to(weight)
            amplitudes, weight = amplitudes * passed, weight * passed.square()
        for pose in range(rotations.shape[1]):
            share = shares[:, pose, None].to(weight)
            part = share * amplitudes
            if shifts_px is not None:
                phases = shift_phases(self.box, -shifts_px[:, pose].to(self._points))
                part = part * phases.flatten(1)[:, self._inside]
            for same in self._group:
                sides = rotations[:, pose, :2].to(self._points) @ same
                frequencies = (self._points @ sides).flatten(0, 1)
                self._right.add(frequencies, part.flatten())
                self._kernel.add(2 * frequencies, (share * weight).flatten())

    def equations(self) -> NormalEquations:
        """What was gathered so far."""
        kernel = torch.fft.ifftshift(self._kernel.result())
        return NormalEquations(self._right.result(), torch.fft.rfftn(kernel).real, self.images)


def _convolve(volume: Tensor, response: Tensor) -> Tensor:
    """Convolve a volume with what has a spectrum on the padded one; the origin does not matter."""
    box, padded = len(volume), (2 * len(volume),) * 3
    spectrum = torch.fft.rfftn(volume, s=padded) * response
    convolved: Tensor = torch.fft.irfftn(spectrum, s=padded)[:box, :box, :box]
    return convolved


def _at(shells: Tensor, radius: Tensor) -> Tensor:
    """Values of shells at any radius, interpolated; beyond the last shell its value."""
    place = radius.clamp(max=len(shells) - 1)
    below = place.long().clamp(max=len(shells) - 2)
    return torch.lerp(shells[below], shells[below + 1], place - below)


def _ball(box: int, like: Tensor) -> Tensor:
    """1 within the sphere inscribed in the box, 0 outside."""
    axis = torch.arange(box, device=like.device) - box // 2
    squares = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    return (squares < (box / 2) ** 2).to(like)

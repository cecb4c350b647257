"""Projections of a volume by the Fourier slice theorem.

A projection's spectrum is a central slice of the volume's. The volume is divided by the transform of
an interpolation kernel, padded to twice its side and transformed once; every slice is then summed
from the 4³ grid points around it, weighted by the kernel (`polarice.imaging.semicircle_kernel`): the
relative squared error is below 1e-6. Adding slices up to a volume is `polarice.imaging.WaveSum`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..imaging import semicircle_kernel, semicircle_slope, semicircle_transform
from ..imaging.gridding import PADDING
from .volume import Volume

__all__ = ["Projector", "project_volume"]

_WIDTH = 4
_POINTS_AT_ONCE = 1 << 14


class Projector:
    """Projects one volume many times.

    The image is the sum of the density along the line of sight, in the volume's grey scale: an atom
    at ``r`` is seen at ``(A r)[:2] = (x, y)`` from the pixel ``(L // 2, L // 2)``. Frequencies at and
    beyond Nyquist are empty in every direction. What lies outside the sphere inscribed in
    the box is wrapped to the image's other side.

    Parameters
    ----------
    volume : Volume
        Its precision (float32 or float64) and device are those of the images.
    """

    def __init__(self, volume: Volume) -> None:
        self.box = box = volume.box
        density = volume.density
        axis = torch.arange(box, dtype=torch.float64) - box // 2
        correction = (1 / semicircle_transform(axis / (PADDING * box), _WIDTH)).to(density)
        corrected = density * correction[:, None, None] * correction[:, None] * correction
        self._table, self._strides, self._centre = _spectrum_table(corrected)
        ky, kx = torch.meshgrid(torch.fft.fftfreq(box) * box, torch.fft.rfftfreq(box) * box, indexing="ij")
        self._inside = torch.nonzero((ky**2 + kx**2).flatten() < (box / 2) ** 2)[:, 0].to(density.device)
        self._points = torch.stack([kx.flatten(), ky.flatten()], -1).to(density)[self._inside]

    def __call__(self, rotations: Tensor) -> Tensor:
        """Project along every viewing direction.

        Parameters
        ----------
        rotations : Tensor, shape (b, 3, 3)
            Specimen to image coordinates.

        Returns
        -------
        Tensor, shape (b, L, L)
        """
        box, half = self.box, self.box // 2 + 1
        images = self._points.new_empty(len(rotations), box, box)
        step = max(1, _POINTS_AT_ONCE // len(self._points))
        for start in range(0, len(rotations), step):
            batch = rotations[start : start + step].to(self._points)
            spectra = self._points.new_zeros(len(batch), box * half, dtype=self._points.dtype.to_complex())
            spectra[:, self._inside] = self._slice(self._points @ batch[:, :2] * PADDING)
            images[start : start + step] = torch.fft.irfft2(spectra.view(-1, box, half), s=(box, box))
        centred: Tensor = torch.fft.fftshift(images, dim=(-2, -1))
        return centred

    def spectra(self, frequencies: Tensor, rotations: Tensor) -> Tensor:
        """Spectra of the projections at chosen frequencies, about the origin at ``L // 2``.

        Parameters
        ----------
        frequencies : Tensor, shape (m, 2)
            (x, y) in cycles per box, less than half the box from zero.
        rotations : Tensor, shape (b, 3, 3)

        Returns
        -------
        Tensor, shape (b, m), complex
            Sums over pixels; not divided by anything.
        """
        frequencies = frequencies.to(self._points)
        spectra = frequencies.new_empty(
            len(rotations), len(frequencies), dtype=self._points.dtype.to_complex()
        )
        step = max(1, _POINTS_AT_ONCE // len(frequencies))
        for start in range(0, len(rotations), step):
            batch = rotations[start : start + step].to(self._points)
            spectra[start : start + step] = self._slice(frequencies @ batch[:, :2] * PADDING)
        return spectra

    def turning_spectra(self, frequencies: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
        """Spectra as of `spectra`, and how they change as the specimen turns.

        Parameters
        ----------
        frequencies : Tensor, shape (m, 2)
        rotations : Tensor, shape (b, 3, 3)

        Returns
        -------
        spectra : Tensor, shape (b, m), complex
        slopes : Tensor, shape (b, 3, m), complex
            Per radian of a turn about the image's x, y and z, right-handed. They are those of the
            interpolated spectrum, from the same grid points, and cost little.
        """
        frequencies = frequencies.to(self._points)
        kind = self._points.dtype.to_complex()
        spectra = frequencies.new_empty(len(rotations), len(frequencies), dtype=kind)
        slopes = frequencies.new_empty(len(rotations), 3, len(frequencies), dtype=kind)
        step = max(1, _POINTS_AT_ONCE // len(frequencies))
        kx, ky = frequencies.unbind(-1)
        for start in range(0, len(rotations), step):
            batch = rotations[start : start + step].to(self._points)
            where, mirrored = _upper(frequencies @ batch[:, :2] * PADDING)
            value, gradient = self._differentiate(where)
            value = torch.where(mirrored, value.conj(), value)
            gradient = torch.where(mirrored[..., None], -gradient.conj(), gradient) * PADDING
            # A turn by v moves the point of the image's frequency k in the specimen by R^T (k x v).
            x, y, z = (gradient @ batch.mT.to(kind)).unbind(-1)
            spectra[start : start + step] = value
            slopes[start : start + step] = torch.stack([-ky * z, kx * z, ky * x - kx * y], 1)
        return spectra, slopes

    def _slice(self, where: Tensor) -> Tensor:
        """Evaluate the volume's spectrum at points ``(..., 3)`` = (x, y, z) of the padded grid."""
        where, mirrored = _upper(where)
        rows, apart = self._neighbours(where)
        wx, wy, wz = semicircle_kernel(apart, _WIDTH).unbind(-2)
        plane = (wz[..., :, None] * wy[..., None, :]).flatten(-2)
        summed = (plane[..., None, :] @ rows).view(*mirrored.shape, _WIDTH, 2)
        value = torch.view_as_complex((summed * wx[..., None]).sum(-2))
        return torch.where(mirrored, value.conj(), value)

    def _differentiate(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """The spectrum at points ``(..., 3)`` with x >= 0, and its gradient ``(..., 3)`` there."""
        rows, apart = self._neighbours(where)
        kernel = semicircle_kernel(apart, _WIDTH)
        (wx, wy, wz), (sx, sy, sz) = kernel.unbind(-2), semicircle_slope(apart, kernel, _WIDTH).unbind(-2)
        planes = torch.stack([wz, wz, sz], -2)[..., None] * torch.stack([wy, sy, wy], -2)[..., None, :]
        summed = (planes.flatten(-2) @ rows).unflatten(-1, (_WIDTH, 2))
        value, *slopes = ((summed * wx[..., None, :, None]).sum(-2)).unbind(-2)
        along = (summed[..., 0, :, :] * sx[..., None]).sum(-2)
        gradient = torch.view_as_complex(torch.stack([along, *slopes], -2))
        return torch.view_as_complex(value.contiguous()), gradient

    def _neighbours(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Table around points ``(..., 3)`` with x >= 0.

        Returns
        -------
        rows : Tensor, shape (..., 16, 8)
            A row for each neighbour along (z, y): real and imaginary parts by turns along x.
        apart : Tensor, shape (..., 3, 4)
            How far the points lie from their neighbours along (x, y, z).
        """
        first = torch.floor(where).long() - (_WIDTH // 2 - 1)
        reach = torch.arange(_WIDTH, device=where.device)
        column, row, section = (first + self._centre).unbind(-1)
        start = section * self._strides[0] + row * self._strides[1] + column
        corner = (reach[:, None] * self._strides[0] + reach * self._strides[1]).flatten()
        # Neighbours along x lie side by side in memory: one row of the unfolded table is all of them.
        rows = self._table.unfold(0, 2 * _WIDTH, 2)[start[..., None] + corner]
        return rows, (where - first)[..., None] - reach


def _upper(where: Tensor) -> tuple[Tensor, Tensor]:
    """Points ``(..., 3)`` with x >= 0, or their opposites, where a real volume's spectrum is conjugate."""
    mirrored = where[..., 0] < 0
    return torch.where(mirrored[..., None], -where, where), mirrored


def project_volume(volume: Volume, rotations: Tensor) -> Tensor:
    """Project a volume ``(L, L, L)`` along rotations ``(b, 3, 3)`` to images ``(b, L, L)``.

    See `Projector`, which keeps the volume's spectrum for further calls.
    """
    return Projector(volume)(rotations)


def _spectrum_table(corrected: Tensor) -> tuple[Tensor, tuple[int, int], Tensor]:
    """Spectrum of the padded volume about frequency zero, kx >= 0, with the kernel's margins.

    Returns
    -------
    table : Tensor, shape (2 n,)
        Real and imaginary parts by turns, x fastest.
    strides : (int, int)
        Distance of neighbours along z and along y, in complex numbers.
    centre : Tensor, shape (3,)
        Index of frequency zero along (x, y, z).
    """
    box = corrected.shape[0]
    padded = PADDING * box
    reach = box + _WIDTH  # frequencies go to box / 2 of the image, which is `box` of the padded grid
    full = corrected.new_zeros(padded, padded, padded)
    full[:box, :box, :box] = corrected
    full = torch.roll(full, (-(box // 2),) * 3, (0, 1, 2))
    spectrum = torch.fft.rfftn(full)
    del full
    across = torch.arange(-reach, reach + 1, device=corrected.device)
    half = spectrum[(across % padded)[:, None], across % padded]
    below = half[..., 1 : _WIDTH + 1].flip(0, 1, 2).conj()
    beyond = half[..., box - _WIDTH : box].flip(0, 1, 2).conj()
    table = torch.view_as_real(torch.cat([below, half, beyond], -1).resolve_conj())
    strides = (table.shape[1] * table.shape[2], table.shape[2])
    centre = torch.tensor([_WIDTH, reach, reach], device=corrected.device)
    return table.flatten(), strides, centre

"""Projections of a volume by the Fourier slice theorem.

A projection's spectrum is a central slice of the volume's. The volume is divided by the transform of
an interpolation kernel, padded to twice its side and transformed once; every slice is then summed
from the 4³ grid points around it, weighted by the kernel (`polarice.imaging.semicircle_kernel`): the
relative squared error is below 1e-6. Adding slices up to a volume is `polarice.imaging.WaveSum`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..imaging import semicircle_kernel, semicircle_transform
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

    def _slice(self, where: Tensor) -> Tensor:
        """Evaluate the volume's spectrum at points ``(..., 3)`` = (x, y, z) of the padded grid."""
        # The table holds kx >= 0: a real volume's spectrum is the conjugate at the opposite point.
        mirrored = where[..., 0] < 0
        where = torch.where(mirrored[..., None], -where, where)
        first = torch.floor(where).long() - (_WIDTH // 2 - 1)
        reach = torch.arange(_WIDTH, device=where.device)
        wx, wy, wz = semicircle_kernel((where - first)[..., None] - reach, _WIDTH).unbind(-2)
        column, row, section = (first + self._centre).unbind(-1)
        start = section * self._strides[0] + row * self._strides[1] + column
        corner = (reach[:, None] * self._strides[0] + reach * self._strides[1]).flatten()
        # Neighbours along x lie side by side in memory: one row of the unfolded table is all of them.
        rows = self._table.unfold(0, 2 * _WIDTH, 2)[start[..., None] + corner]
        plane = (wz[..., :, None] * wy[..., None, :]).flatten(-2)
        summed = (plane[..., None, :] @ rows).view(*mirrored.shape, _WIDTH, 2)
        value = torch.view_as_complex((summed * wx[..., None]).sum(-2))
        return torch.where(mirrored, value.conj(), value)


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

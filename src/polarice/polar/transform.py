"""Polar transform P, its adjoint and its inverses (paper, eq. 4, 9, 10 and appendix C).

P has O(L²) non-zeros, so it is kept as a sparse matrix. Three inverses: conjugate gradients on
PᵀP + λ (accurate on every grid), the paper's Fourier deconvolution of PᵀP ≈ φ ⋆, and, where the
Gaussians are not too narrow, a precomputed filter: on the polar side PPᵀ is block-circulant (it
commutes with rotation), so (PPᵀ + λ)⁻¹ is one N × N matrix for each angular frequency, and
P⁻¹ = Pᵀ (PPᵀ + λ)⁻¹ costs about as much as Pᵀ.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from .grid import PolarGrid

__all__ = ["PolarTransform"]

# Beyond this many standard deviations a Gaussian counts as zero (e^-18 = 1.5e-8).
_CUT_SIGMA = 6.0
# Bandwidths (times the box) from which the precomputed inverse holds. Narrower Gaussians see the pixels:
# it is wrong by 1 % at 1.2 and by half at the paper's 1.0.
_FILTER_BANDWIDTH = 1.4


def _sparse_matrix(grid: PolarGrid) -> scipy.sparse.csr_matrix:
    """P as a (N M, L²) matrix in float64."""
    half, sigma_px = grid.box // 2, grid.bandwidth * grid.box / 2
    x = (np.outer(grid.radii, np.cos(grid.angles)) * half).ravel()
    y = (np.outer(grid.radii, np.sin(grid.angles)) * half).ravel()
    reach = math.ceil(_CUT_SIGMA * sigma_px)
    offsets = np.arange(-reach, reach + 1)
    columns, rows = np.rint(x).astype(int)[:, None] + offsets, np.rint(y).astype(int)[:, None] + offsets
    gauss_x = np.exp(-((x[:, None] - columns) ** 2) / (2 * sigma_px**2))
    gauss_y = np.exp(-((y[:, None] - rows) ** 2) / (2 * sigma_px**2))
    value = gauss_y[:, :, None] * gauss_x[:, None, :]
    inside_x, inside_y = (columns >= -half) & (columns < half), (rows >= -half) & (rows < half)
    keep = inside_y[:, :, None] & inside_x[:, None, :] & (value > math.exp(-(_CUT_SIGMA**2) / 2))
    scale = np.repeat(np.sqrt(grid.weights), grid.n_angles) / grid.normaliser
    point = np.broadcast_to(np.arange(len(x))[:, None, None], keep.shape)
    pixel = (rows[:, :, None] + half) * grid.box + (columns[:, None, :] + half)
    entries = (value * scale[:, None, None])[keep], (point[keep], pixel[keep])
    return scipy.sparse.csr_matrix(entries, shape=(len(x), grid.box**2))


def _circulant_inverse(grid: PolarGrid, regulariser: float) -> np.ndarray:
    """(PPᵀ + λ)⁻¹ for each angular frequency, shape (M // 2 + 1, N, N).

    PPᵀ between two grid points depends on their angles' difference alone, up to the error of
    sampling Gaussians on pixels; that error is averaged out over rotations of the pixel grid by
    evaluating the Gaussian's overlap in closed form: ∫ g_p g_q = π σ² exp(-|p − q|² / 4 σ²).
    """
    half, sigma_px = grid.box // 2, grid.bandwidth * grid.box / 2
    radii = grid.radii * half
    squared = radii[:, None, None] ** 2 + radii[None, :, None] ** 2
    squared = squared - 2 * radii[:, None, None] * radii[None, :, None] * np.cos(grid.angles)
    kernel = math.pi * sigma_px**2 * np.exp(-squared / (4 * sigma_px**2)) / grid.normaliser**2
    kernel *= np.sqrt(grid.weights[:, None, None] * grid.weights[None, :, None])
    spectrum = np.fft.rfft(kernel, axis=-1).real.transpose(2, 0, 1)
    return np.linalg.inv(spectrum + regulariser * np.eye(grid.n_radii))


class _SparseProduct(torch.autograd.Function):
    """Product with a constant sparse matrix whose transpose is at hand."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transpose: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, transpose)
        # Sparse products exist in full precision alone.
        with torch.autocast(columns.device.type, enabled=False):
            return matrix @ columns.to(matrix.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        matrix, transpose = ctx.saved_tensors
        return None, None, _sparse_product(transpose, matrix, gradients[0].contiguous())


def _sparse_product(matrix: Tensor, transpose: Tensor, columns: Tensor) -> Tensor:
    product: Tensor = _SparseProduct.apply(matrix, transpose, columns)  # type: ignore[no-untyped-call]
    return product


class PolarTransform(nn.Module):
    """The polar transform of a grid, its adjoint, and its inverses.

    Parameters
    ----------
    grid : PolarGrid
    dtype : torch.dtype
        float32 or float64.
    regulariser : float
        λ of the precomputed inverse, relative to ‖PPᵀ‖ ≈ 1.

    Attributes
    ----------
    noise_std : Tensor, shape (N,)
        Standard deviation of white noise of variance one at each radius after P.
    """

    def __init__(
        self, grid: PolarGrid, *, dtype: torch.dtype = torch.float32, regulariser: float = 1e-4
    ) -> None:
        super().__init__()
        self.grid = grid
        self.regulariser = regulariser
        matrix = _sparse_matrix(grid)
        noise = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).reshape(grid.n_radii, -1).mean(1))
        for name, side in (("matrix", matrix), ("transpose", matrix.T.tocsr())):
            # A sparse tensor cannot be a buffer of every module operation, its three arrays can.
            self.register_buffer(
                f"_{name}_rows", torch.tensor(side.indptr.astype(np.int32)), persistent=False
            )
            self.register_buffer(
                f"_{name}_columns", torch.tensor(side.indices.astype(np.int32)), persistent=False
            )
            self.register_buffer(f"_{name}_values", torch.tensor(side.data, dtype=dtype), persistent=False)
        inverse = None
        if grid.bandwidth * grid.box >= _FILTER_BANDWIDTH:
            inverse = torch.tensor(_circulant_inverse(grid, regulariser), dtype=dtype)
        self.register_buffer("_polar_inverse", inverse, persistent=False)
        self.register_buffer("noise_std", torch.tensor(noise, dtype=dtype), persistent=False)
        self._sparse: dict[str, Tensor] = {}

    noise_std: Tensor
    _polar_inverse: Tensor | None

    def _apply(self, fn: Any, recurse: bool = True) -> PolarTransform:
        self._sparse.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Sparse tensors can be neither copied nor pickled; they are made anew when they are needed.
        return {**self.__dict__, "_sparse": {}}

    def _csr(self, name: str) -> Tensor:
        if name not in self._sparse:
            rows, columns, values = (
                getattr(self, f"_{name}_{part}") for part in ("rows", "columns", "values")
            )
            points, pixels = self.grid.n_radii * self.grid.n_angles, self.grid.box**2
            shape = (points, pixels) if name == "matrix" else (pixels, points)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")
                self._sparse[name] = torch.sparse_csr_tensor(rows, columns, values, shape)
        return self._sparse[name]

    def forward(self, images: Tensor) -> Tensor:
        """Polar images P x.

        Parameters
        ----------
        images : Tensor, shape (..., L, L)

        Returns
        -------
        Tensor, shape (..., N, M)
            Radius, angle.
        """
        grid = self.grid
        columns = images.reshape(-1, grid.box**2).T.contiguous()
        polar = _sparse_product(self._csr("matrix"), self._csr("transpose"), columns)
        return polar.T.reshape(*images.shape[:-2], grid.n_radii, grid.n_angles)

    def adjoint(self, polar: Tensor) -> Tensor:
        """Cartesian images Pᵀ z, shape (..., L, L), of polar images (..., N, M)."""
        grid = self.grid
        columns = polar.reshape(-1, grid.n_radii * grid.n_angles).T.contiguous()
        images = _sparse_product(self._csr("transpose"), self._csr("matrix"), columns)
        return images.T.reshape(*polar.shape[:-2], grid.box, grid.box)

    def inverse(self, polar: Tensor) -> Tensor:
        """The inverse to use: fast where the grid allows it.

        With Gaussians of 1.4 / L or wider (`PolarGrid.compact`) that is Pᵀ (PPᵀ + λ)⁻¹ z by the
        precomputed block-circulant filter, which is linear; with narrower ones `inverse_cg`.
        """
        if self._polar_inverse is None:
            return self.inverse_cg(polar, regulariser=self.regulariser)
        spectrum = torch.view_as_real(torch.fft.rfft(polar))
        with torch.autocast(polar.device.type, enabled=False):
            spectrum = torch.einsum("fpn,...nfc->...pfc", self._polar_inverse, spectrum)
        filtered = torch.fft.irfft(torch.view_as_complex(spectrum.contiguous()), n=self.grid.n_angles)
        return self.adjoint(filtered)

    def inverse_cg(self, polar: Tensor, *, steps: int = 60, regulariser: float = 1e-4) -> Tensor:
        """Inverse by conjugate gradients on (PᵀP + λ) x = Pᵀ z.

        Parameters
        ----------
        polar : Tensor, shape (..., N, M)
        steps : int
            At most; an image whose residual has vanished stands still.
        regulariser : float
            λ, relative to ‖PᵀP‖ ≈ 1.

        Returns
        -------
        Tensor, shape (..., L, L)
        """
        residual = self.adjoint(polar)
        solution = torch.zeros_like(residual)
        direction = residual
        power = residual.square().sum((-2, -1), keepdim=True)
        tiny = torch.finfo(polar.dtype).tiny
        for _ in range(steps):
            image = self.adjoint(self(direction)) + regulariser * direction
            step = power / (direction * image).sum((-2, -1), keepdim=True).clamp_min(tiny)
            solution = solution + step * direction
            residual = residual - step * image
            new_power = residual.square().sum((-2, -1), keepdim=True)
            direction = residual + new_power / power.clamp_min(tiny) * direction
            power = new_power
        return solution

    def inverse_fourier(self, polar: Tensor, *, regulariser: float = 1e-4) -> Tensor:
        """The paper's inverse: Pᵀz deconvolved by φ (eq. 9, 10) on twice the box, Wiener-regularised."""
        box = self.grid.box
        blurred = self.adjoint(polar)
        frequency = torch.fft.fftfreq(2 * box, dtype=polar.dtype, device=polar.device)
        sigma = math.pi * self.grid.bandwidth * box
        # φ is sampled, so its transform is the continuous one with its nearest aliases.
        decay = torch.stack([torch.exp(-((sigma * (frequency + k)) ** 2)) for k in (-1, 0, 1)]).sum(0)
        response = decay[:, None] * decay[None, : box + 1]
        spectrum = torch.fft.rfft2(blurred, s=(2 * box, 2 * box)) * response / (response**2 + regulariser)
        images: Tensor = torch.fft.irfft2(spectrum, s=(2 * box, 2 * box))
        return images[..., :box, :box]

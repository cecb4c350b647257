"""A chiral specimen of Gaussian blobs, whose projections and transforms have closed forms."""

import math

import pytest
import torch
from torch import Tensor

from polarice.conventions import nearest_rotations, random_rotations

_WIDTH_PX = 1.4


class Blobs:
    """Gaussian blobs of one width: ``centres`` (m, 3) in pixels, ``masses`` (m,)."""

    def __init__(self, box: int = 32, count: int = 14, seed: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.box = box
        centres = torch.randn(count, 3, generator=generator, dtype=torch.float64) * (0.13 * box)
        self.masses = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)
        # The centre of mass is the origin.
        self.centres = centres - (self.masses[:, None] * centres).sum(0) / self.masses.sum()

    def images(self, rotations: Tensor, shifts_px: Tensor | None = None) -> Tensor:
        """Projections (n, y, x)."""
        places = torch.einsum("nab,mb->nma", rotations[:, :2].double(), self.centres)
        if shifts_px is not None:
            places = places + shifts_px[:, None]
        axis = torch.arange(self.box, dtype=torch.float64) - self.box // 2
        x, y = (torch.exp(-(axis - places[..., k, None]).square() / (2 * _WIDTH_PX**2)) for k in range(2))
        return torch.einsum("m,nmy,nmx->nyx", self.masses / (2 * math.pi * _WIDTH_PX**2), y, x)

    def transform(self, rotations: Tensor, angles: Tensor, radii: Tensor) -> Tensor:
        """Fourier transforms (n, m, r) of the projections at angles (m,) and radii (r,)."""
        places = torch.einsum("nab,mb->nma", rotations[:, :2].double(), self.centres)
        towards = torch.stack([angles.cos(), angles.sin()], -1).double()
        phase = -2 * math.pi * torch.einsum("nma,ka->nmk", places, towards)[..., None] * radii
        envelope = torch.exp(-2 * (math.pi * _WIDTH_PX * radii).square())
        waves = torch.polar(torch.ones_like(phase), phase)
        return torch.einsum("m,nmkr->nkr", self.masses.to(waves.dtype), waves) * envelope


@pytest.fixture(scope="session")
def blobs() -> Blobs:
    return Blobs()


@pytest.fixture(scope="session")
def views() -> Tensor:
    """Forty orientations, float64."""
    return nearest_rotations(random_rotations(40, torch.Generator().manual_seed(1)).double())

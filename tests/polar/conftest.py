"""Smooth images with closed forms, and exact quarter turns."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def blobs(
    box: int, *, angle: float = 0.0, n: int = 2, sigma_px: float = 1.5, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Images of twelve Gaussians within 0.6 of the disc, turned by ``angle`` (radians, x towards y)."""
    generator = torch.Generator().manual_seed(1)
    radius = 0.3 * box * torch.rand(n, 12, 1, generator=generator, dtype=torch.float64).sqrt()
    phase = 2 * math.pi * torch.rand(n, 12, 1, generator=generator, dtype=torch.float64) + angle
    height = 0.2 + torch.rand(n, 12, generator=generator, dtype=torch.float64)
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    x = torch.exp(-((axis - radius * phase.cos()) ** 2) / (2 * sigma_px**2))
    y = torch.exp(-((axis - radius * phase.sin()) ** 2) / (2 * sigma_px**2))
    return torch.einsum("bn,bny,bnx->byx", height, y, x).to(dtype)


def quarter_turn(images: Tensor) -> Tensor:
    """Turn x towards y by 90 degrees about the pixel L // 2; row and column 0 are zero."""
    turned = torch.zeros_like(images)
    turned[..., 1:, 1:] = torch.rot90(images[..., 1:, 1:], -1, (-2, -1))
    return turned


def squared_error(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true.double()).square().sum() / true.double().square().sum())


@pytest.fixture(scope="session")
def smooth() -> Callable[..., Tensor]:
    return blobs


@pytest.fixture(scope="session")
def turn() -> Callable[[Tensor], Tensor]:
    return quarter_turn


@pytest.fixture(scope="session")
def error() -> Callable[[Tensor, Tensor], float]:
    return squared_error

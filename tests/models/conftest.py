"""Exact quarter turns, and weights that leave nothing at zero."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


def quarter_turn(images: Tensor) -> Tensor:
    """Turn x towards y by 90 degrees about the pixel L // 2; row and column 0 are zero."""
    turned = torch.zeros_like(images)
    turned[..., 1:, 1:] = torch.rot90(images[..., 1:, 1:], -1, (-2, -1))
    return turned


def stirred(model: nn.Module) -> nn.Module:
    """A random network in which also what starts at zero or one has moved."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def turn() -> Callable[[Tensor], Tensor]:
    return quarter_turn


@pytest.fixture(scope="session")
def stir() -> Callable[[nn.Module], nn.Module]:
    return stirred


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    """Two sets of four noisy images; row and column 0 are zero, so that quarter turns are exact."""
    images = torch.zeros(2, 4, 32, 32)
    images[..., 1:, 1:] = torch.randn(2, 4, 31, 31, generator=generator)
    return images

import math

import pytest
import torch
from torch import Tensor

from polarice.imaging import (
    filter_images,
    frequency_grid,
    move_images,
    radius_grid,
    shift_images,
    turn_matrices,
)

BOX = 64


def waves(frequency: float, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Plane waves of about a frequency (cycles per pixel) that fit the box, and their wave vectors."""
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    vectors = (frequency * BOX * torch.stack([angle.cos(), angle.sin()], -1)).round() / BOX
    return torch.cos(2 * math.pi * pixels() @ vectors.T).T.view(n, BOX, BOX), vectors


def pixels() -> Tensor:
    axis = torch.arange(BOX).float() - BOX // 2
    return torch.stack([axis.expand(BOX, -1), axis[:, None].expand(-1, BOX)], -1).flatten(0, 1)


@pytest.mark.parametrize(("frequency", "error"), [(0.1, 2e-4), (0.25, 1e-3), (0.45, 2e-3)])
def test_waves_are_moved_as_their_formula_says(
    frequency: float, error: float, generator: torch.Generator
) -> None:
    images, vectors = waves(frequency, 20, generator)
    matrices = turn_matrices(2 * math.pi * torch.rand(20, generator=generator))
    shifts = 3 * torch.rand(20, 2, generator=generator)
    places = pixels() @ matrices.mT + shifts[:, None]
    exact = torch.cos(2 * math.pi * (places @ vectors[..., None])[..., 0]).view(-1, BOX, BOX)
    inside = radius_grid(BOX) < 26
    difference = (move_images(images, matrices, shifts) - exact)[:, inside]
    assert float(difference.square().mean() / exact[:, inside].square().mean()) < error


def test_quarter_turn_and_back(generator: torch.Generator) -> None:
    fy, fx = frequency_grid(BOX)
    images = filter_images(
        torch.randn(3, BOX, BOX, generator=generator), torch.exp(-40 * (fx * fx + fy * fy))
    )
    quarter = turn_matrices(torch.full((3,), math.pi / 2))
    turned = move_images(images, quarter, torch.zeros(3, 2))
    # Where x is read stands −y, and where y is read stands x.
    exact = images.transpose(-1, -2).flip(-2).roll(1, -2)
    torch.testing.assert_close(turned[:, 1:, 1:], exact[:, 1:, 1:], rtol=0, atol=0.02)
    back = move_images(turned, quarter.mT, torch.zeros(3, 2))
    inside = radius_grid(BOX) < 26
    torch.testing.assert_close(back[:, inside], images[:, inside], rtol=0, atol=0.02)


def test_shifts_agree_with_fourier_shifts(generator: torch.Generator) -> None:
    blob = torch.exp(-radius_grid(BOX).square() / 20).expand(4, -1, -1)
    shifts = 6 * torch.randn(4, 2, generator=generator)
    moved = move_images(blob, torch.eye(2).expand(4, 2, 2), shifts)
    torch.testing.assert_close(moved, shift_images(blob, -shifts), rtol=0, atol=0.01)

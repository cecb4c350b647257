"""Surfaces of equal density: where they lie, which way they are seen."""

import math

import pytest
import torch
from torch import Tensor

from polarice.conventions import euler_to_matrix
from polarice.evaluation.surface import AXES, contour_level, draw_surface, level_enclosing, reach


def ball(centre: tuple[float, float, float], radius: float, box: int = 32) -> Tensor:
    """A ball with a soft edge, 1/2 at its radius; the centre is (x, y, z) from the box's."""
    axis = torch.arange(box) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return torch.sigmoid(4 * (radius - distance.sqrt()))


def test_area_of_a_ball() -> None:
    drawn = draw_surface(ball((0, 0, 0), 10), 0.5, torch.eye(3), side=128)
    area = float((~drawn.isnan()).float().mean()) * 32**2
    assert area == pytest.approx(math.pi * 100, rel=0.02)
    assert float(drawn.nan_to_num(0).max()) <= 1


@pytest.mark.parametrize(("axis", "place"), [(0, (8, 0)), (1, (0, 0)), (2, (0, 8))])
def test_axes(axis: int, place: tuple[int, int]) -> None:
    """A ball on the x axis: to the right along z, in the middle along x, below along y."""
    seen = ~draw_surface(ball((8, 0, 0), 4), 0.5, AXES[axis], side=64).isnan()
    row, column = seen.nonzero().float().mean(0)
    # The origin is the voxel 16 of 32, half a voxel beyond the middle.
    assert float(column) / 2 - 16 == pytest.approx(place[0] + 0.25, abs=0.3)
    assert float(row) / 2 - 16 == pytest.approx(place[1] + 0.25, abs=0.3)


def test_axes_are_rotations() -> None:
    torch.testing.assert_close(AXES @ AXES.transpose(1, 2), torch.eye(3).expand(3, 3, 3))
    torch.testing.assert_close(torch.linalg.det(AXES), torch.ones(3))


def test_seen_as_projected() -> None:
    """A rotation shows a point where a projection in that orientation has it."""
    rotation = euler_to_matrix(torch.tensor([30.0, 50.0, -70.0]))
    point = torch.tensor([6.0, -5.0, 3.0])
    seen = ~draw_surface(ball(tuple(point.tolist()), 3), 0.5, rotation, side=64).isnan()
    row, column = seen.nonzero().float().mean(0)
    x, y, _ = rotation @ point
    assert float(column) / 2 - 16 == pytest.approx(float(x), abs=0.6)
    assert float(row) / 2 - 16 == pytest.approx(float(y), abs=0.6)


def test_nearer_hides_farther() -> None:
    near = draw_surface(ball((0, 0, -8), 4), 0.5, torch.eye(3), side=64)
    both = draw_surface(ball((0, 0, -8), 4) + ball((0, 0, 8), 3), 0.5, torch.eye(3), side=64)
    torch.testing.assert_close(both, near, equal_nan=True, atol=0.02, rtol=0)


def test_levels() -> None:
    density = 3 * ball((0, 0, 0), 10)
    assert contour_level(density) == pytest.approx(1.5, rel=0.1)
    share = float((density > 1.5).float().mean())
    assert level_enclosing(7 * density, share) == pytest.approx(7 * 1.5, rel=0.1)
    assert reach(density, 1.5) == pytest.approx(10 / 16, abs=0.1)
    assert reach(density, 9.0) == 1.0


def test_empty_map_shows_nothing() -> None:
    assert bool(draw_surface(torch.zeros(8, 8, 8), 1.0, torch.eye(3), side=16).isnan().all())
    assert contour_level(torch.zeros(8, 8, 8)) == 0

import math

import numpy as np
import pytest

from polarice.polar import PolarGrid

PRESETS = ["paper", "compact"]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("box", [32, 64, 96, 128, 256])
def test_weights_sum_to_half_the_squared_limit(name: str, box: int) -> None:
    grid = PolarGrid.preset(name, box)
    assert grid.weights.sum() == pytest.approx(grid.radius_limit**2 / 2, rel=1e-12)
    assert (grid.weights > 0).all()
    assert (np.diff(grid.radii) > 0).all()
    assert grid.radii[0] > 0
    assert grid.radii[-1] < grid.radius_limit
    assert grid.angles.shape == (grid.n_angles,)
    np.testing.assert_allclose(np.diff(grid.angles), 2 * math.pi / grid.n_angles)


@pytest.mark.parametrize("radii", [1, 2, 5, 9])
def test_quadrature_is_exact_up_to_degree_2n_minus_1(radii: int) -> None:
    """∫ r^k r dr over [0, R] = R^(k + 2) / (k + 2)."""
    limit = 1.3
    grid = PolarGrid(16, radii, 8, limit, 0.1)
    for degree in range(2 * radii):
        exact = limit ** (degree + 2) / (degree + 2)
        assert (grid.weights * grid.radii**degree).sum() == pytest.approx(exact, rel=1e-12)
    beyond = limit ** (2 * radii + 2) / (2 * radii + 2)
    assert (grid.weights * grid.radii ** (2 * radii)).sum() != pytest.approx(beyond, rel=1e-11)


def test_polar_quadrature_of_a_gaussian() -> None:
    """Radii and angles together over the disc: ∫∫ exp(-r² / 2 s²) = 2 π s² (1 - exp(-R² / 2 s²))."""
    grid, sigma = PolarGrid.paper(32), 0.4
    values = np.exp(-(grid.radii**2) / (2 * sigma**2))
    found = 2 * math.pi * (grid.weights * values).sum()
    exact = 2 * math.pi * sigma**2 * (1 - math.exp(-(grid.radius_limit**2) / (2 * sigma**2)))
    assert found == pytest.approx(exact, rel=1e-12)


def test_presets_are_what_they_say() -> None:
    paper, compact = PolarGrid.paper(64), PolarGrid.compact(64)
    assert (paper.n_radii, paper.n_angles, paper.bandwidth) == (64, 256, 1 / 64)
    assert paper.radius_limit == math.sqrt(2) + 1 / 64
    assert (compact.n_radii, compact.n_angles, compact.radius_limit, compact.bandwidth) == (32, 96, 1, 2 / 64)
    assert PolarGrid.preset("paper", 64) == paper
    assert PolarGrid.preset("compact", 64) == compact
    points = [grid.n_radii * grid.n_angles for grid in (paper, compact)]
    assert points[0] / points[1] == pytest.approx(16 / 3)
    # The paper prints Z = √(2 π³ M L² b⁴); that is 2 π too large.
    printed = math.sqrt(2 * math.pi**3 * 256 * 64**2 / 64**4)
    assert printed / paper.normaliser == pytest.approx(2 * math.pi)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((15, 8, 16, 1.0, 0.1), "box must be even"),
        ((0, 8, 16, 1.0, 0.1), "box must be even"),
        ((16, 0, 16, 1.0, 0.1), "at least one radius"),
        ((16, 8, 15, 1.0, 0.1), "even number of angles"),
        ((16, 8, 16, 0.0, 0.1), "must be positive"),
        ((16, 8, 16, 1.0, -0.1), "must be positive"),
    ],
)
def test_impossible_grids_are_refused(arguments: tuple[int, int, int, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolarGrid(*arguments)


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"'fine'.*paper, compact"):
        PolarGrid.preset("fine", 64)

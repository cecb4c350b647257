import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polarice.conventions import (
    euler_to_matrix,
    matrix_to_euler,
    nearest_rotations,
    random_rotations,
    view_angle_deg,
)

ANGLES = st.tuples(st.floats(-360, 360), st.floats(0, 180), st.floats(-360, 360))


@given(ANGLES)
def test_matrix_is_the_zyz_rotation_of_the_axes(angles: tuple[float, float, float]) -> None:
    """SciPy's intrinsic ZYZ rotation takes the axes, so its transpose takes the coordinates."""
    expected = torch.from_numpy(Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().T.copy())
    found = euler_to_matrix(torch.tensor(angles, dtype=torch.float64))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@given(ANGLES)
def test_angles_survive_the_round_trip(angles: tuple[float, float, float]) -> None:
    matrix = euler_to_matrix(torch.tensor([angles], dtype=torch.float64))
    found = matrix_to_euler(matrix)
    assert 0 <= float(found[0, 1]) <= 180
    torch.testing.assert_close(euler_to_matrix(found), matrix, atol=3e-6, rtol=0)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_at_a_pole_rot_is_zero(tilt: float) -> None:
    matrix = euler_to_matrix(torch.tensor([30.0, tilt, 50.0], dtype=torch.float64))
    found = matrix_to_euler(matrix)
    assert float(found[0]) == 0
    torch.testing.assert_close(euler_to_matrix(found), matrix, atol=1e-9, rtol=0)


def test_single_precision_keeps_a_hundredth_of_a_degree(generator: torch.Generator) -> None:
    rotations = random_rotations(2000, generator)
    again = euler_to_matrix(matrix_to_euler(rotations))
    assert float((again - rotations).abs().max()) < 1.7e-4


def test_random_rotations_are_uniform(generator: torch.Generator) -> None:
    rotations = random_rotations(20_000, generator).double()
    identity = torch.eye(3, dtype=torch.float64).expand(20_000, 3, 3)
    torch.testing.assert_close(rotations @ rotations.mT, identity, atol=1e-5, rtol=0)
    assert bool((torch.linalg.det(rotations) > 0).all())
    # Mean zero, and the geodesic distance from any fixed rotation is pi / 2 + 2 / pi on average.
    assert float(rotations.mean(0).abs().max()) < 0.02
    fixed = rotations[0]
    trace = (rotations[1:] * fixed).sum((-2, -1))
    distance = torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).arccos()).mean()
    assert float(distance) == pytest.approx(math.degrees(math.pi / 2 + 2 / math.pi), abs=1.0)


def test_nearest_rotation_is_nearer_than_any_other(generator: torch.Generator) -> None:
    """Of matrices whose determinants have either sign."""
    matrices = torch.randn(20, 3, 3, generator=generator, dtype=torch.float64)
    assert 0 < int((torch.linalg.det(matrices) < 0).sum()) < 20
    nearest = nearest_rotations(matrices)
    identity = torch.eye(3, dtype=torch.float64).expand(20, 3, 3)
    torch.testing.assert_close(nearest.mT @ nearest, identity)
    torch.testing.assert_close(torch.linalg.det(nearest), torch.ones(20, dtype=torch.float64))
    others = random_rotations(5000, generator).double()
    apart = (others[:, None] - matrices).square().sum((-2, -1)).min(0).values
    assert bool(((nearest - matrices).square().sum((-2, -1)) < apart).all())


def test_view_angle_ignores_the_rotation_in_the_plane() -> None:
    first = euler_to_matrix(torch.tensor([20.0, 40.0, 0.0], dtype=torch.float64))
    second = euler_to_matrix(torch.tensor([[20.0, 40.0, 77.0], [20.0, 65.0, 10.0]], dtype=torch.float64))
    angles = view_angle_deg(first, second)
    torch.testing.assert_close(angles, torch.tensor([0.0, 25.0], dtype=torch.float64), atol=1e-5, rtol=0)

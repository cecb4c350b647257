import math

import pytest
import torch

from polarice.conventions import view_angle_deg
from polarice.simulation.views import cluster_views, uniform_views, view_sets


def test_uniform_views_are_rotations_without_preference() -> None:
    views = uniform_views(3000, seed=1)
    assert bool((torch.linalg.det(views) > 0.999).all())
    assert float(views.mean(0).abs().max()) < 0.05
    assert torch.equal(uniform_views(5, seed=1), views[:5])
    assert not torch.equal(uniform_views(5, seed=2), views[:5])


def test_directional_sets_share_one_view_in_all_rotations() -> None:
    rotations, sets = view_sets(1000, 500, 0.0, seed=0)
    assert sets.bincount().tolist() == [500, 500]
    group = rotations[:500].double()
    # In double precision of the rounded matrices: the third row is one and the same.
    torch.testing.assert_close(group[:, 2], group[:1, 2].expand(500, 3), atol=1e-6, rtol=0)
    in_plane = torch.atan2((group[:, 0] * group[0, 1]).sum(-1), (group[:, 0] * group[0, 0]).sum(-1))
    assert abs(float(torch.polar(torch.ones(500, dtype=torch.float64), in_plane).mean().abs())) < 0.15


@pytest.mark.parametrize("angle", [5.0, 10.0, 60.0])
def test_views_fill_the_cap_evenly(angle: float) -> None:
    rotations, _ = view_sets(4000, 4000, angle, seed=3)
    centre, _ = view_sets(1, 4000, 0.0, seed=3)
    away = view_angle_deg(rotations.double(), centre.double())
    assert float(away.max()) <= angle + 1e-3
    # The cap's area grows as 1 - cos: half of it lies within this angle.
    half = math.degrees(math.acos((1 + math.cos(math.radians(angle))) / 2))
    assert float((away < half).double().mean()) == pytest.approx(0.5, abs=0.04)


def test_sets_do_not_depend_on_how_many_are_asked_for() -> None:
    rotations, sets = view_sets(20, 8, 10.0, seed=0)
    assert sets.tolist() == [0] * 8 + [1] * 8 + [2] * 4
    assert torch.equal(view_sets(5, 8, 10.0, seed=0)[0], rotations[:5])


def test_clusters_of_views() -> None:
    rotations = uniform_views(2048, seed=4)
    sets = cluster_views(rotations, 8)
    assert sets.bincount().tolist() == [8] * 256
    angle = view_angle_deg(rotations[:, None], rotations)
    together = (sets[:, None] == sets) & ~torch.eye(2048, dtype=torch.bool)
    # A cap of 1/256 of the sphere has a radius of 7.2 degrees; strangers lie at 90.
    assert float(angle[together].median()) < 9
    assert float(angle[together].max()) < 35
    # In-plane rotations do not count.
    turns = view_sets(2048, 2048, 0.0, seed=2)[0]
    in_plane = turns @ turns[0].T
    assert torch.equal(cluster_views(in_plane @ rotations, 8), sets)


def test_clusters_of_uneven_numbers() -> None:
    assert sorted(cluster_views(uniform_views(20, seed=0), 8).bincount().tolist()) == [10, 10]
    assert cluster_views(uniform_views(5, seed=0), 8).tolist() == [0] * 5

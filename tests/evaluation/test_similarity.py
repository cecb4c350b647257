import numpy as np
import pytest

from polarice.evaluation.similarity import map_graph, spread_seeds

NOBODY = -1
Graph = tuple[np.ndarray, np.ndarray]


def ring(count: int, reach: int = 3) -> Graph:
    """Points on a circle, each of which took as much from its nearest ones on either side."""
    steps = np.array([step for step in range(-reach, reach + 1) if step])
    neighbours = (np.arange(count)[:, None] + steps) % count
    return neighbours, np.full(neighbours.shape, 0.9 / len(steps), np.float32)


def apart(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many steps lie between points of a ring."""
    steps = np.abs(one - other)
    return np.minimum(steps, count - steps)


def nearest(position: np.ndarray, many: int) -> np.ndarray:
    distance = np.linalg.norm(position[:, None] - position, axis=-1)
    np.fill_diagonal(distance, np.inf)
    return distance.argsort(1)[:, :many]


def test_a_ring_stays_a_ring() -> None:
    neighbours, weights = ring(200)
    found = map_graph(neighbours, weights, np.arange(200))
    assert found is not None
    np.testing.assert_array_equal(found.rows, np.arange(200))
    np.testing.assert_array_equal(found.stands_for, np.arange(200))
    assert np.abs(found.position).max() == pytest.approx(1)
    # Not folded anywhere: whoever is near on the map is near on the ring.
    assert apart(200, np.arange(200)[:, None], nearest(found.position, 4)).max() <= 6


def test_the_map_repeats() -> None:
    graph = ring(60)
    one, other = (map_graph(*graph, np.arange(60)) for _ in range(2))
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.position, other.position)


def test_few_points_stand_for_many_particles() -> None:
    neighbours, weights = ring(1000)
    found = map_graph(neighbours, weights, np.arange(1000), points=100)
    assert found is not None
    assert len(found.rows) == 100
    # Each joins the nearest point, or one that is nearly so.
    assert apart(1000, found.rows[found.stands_for], np.arange(1000)).max() <= 10
    assert np.bincount(found.stands_for, minlength=100).min() >= 1
    assert apart(100, np.arange(100)[:, None], nearest(found.position, 2)).max() <= 3


def test_who_took_nothing_has_no_place() -> None:
    neighbours, weights = ring(60)
    # A second ring that nobody asks for, and particles alone.
    neighbours = np.concatenate([neighbours, neighbours + 60, np.full((5, 6), NOBODY)])
    weights = np.concatenate([weights, weights, np.zeros((5, 6), np.float32)])
    weights[7] = 0.001
    found = map_graph(neighbours, weights, np.arange(60))
    assert found is not None
    assert found.rows.tolist() == [row for row in range(60) if row != 7]
    assert (found.stands_for[60:] == -1).all()
    assert found.stands_for[7] == -1
    assert map_graph(neighbours, np.zeros_like(weights), np.arange(60)) is None
    assert map_graph(neighbours, weights, np.arange(7)) is None


def test_islands_stay_apart() -> None:
    neighbours, weights = ring(40)
    neighbours, weights = np.concatenate([neighbours, neighbours + 40]), np.concatenate([weights, weights])
    found = map_graph(neighbours, weights, np.arange(80))
    assert found is not None
    island = np.arange(80) // 40
    assert (island[nearest(found.position, 3)] == island[:, None]).all()


def test_seeds_cover_the_map() -> None:
    neighbours, weights = ring(240)
    # Every tenth takes a little more than the others.
    weights[::10] *= 1.1
    found = map_graph(neighbours, weights, np.arange(240))
    assert found is not None
    seeds = found.rows[spread_seeds(found, weights, 8)]
    assert len(np.unique(seeds)) == 8
    assert (seeds % 10 == 0).all()
    # Nobody is far from one.
    assert apart(240, np.arange(240)[:, None], seeds).min(1).max() <= 45

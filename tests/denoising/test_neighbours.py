import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarice.denoising import NOBODY, find_neighbours, groups_of


def unit_vectors(n: int, length: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, length)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(
    n=st.integers(1, 40),
    count=st.integers(1, 12),
    groups=st.integers(1, 5),
    distinct=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_what_every_table_obeys(n: int, count: int, groups: int, distinct: int, seed: int) -> None:
    """Also where many particles are the same."""
    rng = np.random.default_rng(seed)
    embedding = unit_vectors(distinct, 4, seed)[rng.integers(0, distinct, n)]
    group = rng.integers(0, groups, n) * 7 - 3
    table = find_neighbours(embedding, count, group)
    assert table.shape == (n, count)
    assert table.dtype == np.int64
    for row, partners in enumerate(table):
        there = partners[partners != NOBODY]
        others = int((group == group[row]).sum()) - 1
        assert len(there) == min(count, others)
        # Empty places come last.
        assert (partners[len(there) :] == NOBODY).all()
        assert row not in there
        assert len(set(there.tolist())) == len(there)
        assert (group[there] == group[row]).all()


def test_agrees_with_brute_force() -> None:
    embedding = unit_vectors(200, 8)
    groups = np.random.default_rng(1).integers(0, 3, 200)
    table = find_neighbours(embedding, 10, groups)
    similarity = embedding.astype(np.float64) @ embedding.astype(np.float64).T
    similarity[groups[:, None] != groups[None]] = -np.inf
    np.fill_diagonal(similarity, -np.inf)
    np.testing.assert_array_equal(table, np.argsort(-similarity, axis=1)[:, :10])


def test_duplicates_are_the_nearest() -> None:
    embedding = unit_vectors(30, 8)
    embedding[20:25] = embedding[3]
    table = find_neighbours(embedding, 5, np.zeros(30, np.int64))
    family = {3, 20, 21, 22, 23, 24}
    for row in family:
        assert set(table[row].tolist()) == family - {row}


def test_an_only_member_has_nobody() -> None:
    table = find_neighbours(unit_vectors(4, 3), 2, np.array([0, 1, 0, 0]))
    np.testing.assert_array_equal(table[1], [NOBODY, NOBODY])
    assert (table[[0, 2, 3]] != NOBODY).all()


@pytest.mark.parametrize("labels", [(), (None,), (np.full(5, 9),), (None, np.array(["a"] * 5))])
def test_no_division_is_one_group(labels: tuple[np.ndarray | None, ...]) -> None:
    np.testing.assert_array_equal(groups_of(5, *labels), np.zeros(5))


def test_groups_are_the_distinct_combinations() -> None:
    halves = np.array([1, 2, 1, 2, 1, 2])
    classes = np.array(["10", "10", "2", "2", "10", "2"])
    groups = groups_of(6, halves, None, classes)
    pairs = list(zip(halves.tolist(), classes.tolist(), strict=True))
    for i in range(6):
        for j in range(6):
            assert (groups[i] == groups[j]) == (pairs[i] == pairs[j])
    assert set(groups.tolist()) == set(range(4))

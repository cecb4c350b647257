import numpy as np
import pytest

from polarice.neighbours import groups_of


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

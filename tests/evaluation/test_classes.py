import numpy as np
import pytest
import scipy.sparse

from polarice.evaluation import adjusted_rand_index, attention_classes


def planted(labels: np.ndarray, within: float, rng: np.random.Generator) -> np.ndarray:
    """Rows that sum to one, the share ``within`` of them on the own class, spread unevenly."""
    same = labels[:, None] == labels
    spread = rng.gamma(4.0, size=same.shape) * ~np.eye(len(labels), dtype=bool)
    own, other = (spread * part / (spread * part).sum(1, keepdims=True) for part in (same, ~same))
    return within * own + (1 - within) * other


@pytest.mark.parametrize("views", [2, 3, 4])
def test_blocks_are_found_in_any_order_without_being_told_how_many(views: int) -> None:
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat(np.arange(views), 24 // views))
    found = attention_classes(planted(truth, 0.9, rng))
    assert adjusted_rand_index(found, truth) == 1
    # Classes are numbered as they first appear.
    assert found[0] == 0
    assert (np.maximum.accumulate(found)[1:] - np.maximum.accumulate(found)[:-1]).max() == 1


def test_uniform_attention_is_one_class_and_none_is_everybody_alone() -> None:
    assert attention_classes(np.ones((6, 6))).tolist() == [0] * 6
    assert attention_classes(np.zeros((4, 4))).tolist() == [0, 1, 2, 3]
    assert attention_classes(np.zeros((1, 1))).tolist() == [0]


def test_one_sided_attention_counts_and_the_diagonal_does_not() -> None:
    weights = np.zeros((5, 5))
    weights[0, 2] = weights[2, 4] = weights[1, 3] = 1
    np.fill_diagonal(weights, 100)
    assert attention_classes(weights).tolist() == [0, 1, 0, 1, 0]


def test_the_number_of_classes_can_be_told() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(4), 4)
    # Two views are much alike, and so are the other two.
    alike = truth // 2
    weights = 0.5 * planted(truth, 0.95, rng) + 0.5 * planted(alike, 0.95, rng)
    assert adjusted_rand_index(attention_classes(weights, 4), truth) == 1
    assert adjusted_rand_index(attention_classes(weights, 2), alike) == 1


def test_noise_is_not_taken_for_many_classes() -> None:
    rng = np.random.default_rng(2)
    found = [attention_classes(planted(np.arange(16) % 2, 7 / 15, rng)).max() + 1 for _ in range(20)]
    assert np.mean(found) < 4


def test_large_sparse_graph() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 6, 900)
    rows = np.repeat(np.arange(900), 12)
    strangers = rng.integers(0, 900, rows.size)
    friends = np.concatenate([rng.choice(np.flatnonzero(truth == label), 12) for label in truth])
    columns = np.where(rng.random(rows.size) < 0.7, friends, strangers)
    graph = scipy.sparse.csr_array((rng.random(rows.size), (rows, columns)), shape=(900, 900))
    found = attention_classes(graph)
    assert adjusted_rand_index(found, truth) > 0.99
    assert np.array_equal(found, attention_classes(graph))
    assert np.array_equal(
        attention_classes(graph[:400, :400]), attention_classes(graph[:400, :400].toarray())
    )


@pytest.mark.parametrize(
    ("weights", "classes", "reason"),
    [
        (np.ones((2, 3)), None, "square"),
        (-np.ones((2, 2)), None, "not negative"),
        (np.full((2, 2), np.nan), None, "finite"),
        (np.ones((2, 2)), 3, "cannot make 3"),
        (np.ones((2, 2)), 0, "cannot make 0"),
    ],
)
def test_what_is_no_attention_is_refused(weights: np.ndarray, classes: int | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        attention_classes(weights, classes)


def test_adjusted_rand_index_of_known_partitions() -> None:
    assert adjusted_rand_index([0, 0, 1, 1], [5, 5, 2, 2]) == 1
    # Worked by hand: one pair together in both, one and two in each, six in all.
    assert adjusted_rand_index([0, 0, 1, 2], [0, 0, 1, 1]) == pytest.approx((1 - 1 / 3) / (3 / 2 - 1 / 3))
    assert adjusted_rand_index([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx((0 - 2 / 3) / (2 - 2 / 3))
    assert adjusted_rand_index([0, 0, 0], [1, 1, 1]) == 1
    with pytest.raises(ValueError, match="3 and 2"):
        adjusted_rand_index([0, 0, 0], [1, 1])


def test_adjusted_rand_index_is_zero_by_chance() -> None:
    rng = np.random.default_rng(4)
    truth = np.repeat([0, 1, 2, 3], 4)
    drawn = [adjusted_rand_index(rng.permutation(truth), truth) for _ in range(2000)]
    assert abs(np.mean(drawn)) < 4 * np.std(drawn) / np.sqrt(2000)

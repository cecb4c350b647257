import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polarice.neighbours import (
    NOBODY,
    Companions,
    StackCovariance,
    StackViews,
    find_companions,
    likeliest_companions,
    search,
)

CPU = torch.device("cpu")
ORDERS = np.repeat(np.arange(6), 3)
VIEWS = 12


def stack(n: int, *, noise: float = 0.3, seed: int = 0) -> tuple[StackViews, np.ndarray]:
    """Images of twelve views, each turned by an angle of its own, and the view of each."""
    generator = torch.Generator().manual_seed(seed)
    orders = torch.from_numpy(ORDERS)
    kinds = 2 * torch.randn(VIEWS, len(ORDERS), dtype=torch.complex64, generator=generator)
    kinds[:, orders == 0] = kinds[:, orders == 0].real + 0j
    view = torch.randint(VIEWS, (n,), generator=generator)
    angle = 2 * math.pi * torch.rand(n, 1, generator=generator)
    images = kinds[view] * torch.exp(-1j * orders * angle)
    images += noise * torch.randn(n, len(ORDERS), dtype=torch.complex64, generator=generator)
    images[:, orders == 0] = images[:, orders == 0].real + 0j
    embedding = torch.ones(n, 1)
    passed = np.ones((n, len(ORDERS)), np.float16)
    return StackViews(ORDERS, images.numpy(), passed, embedding.numpy()), view.numpy()


def find(views: StackViews, count: int, groups: np.ndarray | None = None) -> Companions:
    groups = np.zeros(len(views.embedding), np.int64) if groups is None else groups
    return find_companions(views, count, np.zeros_like(groups), groups, CPU)


def test_companions_show_the_same_view() -> None:
    views, view = stack(400)
    found = find(views, 8)
    assert (view[found.rows] == view[:, None]).mean() > 0.99
    assert (np.diff(found.evidence, axis=1) <= 0).all()
    assert np.median(found.evidence) > 5


def test_evidence_is_that_of_all_angles() -> None:
    """Mean over finely spaced rotations of the second image, from the features themselves."""
    views, _ = stack(60, noise=1.0)
    covariance = StackCovariance(torch.from_numpy(ORDERS))
    images, passed = torch.from_numpy(views.filtered), torch.from_numpy(views.passed).float()
    covariance.add(images, passed)
    likelihood = covariance.likelihood()
    features = likelihood.features(images, passed)
    found = likeliest_companions(likelihood, features, torch.zeros(60, 1), 59, np.zeros(60, np.int64))
    angles = 2 * math.pi * torch.arange(360) / 360
    weight = torch.where(likelihood.orders == 0, 1, 2) * torch.exp(1j * angles[:, None] * likelihood.orders)
    products = features.vectors[:1] * features.vectors.conj()
    by_hand = torch.logsumexp((weight[:, None] * products).real.sum(-1), 0) - math.log(360)
    by_hand = by_hand + likelihood.constant - features.own[0] - features.own
    np.testing.assert_allclose(found.evidence[0], by_hand[found.rows[0]], atol=0.3)


def turned(views: StackViews, angles: Tensor) -> StackViews:
    phases = torch.exp(1j * angles[:, None] * torch.from_numpy(ORDERS)).numpy()
    return views._replace(filtered=views.filtered * phases.astype(np.complex64))


def test_turning_images_changes_nothing() -> None:
    views, _ = stack(100, noise=1.0)
    steps = torch.randint(16, (100,), generator=torch.Generator().manual_seed(5))
    before, after = find(views, 5), find(turned(views, 2 * math.pi * steps / 16), 5)
    np.testing.assert_allclose(before.evidence, after.evidence, atol=2e-3)
    assert (before.rows == after.rows).mean() > 0.98


def test_groups_and_halves_keep_to_themselves() -> None:
    views, _ = stack(90)
    groups = np.arange(90) % 3
    halves = np.where(groups == 2, 1, 0)
    found = find_companions(views, 4, halves, groups, CPU)
    assert (groups[found.rows] == groups[:, None]).all()
    other = views.filtered.copy()
    other[halves == 1] *= -2
    changed = find_companions(views._replace(filtered=other), 4, halves, groups, CPU)
    np.testing.assert_array_equal(changed.rows[halves == 0], found.rows[halves == 0])
    np.testing.assert_array_equal(changed.evidence[halves == 0], found.evidence[halves == 0])
    assert not np.array_equal(changed.evidence[halves == 1], found.evidence[halves == 1])


@pytest.mark.parametrize("count", [1, 3, 10])
def test_small_groups_leave_empty_places(count: int) -> None:
    views, _ = stack(7)
    groups = np.array([0, 0, 0, 0, 1, 1, 2])
    done: list[int] = []
    found = find_companions(views, count, np.zeros(7, np.int64), groups, CPU, done.append)
    for row, partners in enumerate(found.rows):
        there = partners[partners != NOBODY]
        assert len(there) == min(count, int((groups == groups[row]).sum()) - 1)
        assert row not in there
        assert len(set(there.tolist())) == len(there)
        assert np.isneginf(found.evidence[row, len(there) :]).all()
    assert done == [4, 6, 7]


@given(
    n=st.integers(1, 30),
    count=st.integers(1, 12),
    groups=st.integers(1, 5),
    distinct=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_what_every_table_obeys(n: int, count: int, groups: int, distinct: int, seed: int) -> None:
    """Also where many particles are the same."""
    rng = np.random.default_rng(seed)
    views, _ = stack(distinct, seed=seed)
    chosen = rng.integers(0, distinct, n)
    same = StackViews(ORDERS, views.filtered[chosen], views.passed[chosen], views.embedding[chosen])
    group = rng.integers(0, groups, n) * 7 - 3
    found = find(same, count, group)
    assert found.rows.shape == (n, count)
    assert found.rows.dtype == np.int64
    for row, partners in enumerate(found.rows):
        there = partners[partners != NOBODY]
        assert len(there) == min(count, int((group == group[row]).sum()) - 1)
        # Empty places come last.
        assert (partners[len(there) :] == NOBODY).all()
        assert row not in there
        assert len(set(there.tolist())) == len(there)
        assert (group[there] == group[row]).all()
        assert np.isfinite(found.evidence[row, : len(there)]).all()


def test_agrees_with_all_pairs() -> None:
    """The best of a full table of evidence, whatever the groups and blocks."""
    views, _ = stack(200, noise=1.0)
    groups = np.random.default_rng(1).integers(0, 3, 200)
    whole, found = find(views, 199), find(views, 10, groups)
    for row in range(200):
        partners = whole.rows[row]
        expected = partners[groups[partners] == groups[row]][:10]
        assert set(found.rows[row].tolist()) == set(expected.tolist())


def test_duplicates_are_the_likeliest() -> None:
    views, _ = stack(60, noise=2.0)
    filtered = views.filtered.copy()
    filtered[40:45] = filtered[3]
    found = find(views._replace(filtered=filtered), 5)
    family = {3, 40, 41, 42, 43, 44}
    for row in family:
        assert set(found.rows[row].tolist()) == family - {row}


def test_large_groups_are_compared_with_a_part_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    views, view = stack(400)
    monkeypatch.setattr(search, "_MOST_KEYS", 100)
    found = find(views, 4)
    assert len(np.unique(found.rows)) <= 100
    assert (view[found.rows] == view[:, None]).mean() > 0.95


def test_the_embedding_counts_where_images_say_nothing() -> None:
    """Of pure noise nothing is learned: what is left are the neighbours that a network sees."""
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(50, len(ORDERS), dtype=torch.complex64, generator=generator).numpy()
    vectors = torch.nn.functional.normalize(torch.randn(50, 4, generator=generator), dim=-1).numpy()
    found = find(StackViews(ORDERS, noise, np.ones((50, len(ORDERS)), np.float16), vectors), 3)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -2)
    np.testing.assert_array_equal(found.rows, np.argsort(-cosine, axis=1)[:, :3])

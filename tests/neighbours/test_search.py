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
    DiscHarmonics,
    StackCovariance,
    StackViews,
    ViewFeatures,
    ViewLikelihood,
    find_companions,
    judge_by_averages,
    likeliest_centres,
    likeliest_pairs,
    pairs,
)
from polarice.neighbours.averages import _Judge

CPU = torch.device("cpu")
HARMONICS = DiscHarmonics(16)
ORDERS = HARMONICS.orders
VIEWS = 12


def stack(
    n: int, *, strength: float = 3.0, kinds: int = VIEWS, seed: int = 0
) -> tuple[StackViews, np.ndarray]:
    """Images of some views in white noise, each turned by an angle of its own, and the view of each."""
    generator = torch.Generator().manual_seed(seed)
    shown = strength * torch.randn(kinds, len(ORDERS), dtype=torch.complex64, generator=generator)
    # Something heavy in the middle, so that there is one.
    shown[:, ORDERS == 0] = 3 + shown[:, ORDERS == 0].real + 0j
    view = torch.randint(kinds, (n,), generator=generator)
    angle = 2 * math.pi * torch.rand(n, 1, generator=generator)
    images = HARMONICS.synthesise(shown[view] * torch.exp(-1j * ORDERS * angle))
    images += torch.randn(n, 16, 16, generator=generator)
    return as_views(images), view.numpy()


def as_views(images: Tensor) -> StackViews:
    n = len(images)
    passed = np.ones((n, len(ORDERS)), np.float16)
    centre, embedding = np.zeros((n, 2), np.float32), np.ones((n, 1), np.float32)
    return StackViews(HARMONICS.spectra(images).numpy(), passed, centre, embedding)


def find(
    views: StackViews, count: int, groups: np.ndarray | None = None, mirrored: bool = False
) -> Companions:
    groups = np.zeros(len(views.embedding), np.int64) if groups is None else groups
    found = find_companions(HARMONICS, views, count, np.zeros_like(groups), groups, CPU, mirrored=mirrored)
    return found.companions


def test_companions_show_the_same_view() -> None:
    views, view = stack(400)
    found = find(views, 8)
    assert (view[found.rows] == view[:, None]).mean() > 0.99
    assert (np.diff(found.evidence, axis=1) <= 0).all()
    assert np.median(found.evidence) > 5


def test_groups_and_halves_keep_to_themselves() -> None:
    views, _ = stack(90)
    groups = np.arange(90) % 3
    halves = np.where(groups == 2, 1, 0)
    found = find_companions(HARMONICS, views, 4, halves, groups, CPU).companions
    assert (groups[found.rows] == groups[:, None]).all()
    other = views.spectra.copy()
    other[halves == 1] *= -2
    changed = find_companions(HARMONICS, views._replace(spectra=other), 4, halves, groups, CPU).companions
    np.testing.assert_array_equal(changed.rows[halves == 0], found.rows[halves == 0])
    np.testing.assert_array_equal(changed.evidence[halves == 0], found.evidence[halves == 0])
    assert not np.array_equal(changed.evidence[halves == 1], found.evidence[halves == 1])


@pytest.mark.parametrize("count", [1, 3, 10])
def test_small_groups_leave_empty_places(count: int) -> None:
    views, _ = stack(7)
    groups = np.array([0, 0, 0, 0, 1, 1, 2])
    done: list[int] = []
    search = find_companions(HARMONICS, views, count, np.zeros(7, np.int64), groups, CPU, done.append)
    found = search.companions
    for row, partners in enumerate(found.rows):
        there = partners[partners != NOBODY]
        assert len(there) == min(count, int((groups == groups[row]).sum()) - 1)
        assert row not in there
        assert len(set(there.tolist())) == len(there)
        assert np.isneginf(found.evidence[row, len(there) :]).all()
    # Half a group's share for pairs, half for three passes over averages.
    assert done == [2, 2, 3, 4, 5, 5, 5, 6, 6, 7]


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
    same = StackViews(*(part[chosen] for part in views))
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


def test_duplicates_are_the_likeliest() -> None:
    views, _ = stack(60, strength=0.5)
    views.spectra[40:45] = views.spectra[3]
    found = find(views, 5)
    family = {3, 40, 41, 42, 43, 44}
    for row in family:
        assert set(found.rows[row].tolist()) == family - {row}


@pytest.mark.parametrize("mirrored", [False, True])
def test_large_stacks_are_compared_by_way_of_a_part_of_them(
    monkeypatch: pytest.MonkeyPatch, mirrored: bool
) -> None:
    """Of 60 views the anchors have one or two images each; the others find each other through them."""
    views, view = stack(1200, kinds=60)
    likelihood, features = learned(views)
    embedding = torch.zeros(1200, 1)
    whole, all_evidence = likeliest_pairs(likelihood, features, embedding, 1199, mirrored)
    monkeypatch.setattr(pairs, "_MOST_ANCHORS", 100)
    rows, evidence = likeliest_pairs(likelihood, features, embedding, 30, mirrored)
    assert (evidence.diff(dim=1) <= 0).all()
    assert (np.diff(rows.sort(1).values.numpy()) > 0).all()
    best = rows[:, :15] % 1200
    assert float((best % 12 != 0).float().mean()) > 0.85
    assert (view[best.numpy()] == view[:, None]).mean() > 0.95
    # Evidence is that of the pair, whoever brought it together.
    full = torch.full((1200, 2400), torch.nan).scatter_(1, whole, all_evidence)
    same = full.gather(1, rows)
    known = same.isfinite() & evidence.isfinite()
    assert float(known.float().mean()) > 0.9
    torch.testing.assert_close(same[known], evidence[known], rtol=0, atol=2e-3)


def test_the_embedding_counts_where_images_say_nothing() -> None:
    """Of pure noise nothing is learned: what is left are the neighbours that a network sees."""
    generator = torch.Generator().manual_seed(4)
    noise = as_views(torch.randn(50, 16, 16, generator=generator))
    vectors = torch.nn.functional.normalize(torch.randn(50, 4, generator=generator), dim=-1).numpy()
    found = find(noise._replace(embedding=vectors), 3)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -2)
    np.testing.assert_array_equal(found.rows, np.argsort(-cosine, axis=1)[:, :3])


def learned(views: StackViews) -> tuple[ViewLikelihood, ViewFeatures]:
    """What a stack says of its views, and what its images are compared by."""
    images = HARMONICS.analyse_spectra(torch.from_numpy(views.spectra))
    passed = torch.from_numpy(views.passed).float()
    covariance = StackCovariance(ORDERS)
    covariance.add(images, passed)
    likelihood = covariance.likelihood()
    return likelihood, likelihood.features(images, passed)


def test_evidence_of_a_pair_is_that_of_all_angles() -> None:
    """Mean over finely spaced rotations of the second image, from the features themselves."""
    views, _ = stack(60, strength=0.5)
    likelihood, features = learned(views)
    rows, evidence = likeliest_pairs(likelihood, features, torch.zeros(60, 1), 59)
    angles = 2 * math.pi * torch.arange(360) / 360
    weight = torch.where(likelihood.orders == 0, 1, 2) * torch.exp(1j * angles[:, None] * likelihood.orders)
    products = features.vectors[:1] * features.vectors.conj()
    by_hand = torch.logsumexp((weight[:, None] * products).real.sum(-1), 0) - math.log(360)
    by_hand = by_hand + likelihood.constant - features.own[0] - features.own
    torch.testing.assert_close(evidence[0], by_hand[rows[0]], rtol=0, atol=0.3)


def test_evidence_does_not_change_when_images_turn() -> None:
    views, _ = stack(100, strength=0.7)
    likelihood, features = learned(views)
    steps = torch.randint(16, (100, 1), generator=torch.Generator().manual_seed(5))
    turned = features.vectors * torch.exp(2j * math.pi * steps / 16 * likelihood.orders)
    nobody = torch.zeros(100, 1)
    before = likeliest_pairs(likelihood, features, nobody, 5)
    after = likeliest_pairs(likelihood, features._replace(vectors=turned), nobody, 5)
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=2e-3)
    assert float((before[0] == after[0]).float().mean()) > 0.98
    judged = [
        judge_by_averages(likelihood, seen, *found).evidence
        for seen, found in ((features, before), (features._replace(vectors=turned), before))
    ]
    torch.testing.assert_close(*judged, rtol=0, atol=2e-2)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    likelihood, features = learned(stack(200, strength=0.7)[0])
    whole = likeliest_pairs(likelihood, features, torch.zeros(200, 1), 10, mirrored=True)
    monkeypatch.setattr(pairs, "_QUERIES", 7)
    monkeypatch.setattr(pairs, "_KEYS", 33)
    parts = likeliest_pairs(likelihood, features, torch.zeros(200, 1), 10, mirrored=True)
    torch.testing.assert_close(whole[1], parts[1], rtol=0, atol=1e-3)
    assert float((whole[0] == parts[0]).float().mean()) > 0.99


def test_a_view_known_from_one_image_judges_as_the_pair_does() -> None:
    """Two ways to the same ratio of Gaussian likelihoods, also for mirror images."""
    likelihood, features = learned(stack(80, strength=0.7)[0])
    candidates, evidence = likeliest_pairs(likelihood, features, torch.zeros(80, 1), 20, mirrored=True)
    judge = _Judge(likelihood, features, mirrored=True)
    judge.look(judge.alone())
    judged = judge.evidence(torch.arange(80), candidates)
    torch.testing.assert_close(judged, evidence, rtol=1e-3, atol=1e-2)


def test_groups_are_compared_as_if_alone() -> None:
    """The best of a full table of evidence, within each group."""
    likelihood, features = learned(stack(200, strength=0.7)[0])
    whole, _ = likeliest_pairs(likelihood, features, torch.zeros(200, 1), 199)
    groups = torch.from_numpy(np.random.default_rng(1).integers(0, 3, 200))
    for group in range(3):
        members = torch.nonzero(groups == group)[:, 0]
        part = ViewFeatures(features.vectors[members], features.own[members])
        found, _ = likeliest_pairs(likelihood, part, torch.zeros(len(members), 1), 10)
        for place, row in enumerate(members.tolist()):
            expected = whole[row][groups[whole[row]] == group][:10]
            assert set(members[found[place]].tolist()) == set(expected.tolist())


def test_averages_tell_more_than_pairs() -> None:
    views, view = stack(1200, strength=0.7)
    likelihood, features = learned(views)
    candidates, evidence = likeliest_pairs(likelihood, features, torch.zeros(1200, 1), 200)
    judged = judge_by_averages(likelihood, features, candidates, evidence).evidence

    def right(evidence: Tensor) -> float:
        best = candidates.gather(1, evidence.topk(8).indices)
        return float((view[best.numpy()] == view[:, None]).mean())

    assert right(evidence) < 0.7
    assert right(judged) > 0.8


def test_averages_do_not_make_friends_of_strangers() -> None:
    """Where no two images show one view, the likeliest pairs look alike by chance: few are believed."""

    def believed(kinds: int) -> float:
        views, _ = stack(800, strength=1.0, kinds=kinds)
        likelihood, features = learned(views)
        assert len(likelihood.orders) > 20
        found = likeliest_pairs(likelihood, features, torch.zeros(800, 1), 50)
        return float(judge_by_averages(likelihood, features, *found).probability.mean())

    assert believed(kinds=1_000_000) < 0.15
    assert believed(kinds=VIEWS) > 0.6


def test_mirror_images_are_found_and_marked() -> None:
    views, view = stack(300)
    images = HARMONICS.analyse_spectra(torch.from_numpy(views.spectra))
    flipped = as_views(HARMONICS.synthesise(images[150:].conj()))
    views.spectra[150:] = flipped.spectra
    found = find(views, 6, mirrored=True)
    assert (view[found.rows] == view[:, None]).mean() > 0.99
    other = (found.rows >= 150) != (np.arange(300) >= 150)[:, None]
    np.testing.assert_array_equal(found.mirrored, other)
    assert other.mean() > 0.3
    alone = find(views, 6)
    assert not alone.mirrored.any()
    assert ((alone.rows >= 150) == (np.arange(300) >= 150)[:, None]).mean() > 0.99


def test_angles_lay_companions_upon_images() -> None:
    """Turned about the centre, and mirrored before where they are mirror images, they become alike."""
    views, _ = stack(300)
    images = HARMONICS.analyse_spectra(torch.from_numpy(views.spectra))
    views.spectra[150:] = as_views(HARMONICS.synthesise(images[150:].conj())).spectra
    found = find(views, 6, mirrored=True)
    images = HARMONICS.analyse_spectra(torch.from_numpy(views.spectra))
    partners = images[torch.from_numpy(found.rows)]
    partners = torch.where(torch.from_numpy(found.mirrored)[..., None], partners.conj(), partners)
    turns = torch.exp(-1j * ORDERS * torch.deg2rad(torch.from_numpy(found.angles_deg))[..., None])

    def overlap(laid: Tensor) -> float:
        """Correlation of all that is not round."""
        first, second = (part[..., ORDERS > 0] for part in (images[:, None].expand_as(laid), laid))
        product = (first * second.conj()).real.sum()
        return float(product / (first.abs().square().sum() * second.abs().square().sum()).sqrt())

    assert overlap(partners * turns) > 0.8
    assert overlap(partners) < 0.2


def test_noise_gives_no_certainty() -> None:
    """Nothing stands out of it, so nothing is known but how many views there may be."""
    views = as_views(torch.randn(400, 16, 16, generator=torch.Generator().manual_seed(3)))
    found = find(views, 5)
    np.testing.assert_allclose(found.probability, 1 / (1 + 400 / 16), rtol=1e-5)
    sure = find(stack(400)[0], 5)
    assert sure.probability.mean() > 0.9


def test_centres_are_found_from_what_the_stack_looks_like() -> None:
    views, _ = stack(600, strength=1.0)
    away = torch.randn(600, 2, generator=torch.Generator().manual_seed(6))
    spectra = HARMONICS.moved(torch.from_numpy(views.spectra), away)
    passed = torch.from_numpy(views.passed).float()
    found = likeliest_centres(
        HARMONICS,
        lambda: ((slice(i, i + 200), spectra[i : i + 200], passed[i : i + 200]) for i in (0, 200, 400)),
        torch.zeros(600, 2),
    )
    error = (found - away).square().sum(1).mean().sqrt()
    assert float(error) < 0.5 * float(away.square().sum(1).mean().sqrt())


def test_centred_particles_stay_centred() -> None:
    """A first guess may err by a pixel: the stack tells how far its particles really lie from the middle."""
    views, _ = stack(600, strength=1.0)
    spectra, passed = torch.from_numpy(views.spectra), torch.from_numpy(views.passed).float()
    guess = 0.7 * torch.randn(600, 2, generator=torch.Generator().manual_seed(6))
    found = likeliest_centres(
        HARMONICS,
        lambda: ((slice(i, i + 200), spectra[i : i + 200], passed[i : i + 200]) for i in (0, 200, 400)),
        guess,
    )
    assert float(found.square().sum(1).mean().sqrt()) < 0.3 * float(guess.square().sum(1).mean().sqrt())

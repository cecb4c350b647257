"""Whether there is a particle at all, by energies whose nature is known."""

from __future__ import annotations

import numpy as np
import pytest

from polarice.denoising.result import confidence, presence


def energies(n: int, spread: float, seed: int = 0) -> np.ndarray:
    return 50 * np.exp(spread * np.random.default_rng(seed).normal(size=n))


@pytest.mark.parametrize("spread", [0.02, 0.2, 0.5])
def test_what_has_next_to_nothing_left_shows_nothing(spread: float) -> None:
    """A twentieth are empty, with hardly any energy, and stand out, whatever the particles' own spread is."""
    energy = energies(1000, spread)
    empty = np.arange(1000) % 20 == 3
    energy[empty] = 50 * np.exp(-8 * max(spread, 0.2))
    found = presence(energy, np.zeros(1000, np.int64))
    assert found[empty].max() < 1e-3
    assert np.quantile(found[~empty], 0.01) > 0.9
    # Brighter than the others is no less there.
    energy[0] = 1e4
    assert presence(energy, np.zeros(1000, np.int64))[0] == 1


def test_the_scale_does_not_matter_and_half_sets_are_judged_apart() -> None:
    energy, groups = energies(400, 0.3), np.arange(400) % 2
    found = presence(energy, groups)
    np.testing.assert_allclose(presence(1e4 * energy, groups), found, rtol=1e-5)
    other = np.where(groups == 1, energy**3, energy)
    np.testing.assert_array_equal(presence(other, groups)[::2], found[::2])


def test_nothing_at_all_is_the_least() -> None:
    energy = energies(100, 0.1)
    energy[7] = 0
    assert presence(energy, np.zeros(100, np.int64))[7] == 0
    # Where all is alike nobody stands out.
    assert (presence(np.zeros(10), np.zeros(10, np.int64)) > 0.99).all()


def test_confidence_is_the_share_as_far_as_there_is_a_particle() -> None:
    weights = np.array([[0.5, 0.25], [0.5, 0.25]], np.float32)
    probability = np.array([[1, 0], [0.5, 1]], np.float32)
    there = np.array([1, 0.5], np.float32)
    np.testing.assert_allclose(confidence(weights, probability), [0.5, 0.5])
    np.testing.assert_allclose(confidence(weights, probability, there), [0.5, 0.25])
    np.testing.assert_allclose(confidence(weights, None, there), [0.75, 0.375])

"""Relative rotations, hands, eigenvectors, inheritance: each against what is known."""

import math

import numpy as np
import pytest
import torch

from polarice.conventions import random_rotations
from polarice.evaluation import orientation_errors
from polarice.orientations import (
    agree_on_hands,
    choose_representatives,
    common_lines_of,
    inherit_orientations,
    relative_rotations,
    synchronise,
)
from polarice.orientations.relative import rotations_about

MIRROR = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)


def in_mirror(rotations):
    return rotations * MIRROR[:, None] * MIRROR


def between(views):
    return torch.einsum("iab,jcb->ijac", views, views)


def flipped(relative, generator):
    """Half of the pairs mirrored, both orders of a pair alike."""
    flip = torch.rand(relative.shape[:2], generator=generator).triu(1)
    flip = (flip + flip.T) > 0.5
    return torch.where(flip[..., None, None], in_mirror(relative), relative)


def distance_to_nearer_hand(found, true):
    return torch.minimum((found - true).abs().amax((-1, -2)), (found - in_mirror(true)).abs().amax((-1, -2)))


@pytest.mark.parametrize("voters", [40, 15])
def test_true_lines_give_true_rotations_but_for_the_hand(views, voters):
    found = relative_rotations(common_lines_of(views), voters)
    error = distance_to_nearer_hand(found.rotations, between(views))
    assert error.median() < 1e-6
    assert (error < 0.02).double().mean() > 0.99
    torch.testing.assert_close(found.rotations, found.rotations.transpose(0, 1).mT)


def around_a_circle(generator):
    tilt = math.radians(90) + 0.1 * torch.randn(40, generator=generator, dtype=torch.float64)
    rot, psi = 2 * math.pi * torch.rand(2, 40, generator=generator, dtype=torch.float64)
    return rotations_about(2, psi) @ rotations_about(0, tilt) @ rotations_about(2, rot)


def within_a_cap(generator):
    tilt = math.radians(40) * torch.rand(40, generator=generator, dtype=torch.float64).sqrt()
    rot, psi = 2 * math.pi * torch.rand(2, 40, generator=generator, dtype=torch.float64)
    return rotations_about(2, psi) @ rotations_about(0, tilt) @ rotations_about(2, rot)


@pytest.mark.parametrize("draw", [None, around_a_circle, within_a_cap])
def test_hands_agree_wherever_the_views_lie(views, generator, draw):
    true = views if draw is None else draw(generator)
    relative = between(true)
    found = agree_on_hands(flipped(relative, generator), torch.ones(40, 40).double(), generator)
    right = min(float((found - hand).abs().max()) for hand in (relative, in_mirror(relative)))
    assert right < 1e-9


def test_the_product_of_matrices_is_the_sum_over_triangles(views, generator):
    relative = flipped(between(views[:6]), generator)
    odd = (relative - in_mirror(relative)) / 2
    even = relative - odd
    hands = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    hands = hands + hands.T
    whole = (even + hands[..., None, None] * odd).transpose(1, 2).reshape(18, 18)
    square = (whole @ whole).view(6, 3, 6, 3).transpose(1, 2)
    fast = (square * odd).sum((-1, -2))
    for i in range(6):
        for j in range(6):
            slow = sum(
                hands[i, k] * torch.trace(odd[i, k] @ even[k, j] @ odd[j, i])
                + hands[k, j] * torch.trace(even[i, k] @ odd[k, j] @ odd[j, i])
                for k in range(6)
            )
            torch.testing.assert_close(fast[i, j], slow)


def test_synchronisation_survives_wrong_pairs(views, generator):
    relative = between(views)
    wrong = torch.rand(40, 40, generator=generator).triu(1)
    wrong = (wrong + wrong.T) < 0.4
    wrong.fill_diagonal_(False)
    anything = random_rotations(1600, generator).double().view(40, 40, 3, 3)
    upper = torch.ones(40, 40).triu(1).bool()[..., None, None]
    anything = torch.where(upper, anything, anything.transpose(0, 1).mT)
    given = torch.where(wrong[..., None, None], anything, relative)
    found = synchronise(given, torch.ones(40, 40).double(), generator)
    assert orientation_errors(found.rotations, views).angles_deg.max() < 0.2
    right = ~wrong & ~torch.eye(40, dtype=torch.bool)
    assert found.probability[right].min() > 0.9
    assert found.probability[wrong].median() < 0.01


def test_neighbours_hand_their_orientation_on(generator):
    root = random_rotations(1, generator).double()
    turn = math.radians(35)
    second = rotations_about(2, torch.tensor([turn], dtype=torch.float64)) @ root
    third = (
        rotations_about(2, torch.tensor([-1.1], dtype=torch.float64))
        * MIRROR.new_tensor([1, -1, -1])
        @ second
    )
    given = torch.cat([root, torch.eye(3).double().expand(3, 3, 3)])
    neighbours = torch.tensor([[-1], [0], [1], [-1]])
    angles = torch.tensor([[0.0], [35.0], [math.degrees(-1.1)], [0.0]]).double()
    mirrored = torch.tensor([[False], [False], [True], [False]])
    known = torch.tensor([True, False, False, False])
    found, reached = inherit_orientations(given, known, neighbours, angles, torch.ones(4, 1), mirrored)
    torch.testing.assert_close(found[:3], torch.cat([root, second, third]), atol=1e-7, rtol=0)
    assert reached.tolist() == [True, True, True, False]


def test_a_mirrored_neighbour_sees_the_view_from_the_other_side(blobs, views):
    # Mirrored along y and then turned, points of image j lie upon those of image i.
    turn = torch.tensor([[0.4]], dtype=torch.float64)
    given = torch.cat([views[:1], views[:1]])
    found, _ = inherit_orientations(
        given,
        torch.tensor([True, False]),
        torch.tensor([[-1], [0]]),
        torch.rad2deg(torch.cat([turn, turn])),
        torch.ones(2, 1),
        torch.tensor([[False], [True]]),
    )
    points = blobs.centres @ views[0].T
    laid = points[:, :2] * torch.tensor([1.0, -1.0]) @ rotations_about(2, turn[0, 0])[:2, :2].T
    torch.testing.assert_close((blobs.centres @ found[1].T)[:, :2], laid)


def test_representatives_cover_the_views():
    # Ten views with twenty images each, every one a neighbour of its own view's.
    rows = np.arange(200)
    neighbours = np.stack([(rows // 20) * 20 + (rows + step) % 20 for step in range(1, 20)], 1)
    chosen = choose_representatives(neighbours, np.full(neighbours.shape, 0.9, np.float32), 10)
    assert len(set((chosen // 20).tolist())) == 10

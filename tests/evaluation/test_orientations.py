"""Distances between orientations do not depend on frame and hand."""

import torch

from polarice.conventions import random_rotations
from polarice.evaluation import RANDOM_ORIENTATIONS_DEG, orientation_errors
from polarice.orientations.relative import rotations_about

MIRROR = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)


def test_frame_and_hand_are_undone(generator):
    true = random_rotations(50, generator).double()
    frame = random_rotations(1, generator).double()[0]
    assert orientation_errors(true @ frame, true).angles_deg.max() < 1e-4
    mirrored = orientation_errors(true * MIRROR[:, None] * MIRROR @ frame, true)
    assert mirrored.mirrored
    assert mirrored.angles_deg.max() < 1e-4


def test_angles_are_those_of_the_rotations_between(generator):
    true = random_rotations(2000, generator).double()
    # Turned by known angles about random axes of each image's own.
    angle = torch.deg2rad(torch.rand(2000, generator=generator, dtype=torch.float64) * 30)
    axis = random_rotations(2000, generator).double()
    found = axis @ rotations_about(2, angle) @ axis.mT @ true
    errors = orientation_errors(found, true)
    torch.testing.assert_close(errors.angles_deg, torch.rad2deg(angle), atol=1.5, rtol=0)
    assert abs(errors.median_deg - 15) < 1


def test_guesses_are_wrong_by_126_degrees(generator):
    first, second = random_rotations(100_000, generator).double().split(50_000)
    cosine = ((first * second).sum((-1, -2)) - 1) / 2
    assert abs(float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean()) - RANDOM_ORIENTATIONS_DEG) < 0.3
    # Of many, registration cannot make much better ones.
    assert abs(orientation_errors(first, second).mean_deg - RANDOM_ORIENTATIONS_DEG) < 1.5

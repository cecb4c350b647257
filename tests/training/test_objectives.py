import math

import pytest
import torch
from torch import Tensor

from polarice.conventions import euler_to_matrix
from polarice.polar import AttentionResult, angular_attention
from polarice.simulation.sampler import SetBatch
from polarice.training import relative_squared_error, view_contrast
from polarice.training.objectives import alignment_surprise, bounded


def test_relative_squared_error_in_closed_form() -> None:
    clean = torch.ones(2, 3, 4, 4)
    clean[1] *= 10
    assert relative_squared_error(clean, clean).tolist() == [0, 0]
    # One set wholly wrong, the other right: each is measured by its own power.
    for wrong in (0, 1):
        estimate = clean.clone()
        estimate[wrong] = 0
        expected = [float(wrong == index) for index in (0, 1)]
        assert relative_squared_error(estimate, clean).tolist() == pytest.approx(expected)
    assert relative_squared_error(1.1 * clean, clean).tolist() == pytest.approx([0.01, 0.01], rel=1e-4)


def test_what_is_drawn_into_an_empty_set_is_an_error() -> None:
    """Measured against a particle of SNR 0.01."""
    empty = torch.zeros(1, 3, 4, 4)
    assert float(relative_squared_error(empty, empty)) == 0
    assert float(relative_squared_error(empty + 0.1, empty)) == pytest.approx(1)


def test_one_odd_set_counts_for_little() -> None:
    assert float(bounded(torch.tensor([1e-3, 1e-3]))) == pytest.approx(1e-3, rel=1e-3)
    assert float(bounded(torch.tensor([1e9, 0.0]))) == pytest.approx(2)


def test_gradient_is_that_of_a_quadratic(generator: torch.Generator) -> None:
    estimate = torch.randn(2, 2, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    clean = torch.randn(2, 2, 4, 4, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(relative_squared_error(estimate, clean).sum(), estimate)
    power = clean.square().sum((1, 2, 3), keepdim=True)
    torch.testing.assert_close(gradient, 2 * (estimate.detach() - clean) / power)


def views(*tilts_deg: float) -> Tensor:
    """Rotations of one set, shape (1, k, 3, 3), whose viewing directions lie at these tilts."""
    angles = torch.tensor([[0.0, tilt, 20.0 * i] for i, tilt in enumerate(tilts_deg)])
    return euler_to_matrix(angles)[None]


def test_contrast_in_closed_form() -> None:
    """Two views, two images of each; embeddings equal within a view and orthogonal between views."""
    rotations = views(0, 5, 90, 95)
    embedding = torch.eye(2).repeat_interleave(2, 0)[None]
    # Each image has one partner (similarity 1) and two others (similarity 0), at the temperature 0.1.
    expected = math.log(math.exp(10) + 2) - 10
    assert float(view_contrast(embedding, rotations)) == pytest.approx(expected, abs=1e-6)
    # All alike: one of three.
    same = torch.tensor([1.0, 0.0]).expand(1, 4, 2)
    assert float(view_contrast(same, rotations)) == pytest.approx(math.log(3), abs=1e-5)
    # The wrong way round.
    wrong = torch.eye(2)[[0, 1, 0, 1]][None]
    assert float(view_contrast(wrong, rotations)) == pytest.approx(math.log(math.exp(10) + 2), abs=1e-5)


def test_views_between_the_limits_count_neither_way() -> None:
    """0 and 5 degrees are one view; 18 degrees is neither the same as 0 nor another."""
    embedding = torch.nn.functional.normalize(torch.randn(1, 3, 8), dim=-1)
    moved = embedding.clone()
    moved[0, 2] = -moved[0, 2]
    rotations = views(0, 5, 20)
    torch.testing.assert_close(view_contrast(moved, rotations), view_contrast(embedding, rotations))
    assert float(view_contrast(embedding, rotations)) == pytest.approx(0, abs=1e-6)


def test_other_molecules_are_other_views() -> None:
    """Two sets with the same rotations: partners are sought within a set, strangers everywhere."""
    rotations = views(0, 0).repeat(2, 1, 1, 1)
    together = torch.tensor([1.0, 0.0]).expand(2, 2, 2)
    assert float(view_contrast(together, rotations)) == pytest.approx(math.log(3), abs=1e-5)
    apart = torch.eye(2)[:, None].expand(2, 2, 2)
    assert float(view_contrast(apart, rotations)) == pytest.approx(math.log(math.exp(10) + 2) - 10, abs=1e-6)


def test_no_partner_no_contrast() -> None:
    embedding = torch.eye(3)[None].requires_grad_()
    loss = view_contrast(embedding, views(0, 60, 120))
    assert float(loss.detach()) == 0
    (gradient,) = torch.autograd.grad(loss, embedding)
    assert not gradient.any()


def test_gradcheck(generator: torch.Generator) -> None:
    raw = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    rotations = views(0, 5, 90, 20).repeat(2, 1, 1, 1)
    assert torch.autograd.gradcheck(
        lambda z: view_contrast(torch.nn.functional.normalize(z, dim=-1), rotations), (raw,)
    )


def aligned(scores: Tensor, psi_deg: Tensor, *, snr: float = 1.0, tilt_deg: float = 0.0) -> float:
    """Surprise of an attention with scores (k, k, m) at images turned by angles in their planes."""
    size = len(psi_deg)
    tilts = torch.linspace(0, tilt_deg, size)
    rotations = euler_to_matrix(torch.stack([torch.zeros(size), tilts, psi_deg], -1))
    nothing = torch.zeros(1, size, 1, 1)
    batch = SetBatch(
        noisy=nothing,
        clean=nothing,
        rotations=rotations[None],
        shifts_px=nothing[..., 0],
        snr=torch.tensor([snr]),
        mask=torch.ones(1, size, size, dtype=torch.bool),
        ctf=nothing,
    )
    none = torch.zeros(1)
    return float(alignment_surprise(AttentionResult(none, None, none, none, scores[None]), batch))


def test_surprise_at_an_angle() -> None:
    """Nothing where all is at the true angle, log M where all angles are alike, shared between two."""
    alike = torch.zeros(2, 2, 12)
    assert aligned(alike, torch.tensor([0.0, 60.0])) == pytest.approx(math.log(12), abs=1e-5)
    polar = torch.randn(1, 1, 1, 3, 12, generator=torch.Generator().manual_seed(0))
    keys = torch.cat([polar, polar.roll(2, -1)], 1)
    scores = angular_attention(keys, keys, keys, scale=30.0).scores
    assert scores is not None
    # The second image is turned by two steps from x to y: its rotation about the axis has the other sign.
    right, wrong = (aligned(scores[0], torch.tensor([0.0, psi])) for psi in (-60.0, 60.0))
    assert right < 1e-3
    assert wrong > 5
    sharp = torch.full((2, 2, 12), -torch.inf)
    sharp[..., :2] = 0
    sharp = torch.maximum(sharp, torch.tensor(-40.0))
    half_a_step = aligned(sharp, torch.tensor([0.0, 0.0])), aligned(sharp, torch.tensor([0.0, 30.0]))
    assert half_a_step[0] == pytest.approx(math.log(2), abs=1e-5)
    assert half_a_step[1] == pytest.approx((math.log(2) + math.log(2) + 40) / 2, abs=1e-4)


def test_only_images_of_one_view_have_an_angle() -> None:
    alike, turned = torch.zeros(2, 2, 12), torch.tensor([0.0, 60.0])
    assert aligned(alike, turned, tilt_deg=5.0) == pytest.approx(math.log(12), abs=1e-5)
    assert aligned(alike, turned, tilt_deg=90.0) == 0
    assert aligned(alike, turned, snr=0.0) == 0


def test_a_network_that_trusts_nobody_still_learns_to_align() -> None:
    polar = torch.randn(1, 2, 1, 3, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = angular_attention(polar, polar, polar, null_logit=torch.tensor(1e4))
    assert not found.key_weights.any()
    assert found.scores is not None
    (gradient,) = torch.autograd.grad(found.scores.log_softmax(-1)[..., 0].sum(), polar)
    assert gradient.any()

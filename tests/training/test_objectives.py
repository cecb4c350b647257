import math

import pytest
import torch
from torch import Tensor

from polarice.conventions import euler_to_matrix
from polarice.training import relative_squared_error, view_contrast
from polarice.training.objectives import bounded


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

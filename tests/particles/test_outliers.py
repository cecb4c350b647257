"""Images that stand out are found, and others are left in peace."""

from __future__ import annotations

import torch

from polarice.particles.outliers import find_outliers


def measured(n: int, generator: torch.Generator) -> list[torch.Tensor]:
    background = 500 + 3 * torch.randn(n, generator=generator)
    sigma = 20 * torch.exp(0.05 * torch.randn(n, generator=generator))
    return [background, sigma, 4.2 + 0.3 * torch.rand(n, generator=generator)]


def test_what_stands_out_is_found(generator: torch.Generator) -> None:
    found = measured(2000, generator)
    assert not find_outliers(*found).any()
    found[0][3] = 600
    found[1][70] = 40
    found[1][71] = 10
    found[2][1999] = 30
    assert torch.nonzero(find_outliers(*found))[:, 0].tolist() == [3, 70, 71, 1999]


def test_scale_and_level_do_not_matter(generator: torch.Generator) -> None:
    found = measured(500, generator)
    found[1][:5] *= 3
    expected = find_outliers(*found)
    assert expected.sum() == 5
    assert (find_outliers(1e4 - 7 * found[0], 7 * found[1], found[2]) == expected).all()


def test_normalised_stacks_have_no_outliers_by_rounding() -> None:
    one = torch.ones(100)
    assert not find_outliers(
        1e-6 * torch.arange(100.0), one * (1 + 1e-6 * torch.arange(100.0)), 4 * one
    ).any()

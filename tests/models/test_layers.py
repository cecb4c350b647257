import pytest
import torch

from polarice.models.layers import GainHead, PolarBlock, PolarUNet, angular_products


def test_unet_shapes_and_shifts(generator: torch.Generator) -> None:
    """Equivariant to shifts by whole steps of the coarsest level, on both outputs."""
    network = PolarUNet(2, (4, 8, 8), 8, conditions=5).eval()
    polar = torch.randn(3, 2, 8, 24, generator=generator)
    conditions = torch.randn(3, 5, generator=generator)
    with torch.no_grad():
        fine, coarse = network(polar, conditions)
        moved_fine, moved_coarse = network(polar.roll(8, -1), conditions)
        assert not torch.allclose(network(polar, conditions.flip(0))[0], fine)
    assert fine.shape == (3, 4, 8, 24)
    assert coarse.shape == (3, 8, 2, 6)
    torch.testing.assert_close(moved_fine, fine.roll(8, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(moved_coarse, coarse.roll(2, -1), rtol=0, atol=1e-5)


def test_block_is_normalised_and_rectified(generator: torch.Generator) -> None:
    block = PolarBlock(2, 8, 6, conditions=3)
    out = block(5 + 3 * torch.randn(4, 2, 6, 12, generator=generator), torch.zeros(4, 3))
    assert float(out.detach().amin()) == 0
    # A rectified standard normal has the mean square one half.
    assert float(out.detach().square().mean()) == pytest.approx(0.5, abs=0.1)


def test_angular_products_in_closed_form() -> None:
    """Means over the angle of cos², cos sin and sin² are 1/2, 0 and 1/2; rotation changes nothing."""
    angle = 2 * torch.pi * torch.arange(16, dtype=torch.float64) / 16
    radius = torch.tensor([1.0, 2.0], dtype=torch.float64)[:, None]
    first, second = (radius * angle.cos())[None], (radius * angle.sin())[None]
    expected = torch.tensor([[0.5, 2.0, 0.0, 0.0, 0.5, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(angular_products(first, second), expected)
    torch.testing.assert_close(angular_products(first.roll(3, -1), second.roll(3, -1)), expected)
    assert angular_products(first, second, first).shape == (1, 12)


def test_gain_starts_near_one_and_stays_positive(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    head = GainHead(6)
    energies = torch.randn(5, 6, generator=generator)
    torch.testing.assert_close(head(energies), torch.ones(5, 1, 1), rtol=0, atol=0.2)
    with torch.no_grad():
        head.out.weight.normal_(0, 100, generator=generator)
        gains = head(1e6 * energies)
    assert float(gains.min()) >= 0.018  # e^-4
    assert float(gains.max()) <= 54.7  # e^4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(energies).dtype == torch.float32

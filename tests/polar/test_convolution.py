import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polarice.polar import AngularConv, ConditionedAngularConv, LowRankAngularConv, polar_pad


def random_weights(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """Every parameter drawn anew, the ones that start at zero or one too."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.double()


@pytest.mark.parametrize(("radial", "angular"), [(0, 0), (1, 0), (0, 2), (1, 2), (2, 1)])
def test_angular_conv_is_equation_5(radial: int, angular: int, generator: torch.Generator) -> None:
    """All sums written out, with several channels; what lies outside the radii is zero."""
    n_in, n_out, radii, angles = 2, 3, 5, 6
    layer = AngularConv(n_in, n_out, radii, radial, angular)
    random_weights(layer, generator)
    polar = torch.randn(2, n_in, radii, angles, generator=generator, dtype=torch.float64)
    z, h, bias = polar.numpy(), layer.weight.detach().numpy(), layer.bias.detach().numpy()
    expected = np.zeros((2, n_out, radii, angles))
    for b, d, n, m in np.ndindex(expected.shape):
        total = bias[d]
        for c in range(n_in):
            for p in range(max(0, n - radial), min(radii, n + radial + 1)):
                for q in range(-angular, angular + 1):
                    total += h[n, d, c, p - n + radial, q + angular] * z[b, c, p, (m - q) % angles]
        expected[b, d, n, m] = total
    np.testing.assert_allclose(layer(polar).detach().numpy(), expected, atol=1e-12)


def layers(radii: int) -> dict[str, nn.Module]:
    return {
        "angular": AngularConv(2, 3, radii, 1, 2),
        "conditioned": ConditionedAngularConv(2, 3, radii, 5),
        "low rank": LowRankAngularConv(2, 3, radii, 2, 3),
    }


@pytest.mark.parametrize("name", ["angular", "conditioned", "low rank"])
def test_shift_equivariance(name: str, generator: torch.Generator) -> None:
    layer = random_weights(layers(6)[name], generator)
    polar = torch.randn(2, 2, 6, 10, generator=generator, dtype=torch.float64)
    out = layer(polar)
    assert out.shape == (2, 3, 6, 10)
    for shift in (1, 4, 7):
        torch.testing.assert_close(layer(polar.roll(shift, -1)), out.roll(shift, -1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["angular", "conditioned", "low rank"])
def test_gradcheck(name: str, generator: torch.Generator) -> None:
    layer = random_weights(layers(4)[name], generator)
    polar = torch.randn(1, 2, 4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    values = tuple(layer.parameters())

    def call(z: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip((name for name, _ in layer.named_parameters()), parameters, strict=True))
        out: Tensor = torch.func.functional_call(layer, named, z)
        return out

    assert torch.autograd.gradcheck(call, (polar, *values), fast_mode=True)


@pytest.mark.parametrize(("kernel", "rank"), [(3, 1), (3, 2), (5, 3)])
def test_low_rank_is_an_angular_conv(kernel: int, rank: int, generator: torch.Generator) -> None:
    n_in, n_out, radii, half = 2, 3, 6, kernel // 2
    low = LowRankAngularConv(n_in, n_out, radii, rank, kernel)
    random_weights(low, generator)
    full = AngularConv(n_in, n_out, radii, half, half).double()
    # Eq. 5 has z[m - q], torch's convolution z[m + q].
    kernels = low.conv.weight.detach().unflatten(0, (rank, n_out)).flip(-1)
    with torch.no_grad():
        full.weight.copy_(torch.einsum("rn,rdcpq->ndcpq", low.mix[:, 0, :, 0], kernels))
        full.bias.copy_(low.bias.flatten())
    polar = torch.randn(2, n_in, radii, 8, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(low(polar), full(polar), atol=1e-12, rtol=0)


def test_conditioned_conv_is_a_gain_on_a_shared_kernel(generator: torch.Generator) -> None:
    """Away from the centre it is an `AngularConv` with h[n] = gain[n] g, beside an offset for each radius."""
    layer = ConditionedAngularConv(2, 3, 6)
    random_weights(layer, generator)
    full = AngularConv(2, 3, 6, 1, 1).double()
    with torch.no_grad():
        full.weight.copy_(torch.einsum("dn,dcpq->ndcpq", layer.gain[..., 0], layer.conv.weight.flip(-1)))
        full.bias.zero_()
    polar = torch.randn(2, 2, 6, 8, generator=generator, dtype=torch.float64)
    expected = full(polar) + layer.offset
    torch.testing.assert_close(layer(polar)[..., 1:, :], expected[..., 1:, :], atol=1e-12, rtol=0)


def test_stride_two(generator: torch.Generator) -> None:
    """Every second row and column of the plain convolution; equivariant to shifts by whole coarse steps."""
    coarse, fine = ConditionedAngularConv(2, 3, 6, stride=2), ConditionedAngularConv(2, 3, 6)
    random_weights(coarse, generator)
    fine.double().conv.weight.data.copy_(coarse.conv.weight.data)
    polar = torch.randn(2, 2, 6, 8, generator=generator, dtype=torch.float64)
    out = coarse(polar)
    assert out.shape == (2, 3, 3, 4)
    torch.testing.assert_close(out, fine(polar)[..., ::2, ::2] * coarse.gain + coarse.offset)
    for shift in (2, 4, 6):
        torch.testing.assert_close(coarse(polar.roll(shift, -1)), out.roll(shift // 2, -1))


def padded_by_slices(polar: Tensor, radial: int, angular: int, centre: bool) -> Tensor:
    """The plain way."""
    inside = polar[..., :radial, :].flip(-2).roll(polar.shape[-1] // 2, -1)
    outside = polar.new_zeros(*polar.shape[:-2], radial, polar.shape[-1])
    rows = torch.cat([inside if centre else outside, polar, outside], -2)
    if angular:
        rows = torch.cat([rows[..., -angular:], rows, rows[..., :angular]], -1)
    return rows


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize(("radial", "angular"), [(0, 0), (0, 1), (1, 0), (2, 3)])
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 1, 2, 4), (5, 8)])
def test_pad_forward_and_backward(
    shape: tuple[int, ...], radial: int, angular: int, centre: bool, generator: torch.Generator
) -> None:
    polar = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    found = polar_pad(polar, radial, angular, centre=centre)
    expected = padded_by_slices(polar, radial, angular, centre)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    weight = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    untouched = weight.clone()
    (mine,) = torch.autograd.grad(found, polar, weight)
    (plain,) = torch.autograd.grad(expected, polar, weight)
    torch.testing.assert_close(mine, plain)
    # The gradient that comes in belongs to autograd.
    torch.testing.assert_close(weight, untouched, rtol=0, atol=0)
    assert torch.autograd.gradcheck(lambda z: polar_pad(z, radial, angular, centre=centre), (polar,))
    assert torch.autograd.gradgradcheck(
        lambda z: polar_pad(z, radial, angular, centre=centre).square(), (polar,), fast_mode=True
    )


def test_pad_of_a_single_row_leaves_the_incoming_gradient_alone(generator: torch.Generator) -> None:
    polar = torch.randn(1, 1, 1, 6, generator=generator, requires_grad=True)
    weight = torch.randn(1, 1, 1, 10, generator=generator)
    untouched = weight.clone()
    torch.autograd.grad(polar_pad(polar, 0, 2), polar, weight)
    torch.testing.assert_close(weight, untouched, rtol=0, atol=0)


def test_padding_continues_a_smooth_image_across_the_centre() -> None:
    """Half a turn lies between a ray and its continuation: x = r cos γ goes on to negative r."""
    radii, angles = torch.arange(4) + 0.5, 2 * torch.pi * torch.arange(8) / 8
    polar = radii[:, None] * torch.cos(angles)
    padded = polar_pad(polar, 2, 0)
    expected = torch.tensor([-1.5, -0.5])[:, None] * torch.cos(angles)
    torch.testing.assert_close(padded[:2], expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["angular", "conditioned", "low rank"])
def test_gpu_agrees_with_cpu(name: str, generator: torch.Generator) -> None:
    layer = random_weights(layers(6)[name], generator)
    polar = torch.randn(2, 2, 6, 10, generator=generator, dtype=torch.float64)
    expected = layer(polar)
    torch.testing.assert_close(layer.cuda()(polar.cuda()).cpu(), expected)

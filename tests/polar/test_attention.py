import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.polar import KeyTrust, PolarGrid, PolarTransform, angular_attention, attention
from polarice.polar.attention import Method, mirrored

METHODS: list[Method] = ["direct", "fft", "streamed"]
Error = Callable[[Tensor, Tensor], float]
SETS, QUERIES, KEYS, CHANNELS, VALUES, RADII, ANGLES = 2, 5, 7, 3, 2, 4, 12


@pytest.fixture
def tensors(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of two sets."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(SETS, *shape, ANGLES, generator=generator, dtype=torch.float64)

    # A value may have other channels and radii than its key.
    return draw(QUERIES, CHANNELS, RADII), draw(KEYS, CHANNELS, RADII), draw(KEYS, VALUES, RADII + 1)


def options(generator: torch.Generator) -> dict[str, dict[str, Any]]:
    mask = torch.rand(SETS, QUERIES, KEYS, generator=generator) > 0.4
    mask[0, 1] = False
    mask[1, :, :4] = False
    null = torch.tensor(0.3, dtype=torch.float64)
    trust = KeyTrust(*torch.randn(3, SETS, QUERIES, generator=generator, dtype=torch.float64).exp())
    return {
        "plain": {},
        "scale": {"scale": torch.tensor(2.0, dtype=torch.float64)},
        "sharp": {"scale": 200.0},
        "mask": {"mask": mask},
        "shared mask": {"mask": mask[:1, :1]},
        "null": {"null_logit": null},
        "mirror": {"mirror": True},
        "trust": {"trust": trust},
        "all": {"mask": mask, "null_logit": null, "trust": trust, "mirror": True, "scale": 1.7},
    }


@pytest.mark.parametrize("name", list(options(torch.Generator())))
def test_the_three_forms_agree(
    name: str, tensors: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
) -> None:
    chosen = options(generator)[name]
    direct = angular_attention(*tensors, method="direct", **chosen)
    fast = angular_attention(*tensors, method="fft", **chosen)
    exact = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(fast.output, direct.output, **exact)
    torch.testing.assert_close(fast.weights, direct.weights, **exact)
    torch.testing.assert_close(fast.null_weight, direct.null_weight, **exact)
    torch.testing.assert_close(fast.key_weights, direct.key_weights, **exact)
    for block in (1, 2, 3, 5, 64):  # uneven ones too
        streamed = angular_attention(*tensors, method="streamed", block=block, **chosen)
        torch.testing.assert_close(streamed.output, direct.output, **exact)
        torch.testing.assert_close(streamed.null_weight, direct.null_weight, **exact)
        torch.testing.assert_close(streamed.key_weights, direct.key_weights, **exact)
        assert streamed.weights is None


def test_direct_is_equations_6_and_7(tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    """All sums written out for one query."""
    query, key, value = (z.numpy() for z in tensors)
    scores = np.zeros((KEYS, ANGLES))
    for k, turn in np.ndindex(scores.shape):
        for c, n, m in np.ndindex(CHANNELS, RADII, ANGLES):
            scores[k, turn] += query[1, 2, c, n, m] * key[1, k, c, n, (m - turn) % ANGLES]
    scores /= math.sqrt(CHANNELS * RADII * ANGLES)
    weights = np.exp(scores) / np.exp(scores).sum()
    output = np.zeros((VALUES, RADII + 1, ANGLES))
    for k, turn in np.ndindex(scores.shape):
        output += weights[k, turn] * np.roll(value[1, k], turn, -1)
    found = angular_attention(*tensors, method="direct")
    assert found.weights is not None
    np.testing.assert_allclose(found.weights[1, 2].numpy(), weights, atol=1e-13)
    np.testing.assert_allclose(found.output[1, 2].numpy(), output, atol=1e-13)
    assert not found.null_weight.any()


@pytest.mark.parametrize("method", METHODS)
def test_trust_weighs_keys_and_leaves_their_rotations(
    method: Method, tensors: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Beyond the ceiling keys count alike, far below it by their evidence, and above the threshold alone."""

    def weights(threshold: float, gain: float, ceiling: float, null: Tensor | None = None) -> Tensor:
        trust = KeyTrust(*(torch.tensor([[x]], dtype=torch.float64) for x in (threshold, gain, ceiling)))
        found = angular_attention(*tensors, trust=trust, null_logit=null, method=method, scale=3.0, block=3)
        return found.key_weights

    paper = angular_attention(*tensors, method=method, scale=3.0, block=3)
    torch.testing.assert_close(weights(1.0, 1.0, 400.0), paper.key_weights)
    torch.testing.assert_close(weights(-500.0, 1.0, 0.0), torch.full_like(paper.key_weights, 1 / KEYS))
    half = paper.key_weights.sqrt()
    torch.testing.assert_close(weights(0.0, 0.5, 400.0), half / half.sum(-1, keepdim=True))
    null = torch.zeros((), dtype=torch.float64)
    assert float(weights(500.0, 1.0, 0.0, null).max()) < 1e-100
    if method != "streamed":
        trust = KeyTrust(*(torch.tensor([[x]], dtype=torch.float64) for x in (-500.0, 1.0, 0.0)))
        evenly = angular_attention(*tensors, trust=trust, method=method, scale=3.0)
        assert evenly.weights is not None
        assert paper.weights is not None
        within = paper.weights / paper.key_weights[..., None]
        torch.testing.assert_close(evenly.weights * KEYS, within)


@pytest.mark.parametrize("method", METHODS)
def test_joint_equivariance(
    method: Method, tensors: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
) -> None:
    """Eq. 8: each image of a set turned by an angle of its own."""
    keys, values = tensors[1:]
    shifts = torch.randint(ANGLES, (SETS, KEYS), generator=generator)

    def turned(z: Tensor) -> Tensor:
        rows = [z[s, k].roll(int(shifts[s, k]), -1) for s in range(SETS) for k in range(KEYS)]
        return torch.stack(rows).unflatten(0, (SETS, KEYS))

    before = angular_attention(keys, keys, values, method=method, scale=3.0, block=3)
    after = angular_attention(turned(keys), turned(keys), turned(values), method=method, scale=3.0, block=3)
    torch.testing.assert_close(after.output, turned(before.output), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_permutation_equivariance(
    method: Method, tensors: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
) -> None:
    keys, values = tensors[1:]
    order = torch.randperm(KEYS, generator=generator)
    before = angular_attention(keys, keys, values, method=method, block=2)
    after = angular_attention(keys[:, order], keys[:, order], values[:, order], method=method, block=2)
    torch.testing.assert_close(after.output, before.output[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_weights_sum_to_one_with_the_null(method: Method, tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    """With the value one, the output is the sum of the weights."""
    query, key, _ = tensors
    ones = torch.ones(SETS, KEYS, 1, 1, ANGLES, dtype=torch.float64)
    null = torch.tensor(0.5, dtype=torch.float64)
    found = angular_attention(query, key, ones, null_logit=null, method=method, block=3)
    total = found.output.mean((2, 3, 4)) + found.null_weight
    torch.testing.assert_close(total, torch.ones_like(total))
    assert bool((found.null_weight > 0).all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("null", [None, 0.0])
def test_a_query_with_no_allowed_key_gets_zeros(
    method: Method, null: float | None, tensors: tuple[Tensor, Tensor, Tensor]
) -> None:
    mask = torch.ones(SETS, QUERIES, KEYS, dtype=torch.bool)
    mask[0, 3] = False
    logit = None if null is None else torch.tensor(null, dtype=torch.float64)
    inputs = [z.clone().requires_grad_() for z in tensors]
    found = angular_attention(*inputs, mask=mask, null_logit=logit, method=method, block=3)
    assert not found.output[0, 3].any()
    assert found.output[0, 2].any()
    assert float(found.null_weight[0, 3].detach()) == (0 if null is None else 1)
    for gradient in torch.autograd.grad(found.output.square().sum(), inputs):
        assert bool(gradient.isfinite().all())
    assert found.output.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_masked_keys_have_no_say(method: Method, tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, value = tensors
    mask = torch.ones(SETS, 1, KEYS, dtype=torch.bool)
    mask[:, :, 4] = False
    before = angular_attention(query, key, value, mask=mask, method=method, block=3).output
    key, value = key.clone(), value.clone()
    key[:, 4] += 1e3
    value[:, 4] -= 1e3
    after = angular_attention(query, key, value, mask=mask, method=method, block=3).output
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_huge_scores_do_not_overflow(method: Method, tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, value = (z.float() for z in tensors)
    for factor in (1e4, -1e4):
        found = angular_attention(
            factor * query, key, value, null_logit=torch.tensor(0.0), scale=1.0, method=method, block=3
        )
        assert bool(found.output.isfinite().all())
        assert bool(found.null_weight.isfinite().all())


def matchable(polar: Tensor) -> Tensor:
    """Polar images (k, n, m) as one set of keys of length one, so that a copy is the best match."""
    return (polar / polar.square().sum((1, 2), keepdim=True).sqrt())[None, :, None]


def test_finds_the_rotation_of_a_turned_copy(smooth: Callable[..., Tensor], error: Error) -> None:
    """From images, not rolled arrays: the best key is the copy, at the angle it was turned by."""
    polar = PolarTransform(PolarGrid.compact(32), dtype=torch.float64)
    angles = polar.grid.n_angles
    keys = matchable(polar(smooth(32, n=6)))
    for steps in (0, 5, 31):
        turned = matchable(polar(smooth(32, n=6, angle=2 * math.pi * steps / angles)))
        found = angular_attention(turned, keys, keys, scale=1e3)
        assert found.weights is not None
        best = found.weights[0].flatten(1).argmax(-1)
        assert best.tolist() == [k * angles + steps for k in range(6)]
        # The values come turned into the query's frame.
        assert error(found.output, turned) < 1e-3


def test_mirrored_keys_find_a_mirrored_copy(smooth: Callable[..., Tensor], error: Error) -> None:
    polar = PolarTransform(PolarGrid.compact(32), dtype=torch.float64)
    angles = polar.grid.n_angles
    images = smooth(32, n=4)
    images[:, 0] = 0  # has no mirror image on an even grid
    flipped = torch.zeros_like(images)
    flipped[:, 1:] = images[:, 1:].flip(1)  # y to -y
    torch.testing.assert_close(mirrored(polar(images)), polar(flipped), rtol=0, atol=1e-7)
    keys, turned = matchable(polar(images)), matchable(polar(flipped)).roll(7, -1)
    found = angular_attention(turned, keys, keys, scale=1e3, mirror=True)
    assert found.weights is not None
    assert found.weights.shape == (1, 4, 8, angles)
    best = found.weights[0].flatten(1).argmax(-1)
    assert best.tolist() == [(4 + k) * angles + 7 for k in range(4)]
    assert error(found.output, turned) < 1e-3
    # The images are chiral: without mirrored keys nothing fits as well.
    assert error(angular_attention(turned, keys, keys, scale=1e3).output, turned) > 0.1


@pytest.mark.parametrize("method", ["fft", "streamed"])
def test_gradcheck(method: Method, generator: torch.Generator) -> None:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    mask = torch.tensor([[True, True, False], [False, True, True]])

    def call(query: Tensor, key: Tensor, value: Tensor, null: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        found = angular_attention(
            query, key, value, mask=mask, null_logit=null, scale=scale, mirror=True, method=method, block=2
        )
        return found.output, found.null_weight

    inputs = draw(1, 2, 2, 2, 4), draw(1, 3, 2, 2, 4), draw(1, 3, 1, 2, 4), draw(), draw()
    assert torch.autograd.gradcheck(call, inputs)


def test_gradients_of_the_forms_agree(tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    def gradients(method: Method) -> tuple[Tensor, ...]:
        inputs = [z.clone().requires_grad_() for z in tensors]
        found = angular_attention(*inputs, method=method, block=3)
        return torch.autograd.grad(found.output.pow(3).sum(), inputs)

    for fast, streamed, direct in zip(*(gradients(m) for m in ("fft", "streamed", "direct")), strict=True):
        torch.testing.assert_close(fast, direct, rtol=0, atol=1e-10)
        torch.testing.assert_close(streamed, direct, rtol=0, atol=1e-10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_gpu_agrees_with_cpu(method: Method, tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    here = angular_attention(*tensors, method=method, block=3)
    there = angular_attention(*(z.cuda() for z in tensors), method=method, block=3)
    torch.testing.assert_close(there.output.cpu(), here.output, rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [6, 7])
def test_gradient_of_the_real_transform(length: int) -> None:
    """The hand-written backward pass is the transform's derivative."""
    signal = torch.randn(2, length, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(attention._rfft, (signal,))

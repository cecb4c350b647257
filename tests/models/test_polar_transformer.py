from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from polarice.models import PolarTransformer, PolarTransformerConfig

SMALL = PolarTransformerConfig(
    box=32, widths=(4, 8, 8), coarse_widths=(4, 8), match_channels=3, coarse_rounds=2, embedding=8
)


@pytest.fixture(scope="module")
def model(stir: Callable[[nn.Module], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return stir(PolarTransformer(SMALL))


def test_shapes_and_finite_gradients(images: Tensor) -> None:
    torch.manual_seed(0)
    model = PolarTransformer(SMALL)
    out = model(images)
    assert out.images.shape == images.shape
    assert [result.weights.shape for result in out.attention] == [(2, 4, 4, 24)] * 2 + [(2, 4, 4, 48)] * 2
    assert out.embedding.shape == (2, 4, 8)
    torch.testing.assert_close(out.embedding.norm(dim=-1), torch.ones(2, 4))
    assert bool(((out.confidence >= 0) & (out.confidence <= 1)).all())
    (out.images.square().sum() + out.embedding[..., 0].sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert parameter.grad.any(), name


def test_default_has_the_published_shape() -> None:
    model = PolarTransformer()
    assert model.box == 64
    assert len(model.rounds) == 5
    with torch.no_grad():
        assert model(torch.zeros(1, 2, 64, 64)).images.shape == (1, 2, 64, 64)


def test_one_round_is_refused() -> None:
    with pytest.raises(ValueError, match="a round of attention at either"):
        PolarTransformer(PolarTransformerConfig(coarse_rounds=0))


@pytest.mark.parametrize("turned_one", [0, 2])
def test_each_image_may_turn_alone(
    turned_one: int, model: nn.Module, images: Tensor, turn: Callable[[Tensor], Tensor]
) -> None:
    """Turn one image of a set: its output turns with it, the others' outputs stay."""
    rotated = images.clone()
    rotated[:, turned_one] = turn(images[:, turned_one])
    with torch.no_grad():
        before, after = model(images), model(rotated)
    expected = before.images.clone()
    expected[:, turned_one] = turn(before.images[:, turned_one])
    difference, inside = after.images - expected, before.images[..., 1:, 1:]
    assert float(difference[..., 1:, 1:].square().sum()) < 1e-8 * float(inside.square().sum())
    # It did turn, and the outputs are not trivial.
    assert float((after.images - before.images)[:, turned_one].square().sum()) > 0.1 * float(
        before.images[:, turned_one].square().sum()
    )
    torch.testing.assert_close(after.embedding, before.embedding, rtol=0, atol=1e-5)


def test_permutation_of_the_set(model: nn.Module, images: Tensor) -> None:
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        before, after = model(images), model(images[:, order])
    torch.testing.assert_close(after.images, before.images[:, order], rtol=0, atol=1e-4)
    torch.testing.assert_close(after.embedding, before.embedding[:, order], rtol=0, atol=1e-5)


def test_a_masked_image_cannot_change_the_others_by_one_bit(model: nn.Module, images: Tensor) -> None:
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    mask[:, :3, 3] = False
    other = images.clone()
    other[:, 3] = 5 * other[:, 3].flip(-1) + 1
    with torch.no_grad():
        before, after, free = model(images, mask), model(other, mask), model(other)
    assert torch.equal(after.images[:, :3], before.images[:, :3])
    assert torch.equal(after.confidence[:, :3], before.confidence[:, :3])
    assert not torch.equal(after.images[:, 3], before.images[:, 3])
    # Without the mask it does have a say.
    assert not torch.equal(free.images[:, :3], after.images[:, :3])


def test_half_sets_do_not_mix(model: nn.Module, images: Tensor) -> None:
    """A mask of two blocks gives what the two halves give alone."""
    half = torch.tensor([0, 0, 1, 1])
    mask = (half[:, None] == half[None])[None]
    with torch.no_grad():
        together = model(images, mask).images
        for part in (slice(0, 2), slice(2, 4)):
            alone = model(images[:, part]).images
            torch.testing.assert_close(together[:, part], alone, rtol=0, atol=1e-4)


def test_sets_of_a_batch_do_not_mix(model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        alone = model(images[1:]).images
        torch.testing.assert_close(model(images).images[1:], alone, rtol=0, atol=1e-4)


def test_set_of_one_image(model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        out = model(images[:, :1])
    assert bool(out.images.isfinite().all())
    assert not out.confidence.any()
    # Which is what an image gets that may use nobody.
    with torch.no_grad():
        lonely = model(images, torch.zeros(1, 4, 4, dtype=torch.bool)).images
    torch.testing.assert_close(lonely[:, :1], out.images, rtol=0, atol=1e-4)


def test_an_image_never_attends_to_itself(model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        for result in model(images).attention:
            assert result.weights is not None
            assert not result.weights.diagonal(dim1=1, dim2=2).any()


def test_parts_make_the_whole(model: nn.Module, images: Tensor) -> None:
    """`encode`, `attend` and `decode` are what `forward` does."""
    assert isinstance(model, PolarTransformer)
    others = ~torch.eye(4, dtype=torch.bool)[None]
    with torch.no_grad():
        whole = model(images)
        state, _ = model.encode(images.flatten(0, 1))
        state = type(state)(*(part.unflatten(0, (2, 4)) for part in state))
        for index in range(len(model.rounds)):
            state, aligned, _ = model.attend(index, state, model.offer(index, state), others)
        torch.testing.assert_close(model.decode(state, aligned), whole.images, rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_cpu(images: Tensor) -> None:
    torch.manual_seed(0)
    model = PolarTransformer(SMALL).eval()
    with torch.no_grad():
        here = model(images).images
        there = model.cuda()(images.cuda()).images.cpu()
    torch.testing.assert_close(there, here, rtol=0, atol=1e-2 * float(here.std()))

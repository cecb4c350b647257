from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from polarice.models import PaperConfig, PaperPolarCNN, PaperPolarTransformer
from polarice.polar import AngularConv

SMALL = PaperConfig(box=16, depth=3, before=1, match=2, after=1)


def layer_sizes(part: nn.Module) -> list[int]:
    return [layer.weight.numel() for layer in part.modules() if isinstance(layer, AngularConv)]


def test_polar_cnn_has_25_layers_of_102400_weights() -> None:
    """N · C² · 5² at N = 64, C = 8: "width 5" read as a full width."""
    sizes = layer_sizes(PaperPolarCNN().stack)
    assert len(sizes) == 25
    assert sizes == [12_800] + 24 * [102_400]


def test_polar_transformer_has_5_17_and_9_layers() -> None:
    model = PaperPolarTransformer()
    assert layer_sizes(model.before) == [12_800] + 4 * [102_400]
    assert layer_sizes(model.match) == [204_800] + 16 * [409_600]
    assert layer_sizes(model.after) == 9 * [102_400]


def test_half_width_five_is_the_other_reading() -> None:
    """11² instead of 5² weights: 495,616 a layer."""
    assert layer_sizes(PaperPolarCNN(PaperConfig(half_width=5, depth=2)).stack)[1] == 495_616


@pytest.fixture
def small_images(generator: torch.Generator) -> Tensor:
    images = torch.zeros(1, 3, 16, 16)
    images[..., 1:, 1:] = torch.randn(1, 3, 15, 15, generator=generator)
    return images


def _denoised(model: PaperPolarCNN | PaperPolarTransformer, images: Tensor) -> Tensor:
    output = model(images)
    return output if isinstance(output, Tensor) else output.images


@pytest.mark.parametrize("network", [PaperPolarCNN, PaperPolarTransformer])
def test_shapes_gradients_and_quarter_turns(
    network: type[PaperPolarCNN | PaperPolarTransformer],
    small_images: Tensor,
    turn: Callable[[Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model = network(SMALL)
    assert model.box == 16
    images = small_images if network is PaperPolarTransformer else small_images[0]
    out = _denoised(model, images)
    assert out.shape == images.shape
    out.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
    rotated = images.clone()
    rotated[..., 1, :, :] = turn(images[..., 1, :, :])
    with torch.no_grad():
        before, after = _denoised(model, images), _denoised(model, rotated)
    expected = before.clone()
    expected[..., 1, :, :] = turn(before[..., 1, :, :])
    # Row and column 0 of the box have no partner; the deconvolution carries that inwards, and it dies out.
    for margin, limit in ((1, 1e-2), (3, 3e-4), (5, 1e-5)):
        inside = (..., slice(margin, 17 - margin), slice(margin, 17 - margin))
        difference = (after - expected)[inside]
        assert float(difference.square().sum()) < limit * float(before[inside].square().sum())


def test_mask_isolates(small_images: Tensor) -> None:
    torch.manual_seed(0)
    model = PaperPolarTransformer(SMALL)
    mask = torch.ones(1, 3, 3, dtype=torch.bool)
    mask[:, :2, 2] = False
    other = small_images.clone()
    other[:, 2] += 1
    with torch.no_grad():
        before, after = model(small_images, mask).images, model(other, mask).images
    assert torch.equal(before[:, :2], after[:, :2])

"""The networks that look at one image at a time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from polarice.models import DnCNN, DnCNNConfig, PolarCNN, PolarCNNConfig, UNet, UNetConfig

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "polar-cnn": lambda: PolarCNN(PolarCNNConfig(box=32, widths=(4, 8, 8))),
    "unet": lambda: UNet(UNetConfig(box=32, widths=(4, 8))),
    "dncnn": lambda: DnCNN(DnCNNConfig(box=32, depth=4, width=8)),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_shapes_and_finite_gradients(name: str, images: Tensor) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    assert model.jointly is False
    assert model.box == 32
    out = model(images[0])
    assert out.shape == images[0].shape
    assert out.dtype == torch.float32
    out.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.isfinite().all()), parameter_name


@pytest.mark.parametrize("name", list(NETWORKS))
def test_each_image_alone(name: str, images: Tensor, stir: Callable[[nn.Module], nn.Module]) -> None:
    model = stir(NETWORKS[name]())
    with torch.no_grad():
        together = model(images[0])
        alone = torch.cat([model(image[None]) for image in images[0]])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_polar_cnn_turns_with_its_image(
    images: Tensor, turn: Callable[[Tensor], Tensor], stir: Callable[[nn.Module], nn.Module]
) -> None:
    model = stir(NETWORKS["polar-cnn"]())
    with torch.no_grad():
        before, after = model(images[0]), model(turn(images[0]))
    difference = (after - turn(before))[..., 1:, 1:]
    assert float(difference.square().sum()) < 1e-8 * float(before.square().sum())


def test_pixel_networks_move_with_their_image(images: Tensor, stir: Callable[[nn.Module], nn.Module]) -> None:
    """A shift by whole pooling steps, seen where the border is far."""
    for name in ("unet", "dncnn"):
        model = stir(NETWORKS[name]())
        small = torch.zeros(1, 32, 32)
        small[0, 14:18, 14:18] = images[0, 0, 14:18, 14:18]
        with torch.no_grad():
            before, after = model(small), model(small.roll(2, -1))
        if name == "unet":
            # Group normalisation sees the whole image, which has only moved.
            inner = slice(10, 22)
            torch.testing.assert_close(
                after[:, inner, 12:24], before[:, inner, 10:22], rtol=0, atol=0.05 * float(before.std())
            )
        else:
            # The grey scale sees the whole image, borders included.
            torch.testing.assert_close(after[:, 8:24, 10:26], before[:, 8:24, 8:24], rtol=1e-2, atol=1e-5)


def test_unet_of_a_small_box(generator: torch.Generator) -> None:
    """Sixteen pixels have no frequency in the last bands of the grey-scale head."""
    out = UNet(UNetConfig(box=16, widths=(4, 8)))(torch.randn(2, 16, 16, generator=generator))
    assert bool(out.isfinite().all())


def test_published_sizes() -> None:
    """Topaz's five poolings of 48 channels; DnCNN's seventeen layers of 64, 0.56 M parameters."""
    unet = UNetConfig.paper()
    assert unet.widths == (48,) * 6
    UNet(unet)
    dncnn = DnCNN(DnCNNConfig.paper())
    convolutions = [layer for layer in dncnn.layers if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 17
    assert sum(layer.weight.numel() for layer in convolutions) == 15 * 64 * 64 * 9 + 3 * 64 * 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNet(UNetConfig(box=36, widths=(4, 4, 4, 4))), "a box of 36 cannot be halved 3 times"),
        (lambda: PolarCNN(PolarCNNConfig(box=36, widths=(4, 4, 4))), "18 radii cannot be halved 2 times"),
        (lambda: PolarCNN(PolarCNNConfig(box=32, grid="fine")), "unknown polar grid 'fine'"),
    ],
)
def test_shapes_that_cannot_work_are_refused_at_once(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from polarice.denoising import NetworkDenoiser, SetDenoiser
from polarice.errors import DeviceError, ModelError
from polarice.models import PolarTransformer, UNet, UNetConfig


def blobs(angle_deg: float, box: int = 32) -> Tensor:
    """Round Gaussians without symmetry, turned about the origin pixel from x towards y; (y, x)."""
    places = torch.tensor([[6.0, 1.0], [-3.0, 5.0], [-2.0, -7.0], [9.0, -4.0]], dtype=torch.float64)
    heights = torch.tensor([3.0, 5.0, 4.0, 2.0], dtype=torch.float64)
    angle = math.radians(angle_deg)
    x = math.cos(angle) * places[:, 0] - math.sin(angle) * places[:, 1]
    y = math.sin(angle) * places[:, 0] + math.cos(angle) * places[:, 1]
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    gauss_x = torch.exp(-((axis - x[:, None]) ** 2) / 8)
    gauss_y = torch.exp(-((axis - y[:, None]) ** 2) / 8)
    return torch.einsum("n,ny,nx->yx", heights, gauss_y, gauss_x).float()


@pytest.mark.parametrize(
    ("turn_deg", "within_deg"),
    [(0.0, 0.3), (15.0, 0.3), (90.0, 0.3), (-105.0, 0.3), (180.0, 0.3), (-37.5, 7.5), (101.0, 7.5)],
)
def test_angle_lays_the_other_image_upon_this_one(
    tiny_network: PolarTransformer, turn_deg: float, within_deg: float
) -> None:
    """The second image is the first one turned.

    Random features turn exactly with the image by whole steps of the coarsest level, 15 degrees here.
    """
    images = torch.stack([blobs(20), blobs(20 + turn_deg)])[None]
    found = SetDenoiser(tiny_network, "cpu")(images).angles_deg[0]
    for angle, expected in ((found[1, 0], turn_deg), (found[0, 1], -turn_deg)):
        assert float((angle - expected + 180) % 360 - 180) == pytest.approx(0, abs=within_deg)


def test_set_result(tiny_network: PolarTransformer) -> None:
    images = torch.randn(2, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 5, 5, dtype=torch.bool)
    mask[1, 0] = False
    result = SetDenoiser(tiny_network, "cpu")(images, mask)
    assert result.images.shape == (2, 5, 32, 32)
    assert result.attention.shape == (2, 5, 5, 48)
    assert result.angles_deg.shape == (2, 5, 5)
    torch.testing.assert_close(result.weights, result.attention.sum(-1))
    torch.testing.assert_close(result.weights.sum(-1), result.confidence, rtol=0, atol=1e-5)
    assert not result.weights.diagonal(dim1=1, dim2=2).any()
    # Who may use nobody is denoised alone.
    assert float(result.confidence[1, 0]) == 0
    assert float(result.confidence.sum()) > 0.01
    assert not result.images.requires_grad


def test_weights_files_and_networks_are_alike(joint_weights: Path, tiny_network: PolarTransformer) -> None:
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    from_file, given = SetDenoiser(joint_weights, "cpu"), SetDenoiser(tiny_network, "cpu")
    assert from_file.box == given.box == 32
    assert torch.equal(from_file(images).images, given(images).images)


def test_network_denoiser_is_the_network(single_weights: Path) -> None:
    torch.manual_seed(0)
    network = UNet(UNetConfig(box=32, widths=(4, 8)))
    images = torch.randn(3, 32, 32)
    denoiser = NetworkDenoiser(network, "cpu")
    assert denoiser.box == 32
    found = denoiser(images)
    with torch.no_grad():
        assert torch.equal(found, network(images))
    assert not found.requires_grad
    assert NetworkDenoiser(single_weights, "cpu")(images).shape == (3, 32, 32)


def test_the_wrong_kind_of_network_is_refused(
    tiny_network: PolarTransformer, joint_weights: Path, single_weights: Path
) -> None:
    for joint in (tiny_network, joint_weights):
        with pytest.raises(ModelError, match="SetDenoiser"):
            NetworkDenoiser(joint, "cpu")
    with pytest.raises(ModelError, match="NetworkDenoiser"):
        SetDenoiser(single_weights, "cpu")


def test_unknown_model_and_absent_device(tiny_network: PolarTransformer) -> None:
    with pytest.raises(ModelError, match="no-such-model"):
        SetDenoiser("no-such-model", "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="cuda"):
            SetDenoiser(tiny_network, "cuda")

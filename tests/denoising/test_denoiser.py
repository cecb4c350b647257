import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.denoising import NetworkDenoiser, SetDenoiser, in_plane_angles_deg
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


def parabola(peak_deg: float, angles: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A parabola about an angle, on the circle."""
    distance = torch.arange(angles, dtype=dtype) * 360 / angles - peak_deg
    return 1 - ((distance + 180) % 360 - 180).square() / 180**2


@pytest.mark.parametrize("angles", [48, 96])
@pytest.mark.parametrize(
    "peak_deg", [0.0, 1.0, -1.0, 3.7, 30.0, 89.9, -90.0, 176.3, 178.2, 179.9, -179.9, -178.1, -176.0]
)
def test_peak_of_a_parabola_is_exact(angles: int, peak_deg: float) -> None:
    found = float(in_plane_angles_deg(parabola(peak_deg, angles)))
    assert -180 <= found < 180
    assert (found - peak_deg + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)


def test_half_a_turn_is_minus_180() -> None:
    assert float(in_plane_angles_deg(parabola(180, 48))) == -180


def test_smooth_peaks_between_the_samples() -> None:
    """A von Mises peak of 20 degrees on 48 angles, all over the circle and in batches."""
    true = torch.linspace(-180, 179, 360, dtype=torch.float64)
    grid = torch.arange(48, dtype=torch.float64) * 7.5
    weights = torch.exp(8 * torch.cos(torch.deg2rad(grid - true[:, None]))).reshape(6, 60, 48)
    found = in_plane_angles_deg(weights)
    assert found.shape == (6, 60)
    error = (found.flatten() - true + 180) % 360 - 180
    assert float(error.abs().max()) < 0.1


def test_flat_coefficients_have_some_angle() -> None:
    """As those of a masked pair."""
    assert float(in_plane_angles_deg(torch.zeros(48))) == 0
    assert bool(in_plane_angles_deg(torch.full((3, 48), 0.25)).isfinite().all())


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


def test_angles_agree_with_numpy() -> None:
    """The same by another road: the vertex of the parabola through three points, fitted by numpy."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = np.convolve(rng.random(52), np.ones(5), "valid")
        peak = int(values.argmax())
        a, b, _ = np.polyfit([-1, 0, 1], values[[(peak - 1) % 48, peak, (peak + 1) % 48]], 2)
        expected = (peak - b / (2 * a)) * 7.5
        found = float(in_plane_angles_deg(torch.from_numpy(values)))
        assert (found - expected + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)

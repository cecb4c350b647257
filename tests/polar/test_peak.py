import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.polar import peak_angles_deg


def parabola(peak_deg: float, angles: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A parabola about an angle, on the circle."""
    distance = torch.arange(angles, dtype=dtype) * 360 / angles - peak_deg
    return 1 - ((distance + 180) % 360 - 180).square() / 180**2


@pytest.mark.parametrize("angles", [48, 96])
@pytest.mark.parametrize(
    "peak_deg", [0.0, 1.0, -1.0, 3.7, 30.0, 89.9, -90.0, 176.3, 178.2, 179.9, -179.9, -178.1, -176.0]
)
def test_peak_of_a_parabola_is_exact(angles: int, peak_deg: float) -> None:
    found = float(peak_angles_deg(parabola(peak_deg, angles)))
    assert -180 <= found < 180
    assert (found - peak_deg + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)


def test_half_a_turn_is_minus_180() -> None:
    assert float(peak_angles_deg(parabola(180, 48))) == -180


def test_smooth_peaks_between_the_samples() -> None:
    """A von Mises peak of 20 degrees on 48 angles, all over the circle and in batches."""
    true = torch.linspace(-180, 179, 360, dtype=torch.float64)
    grid = torch.arange(48, dtype=torch.float64) * 7.5
    weights = torch.exp(8 * torch.cos(torch.deg2rad(grid - true[:, None]))).reshape(6, 60, 48)
    found = peak_angles_deg(weights)
    assert found.shape == (6, 60)
    error = (found.flatten() - true + 180) % 360 - 180
    assert float(error.abs().max()) < 0.1


def test_flat_coefficients_have_some_angle() -> None:
    """As those of a masked pair."""
    assert float(peak_angles_deg(torch.zeros(48))) == 0
    assert bool(peak_angles_deg(torch.full((3, 48), 0.25)).isfinite().all())


def test_angles_agree_with_numpy() -> None:
    """The same by another road: the vertex of the parabola through three points, fitted by numpy."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = np.convolve(rng.random(52), np.ones(5), "valid")
        peak = int(values.argmax())
        a, b, _ = np.polyfit([-1, 0, 1], values[[(peak - 1) % 48, peak, (peak + 1) % 48]], 2)
        expected = (peak - b / (2 * a)) * 7.5
        found = float(peak_angles_deg(torch.from_numpy(values)))
        assert (found - expected + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)

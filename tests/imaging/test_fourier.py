import math

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.imaging import (
    filter_images,
    fourier_resample,
    frequency_grid,
    radius_grid,
    shift_images,
    shift_phases,
    soft_disc,
)


def gaussian(box: int, x: float, y: float, sigma: float, scale: float = 1.0) -> Tensor:
    """Gaussian at (x, y) from the origin, sampled every ``1 / scale``."""
    axis = (torch.arange(box, dtype=torch.float64) - box // 2) / scale
    return torch.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * sigma**2))


def test_frequencies_are_those_of_numpy() -> None:
    for box in (6, 7):
        fy, fx = frequency_grid(box, dtype=torch.float64)
        np.testing.assert_array_equal(fy[:, 0], np.fft.fftfreq(box))
        np.testing.assert_array_equal(fx[0], np.fft.rfftfreq(box))


@pytest.mark.parametrize("box", [64, 65])
@pytest.mark.parametrize("shift", [(3.0, 0.0), (0.0, -2.0), (1.37, -4.81)])
def test_shift_moves_a_gaussian(box: int, shift: tuple[float, float]) -> None:
    moved = shift_images(gaussian(box, 1.5, -2.0, 3.0), torch.tensor(shift, dtype=torch.float64))
    torch.testing.assert_close(moved, gaussian(box, 1.5 + shift[0], -2.0 + shift[1], 3.0), atol=1e-9, rtol=0)


@pytest.mark.parametrize("box", [8, 9])
def test_whole_pixel_shift_of_noise_is_a_roll(box: int, generator: torch.Generator) -> None:
    noise = torch.randn(2, box, box, generator=generator, dtype=torch.float64)
    moved = shift_images(noise, torch.tensor([[2.0, 1.0], [-3.0, 0.0]]))
    torch.testing.assert_close(moved[0], noise[0].roll((1, 2), (0, 1)))
    torch.testing.assert_close(moved[1], noise[1].roll(-3, 1))


def test_half_pixel_shift_at_nyquist_keeps_the_cosine() -> None:
    stripes = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4).expand(8, 8)
    assert shift_images(stripes, torch.tensor([0.5, 0.0])).abs().max() < 1e-12
    moved = shift_images(stripes, torch.tensor([0.25, 0.0]))
    torch.testing.assert_close(moved, stripes * math.cos(math.pi / 4))


def test_phases_are_broadcast_and_unit() -> None:
    ramp = shift_phases(7, torch.zeros(2, 3, 2))
    assert ramp.shape == (2, 3, 7, 4)
    torch.testing.assert_close(ramp, torch.ones_like(ramp))


@pytest.mark.parametrize(("big", "small"), [(64, 40), (64, 41), (65, 40), (65, 41), (96, 48)])
def test_resample_of_a_gaussian_both_ways(big: int, small: int) -> None:
    """The closed form is sampled on either grid; the origin stays the pixel ``L // 2``."""
    fine = gaussian(big, 3.0, -5.0, 4.0)
    coarse = gaussian(small, 3.0, -5.0, 4.0, scale=small / big)
    torch.testing.assert_close(fourier_resample(fine, small), coarse, atol=1e-5, rtol=0)
    torch.testing.assert_close(fourier_resample(coarse, big), fine, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("small", "big"), [(8, 9), (8, 12), (9, 12), (9, 15), (8, 16), (9, 18)])
def test_up_and_down_again_loses_nothing_below_nyquist(
    small: int, big: int, generator: torch.Generator
) -> None:
    noise = torch.randn(2, small, small, generator=generator, dtype=torch.float64)
    spectrum = torch.fft.fft2(noise)
    if small % 2 == 0:
        spectrum[:, small // 2, :] = 0
        spectrum[:, :, small // 2] = 0
    smooth = torch.fft.ifft2(spectrum).real
    torch.testing.assert_close(fourier_resample(fourier_resample(smooth, big), small), smooth)


@pytest.mark.parametrize(("small", "factor"), [(8, 2), (8, 3), (9, 3), (6, 4)])
def test_interpolation_keeps_the_samples(small: int, factor: int, generator: torch.Generator) -> None:
    """Nyquist rows, columns and corners included: what is put between must not move what was there."""
    noise = torch.randn(small, small, generator=generator, dtype=torch.float64)
    fine = fourier_resample(noise, small * factor)
    start = (small * factor) // 2 - small // 2 * factor
    torch.testing.assert_close(fine[start::factor, start::factor], noise)


def test_resample_keeps_constants_and_scales_noise(generator: torch.Generator) -> None:
    torch.testing.assert_close(fourier_resample(torch.full((3, 12, 12), 2.5), 8), torch.full((3, 8, 8), 2.5))
    noise = torch.randn(200, 64, 64, generator=generator)
    for box in (32, 31):
        variance = float(fourier_resample(noise, box).var())
        # An even box shares its lone Nyquist row and column between two frequencies each.
        assert variance == pytest.approx((box / 64) ** 2, rel=0.05)
    assert fourier_resample(noise, 64) is noise


def test_filter_of_a_gaussian_by_a_gaussian() -> None:
    box, sigma, blur = 64, 3.0, 2.0
    fy, fx = frequency_grid(box, dtype=torch.float64)
    transfer = torch.exp(-2 * math.pi**2 * blur**2 * (fx**2 + fy**2))
    wide = math.hypot(sigma, blur)
    expected = gaussian(box, 1.0, 2.0, wide) * (sigma / wide) ** 2
    torch.testing.assert_close(
        filter_images(gaussian(box, 1.0, 2.0, sigma), transfer), expected, atol=1e-9, rtol=0
    )


def test_radius_and_disc() -> None:
    for box in (16, 17):
        radius = radius_grid(box)
        assert radius[box // 2, box // 2] == 0
        assert radius[box // 2 + 4, box // 2 - 3] == 5
    disc = soft_disc(65, 20.0, 6.0, dtype=torch.float64)
    radius = radius_grid(65, dtype=torch.float64)
    assert bool((disc[radius <= 14] == 1).all())
    assert bool((disc[radius >= 20] == 0).all())
    assert float(disc[32, 32 + 17]) == pytest.approx(0.5)
    hard = soft_disc(65, 20.0, 0.0)
    assert set(hard.unique().tolist()) <= {0.0, 1.0}

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from polarice.evaluation.metrics import (
    best_linear_scale,
    fourier_ring_correlation,
    frc_resolution_A,
    psnr,
    radial_power,
    relative_mse,
    relative_mse_per_image,
    ring_products,
    shell_gain,
    ssim,
)
from polarice.imaging import filter_images, frequency_grid
from polarice.particles import ParticleStack


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_relative_mse_closed_forms() -> None:
    truth = noise(0, 4, 16, 16)
    assert relative_mse(truth, truth) == 0
    assert relative_mse(torch.zeros_like(truth), truth) == 1
    assert relative_mse(1.5 * truth, truth).item() == pytest.approx(0.25)
    torch.testing.assert_close(relative_mse_per_image(0.9 * truth, truth), torch.full((4,), 0.01).double())


def test_relative_mse_weighs_images_by_their_energy() -> None:
    truth = torch.stack([torch.ones(8, 8), 3 * torch.ones(8, 8)])
    estimate = torch.stack([torch.zeros(8, 8), 3 * torch.ones(8, 8)])
    assert relative_mse(estimate, truth).item() == pytest.approx(0.1)
    assert relative_mse_per_image(estimate, truth).tolist() == [1, 0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100), delta=st.floats(-0.5, 0.5))
def test_no_other_scale_is_better(seed: int, scale: float, delta: float) -> None:
    truth = noise(seed, 2, 12, 12)
    estimate = scale * (truth + noise(seed + 1, 2, 12, 12))
    best = best_linear_scale(estimate, truth)
    assert relative_mse(best * estimate, truth) <= relative_mse(best * (1 + delta) * estimate, truth) + 1e-12
    assert best_linear_scale(scale * truth, truth).item() == pytest.approx(1 / scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_psnr_and_ssim_agree_with_skimage(dtype: torch.dtype) -> None:
    truth = torch.nn.functional.avg_pool2d(noise(1, 5, 44, 37), 5, 1)
    estimate = truth + 0.1 * noise(2, *truth.shape)
    span = float(truth.max() - truth.min())
    ours_psnr = psnr(estimate.to(dtype), truth.to(dtype), span)
    ours_ssim = ssim(estimate.to(dtype), truth.to(dtype), span)
    assert ours_psnr.shape == ours_ssim.shape == (5,)
    for i in range(5):
        a, b = truth[i].numpy(), estimate[i].numpy()
        theirs = structural_similarity(
            a, b, data_range=span, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ours_ssim[i].item() == pytest.approx(theirs, abs=1e-10 if dtype == torch.float64 else 2e-5)
        assert ours_psnr[i].item() == pytest.approx(peak_signal_noise_ratio(a, b, data_range=span), abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100))
def test_ssim_is_symmetric_bounded_and_free_of_units(seed: int, scale: float) -> None:
    a, b = noise(seed, 2, 16, 16), noise(seed + 1, 2, 16, 16)
    torch.testing.assert_close(ssim(a, a, 4.0), torch.ones(2).double())
    value = ssim(a, b, 4.0)
    assert (value.abs() <= 1).all()
    torch.testing.assert_close(value, ssim(b, a, 4.0))
    torch.testing.assert_close(value, ssim(scale * a, scale * b, 4.0 * scale))


@pytest.mark.parametrize("box", [16, 17])
def test_ring_products_equal_the_slow_sum_over_the_full_spectrum(box: int) -> None:
    a, b = noise(3, 2, box, box).numpy(), noise(4, 2, box, box).numpy()
    frequency = np.fft.fftfreq(box) * box
    ring = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(int)
    product = (np.fft.fft2(a) * np.fft.fft2(b).conj()).real / box**2
    slow = np.stack([product[:, ring == r].sum(-1) for r in range(box // 2 + 1)], -1)
    fast = ring_products(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(fast.numpy(), slow, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), box=st.integers(4, 21), scale=st.floats(0.01, 100))
def test_frc_properties(seed: int, box: int, scale: float) -> None:
    a, b = noise(seed, 3, box, box), noise(seed + 1, 3, box, box)
    frc = fourier_ring_correlation(a, b, pooled=False)
    assert frc.shape == (3, box // 2 + 1)
    assert (frc.abs() <= 1).all()
    torch.testing.assert_close(frc, fourier_ring_correlation(b, scale * a, pooled=False))
    torch.testing.assert_close(fourier_ring_correlation(a, scale * a), torch.ones(box // 2 + 1).double())
    torch.testing.assert_close(fourier_ring_correlation(a[:1], b[:1]), frc[0])


def test_frc_of_signal_and_noise_follows_the_snr() -> None:
    # Two copies of one signal with independent white noise: FRC = SNR / (SNR + 1) in every ring.
    signal = noise(5, 400, 16, 16)
    a, b = signal + noise(6, *signal.shape), signal + noise(7, *signal.shape)
    frc = fourier_ring_correlation(a, b)
    torch.testing.assert_close(frc[1:], torch.full((8,), 0.5).double(), atol=0.05, rtol=0)


def test_empty_rings_give_zero() -> None:
    flat = torch.ones(2, 8, 8)
    assert fourier_ring_correlation(flat, flat).tolist() == [1, 0, 0, 0, 0]
    assert shell_gain(flat, flat).tolist() == [1, 0, 0, 0, 0]


def test_shell_gain_reads_a_filter_back() -> None:
    box = 32
    fy, fx = frequency_grid(box)
    ring = (torch.hypot(fy, fx) * box).round().double()
    truth = noise(8, 4, box, box)
    gain = shell_gain(filter_images(truth, torch.exp(-ring / 7)), truth)
    torch.testing.assert_close(gain, torch.exp(-torch.arange(17).double() / 7))
    assert shell_gain(truth, truth, pooled=False).shape == (4, 17)


@pytest.mark.parametrize("box", [32, 33])
def test_radial_power_of_white_noise_is_its_variance(box: int) -> None:
    power = radial_power(3 * noise(9, 500, box, box, dtype=torch.float32)).mean(0)
    assert power.shape == (box // 2 + 1,)
    torch.testing.assert_close(power[1:], torch.full_like(power[1:], 9.0), rtol=0.08, atol=0)


def test_radial_power_of_a_plane_wave() -> None:
    axis = torch.arange(24, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * 5 * axis / 24).expand(1, 24, 24)
    power = radial_power(wave)[0]
    assert power.argmax() == 5
    assert power[[0, 1, 2, 3, 4, 6, 7]].abs().max() < 1e-12


def test_resolution_where_the_curve_crosses() -> None:
    # 1, 1, 0.75, 0.25: crosses one half midway between rings 2 and 3.
    curve = torch.tensor([1, 1, 0.75, 0.25, 0.0])
    assert frc_resolution_A(curve, 8, 2.0) == pytest.approx(8 * 2 / 2.5)
    assert frc_resolution_A(curve, 8, 2.0, 0.143) == pytest.approx(8 * 2 / (3 + (0.25 - 0.143) / 0.25))
    assert frc_resolution_A(torch.ones(5), 8, 2.0) == pytest.approx(4.0)
    assert frc_resolution_A(torch.tensor([1, 0.1, 0.9, 0.9, 0.9]), 8, 2.0) == math.inf
    # It is the first crossing that counts, and the mean grey value does not.
    assert frc_resolution_A(torch.tensor([0, 1, 0, 1, 1.0]), 8, 2.0) == pytest.approx(8 * 2 / 1.5)


@pytest.mark.data
def test_frc_of_two_exposures_of_real_particles_ends_where_their_signal_does(shared_data: Path) -> None:
    # One movie frame and the sum of the others of apoferritin: independently known to share signal
    # down to 9 to 10 Å and, their noise being independent, nothing beyond 8 Å.
    folder = shared_data / "particles" / "apoferritin"
    pair = [
        torch.from_numpy(ParticleStack.open(folder / f"pair_{name}_64.mrcs").images(slice(None)))
        for name in ("frame", "rest")
    ]
    frc = fourier_ring_correlation(*pair)
    resolution = 64 * 3.0 / torch.arange(33)
    assert frc[(resolution < 100) & (resolution > 25)].min() > 0.1
    assert frc[(resolution < 25) & (resolution > 10)].min() > 0.005
    assert frc[resolution < 8].abs().max() < 0.015
    assert frc[resolution < 8].mean().abs() < 0.005

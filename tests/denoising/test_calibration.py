"""The grey scale measured on the data, against denoisers whose right gain is known."""

import pytest
import torch
from torch import Tensor

from polarice.denoising.calibration import measure_gain
from polarice.imaging import filter_images, frequency_grid, soft_disc


def _particles(n: int, box: int, snr: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Smooth random images, their CTF, the disc, and what a microscope makes of them."""
    generator = torch.Generator().manual_seed(3)
    fy, fx = frequency_grid(box)
    blur = torch.exp(-((fy**2 + fx**2) * 20**2))
    clean = filter_images(torch.randn(n, box, box, generator=generator), blur) * soft_disc(box, box / 3, 4.0)
    clean = clean * (snr / clean.square().mean()).sqrt()
    transfer = torch.sin(0.1 + 40 * (fy**2 + fx**2)).abs().expand(n, -1, -1)
    mask = soft_disc(box, box / 2, 4.0)
    noise = torch.randn(n, box, box, generator=generator)
    return clean, transfer, mask, (filter_images(clean, transfer) + noise) * mask


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_a_scaled_truth_is_brought_back(factor: float) -> None:
    clean, transfer, mask, noisy = _particles(200, 32, 0.1)
    gain, error = measure_gain(lambda images: clean / factor, noisy, transfer, mask)
    assert error < 0.05 * factor
    assert gain == pytest.approx(factor, abs=4 * error)


def test_the_noise_that_a_denoiser_keeps_is_not_taken_for_signal() -> None:
    clean, transfer, mask, noisy = _particles(400, 32, 0.1)
    fy, fx = frequency_grid(32)
    keep = torch.exp(-((fy**2 + fx**2) * 8**2))

    def denoise(images: Tensor) -> Tensor:
        return filter_images(images, keep)

    gain, error = measure_gain(denoise, noisy, transfer, mask)
    prediction = filter_images(denoise(noisy), transfer) * mask
    # What the best factor is if one knows the noise-free images.
    signal = filter_images(clean, transfer) * mask
    best = float((signal * prediction).sum() / prediction.square().sum())
    naive = float((noisy * prediction).sum() / prediction.square().sum())
    assert gain == pytest.approx(best, abs=4 * error)
    assert naive > best + 10 * error


def test_pure_noise_has_no_grey_scale() -> None:
    _, transfer, mask, _ = _particles(100, 32, 0.1)
    noise = torch.randn(100, 32, 32, generator=torch.Generator().manual_seed(1)) * mask
    fy, fx = frequency_grid(32)
    keep = torch.exp(-((fy**2 + fx**2) * 8**2))
    gain, error = measure_gain(lambda images: filter_images(images, keep), noise, transfer, mask)
    assert abs(gain) < 4 * error

"""The error measured on noisy images alone is the true one, for noise of any colour."""

import math

import pytest
import torch
from torch import Tensor

from polarice.imaging import filter_images, frequency_grid, soft_disc
from polarice.training.recorruption import Observation, unexplained

BOX, DRAWS = 8, 40_000


def matrix(operator, box: int = BOX) -> Tensor:
    """The matrix of a linear operator on images, float64."""
    basis = torch.eye(box**2, dtype=torch.float64).view(-1, box, box)
    return operator(basis).flatten(1).T


def half_spectrum(power, box: int = BOX) -> Tensor:
    fy, fx = frequency_grid(box, dtype=torch.float64)
    return power(torch.hypot(fy, fx) * box)


@pytest.mark.parametrize("amount", [0.5, 1.0])
def test_it_is_the_true_error_of_a_linear_denoiser_of_sets(amount: float, generator: torch.Generator) -> None:
    # Two images are denoised from each other and from themselves by any matrix.
    noise, weight = half_spectrum(lambda k: 0.3 + 4 / (1 + k)), half_spectrum(lambda k: 1 / (0.2 + k))
    observation = Observation(
        noise, soft_disc(BOX, 4, 3, dtype=torch.float64), weight, torch.zeros_like(weight)
    )
    pixels = 2 * BOX**2
    filters = 0.05 * torch.randn(pixels, pixels, generator=generator, dtype=torch.float64)
    filters += 0.4 * torch.eye(pixels, dtype=torch.float64)
    ctf = half_spectrum(lambda k: (0.1 + k / 4).sin().abs()).expand(2, -1, -1)
    signal = torch.randn(2, BOX, BOX, generator=generator, dtype=torch.float64) * observation.mask

    def denoise(images: Tensor) -> Tensor:
        return (images.flatten(-3) @ filters.T).view(images.shape)

    white = torch.randn(2, DRAWS, 2, BOX, BOX, generator=generator, dtype=torch.float64)
    images = signal + observation.draw(white[0])
    measured = unexplained(denoise, images, ctf, white[1], observation, amount)

    spread = matrix(lambda x: observation.draw(x))
    weights = matrix(lambda x: filter_images(x, weight)) / BOX**2
    seen = torch.block_diag(*2 * [matrix(lambda x: observation.observe(x, ctf[:1]))]) @ filters
    both = torch.block_diag(spread, spread)
    noisier = (1 + amount**2) * both @ both.T
    truth, prediction = signal.flatten(), seen @ signal.flatten()
    weighed = torch.block_diag(weights, weights)
    error = (
        (prediction - truth) @ weighed @ (prediction - truth)
        + (seen.T @ weighed @ seen * noisier).sum()
        - truth @ weighed @ truth
    )
    total = measured.sum(-1)
    standard_error = float(total.std()) / math.sqrt(DRAWS)
    assert float(total.mean()) == pytest.approx(float(error), abs=4 * standard_error)
    assert standard_error < 0.05 * abs(float(error))


def test_what_is_not_seen_should_stay(generator: torch.Generator) -> None:
    """Beyond the error of what is seen, changes count by frequency, whatever the CTF."""
    noise, weight = half_spectrum(lambda k: 1 + k), half_spectrum(lambda k: 1 / (1 + k))
    unseen = half_spectrum(lambda k: (k < 2).double())
    observation = Observation(noise, torch.ones(BOX, BOX, dtype=torch.float64), weight, unseen)
    images, white = torch.randn(2, 3, BOX, BOX, generator=generator, dtype=torch.float64)
    ctf = torch.zeros(3, BOX, BOX // 2 + 1, dtype=torch.float64)

    def told(denoise, before=None) -> Tensor:
        return unexplained(denoise, images, ctf, white, observation, 0.5, before)

    torch.testing.assert_close(told(lambda x: 2 * x, lambda x: 2 * x), told(lambda x: 2 * x))
    fy, fx = (
        torch.fft.fftfreq(BOX, dtype=torch.float64)[shape] * BOX for shape in ((..., None), (None, ...))
    )
    kept = torch.hypot(fy, fx) < 2
    # Of x ± z the squares of both are those of x and of z.
    energy = sum(
        (torch.fft.fft2(part).abs().square() * kept).sum((1, 2)) / BOX**4
        for part in (images, 0.5 * observation.draw(white))
    )
    torch.testing.assert_close(told(lambda x: 3 * x, lambda x: x), 4 * energy)


def test_noise_of_another_colour_than_said_would_bias_it(generator: torch.Generator) -> None:
    coloured, flat = half_spectrum(lambda k: 4 / (1 + k)), half_spectrum(torch.ones_like)
    mask = torch.ones(BOX, BOX, dtype=torch.float64)
    white = torch.randn(2, DRAWS, BOX, BOX, generator=generator, dtype=torch.float64)
    seen = mask, flat, torch.zeros_like(flat)
    images = Observation(coloured, *seen).draw(white[0])
    right, wrong = (
        unexplained(lambda x: x, images, None, white[1], Observation(said, *seen)).mean()
        for said in (coloured, flat)
    )
    # What leaves noise as it is leaves an error of 1.25 times its power: that of the noisier images.
    twice = torch.full_like(coloured, 2.0)
    twice[:, 0] = twice[:, -1] = 1
    power = float((coloured * twice).sum() / BOX**2)
    assert float(right) == pytest.approx(1.25 * power, rel=0.02)
    assert abs(float(wrong) - 1.25 * power) > 0.2

import math

import pytest
import torch
from torch import Tensor

from polarice.denoising import aligned_sums, class_average, in_each_frame, signal_power, wiener_filter
from polarice.imaging import (
    CTF,
    filter_images,
    frequency_grid,
    move_images,
    radius_grid,
    shift_images,
    turn_matrices,
)

BOX = 64


def spectrum(box: int = BOX) -> Tensor:
    """Mean power of a random field: falls over four decades."""
    fy, fx = frequency_grid(box)
    return 50 * torch.exp(-14 * torch.hypot(fy, fx))


def fields(n: int, generator: torch.Generator) -> Tensor:
    """Stationary Gaussian fields of this mean power."""
    return filter_images(torch.randn(n, BOX, BOX, generator=generator), spectrum().sqrt())


def ctfs(n: int, generator: torch.Generator, astigmatism_A: float = 0.0, angle_deg: float = 30.0) -> CTF:
    one = torch.ones(n)
    defocus = 15000 + 10000 * torch.rand(n, generator=generator)
    half = astigmatism_A / 2
    return CTF(
        defocus + half, defocus - half, angle_deg * one, 300 * one, 2.7 * one, 0.1 * one, 0 * one, 0 * one
    )


def full_sum(half: Tensor) -> float:
    """Sum of a half spectrum over the full one."""
    twice = torch.full((BOX // 2 + 1,), 2.0)
    twice[0] = twice[-1] = 1
    return float((half * twice).sum())


def blobs(n: int, generator: torch.Generator) -> Tensor:
    """Images (n, y, x) of ten Gaussian blobs each, without symmetry."""
    axis = torch.arange(BOX).float() - BOX // 2
    images = torch.zeros(n, BOX, BOX)
    for _ in range(10):
        x, y = 26 * torch.rand(2, n, 1, 1, generator=generator) - 13
        images += torch.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / 12)
    return images


def turned_copies(truth: Tensor, k: int, shift: float, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Copies (n, k, y, x) of images at random rotations, and the matrices and shifts."""
    matrices = turn_matrices(2 * math.pi * torch.rand(len(truth), k, generator=generator))
    shifts = shift * (2 * torch.rand(len(truth), k, 2, generator=generator) - 1)
    return in_each_frame(truth, matrices, shifts), matrices, shifts


def relative(estimate: Tensor, truth: Tensor) -> float:
    return float((estimate - truth).square().sum() / truth.square().sum())


@pytest.mark.parametrize("noise", [0.5, 4.0])
def test_wiener_filter_reaches_the_error_of_theory(noise: float, generator: torch.Generator) -> None:
    truth = fields(200, generator)
    noisy = truth + math.sqrt(noise) * torch.randn(truth.shape, generator=generator)
    power = signal_power(noisy, noise_power=noise)
    estimate = wiener_filter(noisy, power, noise_power=noise)
    s = spectrum()
    theory = full_sum(s * noise / (s + noise)) / full_sum(s)
    assert relative(estimate, truth) == pytest.approx(theory, rel=0.03)


def test_wiener_filter_with_ctf_reaches_the_error_of_theory(generator: torch.Generator) -> None:
    truth = fields(200, generator)
    transfer = ctfs(200, generator).evaluate(BOX, 3.0)
    noisy = filter_images(truth, transfer) + torch.randn(truth.shape, generator=generator)
    estimate = wiener_filter(noisy, signal_power(noisy, transfer), transfer)
    s = spectrum()
    theory = full_sum((s / (transfer.square() * s + 1)).mean(0)) / full_sum(s)
    assert relative(estimate, truth) == pytest.approx(theory, rel=0.03)


def test_signal_power_is_that_of_each_stack_alone(generator: torch.Generator) -> None:
    stacks = torch.stack([fields(100, generator), 3 * fields(100, generator)])
    noisy = stacks + torch.randn(stacks.shape, generator=generator)
    power = signal_power(noisy)
    assert power.shape == (2, BOX, BOX // 2 + 1)
    assert torch.equal(power[1], signal_power(noisy[1]))
    fy, fx = frequency_grid(BOX)
    strong = (torch.hypot(fy, fx) > 0.04) & (torch.hypot(fy, fx) < 0.3)
    torch.testing.assert_close(
        power[:, strong], (spectrum() * torch.tensor([[[1.0]], [[9.0]]]))[:, strong], rtol=0.25, atol=0.0
    )


def test_pure_noise_has_hardly_any_signal(generator: torch.Generator) -> None:
    noise = torch.randn(50, BOX, BOX, generator=generator)
    assert float(wiener_filter(noise, signal_power(noise)).square().mean()) < 1e-3


def test_a_class_average_of_k_copies_has_a_kth_of_the_noise(generator: torch.Generator) -> None:
    k, snr = 8, 10.0
    truth = blobs(4, generator)
    copies, matrices, _ = turned_copies(truth, k, 0, generator)
    level = (truth.square().mean() / snr).sqrt()
    noisy = (copies + level * torch.randn(copies.shape, generator=generator)) / level
    # Signal at every frequency: nothing is filtered away, so what is left is noise / k alone.
    everywhere = torch.full((4, BOX, BOX // 2 + 1), 1e6)
    result = class_average(noisy, everywhere)
    inside = radius_grid(BOX) < 26
    residual = (result.images * level - copies)[..., inside].square().mean()
    assert float(residual / level.square()) == pytest.approx(1 / k, rel=0.05)
    # All rotations are found, up to the frame that they share.
    found = result.matrices @ matrices.mT
    angles = torch.atan2(found[..., 1, 0], found[..., 0, 0])
    spread = torch.angle(torch.exp(1j * (angles - angles[:, :1])))
    assert float(torch.rad2deg(spread.abs().max())) < 1.5


def test_class_average_finds_shifts(generator: torch.Generator) -> None:
    truth = blobs(3, generator)
    copies, _, _ = turned_copies(truth, 6, 4, generator)
    noisy = 4 * copies + torch.randn(copies.shape, generator=generator)
    power = signal_power(noisy)
    moved = class_average(noisy, power, max_shift_px=6).images / 4
    assert relative(moved, copies) < 0.015
    assert relative(class_average(noisy, power).images / 4, copies) > 0.1


def test_class_average_weighs_by_the_ctf(generator: torch.Generator) -> None:
    truth = blobs(3, generator)
    copies, _, _ = turned_copies(truth, 8, 0, generator)
    transfer = ctfs(24, generator, astigmatism_A=400).evaluate(BOX, 3.0).abs().unflatten(0, (3, 8))
    noisy = filter_images(3 * copies, transfer) + torch.randn(copies.shape, generator=generator)
    power = signal_power(noisy, transfer)
    weighted = class_average(noisy, power, transfer).images / 3
    alone = wiener_filter(noisy, power[:, None], transfer) / 3
    assert relative(weighted, copies) < 0.35 * relative(alone, copies)


def test_weights_turn_with_their_images(generator: torch.Generator) -> None:
    angle = torch.tensor([[0.4, 2.1, -1.3, 3.0]])
    settings = ctfs(4, generator, astigmatism_A=500)
    upright = settings.evaluate(BOX, 3.0)[None].abs()
    turned = torch.cat(
        [
            ctfs(4, torch.Generator().manual_seed(0), 500, 30 - math.degrees(float(a)))[i : i + 1].evaluate(
                BOX, 3.0
            )
            for i, a in enumerate(angle[0])
        ]
    )
    weight = aligned_sums(torch.zeros(1, 4, BOX, BOX), turn_matrices(angle), torch.zeros(1, 4, 2), upright)[1]
    fy, fx = frequency_grid(BOX)
    low = torch.hypot(fy, fx) < 0.2
    torch.testing.assert_close(weight[0, low], turned.square().sum(0)[low], rtol=0.02, atol=0.08)


def test_frames_are_inverse_to_each_other(generator: torch.Generator) -> None:
    truth = blobs(2, generator)
    copies, matrices, shifts = turned_copies(truth, 5, 3, generator)
    for image in move_images(copies, matrices, shifts).unbind(1):
        assert relative(image, truth) < 1e-3
    weighted, weight = aligned_sums(copies, matrices, shifts)
    assert relative(torch.fft.irfft2(weighted / weight), truth) < 1e-3


def test_sets_do_not_see_each_other(generator: torch.Generator) -> None:
    noisy = torch.randn(3, 4, BOX, BOX, generator=generator)
    power = signal_power(noisy + shift_images(noisy, torch.ones(2)))
    together = class_average(noisy, power).images
    torch.testing.assert_close(together[1:2], class_average(noisy[1:2], power[1:2]).images, rtol=0, atol=1e-4)


def test_a_set_of_one_is_filtered_alone(generator: torch.Generator) -> None:
    noisy = fields(5, generator) + torch.randn(5, BOX, BOX, generator=generator)
    power = signal_power(noisy)
    result = class_average(noisy[:, None], power.expand(5, -1, -1))
    inside = radius_grid(BOX) < 24
    difference = result.images[:, 0] - wiener_filter(noisy, power)
    assert float(difference[:, inside].square().mean()) < 0.01

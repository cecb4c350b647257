"""Background, noise and contrast against what is known of simulated and of real stacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.errors import ParticleFileError
from polarice.imaging import CTF, filter_images, fourier_resample, radius_grid
from polarice.particles import ParticleStack, ParticleWriter, measure, scan
from polarice.particles.scan import contrast_scores, judge_contrast

Build = Callable[..., Path]
BOX = 64


def phantom(kind: str) -> Tensor:
    """Projection of a ball, a hollow ball or a lying ring of 34 pixels' diameter, averaged over views."""
    radius = radius_grid(BOX)
    ball = (17.0**2 - radius**2).clamp_min(0).sqrt()
    hollow = ball - (13.0**2 - radius**2).clamp_min(0).sqrt()
    return {"ball": ball, "hollow": hollow, "ring": torch.exp(-((radius - 14) ** 2) / 8)}[kind]


def typical_ctf(n: int, generator: torch.Generator) -> CTF:
    one = torch.ones(n)
    defocus = 8000 + 18000 * torch.rand(n, generator=generator)
    return CTF(defocus, defocus, one * 0, one * 300, one * 2.7, one * 0.1, one * 0, one * 0)


def simulate(kind: str, n: int, snr: float, generator: torch.Generator) -> tuple[Tensor, CTF]:
    """Particles with neighbours at the edge of the box, seen through a CTF at 3 Å a pixel, in white noise."""
    ctf = typical_ctf(n, generator)
    clean = phantom(kind)
    crowded = clean + torch.roll(clean, (44, 9), (0, 1)).tril() + torch.roll(clean, (-12, -45), (0, 1)).tril()
    images = filter_images(crowded.expand(n, -1, -1), ctf.evaluate(BOX, 3.0))
    images = images / images.square().mean().sqrt() * snr**0.5
    return images + torch.randn(n, BOX, BOX, generator=generator), ctf


def standard(images: Tensor) -> Tensor:
    """In units of the noise."""
    found = measure(images)
    return (images - found.background[:, None, None]) / found.noise_sigma[:, None, None]


@pytest.mark.parametrize(("box", "model_box"), [(64, 64), (96, 64), (100, 48), (65, 64)])
def test_sigma_of_white_noise_is_exact_after_the_crop(
    box: int, model_box: int, generator: torch.Generator
) -> None:
    images = 40 + 5 * torch.randn(400, box, box, generator=generator)
    found = measure(fourier_resample(images, model_box), source_box=box)
    truth = 5 * model_box / box
    assert found.noise_sigma.mean() == pytest.approx(truth, rel=2e-3)
    assert found.noise_sigma.std() / truth < 0.021  # 1.5 % at 64 pixels from the number of coefficients
    assert found.background.mean() == pytest.approx(40, abs=0.02)


def test_sigma_of_a_padded_spectrum_counts_what_is_there(generator: torch.Generator) -> None:
    images = 5 * torch.randn(400, 32, 32, generator=generator)
    found = measure(fourier_resample(images, 64), source_box=32)
    # The density of the noise per frequency stays, so the signal-to-noise ratio there does too.
    assert found.noise_sigma.mean() == pytest.approx(5 * 64 / 32, rel=5e-3)


def test_crowded_boxes_do_not_raise_sigma(generator: torch.Generator) -> None:
    images, _ = simulate("ball", 200, 0.3, generator)
    corners = radius_grid(BOX) >= BOX / 2
    assert images[:, corners].std() > 1.07
    assert measure(images).noise_sigma.mean() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["ball", "hollow", "ring"])
@pytest.mark.parametrize("knows_ctf", [True, False])
def test_contrast_of_simulated_particles(
    kind: str, sign: int, knows_ctf: bool, generator: torch.Generator
) -> None:
    images, ctf = simulate(kind, 100, 0.05, generator)
    images = sign * images * 300 + 1000
    scores = contrast_scores(standard(images), ctf.evaluate(BOX, 3.0) if knows_ctf else None)
    contrast, z = judge_contrast(scores)
    assert contrast == ("bright" if sign > 0 else "dark")
    assert z * sign > 5


def test_noise_has_no_contrast(generator: torch.Generator) -> None:
    found = []
    for _ in range(200):
        images = torch.randn(20, BOX, BOX, generator=generator)
        found.append(judge_contrast(contrast_scores(standard(images), None)))
    assert all(contrast is None for contrast, _ in found)
    assert max(abs(z) for _, z in found) < 3.5
    assert judge_contrast(torch.zeros(1, 3)) == (None, 0.0)


def test_scan_agrees_with_its_parts_whatever_the_batch(
    tmp_path: Path, write_stack: Build, write_particles: Build, generator: torch.Generator
) -> None:
    images, _ = simulate("ball", 30, 1.0, generator)
    write_stack(tmp_path / "a.mrcs", images.numpy())
    stack = ParticleStack.open(
        write_particles(tmp_path / "p.star", [f"{k}@a.mrcs" for k in range(1, 31)], box=BOX)
    )
    done: list[int] = []
    found = scan(stack, 32, batch_size=7, progress=done.append)
    assert done == [7, 14, 21, 28, 30]
    direct = measure(fourier_resample(images, 32))
    torch.testing.assert_close(found.statistics.noise_sigma, direct.noise_sigma)
    torch.testing.assert_close(found.statistics.background, direct.background)
    whole = scan(stack, 32)
    assert whole.contrast_z == pytest.approx(found.contrast_z, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "not finite"), (np.inf, "not finite"), (3.0, "the image is constant")]
)
def test_unusable_images_are_named(tmp_path: Path, write_stack: Build, value: float, message: str) -> None:
    images = np.random.default_rng(0).normal(size=(9, 16, 16)).astype("f4")
    images[4] = value
    images[7] = 0
    stack = ParticleStack.open(write_stack(tmp_path / "a.mrcs", images))
    with pytest.raises(ParticleFileError, match=rf"row 5: .*{message}.* 1 more \(rows 8\).*Remove") as caught:
        scan(stack, 16, batch_size=3)
    assert caught.value.row == 5


# -- real stacks ------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("apoferritin/particles_64.star", "dark"),
        ("apoferritin/particles_64.mrcs", "dark"),
        ("apoferritin/native_128.star", "dark"),
        ("apoferritin/pair_rest_64.star", "dark"),
        ("apoferritin/pair_frame_64.star", "dark"),
        ("t20s_bin12/particles_32.star", "dark"),
        ("empiar10076/empiar_10076_7.star", "dark"),
        ("aspire_sample/sample.star", "bright"),
        ("bioem20/bioem20.mrcs", "bright"),
        ("subtomo_ribosome/sta_testing_bin8.star", "bright"),
        ("toy/toy_projections.star", "bright"),
        ("relion31/relion31.star", None),  # five boxes of crossing filaments
        ("../noise/ice_apoferritin_64.mrcs", None),
        ("../noise/frame_128.mrcs", None),
    ],
)
def test_contrast_of_real_stacks(shared_data: Path, name: str, contrast: str | None) -> None:
    given = {"toy/toy_projections.star": 3.0, "subtomo_ribosome/sta_testing_bin8.star": 14.6}.get(name)
    stack = ParticleStack.open(shared_data / "particles" / name, pixel_size_A=given)
    assert scan(stack, 64).contrast == contrast


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["noise/ice_apoferritin_64.mrcs", "particles/apoferritin/pair_frame_64.mrcs"]
)
def test_sigma_of_real_images_that_are_almost_pure_noise(shared_data: Path, name: str) -> None:
    stack = ParticleStack.open(shared_data / name)
    spread = stack.images(slice(None)).std((1, 2)).mean()
    assert scan(stack, 64).statistics.noise_sigma.mean() == pytest.approx(spread, rel=0.01)


@pytest.mark.data
def test_sigma_of_crowded_apoferritin(shared_data: Path) -> None:
    rest = ParticleStack.open(shared_data / "particles" / "apoferritin" / "pair_rest_64.star")
    frame = ParticleStack.open(shared_data / "particles" / "apoferritin" / "pair_frame_64.star")
    first, second = (torch.from_numpy(stack.images(slice(None))) for stack in (rest, frame))
    # The pairs' noise is independent, so their covariance is the signal's, weakened by the ratio of the
    # two signals; where the signal rules (shells 3 to 6), covariance and variance give that ratio.
    a, b = torch.fft.rfft2(first), torch.fft.rfft2(second)
    shell = (torch.hypot(torch.fft.fftfreq(64)[:, None], torch.fft.rfftfreq(64)[None]) * 64).round()
    strong = (shell >= 3) & (shell <= 6)
    high = (shell >= 24) & (shell <= 32)
    covariance = (a * b.conj()).real.mean(0)
    variance = a.abs().square().mean(0)
    ratio = covariance[strong].sum() / (variance[strong] - 1.2 * variance[high].mean()).sum()
    inside = (shell > 0) & (shell <= 32)
    truth = ((variance - covariance / ratio)[inside].mean() / 64**2).sqrt()
    assert measure(first).noise_sigma.mean() == pytest.approx(float(truth), rel=0.03)
    corners = radius_grid(64) >= 32
    assert first[:, corners].std(1).mean() > 1.08 * truth


def test_copies_are_found(tmp_path: Path) -> None:
    """By their pixels alone, wherever they lie in the stack; next to the same is not the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(600, 16, 16, generator=generator)
    images[[7, 300, 599]] = images[3].clone()
    images[8] = images[5]
    images[8, 2, 2] += 1e-6 * images[8, 2, 2].abs() + 1e-7
    images[400] = images[399].roll(1, 0)
    with ParticleWriter(tmp_path, "copies", box=16, pixel_size_A=2.0) as writer:
        writer.append(images.numpy())
    found = scan(ParticleStack.open(writer.star_path), 16, batch_size=100)
    assert found.copies.tolist() == [7, 300, 599]
    assert found.original[[3, 7, 300, 599]].tolist() == [3] * 4
    assert found.original[8] == 8

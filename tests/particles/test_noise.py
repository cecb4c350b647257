"""Spectra of noise against what was put in, beside crowded particles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.imaging import (
    CTF,
    filter_images,
    frequency_grid,
    radial_power,
    radius_grid,
    ring_means,
    ring_numbers,
    soft_disc,
)
from polarice.particles import ParticleStack, ParticleWriter, Preprocessor, measure, scan
from polarice.particles.noise import NoiseMoments, noise_spectrum, on_half_spectrum, whitening_filters

BOX, PIXEL_A = 64, 3.0
RINGS = torch.arange(BOX // 2 + 1)
COLOURS = {
    "white": torch.ones(33),
    "falling": 4 / (1 + (RINGS / 14) ** 2),
    "ice": 1 + 9 * torch.exp(-((RINGS / 6) ** 2)),
}


def ctfs(n: int, generator: torch.Generator, astigmatism_A: float = 300) -> CTF:
    one = torch.ones(n)
    defocus = 15000 + 10000 * torch.rand(n, generator=generator)
    return CTF(defocus, defocus + astigmatism_A, one * 40, one * 300, one * 2.7, one * 0.1, one * 0, one * 0)


def coloured(n: int, power: Tensor, generator: torch.Generator) -> Tensor:
    """Noise whose power on each ring is known."""
    fy, fx = frequency_grid(BOX)
    radius = (torch.hypot(fy, fx) * BOX).clamp(max=32).numpy()
    amplitude = torch.from_numpy(np.interp(radius, RINGS.numpy(), power.numpy())).sqrt().float()
    return filter_images(torch.randn(n, BOX, BOX, generator=generator), amplitude)


def crowd(n: int, generator: torch.Generator) -> Tensor:
    """A ball in the middle and others that reach into the box, each image's elsewhere."""
    radius = radius_grid(BOX)
    ball = (14.0**2 - radius**2).clamp_min(0).sqrt() / 14
    images = ball.repeat(n, 1, 1)
    for _ in range(3):
        moves = torch.randint(24, 41, (n, 2), generator=generator)
        for image, (down, right) in zip(images, moves.tolist(), strict=True):
            image += torch.roll(ball, (down, right), (0, 1))
    return images


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_spectrum_is_the_noise_that_was_put_in(
    colour: str, strength: float, generator: torch.Generator
) -> None:
    n = 400
    transfer = ctfs(n, generator).evaluate(BOX, PIXEL_A)
    signal = strength * filter_images(crowd(n, generator), transfer)
    moments = NoiseMoments(BOX, BOX)
    for part in torch.arange(n).split(150):
        moments.add((signal + coloured(n, COLOURS[colour], generator))[part], transfer[part])
    error = moments.spectrum() / COLOURS[colour] - 1
    assert error[8:].abs().max() < 0.06
    # Where the CTFs hardly differ and the signal is strongest.
    assert error[1:8].abs().max() < 0.5


def test_corners_would_take_neighbours_for_noise(generator: torch.Generator) -> None:
    """What the CTF is looked at for: in crowded fields the power outside the particle is other particles'."""
    n = 400
    transfer = ctfs(n, generator).evaluate(BOX, PIXEL_A)
    images = filter_images(crowd(n, generator), transfer) + torch.randn(n, BOX, BOX, generator=generator)
    corners = images * (radius_grid(BOX) >= 30)
    power = torch.fft.rfft2(corners).abs().square().mean(0) / (radius_grid(BOX) >= 30).sum()
    moments = NoiseMoments(BOX, BOX)
    moments.add(images, transfer)
    assert power[2:4, 2:4].mean() > 1.5
    assert moments.spectrum()[2:6].mean() == pytest.approx(1, abs=0.3)


def test_where_all_ctfs_are_alike_the_noise_is_white(generator: torch.Generator) -> None:
    transfer = ctfs(1, generator, astigmatism_A=0).evaluate(BOX, PIXEL_A).expand(50, -1, -1)
    moments = NoiseMoments(BOX, BOX)
    moments.add(coloured(50, COLOURS["ice"], generator), transfer)
    torch.testing.assert_close(moments.spectrum(), torch.ones(33), atol=1e-4, rtol=0)


def test_frequencies_that_the_source_lacks_are_left(generator: torch.Generator) -> None:
    """Padded from 32 pixels: beyond ring 16 there is nothing to be amplified."""
    transfer = ctfs(200, generator).evaluate(BOX, PIXEL_A)
    fy, fx = frequency_grid(BOX)
    noise = filter_images(
        torch.randn(200, BOX, BOX, generator=generator), (torch.hypot(fy, fx) < 0.25).float()
    )
    moments = NoiseMoments(BOX, 32)
    moments.add(noise, transfer)
    found = moments.spectrum()
    torch.testing.assert_close(found[6:], torch.ones(27), atol=0.1, rtol=0)
    torch.testing.assert_close(found[16:], found[15].expand(17), atol=0.02, rtol=0)


@pytest.mark.parametrize("colour", COLOURS)
def test_filters_make_the_noise_white(colour: str, generator: torch.Generator) -> None:
    white = filter_images(
        coloured(500, COLOURS[colour], generator), whitening_filters(COLOURS[colour][None], BOX)[0]
    )
    power = torch.fft.rfft2(white).abs().square().mean(0) / BOX**2
    # Each of 2,112 coefficients is a mean over 500 images.
    assert power[:, 1:32].std() == pytest.approx(500**-0.5, rel=0.1)
    assert power[:, 1:32].mean() == pytest.approx(1, abs=0.01)


def two_groups(folder: Path, images: Tensor, ctf: CTF) -> ParticleStack:
    """Optics groups and half sets by turns."""
    which = np.arange(len(images))
    columns = {
        "rlnDefocusU": ctf.defocus_u_A.numpy(),
        "rlnDefocusV": ctf.defocus_v_A.numpy(),
        "rlnDefocusAngle": ctf.defocus_angle_deg.numpy(),
        "rlnOpticsGroup": 1 + which % 2,
        "rlnRandomSubset": 1 + which // 2 % 2,
    }
    optics = {
        "rlnOpticsGroup": [1, 2],
        "rlnOpticsGroupName": ["counted", "integrated"],
        "rlnVoltage": 300.0,
        "rlnSphericalAberration": 2.7,
        "rlnAmplitudeContrast": 0.1,
    }
    with ParticleWriter(
        folder, "p", box=BOX, pixel_size_A=PIXEL_A, particles=columns, optics=optics, overwrite=True
    ) as writer:
        writer.append(images.numpy())
    return ParticleStack.open(folder / "p.star")


def test_each_optics_group_is_whitened_by_its_own_noise(tmp_path: Path, generator: torch.Generator) -> None:
    n = 600
    ctf = ctfs(n, generator)
    clean = filter_images(crowd(n, generator), ctf.evaluate(BOX, PIXEL_A))
    noise = torch.empty(n, BOX, BOX)
    noise[::2], noise[1::2] = (coloured(n // 2, COLOURS[name], generator) for name in ("falling", "ice"))
    stack = two_groups(tmp_path, 100 + 20 * (clean + noise), ctf)
    found = scan(stack, BOX)
    assert found.statistics.noise_power is not None
    assert found.statistics.noise_power.shape == (4, 33)
    tool = Preprocessor.for_stack(stack, found, contrast="bright")
    assert tool.whiten
    passed = tool.transfer(ctf, found.statistics)
    assert passed is not None
    seen = tool.forward(torch.from_numpy(stack.images(slice(None))), passed, found.statistics)
    sigma = found.statistics.noise_sigma[:, None, None] / 20
    whitening = passed.abs() / ctf.evaluate(BOX, PIXEL_A).abs()
    # What the network is told of the signal is what was done to it, and the rest is white.
    signs = torch.where(passed < 0, -1.0, 1.0)
    left = seen - filter_images(clean, signs * whitening) / sigma * tool.mask(found.statistics)
    middle = left * (radius_grid(BOX) < 24)
    power = torch.fft.rfft2(middle).abs().square() / (radius_grid(BOX) < 24).sum()
    for group in (0, 1):
        by_column = power[group::2].mean(0)[6:30:4, 6:30:4]
        torch.testing.assert_close(by_column, torch.ones_like(by_column), atol=0.4, rtol=0)


def test_no_half_set_depends_on_the_noise_of_the_other(tmp_path: Path, generator: torch.Generator) -> None:
    ctf = ctfs(80, generator)
    images = coloured(80, COLOURS["ice"], generator)
    first = scan(two_groups(tmp_path, images, ctf), BOX).statistics
    images[2] = coloured(1, COLOURS["white"], generator)[0]
    changed = scan(two_groups(tmp_path, images, ctf), BOX).statistics
    assert first.kind is not None
    assert first.noise_power is not None
    assert changed.noise_power is not None
    same = (first.noise_power == changed.noise_power).all(1)
    assert same.tolist() == [kind != int(first.kind[2]) for kind in range(4)]


def test_noise_stays_as_it_is_where_nothing_tells_it_from_signal(
    tmp_path: Path, generator: torch.Generator
) -> None:
    ctf = ctfs(20, generator)
    stack = two_groups(tmp_path, coloured(20, COLOURS["ice"], generator), ctf)
    found = scan(stack, BOX)
    assert not Preprocessor.for_stack(stack, found, ctf=False).whiten
    assert not Preprocessor.for_stack(stack, found, whiten=False).whiten
    assert scan(ParticleStack.open(tmp_path / "p.mrcs"), BOX).statistics.noise_power is None


@pytest.mark.parametrize("kind", ["white", "pink", "falling"])
def test_the_noise_is_told_from_the_signal_without_ctfs(kind: str, generator: torch.Generator) -> None:
    box, count = 32, 384
    fy, fx = frequency_grid(box)
    ring = torch.hypot(fy, fx) * box
    power = {
        "white": torch.ones_like(ring),
        "pink": 1 + (4 / ring.clamp(min=1)) ** 2,
        "falling": 0.1 + torch.exp(-(ring / 9).square()),
    }[kind]
    mask = soft_disc(box, box / 2, 4)
    # A blob of another size in each image, twenty times as strong as the noise at low frequency.
    size = 2 + torch.rand(count, 1, 1, generator=generator)
    axis = torch.arange(box) - box // 2
    blob = 6 * torch.exp(-(axis.square() + axis[:, None].square()) / (2 * size.square()))
    white = torch.randn(count, box, box, generator=generator)
    images = (blob + filter_images(white, power.sqrt())) * mask
    found = on_half_spectrum(noise_spectrum([images], mask)[None], box)[0]
    assert found.shape == ring.shape
    ratio = (ring_means(found) / ring_means(power))[2:]
    assert float(ratio.log().abs().max()) < 0.3
    assert float((ratio[6:] - 1).abs().mean()) < 0.05


def test_the_edge_of_the_disc_shows_the_spectrum_unblurred(generator: torch.Generator) -> None:
    box = 32
    fy, fx = frequency_grid(box)
    power = 1 + (4 / (torch.hypot(fy, fx) * box).clamp(min=1)) ** 2
    white = torch.randn(1024, box, box, generator=generator)
    mask = soft_disc(box, box / 2, 4)
    found = noise_spectrum((filter_images(white, power.sqrt()) * mask).split(300), mask)
    np.testing.assert_allclose(found[2:], ring_means(power)[2:], rtol=0.25)
    np.testing.assert_allclose(found[8:].mean(), ring_means(power)[8:].mean(), rtol=0.02)


@pytest.mark.parametrize("offset", [0.0, 7.0])
def test_the_edge_shows_the_noise_whatever_lies_in_the_middle(
    offset: float, generator: torch.Generator
) -> None:
    box = 32
    # Falls with the ring, as that of ice does.
    power = 0.5 + 3 / (1 + torch.arange(box // 2 + 1) / 4)
    white = torch.randn(1500, box, box, generator=generator)
    noise = filter_images(white, power.sqrt()[ring_numbers(box).clamp_max(box // 2)])
    images = noise + 5 * soft_disc(box, 6, 3) + offset
    images = images - measure(images).background[:, None, None]
    mask = soft_disc(box, box / 2, 4)
    found = noise_spectrum((images * mask).split(500), mask)
    # The edge blurs the spectrum by about one ring, which the steep beginning feels.
    torch.testing.assert_close(found[4:], power[4:], rtol=0.08, atol=0)
    torch.testing.assert_close(found[1:4], power[1:4], rtol=0.3, atol=0)
    assert found[0] == found[1]


def test_neighbours_in_the_corners_are_no_noise(generator: torch.Generator) -> None:
    """In crowded boxes the edge of the disc may be worse than the whole: the lower of both is taken."""
    box = 32
    noise = torch.randn(800, box, box, generator=generator)
    crowd = torch.zeros(box, box)
    crowd[:6, :6] = crowd[-6:, :6] = crowd[:6, -6:] = 8
    whole = radial_power(noise + crowd - crowd.mean()).mean(0)
    mask = soft_disc(box, box / 2, 4)
    found = noise_spectrum([(noise + crowd) * mask], mask)
    assert (found[1:] <= 1.1 * whole[1:]).all()

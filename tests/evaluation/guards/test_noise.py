"""Noise has the spectrum that it is asked for, and random phases are random."""

from pathlib import Path

import pytest
import torch

from polarice.errors import ParticleFileError
from polarice.evaluation.guards.noise import coloured_noise, empty_power, randomise_phases
from polarice.imaging import fourier_ring_correlation, radial_power
from polarice.particles import ParticleWriter

BOX = 32


@pytest.fixture
def power() -> torch.Tensor:
    """Falls with the ring, as that of ice does."""
    return 0.5 + 3 / (1 + torch.arange(BOX // 2 + 1) / 4)


def test_noise_has_the_power_asked_for(power: torch.Tensor, generator: torch.Generator) -> None:
    noise = coloured_noise(2000, BOX, power, generator)
    found = radial_power(noise).mean(0)
    # Each ring of n frequencies of 2,000 images scatters by the root of 1 / (2000 n); ring 0 has one.
    torch.testing.assert_close(found[1:], power[1:], rtol=0.05, atol=0)
    assert float(found[0]) == pytest.approx(float(power[0]), rel=0.15)


def test_phases_beyond_a_ring_are_random_and_nothing_else_is(generator: torch.Generator) -> None:
    images = torch.randn(300, BOX, BOX, generator=generator)
    changed = randomise_phases(images, 7, generator)
    frc = fourier_ring_correlation(images, changed)
    assert (frc[:8] > 0.9999).all()
    assert (frc[8:].abs() < 0.03).all()
    torch.testing.assert_close(radial_power(changed), radial_power(images), rtol=1e-3, atol=1e-3)


def test_a_spectrum_of_other_images_is_read_at_the_same_detail(
    power: torch.Tensor, generator: torch.Generator, tmp_path: Path
) -> None:
    """Ice in a box of half the width: its ring 5 has the detail of ring 10, its scale is its own."""
    with ParticleWriter(tmp_path, "ice", box=BOX, pixel_size_A=1.5) as writer:
        writer.append((7 * coloured_noise(1500, BOX, power, generator) + 30).numpy())
    found = empty_power(tmp_path / "ice.star", BOX, 3.0)
    torch.testing.assert_close(found[2::2], 49 * power[1 : BOX // 4 + 1], rtol=0.08, atol=0)
    # Finer than the ice was sampled nobody knows.
    narrow = empty_power(tmp_path / "ice.star", 4 * BOX, 0.375)
    assert (narrow[BOX // 2 :] == narrow[BOX // 2]).all()


def test_images_without_noise_are_refused(tmp_path: Path) -> None:
    with ParticleWriter(tmp_path, "flat", box=BOX, pixel_size_A=1.5) as writer:
        writer.append(torch.zeros(3, BOX, BOX).numpy())
    with pytest.raises(ParticleFileError, match="0 patches to measure noise in"):
        empty_power(tmp_path / "flat.star", BOX, 3.0)

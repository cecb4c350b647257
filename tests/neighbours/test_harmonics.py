import math

import pytest
import torch
from torch import Tensor

from polarice.imaging import frequency_grid
from polarice.neighbours import DiscHarmonics

BOX = 32


@pytest.fixture(scope="module")
def harmonics() -> DiscHarmonics:
    return DiscHarmonics(BOX)


def blob(x: float, y: float, width: float = 2.0) -> Tensor:
    """A Gaussian at (x, y) pixels from the centre, shape (1, BOX, BOX)."""
    place = torch.arange(BOX) - BOX // 2
    return torch.exp(-((place - x) ** 2 + (place[:, None] - y) ** 2) / (2 * width**2))[None]


def test_orthonormal(harmonics: DiscHarmonics) -> None:
    """White noise keeps its variance and stays white."""
    noise = torch.randn(4000, BOX, BOX, generator=torch.Generator().manual_seed(0))
    found = harmonics.analyse(noise)
    covariance = found.T @ found.conj() / len(found)
    identity = torch.eye(len(harmonics.orders))
    assert float((covariance.abs().diagonal() - 1).abs().mean()) < 0.03
    assert float((covariance.abs() * (1 - identity)).square().mean().sqrt()) < 1.5 / math.sqrt(len(found))


def test_synthesis_is_the_adjoint_and_nearly_the_inverse(harmonics: DiscHarmonics) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, BOX, BOX, generator=generator)
    coefficients = torch.randn(1, len(harmonics.orders), dtype=torch.complex64, generator=generator)
    coefficients[:, harmonics.orders == 0] = coefficients[:, harmonics.orders == 0].real + 0j
    twice = torch.where(harmonics.orders == 0, 1, 2)
    left = (twice * harmonics.analyse(image).conj() * coefficients).real.sum()
    right = (image * harmonics.synthesise(coefficients)).sum()
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-3)
    smooth = blob(3, -2) + 0.5 * blob(-4, 5)
    back = harmonics.synthesise(harmonics.analyse(smooth))
    assert float((back - smooth).square().sum() / smooth.square().sum()) < 1e-3


@pytest.mark.parametrize("angle_deg", [90.0, 30.0, -71.0])
def test_a_rotation_is_a_phase(harmonics: DiscHarmonics, angle_deg: float) -> None:
    """Turned from x towards y by an angle, order m gains exp(−i m angle)."""
    angle = math.radians(angle_deg)
    before, after = (harmonics.analyse(blob(6 * math.cos(a), 6 * math.sin(a))) for a in (0.4, 0.4 + angle))
    turned = before * torch.exp(-1j * angle * harmonics.orders)
    assert float((turned - after).abs().square().sum() / after.abs().square().sum()) < 1e-5


def test_a_mirror_image_is_the_conjugate(harmonics: DiscHarmonics) -> None:
    one, other = harmonics.analyse(blob(5, 3)), harmonics.analyse(blob(5, -3))
    torch.testing.assert_close(one, other.conj(), rtol=0, atol=1e-4)


def test_what_a_radial_filter_transmits(harmonics: DiscHarmonics) -> None:
    """On the ring of a harmonic, to the width of a ring."""
    fy, fx = frequency_grid(BOX)
    transfer = torch.exp(-torch.hypot(fy, fx) / 0.2)
    found = harmonics.transmitted(transfer[None])[0]
    torch.testing.assert_close(found, torch.exp(-harmonics.frequencies / 0.2), rtol=0.03, atol=0.01)
    torch.testing.assert_close(
        harmonics.transmitted(torch.ones_like(transfer)[None])[0], torch.ones_like(found)
    )


def test_spectra_give_the_same_coefficients(harmonics: DiscHarmonics) -> None:
    images = blob(3.0, -2.0) - 0.5 * blob(-5.0, 1.0, 3.0)
    found = harmonics.analyse_spectra(harmonics.spectra(images))
    torch.testing.assert_close(found, harmonics.analyse(images), rtol=0, atol=1e-4)
    mixture = torch.randn(len(harmonics.orders), 5, generator=torch.Generator().manual_seed(2))
    mixed = harmonics.analyse_spectra(harmonics.spectra(images), harmonics.mixed(mixture))
    torch.testing.assert_close(mixed, found @ mixture.to(found), rtol=0, atol=1e-3)


def test_moving_spectra_moves_the_image(harmonics: DiscHarmonics) -> None:
    shifts = torch.tensor([[2.0, -1.0], [0.5, 3.25]])
    moved = harmonics.moved(harmonics.spectra(blob(1.0, -2.0).expand(2, -1, -1)), shifts)
    there = torch.cat([blob(3.0, -3.0), blob(1.5, 1.25)])
    torch.testing.assert_close(harmonics.analyse_spectra(moved), harmonics.analyse(there), rtol=0, atol=1e-3)

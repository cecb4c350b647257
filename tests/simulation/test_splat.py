import math

import pytest
import torch
from torch import Tensor

from polarice.simulation.splat import element_weights, splat_spectra


def draw(positions: Tensor, weights: Tensor, box: int, blur_px: float) -> Tensor:
    blur = torch.full((len(positions),), blur_px, dtype=positions.dtype)
    images: Tensor = torch.fft.irfft2(splat_spectra(positions, weights, box, blur), s=(box, box))
    return images


def gaussians(positions: Tensor, weights: Tensor, box: int, blur_px: float) -> Tensor:
    """Σ w exp(-|r - p|² / 2 σ²) / (2 π σ²) at every pixel."""
    axis = torch.arange(box, dtype=positions.dtype) - box // 2
    x, y = (torch.exp(-((axis - positions[..., i, None]) ** 2) / (2 * blur_px**2)) for i in (0, 1))
    return torch.einsum("bn,bny,bnx->byx", weights, y, x) / (2 * math.pi * blur_px**2)


def atoms(n: int, reach_px: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    positions = (2 * torch.rand(3, n, 2, generator=generator, dtype=torch.float64) - 1) * reach_px
    return positions, 1 + torch.rand(3, n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("box", [32, 64])
@pytest.mark.parametrize(("blur_px", "limit"), [(1.0, 5e-4), (1.5, 1e-4), (3.0, 1e-5)])
@pytest.mark.parametrize("n", [1, 100])
def test_point_atoms_become_gaussians(
    box: int, blur_px: float, limit: float, n: int, generator: torch.Generator
) -> None:
    positions, weights = atoms(n, box / 2 - 5 * blur_px, generator)
    found, exact = (f(positions, weights, box, blur_px) for f in (draw, gaussians))
    assert float((found - exact).square().sum()) < limit * float(exact.square().sum())


def test_mass_and_centre_are_exact(generator: torch.Generator) -> None:
    """A bilinear splat keeps both, wherever between the pixels the atoms lie."""
    positions, weights = atoms(20, 6.0, generator)
    images = draw(positions, weights, 32, 1.2)
    torch.testing.assert_close(images.sum((1, 2)), weights.sum(1))
    axis = torch.arange(32, dtype=torch.float64) - 16
    centre = torch.stack([(images.sum(1) * axis).sum(1), (images.sum(2) * axis).sum(1)], -1)
    expected = (positions * weights[..., None]).sum(1)
    torch.testing.assert_close(
        centre / weights.sum(1, True), expected / weights.sum(1, True), rtol=0, atol=1e-3
    )


def test_atoms_outside_are_dropped(generator: torch.Generator) -> None:
    positions, weights = atoms(5, 6.0, generator)
    far = torch.tensor([[200.0, 0.0], [0.0, -17.0], [1e6, 1e6]], dtype=torch.float64).expand(3, 3, 2)
    more = torch.cat([positions, far], 1)
    heavier = torch.cat([weights, torch.ones(3, 3, dtype=torch.float64)], 1)
    torch.testing.assert_close(draw(more, heavier, 32, 1.5), draw(positions, weights, 32, 1.5))


def test_each_image_has_its_own_blur(generator: torch.Generator) -> None:
    positions, weights = atoms(10, 6.0, generator)
    blur = torch.tensor([1.0, 1.5, 2.5], dtype=torch.float64)
    together = torch.fft.irfft2(splat_spectra(positions, weights, 32, blur), s=(32, 32))
    for i, sigma in enumerate(blur.tolist()):
        torch.testing.assert_close(together[i], draw(positions, weights, 32, sigma)[i])


def test_weights_are_scattering_amplitudes() -> None:
    """f_e(0) of H, C, N, O, P and S in Å, International Tables C, table 4.3.2.2."""
    found = element_weights(torch.tensor([1, 6, 7, 8, 15, 16], dtype=torch.uint8))
    expected = torch.tensor([0.529, 2.509, 2.211, 1.983, 5.488, 5.161])
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)
    assert float(element_weights(torch.tensor([0]))) == 0

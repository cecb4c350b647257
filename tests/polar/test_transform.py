import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.polar import PolarGrid, PolarTransform

PRESETS = ["paper", "compact"]
Images = Callable[..., Tensor]
Error = Callable[[Tensor, Tensor], float]
_MADE: dict[tuple[str, int, torch.dtype], PolarTransform] = {}


def transform(name: str, box: int, dtype: torch.dtype = torch.float64) -> PolarTransform:
    """The transform of a preset; made once, for building is the slow part of these tests."""
    key = name, box, dtype
    if key not in _MADE:
        _MADE[key] = PolarTransform(PolarGrid.preset(name, box), dtype=dtype)
    return _MADE[key]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("box", [8, 16])
def test_forward_is_equation_4(name: str, box: int, generator: torch.Generator) -> None:
    """Every term of the sum written out; image rows are v (y), columns are u (x)."""
    grid = PolarGrid.preset(name, box)
    image = torch.randn(box, box, generator=generator, dtype=torch.float64)
    b, pixel = grid.bandwidth, (np.arange(box) - box / 2) * 2 / box
    z = math.sqrt(math.pi * grid.n_angles * box**2 * b**4 / 2)
    expected = np.empty((grid.n_radii, grid.n_angles))
    for n, (radius, weight) in enumerate(zip(grid.radii, grid.weights, strict=True)):
        for m in range(grid.n_angles):
            gamma = 2 * math.pi * m / grid.n_angles
            u, v = radius * math.cos(gamma), radius * math.sin(gamma)
            squared = (u - pixel[None, :]) ** 2 + (v - pixel[:, None]) ** 2
            expected[n, m] = math.sqrt(weight) / z * (image.numpy() * np.exp(-squared / (2 * b**2))).sum()
    found = PolarTransform(grid, dtype=torch.float64)(image)
    # Gaussians are cut where they are below e^-18.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("box", [32, 64, 96, 128])
def test_adjoint(name: str, box: int, generator: torch.Generator) -> None:
    polar = transform(name, box)
    image = torch.randn(2, box, box, generator=generator, dtype=torch.float64)
    other = torch.randn(2, polar.grid.n_radii, polar.grid.n_angles, generator=generator, dtype=torch.float64)
    left, right = (polar(image) * other).sum(), (image * polar.adjoint(other)).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("box", [32, 64, 96, 128])
def test_norm_is_one(name: str, box: int, generator: torch.Generator) -> None:
    polar = transform(name, box)
    vector = torch.randn(1, box, box, generator=generator, dtype=torch.float64)
    for _ in range(40):
        vector = polar.adjoint(polar(vector / vector.norm()))
    assert math.sqrt(float(vector.norm())) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("box", [32, 64])
def test_normal_operator_is_a_convolution(box: int, smooth: Images, error: Error) -> None:
    """Proposition 1: PᵀP x ≈ x ⋆ φ; on the paper's grid to 0.1 %, and on finer ones to rounding."""
    images = smooth(box)
    axis = torch.arange(2 * box, dtype=torch.float64) - box
    phi = torch.exp(-(axis**2 + axis[:, None] ** 2)) / math.pi  # b L = 1
    padded = (3 * box, 3 * box)
    spectrum = torch.fft.rfft2(images, s=padded) * torch.fft.rfft2(phi, s=padded)
    convolved = torch.fft.irfft2(spectrum, s=padded)[..., box : 2 * box, box : 2 * box]
    polar = transform("paper", box)
    assert error(polar.adjoint(polar(images)), convolved) < 1e-3
    if box == 32:
        for factor, limit in ((2, 1e-7), (3, 1e-14)):
            grid = PolarGrid(box, factor * box, 8 * box, math.sqrt(2) + 1 / box, 1 / box)
            finer = PolarTransform(grid, dtype=torch.float64)
            assert error(finer.adjoint(finer(images)), convolved) < limit


@pytest.mark.parametrize("name", PRESETS)
def test_isometry_on_smooth_images(name: str, smooth: Images) -> None:
    polar, images = transform(name, 64), smooth(64, sigma_px=4.0)
    for power, before in zip(polar(images).square().sum((1, 2)), images.square().sum((1, 2)), strict=True):
        assert 0.75 < float(power / before) < 1.01


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("method", ["forward", "adjoint", "inverse", "inverse_cg", "inverse_fourier"])
def test_gradcheck(name: str, method: str, generator: torch.Generator) -> None:
    grid = PolarGrid.preset(name, 8)
    polar = PolarTransform(grid, dtype=torch.float64)
    shape = (8, 8) if method == "forward" else (grid.n_radii, grid.n_angles)
    value = torch.randn(2, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    function = getattr(polar, method)
    # Conjugate gradients are linear only in the limit: two steps are a smooth function all the same.
    arguments = {"steps": 2} if method == "inverse_cg" else {}
    assert torch.autograd.gradcheck(lambda z: function(z, **arguments), (value,), fast_mode=True)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("box", [32, 64, 96])
def test_quarter_turns_are_exact(
    name: str, box: int, turn: Callable[[Tensor], Tensor], generator: torch.Generator
) -> None:
    polar = transform(name, box)
    image = torch.zeros(box, box, dtype=torch.float64)
    image[1:, 1:] = torch.randn(box - 1, box - 1, generator=generator, dtype=torch.float64)
    quarter = polar.grid.n_angles // 4
    torch.testing.assert_close(polar(turn(image)), polar(image).roll(quarter, -1), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("name", "limit"), [("paper", 1.2e-3), ("compact", 1e-9)])
@pytest.mark.parametrize("box", [32, 64, 96])
def test_other_turns_are_shifts(name: str, limit: float, box: int, smooth: Images, error: Error) -> None:
    """Closed-form turned images; the narrow Gaussians of the paper's grid sample a pixel grid coarsely."""
    polar = transform(name, box)
    reference = polar(smooth(box))
    for steps in (1, 5, 7):
        angle = 2 * math.pi * steps / polar.grid.n_angles
        assert error(polar(smooth(box, angle=angle)), reference.roll(steps, -1)) < limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", [32, 64, 96, 128])
def test_conjugate_gradients_invert_the_paper_grid(
    box: int, dtype: torch.dtype, smooth: Images, error: Error
) -> None:
    images = smooth(box, dtype=dtype)
    polar = transform("paper", box, dtype)
    seen = polar(images)
    assert seen.dtype == dtype
    assert error(polar.inverse_cg(seen), images) < 1e-7
    assert error(polar.inverse_cg(seen, steps=15), images) < 1e-5
    # The paper's own inverse misses a few per cent at N = L: the quadrature is too coarse for it.
    assert 1e-3 < error(polar.inverse_fourier(seen), images) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", [32, 64, 96, 128])
def test_inverses_of_the_compact_grid(box: int, dtype: torch.dtype, smooth: Images, error: Error) -> None:
    images = smooth(box, dtype=dtype)
    polar = transform("compact", box, dtype)
    seen = polar(images)
    assert error(polar.inverse(seen), images) < 1e-4
    assert error(polar.inverse_cg(seen), images) < 1e-4
    assert error(polar.inverse_fourier(seen), images) < 2.5e-4


def test_fourier_inverse_is_accurate_on_a_fine_grid(smooth: Images, error: Error) -> None:
    """What Proposition 1 promises: with N, M large enough the deconvolution recovers the image."""
    grid = PolarGrid(32, 96, 256, math.sqrt(2) + 1 / 32, 1 / 32)
    polar, images = PolarTransform(grid, dtype=torch.float64), smooth(32)
    assert error(polar.inverse_fourier(polar(images), regulariser=1e-8), images) < 1e-9


def test_fast_inverse_solves_its_own_normal_equations(smooth: Images, error: Error) -> None:
    """Pᵀ (PPᵀ + λ)⁻¹ = (PᵀP + λ)⁻¹ Pᵀ, so conjugate gradients run to the end must agree."""
    polar, images = transform("compact", 64), smooth(64)
    seen = polar(images)
    assert error(polar.inverse(seen), polar.inverse_cg(seen, steps=200)) < 1e-6


def test_inverse_takes_the_one_that_holds(smooth: Images, error: Error) -> None:
    """The precomputed filter does not hold for narrow Gaussians: there conjugate gradients step in."""
    images = smooth(64)
    for bandwidth, limit in ((1.0, 1e-7), (1.2, 1e-6), (1.4, 3e-4), (1.6, 1e-5), (2.0, 1e-6)):
        grid = PolarGrid(64, 48, 192, 1.0, bandwidth / 64)
        polar = PolarTransform(grid, dtype=torch.float64)
        assert error(polar.inverse(polar(images)), images) < limit


def test_box_256(smooth: Images, error: Error) -> None:
    images = smooth(256, dtype=torch.float32)
    polar = PolarTransform(PolarGrid.compact(256))
    assert error(polar.inverse(polar(images)), images) < 1.5e-4


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("box", [32, 64])
def test_white_noise_has_the_stated_deviation(name: str, box: int, generator: torch.Generator) -> None:
    polar = transform(name, box, torch.float32)
    noise = torch.randn(400, box, box, generator=generator)
    measured = polar(noise).square().mean((0, 2)).sqrt()
    ratio = measured / polar.noise_std
    # A few dozen independent pixels lie on the innermost ring of each image, many more further out.
    assert float((ratio - 1).abs().max()) < 0.05
    assert float(ratio.mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", PRESETS)
def test_float32_agrees_with_float64(name: str, smooth: Images, error: Error) -> None:
    images = smooth(64)
    exact = transform(name, 64)
    single = transform(name, 64, torch.float32)
    assert error(single(images.float()), exact(images)) < 1e-12
    assert error(single.adjoint(exact(images).float()), exact.adjoint(exact(images))) < 1e-12
    assert error(single.inverse_cg(exact(images).float()), images) < 1e-4


def test_leading_dimensions_and_copies(generator: torch.Generator) -> None:
    polar = PolarTransform(PolarGrid.compact(16))
    images = torch.randn(2, 3, 4, 16, 16, generator=generator)
    single = polar(images)
    assert single.shape == (2, 3, 4, 8, 24)
    # A change of precision after the first use must not leave the old matrix behind.
    polar, images = copy.deepcopy(polar).double(), images.double()
    seen = polar(images)
    torch.testing.assert_close(seen.float(), single)
    torch.testing.assert_close(seen[1, 2, 3], polar(images[1, 2, 3]))
    for function in (polar.adjoint, polar.inverse, polar.inverse_cg, polar.inverse_fourier):
        back = function(seen)
        assert back.shape == images.shape
        torch.testing.assert_close(back[1, 0, 2], function(seen[1, 0, 2]), rtol=0, atol=1e-4)
    # P is known from its grid: nothing of it belongs into a weights file.
    assert not polar.state_dict()


def test_autocast_keeps_full_precision(generator: torch.Generator) -> None:
    polar = PolarTransform(PolarGrid.compact(16))
    images = torch.randn(2, 16, 16, generator=generator)
    plain = polar.inverse(polar(images))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(polar.inverse(polar(images)), plain)


def test_nothing_comes_from_nothing() -> None:
    polar = PolarTransform(PolarGrid.compact(16))
    assert not polar.inverse_cg(torch.zeros(2, 8, 24)).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", PRESETS)
def test_gpu_agrees_with_cpu(name: str, smooth: Images) -> None:
    images = smooth(64, dtype=torch.float32)
    cpu = PolarTransform(PolarGrid.preset(name, 64))
    gpu = copy.deepcopy(cpu).cuda()
    seen = cpu(images)
    torch.testing.assert_close(gpu(images.cuda()).cpu(), seen, rtol=1e-4, atol=1e-5)
    for method in ("adjoint", "inverse", "inverse_cg", "inverse_fourier"):
        there, here = getattr(gpu, method)(seen.cuda()).cpu(), getattr(cpu, method)(seen)
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)

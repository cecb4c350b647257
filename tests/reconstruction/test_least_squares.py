import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polarice.conventions import random_rotations
from polarice.imaging import CTF, WaveSum, filter_images, shift_images
from polarice.reconstruction import BackProjection, NormalEquations, fourier_shell_correlation, solve_halves
from polarice.simulation import Projector, Volume, density_from_structure, example_structure


@pytest.fixture(scope="module")
def molecule() -> Volume:
    return density_from_structure(example_structure(), 32, 6.0)


def defoci(count: int, generator: torch.Generator) -> CTF:
    """CTFs of an astigmatic microscope."""
    u = 10000 + 10000 * torch.rand(count, generator=generator)
    one = torch.ones_like(u)
    return CTF(u, u - 500, 40 * one, 300 * one, 2.7 * one, 0.1 * one, 0 * one, 0 * one)


def correlation(first: Tensor, second: Tensor) -> float:
    a, b = first - first.mean(), second - second.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("width", [3, 4])
def test_sum_of_waves_is_that_of_the_definition(width: int, generator: torch.Generator) -> None:
    box = 10
    frequencies = (torch.rand(200, 3, generator=generator, dtype=torch.float64) - 0.5) * box
    amplitudes = torch.randn(200, generator=generator, dtype=torch.complex128)
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    places = torch.stack([x, y, z], -1).view(-1, 3)
    waves = torch.exp(2j * math.pi / box * (places @ frequencies.T))
    for values in (amplitudes, amplitudes.real):
        found = WaveSum(box, values.dtype, "cpu", width)
        found.add(frequencies[:150], values[:150])
        found.add(frequencies[150:], values[150:])
        exact = (waves @ values.to(waves)).real.view(box, box, box)
        # Frequencies a whole box apart are one on the grid.
        aliased = WaveSum(box, values.dtype, "cpu", width)
        aliased.add(frequencies + box * torch.tensor([1.0, -2.0, 3.0]), values)
        torch.testing.assert_close(aliased.result(), found.result())
        error = (found.result() - exact).square().sum() / exact.square().sum()
        assert error < {3: 2e-4, 4: 1e-5}[width]


def test_back_projection_is_the_adjoint_of_projection(generator: torch.Generator) -> None:
    box, count = 16, 5
    volume = Volume(torch.randn(box, box, box, generator=generator, dtype=torch.float64), 1.0)
    images = torch.randn(count, box, box, generator=generator, dtype=torch.float64)
    rotations = random_rotations(count, generator).double()
    shifts = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    transfer = defoci(count, generator).evaluate(box, 4.0).double()
    weights = torch.rand(count, generator=generator, dtype=torch.float64)
    seen = filter_images(shift_images(Projector(volume)(rotations), shifts), transfer)
    back = BackProjection(box, dtype=torch.float64)
    back.add(images, rotations, shifts, transfer, weights)
    inner = (seen * images).sum((1, 2)) @ weights
    # The transform that is adjoint to the kernel's, to rounding.
    assert (back.equations().right * volume.density).sum() == pytest.approx(float(inner), rel=1e-9)


def dense_system(
    box: int, rotations: Tensor, shifts: Tensor, transfer: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix of all images' spectra by voxels, their weights, and the voxels within the ball."""
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = (x**2 + y**2 + z**2) < (box / 2) ** 2
    voxels = torch.stack([x, y, z], -1)[inside]
    ky, kx = torch.meshgrid(torch.fft.fftfreq(box) * box, torch.fft.fftfreq(box) * box, indexing="ij")
    kept = (kx**2 + ky**2) < (box / 2) ** 2
    plane = torch.stack([kx, ky], -1)[kept].double()
    rows, counts = [], []
    for rotation, shift, ctf, weight in zip(rotations, shifts, transfer, weights, strict=True):
        whole = torch.cat([ctf, ctf.roll(-1, 0).flip(0)[:, 1 : box // 2].flip(1)], 1)
        phase = (plane @ rotation[:2]) @ voxels.T + (plane @ shift)[:, None]
        rows.append(whole[kept][:, None] * torch.exp(-2j * math.pi / box * phase))
        counts.append(weight.expand(len(plane)) / box**2)
    return torch.cat(rows), torch.cat(counts), inside


def test_agrees_with_a_dense_solution(generator: torch.Generator) -> None:
    box, count = 8, 40
    rotations = random_rotations(count, generator).double()
    shifts = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    transfer = defoci(count, generator).evaluate(box, 8.0).double()
    transfer[:, box // 2] = 0  # the Nyquist frequency is not used
    weights = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)
    images = torch.randn(count, box, box, generator=generator, dtype=torch.float64)
    back = BackProjection(box, dtype=torch.float64)
    back.add(images, rotations, shifts, transfer, weights)
    equations = back.equations()
    ridge = 0.3 * float(equations.information()[2])
    found = equations.solve(torch.full((box // 2 + 1,), ridge), tolerance=1e-8, most_iterations=200)

    matrix, share, inside = dense_system(box, rotations, shifts, transfer, weights)
    spectra = torch.fft.fft2(torch.fft.ifftshift(images, dim=(-2, -1)))
    ky, kx = torch.meshgrid(torch.fft.fftfreq(box) * box, torch.fft.fftfreq(box) * box, indexing="ij")
    seen = spectra[:, (kx**2 + ky**2) < (box / 2) ** 2].flatten()
    normal = (matrix.conj().T @ (share[:, None] * matrix)).real
    # A prior that is the same for every frequency is a multiple of the unit matrix.
    normal += ridge * torch.eye(len(normal), dtype=torch.float64)
    exact = torch.linalg.solve(normal, (matrix.conj().T @ (share * seen)).real)
    error = (found[inside] - exact).square().sum() / exact.square().sum()
    assert error < 1e-4
    assert not found[~inside].any()


def gather(molecule: Volume, images: Tensor, *how: Any) -> NormalEquations:
    back = BackProjection(molecule.box)
    back.add(images, *how)
    return back.equations()


def test_clean_projections_give_the_map_back(molecule: Volume, generator: torch.Generator) -> None:
    rotations = random_rotations(150, generator)
    shifts = 2 * torch.randn(150, 2, generator=generator)
    transfer = defoci(150, generator).evaluate(molecule.box, molecule.pixel_size_A)
    images = filter_images(shift_images(Projector(molecule)(rotations), shifts), transfer)
    equations = gather(molecule, images, rotations, shifts, transfer)
    found = equations.solve(1e-3 * equations.information(), tolerance=1e-5)
    assert fourier_shell_correlation(found, molecule.density)[1:-1].min() > 0.99
    # The grey scale too, less what the CTFs leave of the lowest frequencies and the ridge takes.
    scale = float((found * molecule.density).sum() / molecule.density.square().sum())
    assert scale == pytest.approx(1, abs=0.03)
    mirrored = found.flip(2).roll(1, 2)
    assert fourier_shell_correlation(mirrored, molecule.density)[8:].mean() < 0.5


def test_sums_do_not_depend_on_how_images_come(molecule: Volume, generator: torch.Generator) -> None:
    rotations = random_rotations(70, generator)
    images = torch.randn(70, 32, 32, generator=generator)
    weights = torch.rand(70, generator=generator)
    together = gather(molecule, images, rotations, None, None, weights)
    some = [
        gather(molecule, images[s], rotations[s], None, None, weights[s]) for s in (slice(30), slice(30, 70))
    ]
    torch.testing.assert_close((some[0] + some[1]).right, together.right, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close((some[0] + some[1]).response, together.response, rtol=1e-3, atol=0.1)
    assert (some[0] + some[1]).images == 70
    left = together - some[0]
    torch.testing.assert_close(left.right, some[1].right, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(left.response, some[1].response, rtol=1e-3, atol=0.1)
    assert left.images == 40


def test_an_image_is_shared_out_among_its_poses(molecule: Volume, generator: torch.Generator) -> None:
    """As its poses would have it, one after the other, each image weighted by its share."""
    images = torch.randn(6, 32, 32, generator=generator)
    rotations = random_rotations(18, generator).view(6, 3, 3, 3)
    shifts, shares = torch.randn(6, 3, 2, generator=generator), torch.rand(6, 3, generator=generator)
    transfer, weights = defoci(6, generator).evaluate(32, 6.0), torch.rand(6, generator=generator)
    back, one_by_one = BackProjection(32), BackProjection(32)
    back.add(images, rotations, shifts, transfer, weights, shares)
    for pose in range(3):
        one_by_one.add(images, rotations[:, pose], shifts[:, pose], transfer, weights * shares[:, pose])
    found, expected = back.equations(), one_by_one.equations()
    torch.testing.assert_close(found.right, expected.right, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.response, expected.response, rtol=1e-4, atol=1e-3)
    assert found.images == 6


def test_an_image_of_weight_zero_says_nothing(molecule: Volume, generator: torch.Generator) -> None:
    rotations = random_rotations(20, generator)
    images = torch.randn(20, 32, 32, generator=generator)
    weights = (torch.arange(20) < 12).float()
    found = gather(molecule, images, rotations, None, None, weights)
    torch.testing.assert_close(found.right, gather(molecule, images[:12], rotations[:12]).right)


def test_coloured_noise_counts_by_its_power(molecule: Volume, generator: torch.Generator) -> None:
    """Noise that is strong at low frequencies: told so, the volume is closer to the truth."""
    rotations = random_rotations(300, generator)
    clean = Projector(molecule)(rotations)
    fy, fx = torch.fft.fftfreq(32)[:, None], torch.fft.rfftfreq(32)
    amplitude = float(clean.std()) * torch.where(torch.hypot(fy, fx) < 0.15, 6.0, 0.5)
    amplitude = amplitude.repeat(300, 1, 1) * torch.where(torch.arange(300) % 2 == 0, 1.0, 4.0)[:, None, None]
    noise = filter_images(torch.randn(300, 32, 32, generator=generator), amplitude)
    told, untold = (
        gather(molecule, clean + noise, rotations, None, None, weights)
        for weights in (amplitude.square().reciprocal(), None)
    )
    truth = molecule.density
    errors = [
        float((one.solve(0.01 * one.information()) - truth).square().sum() / truth.square().sum())
        for one in (told, untold)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_noisy_halves_give_a_map_near_the_truth(molecule: Volume, generator: torch.Generator) -> None:
    rotations = random_rotations(400, generator)
    clean = Projector(molecule)(rotations)
    noise = float(clean.square().mean() / 0.1) ** 0.5 * torch.randn(clean.shape, generator=generator)
    halves = [gather(molecule, (clean + noise)[h::2], rotations[h::2]) for h in (0, 1)]
    maps = solve_halves(*halves, molecule.pixel_size_A)
    assert correlation(maps.whole, molecule.density) > 0.9
    assert correlation(maps.whole, molecule.density) > correlation(maps.first + maps.second, molecule.density)
    assert (maps.mask * molecule.density).square().sum() > 0.99 * molecule.density.square().sum()


def test_halves_of_noise_have_no_resolution(generator: torch.Generator) -> None:
    images = torch.randn(200, 24, 24, generator=generator)
    rotations = random_rotations(200, generator)
    halves = []
    for half in (0, 1):
        back = BackProjection(24)
        back.add(images[half::2], rotations[half::2])
        halves.append(back.equations())
    maps = solve_halves(*halves, 3.0)
    assert maps.comparison.unmasked[4:].abs().mean() < 0.1
    assert maps.whole.square().sum() < 0.1 * (maps.first.square().sum() + maps.second.square().sum())

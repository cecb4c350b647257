import itertools
import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.conventions import random_rotations
from polarice.errors import PolariceError
from polarice.imaging import CTF, filter_images, shift_images
from polarice.reconstruction import (
    ImageSpectra,
    Observation,
    ObservedImages,
    OrientationGrid,
    Poses,
    RefineSettings,
    climb,
    draw_poses,
    fourier_shell_correlation,
    gather_half,
    near_search,
    refine_orientations,
    rotation_grid,
    small_rotations,
    solve_halves,
)
from polarice.simulation import Projector, Volume, density_from_structure, example_structure

BOX = 32


@pytest.fixture(scope="module")
def molecule() -> Volume:
    return density_from_structure(example_structure(), BOX, 5.0)


def angles_deg(first: Tensor, second: Tensor) -> Tensor:
    """Angle of the rotation between two orientations."""
    trace = (first * second).sum((-2, -1))
    return torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).arccos())


def turned(rotations: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Rotations turned about random axes by an angle."""
    axis = torch.randn(len(rotations), 3, generator=generator)
    return small_rotations(axis / axis.norm(dim=1, keepdim=True) * math.radians(degrees)) @ rotations


def observe(
    molecule: Volume, rotations: Tensor, shifts: Tensor, snr: float, generator: torch.Generator, *, ctf: bool
) -> Observation:
    """Images in white noise, with all that is known of them."""
    clean = shift_images(Projector(molecule)(rotations), shifts)
    transfer = None
    if ctf:
        u = 12000 + 6000 * torch.rand(len(rotations), generator=generator)
        one = torch.ones_like(u)
        kinds = CTF(u, u, 0 * one, 300 * one, 2.7 * one, 0.1 * one, 0 * one, 0 * one)
        transfer = kinds.evaluate(BOX, molecule.pixel_size_A)
        clean = filter_images(clean, transfer)
    sigma = float(clean.square().mean() / snr) ** 0.5
    noise = sigma * torch.randn(clean.shape, generator=generator)
    return Observation(clean + noise, transfer, torch.full((len(rotations),), sigma**-2))


def test_likelihood_is_that_of_the_pixels(molecule: Volume, generator: torch.Generator) -> None:
    """At the highest ring, half the difference of squared residuals in real space."""
    rotations, shifts = random_rotations(6, generator), torch.randn(6, 2, generator=generator)
    seen = observe(molecule, rotations, shifts, 0.5, generator, ctf=True)
    assert seen.transfer is not None
    spectra = ImageSpectra.of(seen, BOX)
    projector = Projector(molecule)
    told = climb(projector, spectra, Poses(rotations, shifts, torch.zeros(6)), steps=0).log_likelihood
    explained = filter_images(shift_images(projector(rotations), shifts), seen.transfer)
    # The mean is not looked at.
    images, explained = (x - x.mean((1, 2), keepdim=True) for x in (seen.images, explained))
    gain = (images.square() - (images - explained).square()).sum((1, 2)) * seen.weights / 2
    torch.testing.assert_close(told, gain, rtol=2e-3, atol=0.05)


def test_grid_is_near_every_rotation(generator: torch.Generator) -> None:
    grid = rotation_grid(15.0)
    nearest = torch.stack([angles_deg(grid, one).min() for one in random_rotations(200, generator)])
    assert nearest.max() < 15
    assert nearest.mean() < 10


def test_small_rotations_are_right_handed() -> None:
    quarter = small_rotations(torch.tensor([0.0, 0.0, math.pi / 2]))
    torch.testing.assert_close(
        quarter @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("ctf", [False, True])
def test_climbing_comes_back_to_the_truth(molecule: Volume, generator: torch.Generator, ctf: bool) -> None:
    rotations, shifts = random_rotations(40, generator), torch.randn(40, 2, generator=generator)
    spectra = ImageSpectra.of(observe(molecule, rotations, shifts, 50.0, generator, ctf=ctf), 15)
    start = Poses(turned(rotations, 8.0, generator), shifts + 0.7, torch.zeros(40))
    projector = Projector(molecule)
    found = climb(projector, spectra, near_search(projector, spectra, start, 7.5))
    assert angles_deg(found.rotations, rotations).median() < 0.7
    assert (found.shifts_px - shifts).norm(dim=1).median() < 0.1


def test_errors_are_those_of_the_information_bound(molecule: Volume, generator: torch.Generator) -> None:
    """At the likeliest pose, noise has moved images about as far as Cramér and Rao allow."""
    rotations, shifts = random_rotations(200, generator), torch.zeros(200, 2)
    spectra = ImageSpectra.of(observe(molecule, rotations, shifts, 1.0, generator, ctf=False), 15)
    projector = Projector(molecule)
    step = math.radians(0.5)
    still = projector.spectra(spectra.frequencies, rotations)
    near = (small_rotations(step * torch.eye(3)) @ rotations[:, None]).flatten(0, 1)
    slope = (projector.spectra(spectra.frequencies, near).view(200, 3, -1) - still[:, None]) / step
    information = torch.einsum("bim,bjm,bm->bij", slope, slope.conj(), spectra.power.to(slope)).real
    bound = torch.rad2deg(torch.linalg.inv(information).diagonal(dim1=1, dim2=2).sum(1).sqrt())
    found = climb(projector, spectra, Poses(rotations, shifts, torch.zeros(200)))
    errors = angles_deg(found.rotations, rotations)
    ratio = float((errors / bound).square().mean().sqrt())
    assert 0.7 < ratio < 1.6


def test_global_search_needs_no_start(molecule: Volume, generator: torch.Generator) -> None:
    rotations, shifts = random_rotations(12, generator), torch.randn(12, 2, generator=generator)
    spectra = ImageSpectra.of(observe(molecule, rotations, shifts, 2.0, generator, ctf=True), 15)
    projector = Projector(molecule)
    found = OrientationGrid(projector, 15.0).search(spectra)
    assert found.rotations.shape == (12, 4, 3, 3)
    assert (found.log_likelihood.diff(dim=1) <= 0).all()
    best = climb(projector, spectra, found[:, 0])
    assert (angles_deg(best.rotations, rotations) < 5).float().mean() > 0.8
    assert (best.shifts_px - shifts).norm(dim=1).median() < 0.3


def test_candidates_are_hills_of_their_own(molecule: Volume, generator: torch.Generator) -> None:
    """Far from each other, and the likeliest of all the grid first; particles may lie off the centre."""
    rotations, shifts = random_rotations(6, generator), torch.tensor([[5.0, -4.0]]).expand(6, 2)
    spectra = ImageSpectra.of(observe(molecule, rotations, shifts, 2.0, generator, ctf=False), 15)
    projector = Projector(molecule)
    grid = OrientationGrid(projector, 15.0)
    found = grid.search(spectra, shifts, shift_radius_px=0.0)
    torch.testing.assert_close(found.shifts_px, shifts[:, None].expand(-1, 4, -1))
    for one in found.rotations:
        apart = torch.stack([angles_deg(first, second) for first, second in itertools.combinations(one, 2)])
        assert apart.min() > 22.5
    here = spectra.up_to(grid.ring)
    for row in range(6):
        every = Poses(
            grid.rotations, shifts[:1].expand(len(grid.rotations), 2), torch.zeros(len(grid.rotations))
        )
        same = here[torch.full((len(grid.rotations),), row)]
        likelihood = climb(projector, same, every, steps=0).log_likelihood
        torch.testing.assert_close(found.log_likelihood[row, 0], likelihood.max(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("shifted", [False, True])
def test_draws_lie_as_far_from_the_best_as_the_truth_does(
    molecule: Volume, generator: torch.Generator, shifted: bool
) -> None:
    """Mean squared angle and shift over many images: the draws say how far off the best is."""
    rotations, shifts = random_rotations(200, generator), torch.zeros(200, 2)
    spectra = ImageSpectra.of(observe(molecule, rotations, shifts, 1.0, generator, ctf=False), 15)
    projector = Projector(molecule)
    best = climb(projector, spectra, Poses(rotations, shifts, torch.zeros(200)), shifts=shifted)
    drawn = draw_poses(projector, spectra, best, generator, pairs=16, shifts=shifted)
    torch.testing.assert_close(drawn.shares.sum(1), torch.ones(200))
    off = angles_deg(best.rotations, rotations)
    told = angles_deg(drawn.rotations, best.rotations[:, None])
    mean_square = (drawn.shares * told.square()).sum(1)
    # Heads counted, so that few images far off do not decide.
    assert 0.7 < float((off.square().median() / mean_square.median()).sqrt()) < 1.3
    away = (drawn.shifts_px - best.shifts_px[:, None]).square().sum(2)
    if shifted:
        told_px = (drawn.shares * away).sum(1).mean().sqrt()
        assert 0.7 < float((best.shifts_px - shifts).square().sum(1).mean().sqrt() / told_px) < 1.4
    else:
        assert not away.any()


def test_draws_reach_no_farther_than_a_hill(molecule: Volume, generator: torch.Generator) -> None:
    """An image of nothing says nothing of its pose; the draws stay near the one that is given."""
    rotations = random_rotations(50, generator)
    spectra = ImageSpectra.of(
        Observation(torch.randn(50, BOX, BOX, generator=generator), None, torch.full((50,), 1e-9)), 15
    )
    best = Poses(rotations, torch.zeros(50, 2), torch.zeros(50))
    drawn = draw_poses(Projector(molecule), spectra, best, generator)
    torch.testing.assert_close(drawn.shares, torch.full((50, 8), 1 / 8), rtol=1e-2, atol=0)
    spread = angles_deg(drawn.rotations, rotations[:, None]).square().mean().sqrt()
    assert float(spread) == pytest.approx(10 * math.sqrt(3), rel=0.15)
    # In pairs on opposite sides.
    torch.testing.assert_close(
        drawn.rotations[:, :4] @ rotations[:, None].mT, (drawn.rotations[:, 4:] @ rotations[:, None].mT).mT
    )


@pytest.mark.parametrize("search", ["local", "global"])
def test_shifts_that_are_known_stay(
    search: Literal["local", "global"], molecule: Volume, generator: torch.Generator
) -> None:
    rotations, shifts = random_rotations(60, generator), torch.randn(60, 2, generator=generator)
    seen = observe(molecule, rotations, shifts, 1.0, generator, ctf=False)
    start, halves = turned(rotations, 10.0, generator), (np.arange(60) % 2 + 1).astype(np.int8)
    settings = RefineSettings(rounds=2, search=search, spacing_deg=15.0, shifts=False)
    found = refine_orientations(
        ObservedImages(seen, molecule.pixel_size_A), start, shifts, halves, settings
    ).poses
    assert torch.equal(found.shifts_px, shifts)
    assert angles_deg(found.rotations, rotations).median() < 0.7 * angles_deg(start, rotations).median()


def test_refinement_improves_orientations(molecule: Volume, generator: torch.Generator) -> None:
    count = 240
    rotations, shifts = random_rotations(count, generator), torch.randn(count, 2, generator=generator)
    seen = observe(molecule, rotations, shifts, 1.0, generator, ctf=True)
    start = turned(rotations, 10.0, generator)
    halves = (np.arange(count) % 2 + 1).astype(np.int8)
    done: list[tuple[int, int]] = []
    found = refine_orientations(
        ObservedImages(seen, molecule.pixel_size_A),
        start,
        None,
        halves,
        RefineSettings(rounds=2),
        progress=lambda *told: done.append(told),
    )
    assert angles_deg(found.poses.rotations, rotations).mean() < 0.6 * angles_deg(start, rotations).mean()
    assert (found.poses.shifts_px - shifts).norm(dim=1).mean() < 0.5 * shifts.norm(dim=1).mean()
    assert len(found.resolution_A) == 3
    assert found.resolution_A[-1] <= found.resolution_A[0]
    assert done[-1] == (2 * count, 2 * count)


def test_several_poses_of_each_image_make_a_better_map(molecule: Volume, generator: torch.Generator) -> None:
    """Than the likeliest alone, where images do not tell exactly how they lie."""
    rotations, halves = random_rotations(240, generator), (np.arange(240) % 2 + 1).astype(np.int8)
    seen = observe(molecule, rotations, torch.zeros(240, 2), 0.2, generator, ctf=False)
    source = ObservedImages(seen, molecule.pixel_size_A)
    start = turned(rotations, 8.0, generator)
    found = refine_orientations(source, start, None, halves, RefineSettings(rounds=2, shifts=False))
    alone = solve_halves(
        *(
            gather_half(source, np.flatnonzero(halves == half), found.poses.rotations, None)
            for half in (1, 2)
        ),
        molecule.pixel_size_A,
    )
    several, one = (
        float(fourier_shell_correlation(maps.whole, molecule.density * maps.mask)[1 : BOX // 2].mean())
        for maps in (found.maps, alone)
    )
    assert several > one + 0.01 > 0.75


def test_refinement_of_noise_ends(generator: torch.Generator) -> None:
    """Half maps agree nowhere; the finest detail that is looked at is coarser than the grid's."""
    images = torch.randn(40, BOX, BOX, generator=generator)
    seen = Observation(images, None, torch.ones(40))
    halves = (np.arange(40) % 2 + 1).astype(np.int8)
    start = random_rotations(40, generator)
    settings = RefineSettings(rounds=1, search="global", spacing_deg=5.0)
    found = refine_orientations(ObservedImages(seen, 5.0), start, None, halves, settings)
    assert bool(found.poses.rotations.isfinite().all())
    # Coarser than a third of the box.
    assert found.resolution_A[0] > BOX * 5.0 / 3


def test_an_image_of_noise_does_not_find_itself(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map that it is compared with says nothing of how it lay before."""
    monkeypatch.setattr("polarice.reconstruction.refinement._ENOUGH", 200)
    seen = Observation(torch.randn(400, BOX, BOX, generator=generator), None, torch.ones(400))
    halves = (np.arange(400) % 2 + 1).astype(np.int8)
    start = random_rotations(400, generator)
    settings = RefineSettings(rounds=1, search="global", spacing_deg=15.0, shifts=False)
    found = refine_orientations(ObservedImages(seen, 5.0), start, None, halves, settings)
    stayed = angles_deg(found.poses.rotations, start) < 10
    assert stayed.float().mean() < 0.05


def test_refinement_refuses_what_it_cannot_use(molecule: Volume, generator: torch.Generator) -> None:
    rotations = random_rotations(4, generator)
    seen = observe(molecule, rotations, torch.zeros(4, 2), 1.0, generator, ctf=False)
    source = ObservedImages(seen, molecule.pixel_size_A)
    with pytest.raises(PolariceError, match="half set is empty"):
        refine_orientations(source, rotations, None, np.ones(4, np.int8))
    rotations[2, 0, 0] = math.nan
    with pytest.raises(PolariceError, match="not finite"):
        refine_orientations(source, rotations, None, np.array([1, 2, 1, 2], np.int8))

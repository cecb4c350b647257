import math

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.conventions import random_rotations
from polarice.imaging import shift_images
from polarice.reconstruction import (
    BackProjection,
    Frame,
    Observation,
    ObservedImages,
    Poses,
    RefineSettings,
    fourier_shell_correlation,
    refine_orientations,
    register_maps,
    soft_ball,
)
from polarice.simulation import Projector, Volume, density_from_structure, example_structure

BOX, COUNT = 32, 400
# Which moves what lies at the edge of the ball by a tenth of a voxel.
SMALL_DEG = math.degrees(0.1 / 13)


@pytest.fixture(scope="module")
def molecule() -> Volume:
    return density_from_structure(example_structure(), BOX, 5.0)


def somewhere(generator: torch.Generator, *, mirrored: bool) -> Frame:
    """Any frame, its origin up to two voxels off."""
    return Frame(
        random_rotations(1, generator)[0],
        4 * torch.rand(3, generator=generator).double().float() - 2,
        mirrored,
    )


def in_frame(frame: Frame, generator: torch.Generator, count: int = COUNT) -> tuple[Poses, Poses]:
    """Poses, and the same in another frame."""
    shifts = torch.randn(count, 2, generator=generator)
    poses = Poses(random_rotations(count, generator), shifts, torch.zeros(count))
    return poses, frame.poses(poses)


def map_of(images: Tensor, poses: Poses) -> Volume:
    back = BackProjection(BOX)
    back.add(images, poses.rotations, poses.shifts_px)
    equations = back.equations()
    density = equations.solve(1e-2 * equations.information().clamp(min=1e-3))
    return Volume(density * soft_ball(BOX, BOX - 6.0, 4.0, density), 5.0)


def angles_deg(first: Tensor, second: Tensor) -> Tensor:
    trace = (first * second).sum((-2, -1))
    return torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).arccos())


@pytest.mark.parametrize("mirrored", [False, True])
def test_one_image_has_a_pose_in_every_frame(
    molecule: Volume, generator: torch.Generator, mirrored: bool
) -> None:
    """The map that poses of another frame make of the same images explains them as well."""
    frame = somewhere(generator, mirrored=mirrored)
    poses, others = in_frame(frame, generator)
    images = shift_images(Projector(molecule)(poses.rotations), poses.shifts_px)
    for told in (poses, others):
        density = map_of(images, told)
        explained = shift_images(Projector(density)(told.rotations), told.shifts_px)
        assert float((explained - images).square().sum() / images.square().sum()) < 0.02


@pytest.mark.parametrize("noise", [0.0, 2.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_are_found_from_maps(
    molecule: Volume, generator: torch.Generator, mirrored: bool, noise: float
) -> None:
    frame = somewhere(generator, mirrored=mirrored)
    poses, others = in_frame(frame, generator)
    clean = shift_images(Projector(molecule)(poses.rotations), poses.shifts_px)
    sigma = noise * float(clean.square().mean().sqrt())
    first, second = (clean + sigma * torch.randn(clean.shape, generator=generator) for _ in range(2))
    found = register_maps(map_of(second, others), map_of(first, poses), ring=8)
    assert found.mirrored == mirrored
    back = found.poses(others)
    assert angles_deg(back.rotations, poses.rotations).max() < (SMALL_DEG if noise == 0 else 1.5)
    assert (back.shifts_px - poses.shifts_px).norm(dim=1).max() < (0.05 if noise == 0 else 0.3)


def test_near_frames_are_put_together_without_a_search(molecule: Volume, generator: torch.Generator) -> None:
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.05, 0.02], [0.05, 0.0, -0.03], [-0.02, 0.03, 0.0]]))
    frame = Frame(turn, torch.tensor([0.4, -0.3, 0.2]), False)
    assert frame.angle_deg == pytest.approx(math.degrees(math.sqrt(0.05**2 + 0.02**2 + 0.03**2)), rel=1e-3)
    poses, others = in_frame(frame, generator)
    images = shift_images(Projector(molecule)(poses.rotations), poses.shifts_px)
    found = register_maps(map_of(images, others), map_of(images, poses), ring=10, anywhere=False)
    back = found.poses(others)
    assert angles_deg(back.rotations, poses.rotations).max() < SMALL_DEG
    assert (back.shifts_px - poses.shifts_px).norm(dim=1).max() < 0.05


def test_origins_that_are_known_stay(molecule: Volume, generator: torch.Generator) -> None:
    frame = somewhere(generator, mirrored=True)._replace(origin_px=torch.zeros(3))
    poses, others = in_frame(frame, generator)
    images = shift_images(Projector(molecule)(poses.rotations), poses.shifts_px)
    found = register_maps(map_of(images, others), map_of(images, poses), ring=8, shifts=False)
    assert not found.origin_px.any()
    assert angles_deg(found.poses(others).rotations, poses.rotations).max() < SMALL_DEG


def test_maps_of_noise_lie_upon_each_other_nowhere(generator: torch.Generator) -> None:
    """Six numbers and a hand cannot make noise agree but for the first shells, which hold few numbers."""
    rotations = random_rotations(COUNT, generator)
    poses = Poses(rotations, torch.zeros(COUNT, 2), torch.zeros(COUNT))
    first, second = (map_of(torch.randn(COUNT, BOX, BOX, generator=generator), poses) for _ in range(2))
    found = register_maps(second, first, ring=8)
    turned = map_of(Projector(second)(rotations), found.poses(poses))
    assert float(fourier_shell_correlation(turned.density, first.density)[4:].abs().max()) < 0.2


def test_half_sets_that_were_oriented_apart_end_in_one_frame(
    molecule: Volume, generator: torch.Generator
) -> None:
    count = 160
    poses, others = in_frame(somewhere(generator, mirrored=True), generator, count)
    clean = shift_images(Projector(molecule)(poses.rotations), poses.shifts_px)
    sigma = float(clean.square().mean().sqrt())
    seen = Observation(
        clean + sigma * torch.randn(clean.shape, generator=generator), None, torch.full((count,), sigma**-2)
    )
    halves = (np.arange(count) % 2 + 1).astype(np.int8)
    second = torch.from_numpy(halves == 2)
    start = torch.where(second[:, None, None], others.rotations, poses.rotations)
    shifts = torch.where(second[:, None], others.shifts_px, poses.shifts_px)
    told = ObservedImages(seen, molecule.pixel_size_A)
    found = refine_orientations(told, start, shifts, halves, RefineSettings(rounds=1, apart=True))
    for got in (found.start, found.poses):
        assert angles_deg(got.rotations, poses.rotations).median() < 4
        assert angles_deg(got.rotations, poses.rotations)[second].median() < 4
    assert (found.start.shifts_px - poses.shifts_px).norm(dim=1).max() < 0.4
    best = refine_orientations(told, poses.rotations, poses.shifts_px, halves, RefineSettings(rounds=1))
    assert found.resolution_A[-1] < 1.1 * best.resolution_A[-1]

"""The disc that leaves neighbours out, against particles and neighbours that were put there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.conventions import random_rotations
from polarice.imaging import CTF, filter_images, soft_disc
from polarice.particles import ParticleStack, ParticleWriter, Preprocessor, scan
from polarice.particles.crowding import EDGE_PX, PowerProfile

BOX, PIXEL_A, WIDE = 64, 3.0, 128
# Balls (x, y, z, radius) in pixels, and the longest diameter.
MOLECULES = {
    "ball": ([(0, 0, 0, 11)], 22),
    "rod": ([(0, 0, z, 4) for z in (-12, -6, 0, 6, 12)], 32),
    "dumb-bell": ([(0, 0, -8, 6), (0, 0, 8, 6)], 28),
    "flat": ([(8, 0, 0, 5), (-8, 0, 0, 5), (0, 8, 0, 5), (0, -8, 0, 5)], 26),
    # Balls on a sphere: hollow from all sides.
    "shell": ([(*(9 * v / np.linalg.norm(v)), 3) for v in np.random.default_rng(0).normal(size=(40, 3))], 24),
}


def project(name: str, places: Tensor, generator: torch.Generator) -> Tensor:
    """Projections in random directions, (n, WIDE, WIDE), of a molecule at places (n, 2)."""
    balls = torch.tensor(MOLECULES[name][0]).float()
    turned = random_rotations(len(places), generator)[:, :2] @ balls[:, :3].T
    centre = turned + places[:, :, None]
    axis = torch.arange(WIDE) - WIDE // 2
    images = torch.zeros(len(places), WIDE, WIDE)
    for ball in range(len(balls)):
        x, y = centre[:, 0, ball, None, None], centre[:, 1, ball, None, None]
        squared = (axis - x).square() + (axis[:, None] - y).square()
        images += (balls[ball, 3] ** 2 - squared).clamp_min(0).sqrt()
    return images


def crowd(
    name: str, n: int, beside: int, generator: torch.Generator, snr: float = 0.3, shift: float = 1.0
) -> tuple[Tensor, Tensor, CTF]:
    """Particles alone without CTF; and with others a diameter away or more, through a CTF, in noise."""
    one = torch.ones(n)
    defocus = 8000 + 18000 * torch.rand(n, generator=generator)
    ctf = CTF(defocus, defocus, one * 0, one * 300, one * 2.7, one * 0.1, one * 0, one * 0)
    own = shift * torch.randn(n, 2, generator=generator)
    clean = project(name, own, generator)
    everything = clean
    first = 6.28 * torch.rand(n, generator=generator)
    for k in range(beside):
        angle = first + 6.28 * k / max(beside, 3)
        away = MOLECULES[name][1] + 16 * torch.rand(n, generator=generator)
        places = own + away[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        everything = everything + project(name, places, generator)
    transfer = ctf.evaluate(WIDE, PIXEL_A)
    scale = (snr / filter_images(clean, transfer)[:, 32:96, 32:96].square().mean()).sqrt()
    seen = scale * filter_images(everything, transfer)[:, 32:96, 32:96]
    return clean[:, 32:96, 32:96], seen + torch.randn(n, BOX, BOX, generator=generator), ctf


def gap(images: Tensor, ctf: CTF | None) -> int | None:
    profile = PowerProfile(BOX, BOX)
    signs = None if ctf is None else torch.where(ctf.evaluate(BOX, PIXEL_A) < 0, -1.0, 1.0)
    profile.add(images, signs, torch.zeros(len(images), 2))
    return profile.gap(0)


@pytest.mark.parametrize("name", MOLECULES)
def test_the_disc_holds_the_particle_and_leaves_others_out(name: str, generator: torch.Generator) -> None:
    clean, images, ctf = crowd(name, 200, 4, generator)
    found = gap(images, ctf)
    assert found is not None
    disc = soft_disc(BOX, found + EDGE_PX, EDGE_PX)
    assert (clean * disc).square().sum() > 0.99 * clean.square().sum()
    # Beyond the disc begins no more than the nearest neighbours' middle.
    assert found < MOLECULES[name][1]


@pytest.mark.parametrize("name", MOLECULES)
@pytest.mark.parametrize("shift", [1.0, 4.0])
def test_without_others_there_is_no_gap(name: str, shift: float, generator: torch.Generator) -> None:
    for snr in (0.05, 1.0):
        _, images, ctf = crowd(name, 200, 0, generator, snr, shift)
        assert gap(images, ctf) is None
        assert gap(images, None) is None


def test_noise_has_no_gap(generator: torch.Generator) -> None:
    """Not once in forty times."""
    for _ in range(40):
        assert gap(torch.randn(60, BOX, BOX, generator=generator), None) is None


def test_planes_are_reckoned_with(generator: torch.Generator) -> None:
    """The profile is that of the images once a share of their planes is taken off."""
    images = torch.randn(60, 32, 32, generator=generator)
    slopes = 0.1 * torch.randn(60, 2, generator=generator)
    axis = torch.arange(32) - 15.5
    plane = slopes[:, :1, None] * axis + slopes[:, 1:, None] * axis[:, None]
    told, done = PowerProfile(32, 32), PowerProfile(32, 32)
    told.add(images + plane, None, slopes)
    done.add(images + 0.3 * plane, None, slopes)
    torch.testing.assert_close(told.profile(0.7), done.profile(0))


def written(folder: Path, images: Tensor, ctf: CTF) -> ParticleStack:
    folder.mkdir()
    columns = {
        "rlnDefocusU": ctf.defocus_u_A.numpy(),
        "rlnDefocusV": ctf.defocus_v_A.numpy(),
        "rlnDefocusAngle": ctf.defocus_angle_deg.numpy(),
        "rlnRandomSubset": 1 + np.arange(len(images)) % 2,
    }
    optics = {"rlnOpticsGroup": [1], "rlnVoltage": 300.0, "rlnSphericalAberration": 2.7}
    optics["rlnAmplitudeContrast"] = 0.1
    with ParticleWriter(
        folder, "p", box=BOX, pixel_size_A=PIXEL_A, particles=columns, optics=optics
    ) as writer:
        writer.append(images.numpy())
    return ParticleStack.open(folder / "p.star")


def test_each_half_set_has_its_own_disc(tmp_path: Path, generator: torch.Generator) -> None:
    _, images, ctf = crowd("ball", 240, 4, generator)
    stack = written(tmp_path / "one", images, ctf)
    found = scan(stack, BOX)
    assert found.statistics.disc_A is not None
    tool = Preprocessor.for_stack(stack, found)
    assert tool.mask_found
    assert tool.mask_diameter_A == found.statistics.disc_A.max() < BOX * PIXEL_A
    assert "a mask of" in " ".join(tool.notices)
    masks = tool.mask(found.statistics)
    for row in (0, 1):
        radius = float(found.statistics.disc_A[row]) / 2 / PIXEL_A
        torch.testing.assert_close(masks[row], soft_disc(BOX, radius, EDGE_PX))
    # Half 2 becomes noise: it has no disc then, and half 1's is what it was.
    images[1::2] = torch.randn(120, BOX, BOX, generator=generator)
    other = written(tmp_path / "two", images, ctf)
    changed = scan(other, BOX)
    assert changed.statistics.disc_A is not None
    assert torch.equal(changed.statistics.disc_A[::2], found.statistics.disc_A[::2])
    assert set(changed.statistics.disc_A[1::2].tolist()) == {BOX * PIXEL_A}
    assert torch.equal(Preprocessor.for_stack(other, changed).mask(changed.statistics)[::2], masks[::2])


@pytest.mark.parametrize(("told", "diameter_A"), [(None, BOX * PIXEL_A), (120.0, 120.0)])
def test_what_is_told_is_done(
    told: float | None, diameter_A: float, tmp_path: Path, generator: torch.Generator
) -> None:
    _, images, ctf = crowd("ball", 120, 4, generator)
    stack = written(tmp_path / "one", images, ctf)
    found = scan(stack, BOX)
    assert found.statistics.disc_A is not None
    tool = Preprocessor.for_stack(stack, found, mask_diameter_A=told)
    assert not tool.mask_found
    assert tool.mask_diameter_A == diameter_A
    mask = tool.mask(found.statistics)
    torch.testing.assert_close(mask[0], soft_disc(BOX, diameter_A / 2 / PIXEL_A, EDGE_PX))
    assert not [notice for notice in tool.notices if "mask" in notice]


@pytest.mark.data
@pytest.mark.parametrize("name", ["particles_64", "native_128", "pair_rest_64", "pair_frame_64"])
def test_crowded_apoferritin(shared_data: Path, name: str) -> None:
    """A shell of 120 Å outside; its neighbours touch it, and the disc is whole where it is."""
    found = scan(ParticleStack.open(shared_data / "particles" / "apoferritin" / f"{name}.star"), 64)
    assert found.statistics.disc_A is not None
    assert 120 + 2 * EDGE_PX * PIXEL_A < float(found.statistics.disc_A[0]) < 150


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    ["particles/t20s_bin12/particles_32.star", "noise/ice_apoferritin_64.mrcs", "noise/frame_128.mrcs"],
)
def test_real_boxes_that_are_not_crowded(shared_data: Path, name: str) -> None:
    assert scan(ParticleStack.open(shared_data / name), 64).statistics.disc_A is None

"""Each convention held to RELION alone: what the field's table says, and what it does not say.

The second half of a test reads a column in another program's way, and must fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.conventions import euler_to_matrix
from polarice.imaging import CTF, filter_images, shift_images
from polarice.particles import ParticleStack, StarTable, read_star, write_star
from polarice.simulation import simulate
from polarice.simulation.projection import project_volume
from polarice.simulation.volume import Volume

BOX, PIXEL_SIZE_A, COUNT = 64, 1.5, 6
# RELION interpolates linearly in the padded transform.
SAME = 3e-4
EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
Error = Callable[[Tensor, Tensor], float]

pytestmark = pytest.mark.interop


def draw(low: float, high: float, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(COUNT, generator=g, dtype=torch.float64)


@pytest.fixture
def volume(phantom: Any) -> Volume:
    made: Volume = phantom.random(BOX).volume(PIXEL_SIZE_A)
    return made


@pytest.fixture
def angles() -> Tensor:
    return torch.stack([draw(0, 360, 1), draw(20, 160, 2), draw(0, 360, 3)], -1)


def test_orientation(relion: Any, volume: Volume, angles: Tensor, squared_error: Error) -> None:
    """ZYZ, degrees, in this direction and of this hand."""
    theirs = relion.project(volume, dict(zip(EULER, angles.T, strict=True)))
    rotations = euler_to_matrix(angles)
    assert squared_error(project_volume(volume, rotations), theirs) < SAME
    assert squared_error(project_volume(volume, rotations.mT), theirs) > 0.1
    mirrored = project_volume(volume, rotations).flip(-1).roll(1, -1)
    assert squared_error(mirrored, theirs) > 0.1


def test_shift(relion: Any, volume: Volume, angles: Tensor, squared_error: Error) -> None:
    """Å, x before y; the particle lies where the origin says with the other sign."""
    shifts = torch.stack([draw(-4, 4, 4), draw(-4, 4, 5)], -1)
    columns = dict(zip(EULER, angles.T, strict=True))
    columns |= {
        "rlnOriginXAngst": -shifts[:, 0] * PIXEL_SIZE_A,
        "rlnOriginYAngst": -shifts[:, 1] * PIXEL_SIZE_A,
    }
    theirs = relion.project(volume, columns)
    still = project_volume(volume, euler_to_matrix(angles))
    assert squared_error(shift_images(still, shifts), theirs) < SAME
    for other in (-shifts, shifts.flip(-1), shifts * PIXEL_SIZE_A):
        assert squared_error(shift_images(still, other), theirs) > 0.03


def ctf() -> CTF:
    u = draw(15000, 25000, 6)
    one = torch.ones_like(u)
    return CTF(u, u - 3000, draw(0, 180, 7), 200 * one, 1.4 * one, 0.07 * one, draw(30, 90, 8), 0 * one)


# What is read otherwise by somebody.
OTHERWISE: dict[str, Callable[[CTF], CTF]] = {
    "defocus: over focus is positive": lambda c: replace(
        c, defocus_u_A=-c.defocus_u_A, defocus_v_A=-c.defocus_v_A
    ),
    "defocus: nm": lambda c: replace(c, defocus_u_A=c.defocus_u_A / 10, defocus_v_A=c.defocus_v_A / 10),
    "astigmatism: half the difference": lambda c: replace(c, defocus_v_A=2 * c.defocus_v_A - c.defocus_u_A),
    "astigmatism: the axes exchanged": lambda c: replace(
        c, defocus_u_A=c.defocus_v_A, defocus_v_A=c.defocus_u_A
    ),
    "angle: from the y axis": lambda c: replace(c, defocus_angle_deg=90 - c.defocus_angle_deg),
    "angle: clockwise": lambda c: replace(c, defocus_angle_deg=-c.defocus_angle_deg),
    "angle: radians": lambda c: replace(c, defocus_angle_deg=torch.rad2deg(c.defocus_angle_deg)),
    "voltage: 300 kV": lambda c: replace(c, voltage_kV=1.5 * c.voltage_kV),
    "aberration: cm": lambda c: replace(c, cs_mm=10 * c.cs_mm),
    "amplitude contrast: 0.3": lambda c: replace(c, amplitude_contrast=0.3 + 0 * c.amplitude_contrast),
    "phase shift: radians": lambda c: replace(c, phase_shift_deg=torch.rad2deg(c.phase_shift_deg)),
    "phase shift: the other sign": lambda c: replace(c, phase_shift_deg=-c.phase_shift_deg),
}


@pytest.mark.parametrize("reading", OTHERWISE)
def test_ctf(relion: Any, volume: Volume, angles: Tensor, squared_error: Error, reading: str) -> None:
    """Defocus, astigmatism, its angle, voltage, aberration, phase plate, and the sign of it all."""
    known = ctf()
    columns = dict(zip(EULER, angles.T, strict=True))
    columns |= {"rlnDefocusU": known.defocus_u_A, "rlnDefocusV": known.defocus_v_A}
    columns |= {"rlnDefocusAngle": known.defocus_angle_deg, "rlnPhaseShift": known.phase_shift_deg}
    theirs = relion.project(volume, columns, "--ctf", optics="200 1.4 0.07")
    still = project_volume(volume, euler_to_matrix(angles))
    ours = filter_images(still, known.evaluate(BOX, PIXEL_SIZE_A))
    right = squared_error(ours, theirs)
    assert right < SAME
    read_otherwise = filter_images(still, OTHERWISE[reading](known).evaluate(BOX, PIXEL_SIZE_A))
    assert squared_error(read_otherwise, theirs) > 4 * right


def test_contrast(relion: Any, volume: Volume, angles: Tensor, squared_error: Error) -> None:
    """A CTF that is positive at frequency zero: protein that is bright stays bright."""
    columns = dict(zip(EULER, angles.T, strict=True))
    defocus = {
        "rlnDefocusU": draw(100, 200, 1),
        "rlnDefocusV": draw(100, 200, 1),
        "rlnDefocusAngle": draw(0, 1, 1),
    }
    theirs = relion.project(volume, columns | defocus, "--ctf", optics="300 2.7 1.0")
    ours = project_volume(volume, euler_to_matrix(angles))
    assert squared_error(ours, theirs) < 0.01
    assert squared_error(-ours, theirs) > 3


def test_half_sets(relion: Any, phantom: Any) -> None:
    """`rlnRandomSubset` 1 is the half that RELION calls 1."""
    out = relion.folder
    made = simulate(phantom.random(32).volume(3.0), out, particles=60, box=32, snr=20.0, overwrite=True)
    halves = ParticleStack.open(made.particles).half_sets
    assert halves is not None
    maps = {}
    for half in (1, 2):
        tables = [
            table.take(np.flatnonzero(halves == half).tolist()) if table.name == "particles" else table
            for table in read_star(made.particles)[0]
            if isinstance(table, StarTable)
        ]
        write_star(out / "half.star", tables, version=30001)
        found = {}
        for name, words in {
            "all": ("half.star",),
            "chosen": ("particles.star", "--subset", str(half)),
        }.items():
            relion.run("relion_reconstruct", "--o", "map.mrc", "--i", *words)
            found[name] = mrcfile.read(out / "map.mrc")
        np.testing.assert_allclose(found["chosen"], found["all"], atol=1e-5 * np.ptp(found["all"]))
        maps[half] = found["all"]
    assert np.abs(maps[1] - maps[2]).max() > 0.01 * np.ptp(maps[1])

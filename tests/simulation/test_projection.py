import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import finufft
import gemmi
import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.conventions import euler_to_matrix, random_rotations
from polarice.imaging import CTF, filter_images, shift_images
from polarice.simulation.projection import Projector, project_volume
from polarice.simulation.volume import Volume, resample_volume

Error = Callable[[Tensor, Tensor], float]
EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


@pytest.mark.parametrize("box", [48, 49])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_closed_form(
    phantom: Any, squared_error: Error, generator: torch.Generator, box: int, dtype: torch.dtype
) -> None:
    heap = phantom.random(box)
    rotations = random_rotations(20, generator)
    images = project_volume(heap.volume(dtype=dtype), rotations)
    assert images.dtype == dtype
    assert squared_error(images, heap.projections(rotations)) < 1e-6


def test_agrees_with_exact_slices_of_a_rough_volume(squared_error: Error, generator: torch.Generator) -> None:
    """White noise fills the spectrum; `finufft` sums it without interpolation."""
    box = 32
    density = torch.randn(box, box, box, generator=generator, dtype=torch.float64)
    axis = torch.arange(box) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    density[x**2 + y**2 + z**2 > (0.4 * box) ** 2] = 0
    rotations = random_rotations(4, generator).double()
    ky, kx = torch.meshgrid(torch.fft.fftfreq(box) * box, torch.fft.rfftfreq(box) * box, indexing="ij")
    inside = (kx**2 + ky**2) < (box / 2) ** 2
    exact = torch.zeros(4, box, box // 2 + 1, dtype=torch.complex128)
    for i, rotation in enumerate(rotations):
        points = torch.stack([kx[inside], ky[inside]], -1).double() @ rotation[:2] * 2 * np.pi / box
        px, py, pz = points.T.contiguous().numpy()
        slices = finufft.nufft3d2(pz, py, px, density.numpy().astype(complex), eps=1e-12, isign=-1)
        exact[i, inside] = torch.from_numpy(slices)
    images = torch.fft.fftshift(torch.fft.irfft2(exact, s=(box, box)), dim=(-2, -1))
    assert squared_error(project_volume(Volume(density, 1.0), rotations), images) < 1e-5


def test_an_atom_is_seen_where_the_conventions_say() -> None:
    density = torch.zeros(32, 32, 32)
    density[16 + 5, 16 - 3, 16 + 2] = 1  # (x, y, z) = (2, -3, 5)
    rotation = euler_to_matrix(torch.tensor([[0.0, 90.0, 0.0], [0.0, 0.0, 90.0]]))
    seen = rotation @ torch.tensor([2.0, -3.0, 5.0])
    for image, position in zip(project_volume(Volume(density, 1.0), rotation), seen, strict=True):
        row, column = divmod(int(image.argmax()), 32)
        assert (column - 16, row - 16) == tuple(position[:2].round().int().tolist())


def test_batches_do_not_matter(
    phantom: Any, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector = Projector(phantom.random(32).volume())
    rotations = random_rotations(7, generator)
    together = projector(rotations)
    monkeypatch.setattr("polarice.simulation.projection._POINTS_AT_ONCE", 1)
    torch.testing.assert_close(projector(rotations), together)
    assert projector(rotations[:0]).shape == (0, 32, 32)


@pytest.mark.interop
def test_agrees_with_relion_project(
    relion: Any, phantom: Any, squared_error: Error, generator: torch.Generator
) -> None:
    """Angles, hand, shifts, CTF sign, astigmatism, aberration and phase shift, pixel by pixel.

    RELION interpolates linearly in the padded transform, which alone costs it 1e-4 against the closed form.
    """
    box, pixel, n = 64, 1.5, 10
    heap = phantom.random(box)
    angles = torch.rand(n, 3, generator=generator, dtype=torch.float64) * torch.tensor([360.0, 180.0, 360.0])
    shifts = torch.rand(n, 2, generator=generator, dtype=torch.float64) * 8 - 4
    columns = dict(zip(EULER, angles.T, strict=True))
    columns |= {"rlnOriginXAngst": -shifts[:, 0] * pixel, "rlnOriginYAngst": -shifts[:, 1] * pixel}
    volume = heap.volume(pixel)
    ours = shift_images(project_volume(volume, euler_to_matrix(angles)), shifts)
    assert squared_error(relion.project(volume, columns), ours) < 3e-4
    u = 15000 + 10000 * torch.rand(n, generator=generator, dtype=torch.float64)
    v = u - 2000 * torch.rand(n, generator=generator, dtype=torch.float64)
    axis = 180 * torch.rand(n, generator=generator, dtype=torch.float64)
    plate = 90 * torch.rand(n, generator=generator, dtype=torch.float64)
    columns |= {"rlnDefocusU": u, "rlnDefocusV": v, "rlnDefocusAngle": axis, "rlnPhaseShift": plate}
    one = torch.ones_like(u)
    ctf = CTF(u, v, axis, 300 * one, 2.7 * one, 0.1 * one, plate, 0 * one).evaluate(box, pixel)
    assert squared_error(relion.project(volume, columns, "--ctf"), filter_images(ours, ctf)) < 3e-4


def _stack(path: Path) -> tuple[Tensor, Tensor]:
    """Images and rotations of a stack with a STAR file beside it."""
    table = gemmi.cif.read(str(path.with_suffix(".star"))).find_block("particles")
    angles = [[float(value) for value in table.find_loop(f"_{name}")] for name in EULER]
    images = torch.from_numpy(mrcfile.read(path).astype(np.float64))
    return images, euler_to_matrix(torch.tensor(angles, dtype=torch.float64).T)


@pytest.mark.data
def test_agrees_with_relion_images_of_the_ribosome(shared_data: Path, squared_error: Error) -> None:
    ribosome = torch.from_numpy(
        mrcfile.read(shared_data / "maps" / "clean70SRibosome_vol_65p.mrc").astype(float)
    )
    volume = Volume(ribosome, 1.0)
    images, rotations = _stack(shared_data / "particles" / "aspire_relion_proj" / "rln_proj_65.mrcs")
    # With odd boxes RELION's images have their origin one pixel further.
    moved = shift_images(project_volume(volume, rotations), torch.ones(2))
    assert squared_error(moved * (images * moved).sum() / (moved**2).sum(), images) < 1e-3
    images, rotations = _stack(shared_data / "particles" / "aspire_relion_proj" / "rln_proj_64.mrcs")
    # Their volume was cropped from 65 to 64 about its corner, which moved it by half a voxel.
    projected = project_volume(resample_volume(volume, 64, 65 / 64), rotations)
    moved = shift_images(projected, rotations[:, :2].sum(-1) * (-0.5 * 64 / 65))
    assert squared_error(moved * (images * moved).sum() / (moved**2).sum(), images) < 1e-3


@pytest.mark.data
def test_agrees_with_the_toy_set(shared_data: Path) -> None:
    """Its images were interpolated linearly in real space, so only the geometry can be compared."""
    folder = shared_data / "particles" / "toy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the files have no machine stamp
        density = mrcfile.open(folder / "toymodel_small_nocenter.mrc", permissive=True).data.astype(float)
        images = torch.from_numpy(
            mrcfile.open(folder / "toy_projections.mrcs", permissive=True).data[:50].astype(float)
        )
    rotations = torch.from_numpy(np.load(folder / "poses.npz")["rot"][:50].astype(float))
    ours = project_volume(Volume(torch.from_numpy(density), 1.0), rotations)
    assert float((ours * images).sum() / (ours.norm() * images.norm())) > 0.99
    mirrored = project_volume(Volume(torch.from_numpy(density), 1.0), rotations).flip(-1)
    assert float((mirrored * images).sum() / (mirrored.norm() * images.norm())) < 0.9


def test_slopes_of_spectra_are_those_of_turned_specimens(
    phantom: Any, squared_error: Error, generator: torch.Generator
) -> None:
    heap = phantom.random(48)
    projector = Projector(heap.volume(dtype=torch.float64))
    rotations = random_rotations(6, generator).double()
    frequencies = 30 * torch.rand(200, 2, generator=generator, dtype=torch.float64) - 15
    spectra, slopes = projector.turning_spectra(frequencies, rotations)
    torch.testing.assert_close(spectra, projector.spectra(frequencies, rotations))
    step = 1e-3
    for axis in range(3):
        vector = torch.zeros(3, dtype=torch.float64)
        vector[axis] = step
        skew = torch.linalg.cross(vector.expand(3, 3), torch.eye(3, dtype=torch.float64)).T
        there, back = (
            projector.spectra(frequencies, torch.linalg.matrix_exp(sign * skew) @ rotations)
            for sign in (1, -1)
        )
        true = torch.view_as_real((there - back) / (2 * step))
        assert squared_error(torch.view_as_real(slopes[:, axis]), true) < 1e-4

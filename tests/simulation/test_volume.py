import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.errors import StructureError
from polarice.simulation.structure import Structure
from polarice.simulation.volume import (
    Volume,
    density_from_structure,
    read_map,
    resample_volume,
    write_map,
)

Error = Callable[[Tensor, Tensor], float]


@pytest.fixture(scope="module")
def molecule() -> Structure:
    rng = np.random.default_rng(0)
    coordinates = (rng.normal(size=(400, 3)) * 12).astype(np.float32)
    return Structure("cloud", coordinates, rng.choice([6, 7, 8, 15, 16, 26], 400).astype(np.uint8)).centred()


@pytest.mark.parametrize(("box", "pixel_size_A", "resolution_A"), [(64, 2.0, None), (45, 2.5, 8.0)])
def test_density_has_the_structure_factors_of_its_atoms(
    molecule: Structure, box: int, pixel_size_A: float, resolution_A: float | None
) -> None:
    volume = density_from_structure(molecule, box, pixel_size_A, resolution_A)
    found = torch.fft.fftn(torch.fft.ifftshift(volume.density.double())) * pixel_size_A**3
    rng = np.random.default_rng(1)
    index = rng.integers(-((box - 1) // 2), (box - 1) // 2 + 1, (60, 3))
    index[0] = 0
    k = index / (box * pixel_size_A)
    k2 = (k**2).sum(1)
    expected = np.zeros(60, complex)
    for z in np.unique(molecule.atomic_numbers):
        factors = gemmi.Element(int(z)).c4322
        f = sum(a * np.exp(-b * k2 / 4) for a, b in zip(factors.a, factors.b, strict=True))
        where = molecule.coordinates_A[molecule.atomic_numbers == z].astype(float)
        expected += f * np.exp(-2j * np.pi * k[:, ::-1] @ where.T).sum(1)
    expected *= np.exp(-k2 * (resolution_A or 2 * pixel_size_A) ** 2)
    values = found[tuple(index.T)].numpy()
    assert np.linalg.norm(values - expected) < 1e-4 * np.linalg.norm(expected)
    # Frequency zero: the integral is the sum of f_e(0).
    assert values[0].real == pytest.approx(expected[0].real, rel=1e-4)


def test_origin_is_the_middle_voxel() -> None:
    carbon = Structure("C", np.zeros((1, 3), np.float32), np.array([6], np.uint8))
    for box in (16, 17):
        density = density_from_structure(carbon, box, 1.5).density
        assert np.unravel_index(int(density.argmax()), density.shape) == (box // 2,) * 3
    right = Structure("C", np.array([[3.0, 0, 0]], np.float32), np.array([6], np.uint8))
    density = density_from_structure(right, 16, 1.5).density
    assert np.unravel_index(int(density.argmax()), density.shape) == (8, 8, 10)


def test_density_refuses_what_does_not_fit(molecule: Structure) -> None:
    with pytest.raises(StructureError, match="does not fit") as caught:
        density_from_structure(molecule, 16, 2.0)
    assert "pixel size" in str(caught.value.hint)
    with pytest.raises(StructureError, match="resolution"):
        density_from_structure(molecule, 64, 2.0, resolution_A=3.0)


def test_resample_is_exact_for_smooth_density(phantom: Any, squared_error: Error) -> None:
    big = phantom.random(60, sigma=4.0)
    # Half the side at twice the pixel; the same object described in the coarse grid's pixels.
    coarse = phantom(30, big.centres / 2, big.heights, 2.0)
    found = resample_volume(big.volume(1.0), 30, 2.0)
    assert squared_error(found.density, coarse.volume().density) < 1e-8
    # A pixel that divides nothing, odd to even, with room around.
    odd = phantom(45, big.centres / 1.4, big.heights, 4 / 1.4)
    assert squared_error(resample_volume(big.volume(1.0), 45, 1.4).density, odd.volume().density) < 1e-7
    finer = phantom(90, big.centres / 0.7, big.heights, 4 / 0.7)
    assert squared_error(resample_volume(big.volume(1.0), 90, 0.7).density, finer.volume().density) < 1e-7


def test_resample_pads_with_zeros(phantom: Any) -> None:
    small = phantom.random(20, sigma=1.5).volume(2.0)
    padded = resample_volume(small, 31, 2.0)
    torch.testing.assert_close(padded.density[5:25, 5:25, 5:25], small.density)
    assert float(padded.density[:5].abs().max()) == 0


def test_map_round_trip_and_compression(phantom: Any, tmp_path: Path) -> None:
    volume = phantom.random(24, sigma=1.5).volume(1.37, torch.float32)
    write_map(tmp_path / "a.mrc", volume)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mrc"]
    (tmp_path / "b.map.gz").write_bytes(gzip.compress((tmp_path / "a.mrc").read_bytes()))
    for name in ("a.mrc", "b.map.gz"):
        found = read_map(tmp_path / name)
        torch.testing.assert_close(found.density, volume.density)
        assert found.pixel_size_A == pytest.approx(1.37)


def test_axis_order_of_the_header_is_honoured(tmp_path: Path) -> None:
    value = torch.arange(4 * 4 * 4, dtype=torch.float32).reshape(4, 4, 4)
    with mrcfile.new(tmp_path / "a.mrc") as file:
        # Columns run along Z, rows along X, sections along Y.
        file.set_data(value.permute(1, 2, 0).contiguous().numpy())
        file.voxel_size = 2.0
        file.header.mapc, file.header.mapr, file.header.maps = 3, 1, 2
    torch.testing.assert_close(read_map(tmp_path / "a.mrc").density, value)


def test_map_that_is_no_cube_is_padded_about_its_middle(tmp_path: Path) -> None:
    data = np.zeros((4, 7, 10), np.float32)
    data[2, 3, 5] = 1
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(data)
        file.voxel_size = 2.0
    density = read_map(tmp_path / "a.mrc").density
    assert density.shape == (10, 10, 10)
    assert density[5, 5, 5] == 1
    assert density.sum() == 1


@pytest.mark.parametrize(
    ("shape", "dtype", "voxel", "words"),
    [
        ((4, 4, 4), np.float32, 0.0, "no pixel size"),
        ((4, 4, 4), np.float32, (1.0, 1.0, 1.1), "no cubes"),
        ((4, 4), np.float32, 1.0, "no density map"),
        ((4, 4, 4), np.complex64, 1.0, "no density map"),
    ],
)
def test_useless_maps_are_refused(
    tmp_path: Path, shape: tuple[int, ...], dtype: type, voxel: Any, words: str
) -> None:
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(np.ones(shape, dtype))
        file.voxel_size = voxel
    with pytest.raises(StructureError, match=words) as caught:
        read_map(tmp_path / "a.mrc")
    assert caught.value.hint


def test_broken_and_missing_maps(tmp_path: Path) -> None:
    (tmp_path / "a.mrc").write_bytes(bytes(4000))
    with pytest.raises(StructureError, match="cannot be read"):
        read_map(tmp_path / "a.mrc")
    with pytest.raises(StructureError, match="does not exist"):
        read_map(tmp_path / "b.mrc")


def test_volume_must_be_a_cube_of_some_size() -> None:
    with pytest.raises(StructureError, match="cube"):
        Volume(torch.zeros(3, 4, 4), 1.0)
    with pytest.raises(StructureError, match="pixel size"):
        Volume(torch.zeros(4, 4, 4), 0.0)


@pytest.mark.data
def test_real_maps_open(shared_data: Path) -> None:
    assert read_map(shared_data / "maps" / "groel_11.5A.mrc").pixel_size_A == pytest.approx(2.7, rel=1e-6)
    assert read_map(shared_data / "maps" / "emd_1461.mrc").box == 96
    assert read_map(shared_data / "maps" / "emd_3197.map.gz").box == 20
    with pytest.raises(StructureError, match="no pixel size"):
        read_map(shared_data / "maps" / "clean70SRibosome_vol_65p.mrc")

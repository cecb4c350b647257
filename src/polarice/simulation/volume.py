"""Density on a cubic grid: from a structure, from a map file, and to one."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import gemmi
import mrcfile.mrcinterpreter
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import StructureError
from ..files import whole
from .structure import Structure

__all__ = ["Volume", "density_from_structure", "read_map", "resample_volume", "write_map"]

_LONGEST_SIDE = 4096


@dataclass(frozen=True, eq=False)
class Volume:
    """Density on a cubic grid whose origin is the voxel ``(L // 2, L // 2, L // 2)``.

    Attributes
    ----------
    density : Tensor, shape (L, L, L)
        Axes (z, y, x).
    pixel_size_A : float
        Side of a voxel, Å.
    """

    density: Tensor
    pixel_size_A: float

    def __post_init__(self) -> None:
        if self.density.ndim != 3 or len(set(self.density.shape)) != 1:
            raise StructureError(f"a volume must be a cube, but its shape is {tuple(self.density.shape)}")
        if not self.pixel_size_A > 0:
            raise StructureError(f"a volume's pixel size must be positive, but it is {self.pixel_size_A} Å")

    @property
    def box(self) -> int:
        """Side of the cube in voxels."""
        return self.density.shape[0]


def density_from_structure(
    structure: Structure, box: int, pixel_size_A: float, resolution_A: float | None = None
) -> Volume:
    """Electrostatic potential of a structure, as the microscope images it.

    Electron scattering factors are those of the International Tables, vol. C, 4.3.2.2 (five Gaussians
    an element), convolved with a Gaussian that takes the Fourier amplitudes to 1/e at the resolution
    (σ = resolution / (π √2)). They are summed on a grid twice as fine and Fourier-cropped, so that
    what aliases from beyond Nyquist is below 1e-4 of it. The sum over voxels times the
    voxel's volume is Σ f_e(0), in Å.

    Parameters
    ----------
    structure : Structure
        Its origin becomes the volume's.
    box : int
        Side in voxels; memory is about 100 bytes a voxel.
    pixel_size_A : float
        Side of a voxel.
    resolution_A : float, optional
        Twice the pixel size when absent.

    Raises
    ------
    StructureError
        When the molecule is larger than the box or the resolution is finer than two pixels.
    """
    if structure.diameter_A > box * pixel_size_A:
        raise StructureError(
            f"structure {structure.name} is {structure.diameter_A:.0f} Å across and does not fit into a box "
            f"of {box} pixels of {pixel_size_A:.3g} Å",
            hint=f"Take a pixel size of at least {structure.diameter_A / box * 1.2:.2f} Å, or a larger box",
        )
    resolution = 2 * pixel_size_A if resolution_A is None else resolution_A
    if resolution < 2 * pixel_size_A * (1 - 1e-6):
        raise StructureError(
            f"a resolution of {resolution:.3g} Å cannot be held by pixels of {pixel_size_A:.3g} Å",
            hint=f"Take a resolution of at least {2 * pixel_size_A:.3g} Å",
        )
    edge = box * pixel_size_A
    scene = gemmi.Structure()
    scene.cell = gemmi.UnitCell(edge, edge, edge, 90, 90, 90)
    scene.spacegroup_hm = "P 1"
    scene.add_model(_gemmi_model(structure, b_iso_A2=4 * resolution**2))
    calculator = gemmi.DensityCalculatorE()
    calculator.set_grid_cell_and_spacegroup(scene)
    calculator.cutoff = 1e-6
    calculator.grid.set_size(2 * box, 2 * box, 2 * box)
    calculator.add_model_density_to_grid(scene[0])
    fine = torch.from_numpy(np.array(calculator.grid, copy=True)).permute(2, 1, 0)
    density = torch.fft.fftshift(_fourier_crop_half(fine, box))
    return Volume(density.contiguous(), pixel_size_A)


def _gemmi_model(structure: Structure, b_iso_A2: float) -> gemmi.Model:
    """Model of one chain and one residue that holds all atoms at the same B factor."""
    residue = gemmi.Residue()
    residue.name = "UNK"
    elements = {int(z): gemmi.Element(int(z)) for z in np.unique(structure.atomic_numbers)}
    for position, z in zip(structure.coordinates_A.tolist(), structure.atomic_numbers.tolist(), strict=True):
        atom = gemmi.Atom()
        atom.element = elements[z]
        atom.pos = gemmi.Position(*position)
        atom.b_iso = b_iso_A2
        residue.add_atom(atom)
    chain = gemmi.Chain("A")
    chain.add_residue(residue)
    model = gemmi.Model(1)
    model.add_chain(chain)
    return model


def _fourier_crop_half(fine: Tensor, box: int) -> Tensor:
    """Crop the spectrum of a ``(2 box)³`` periodic grid to ``box³``, leaving the Nyquist planes empty."""
    spectrum = torch.fft.rfftn(fine)
    keep = (box - 1) // 2
    cropped = spectrum.new_zeros(box, box, box // 2 + 1)
    low, high = slice(0, keep + 1), slice(-keep, None)
    for z in (low, high):
        for y in (low, high):
            cropped[z, y, : keep + 1] = spectrum[z, y, : keep + 1]
    density: Tensor = torch.fft.irfftn(cropped, s=(box, box, box)) / 8
    return density


def resample_volume(volume: Volume, box: int, pixel_size_A: float) -> Volume:
    """Volume on another grid with the same origin, by band-limited (trigonometric) interpolation.

    Frequencies that either grid cannot hold are dropped; beyond the old box the density is zero.

    Parameters
    ----------
    volume : Volume
    box : int
        New side in voxels.
    pixel_size_A : float
        New side of a voxel.
    """
    old = volume.box
    centred = torch.arange(box, dtype=torch.float64) - box // 2
    position = centred * pixel_size_A / volume.pixel_size_A + old // 2
    highest = (old - 1) // 2
    if pixel_size_A > volume.pixel_size_A:
        highest = min(highest, math.ceil(old * volume.pixel_size_A / (2 * pixel_size_A)) - 1)
    offset = position[:, None] - torch.arange(old, dtype=torch.float64)[None, :]
    harmonics = torch.arange(1, highest + 1, dtype=torch.float64)
    kernel = 1 + 2 * torch.cos(2 * math.pi / old * offset[..., None] * harmonics).sum(-1)
    if old % 2 == 0 and pixel_size_A <= volume.pixel_size_A:
        kernel += torch.cos(math.pi * offset)
    inside = (position > -0.5) & (position < old - 0.5)
    weight = (kernel / old * inside[:, None]).to(volume.density)
    density = volume.density
    for _ in range(3):
        density = torch.tensordot(density, weight, dims=([0], [1]))
    return Volume(density.contiguous(), pixel_size_A)


def read_map(path: str | Path) -> Volume:
    """Read a density map from an MRC or CCP4 file, which may be compressed (.gz, .bz2).

    The header's axis order is honoured; a map that is no cube is padded with zeros so that its middle
    voxel becomes the cube's; start indices and origin in the header are ignored.

    Raises
    ------
    StructureError
        When the file is missing or broken, holds no single real map, or names no pixel size, or
        pixels that differ by more than 0.1 % along the axes.
    """
    path = Path(path)
    if not path.is_file():
        raise StructureError("the file does not exist", path=path)
    try:
        data, axes, pixel = _read_mrc(path)
    except (ValueError, OSError, EOFError) as problem:
        raise StructureError(
            f"the map cannot be read: {problem}", path=path, hint="Check that the file is a whole MRC map"
        ) from problem
    if data.ndim != 3 or np.iscomplexobj(data):
        raise StructureError(
            f"this is no density map: {data.ndim} axes of type {data.dtype}",
            path=path,
            hint="Give a three-dimensional real map",
        )
    if not (np.isfinite(pixel).all() and (pixel > 0).all()):
        raise StructureError(
            "the header has no pixel size",
            path=path,
            hint="Set it, for instance with relion_image_handler --rescale_angpix, or mrcfile's voxel_size",
        )
    if pixel.max() / pixel.min() > 1.001:
        raise StructureError(f"the voxels are no cubes: {pixel} Å", path=path, hint="Resample the map")
    if axes == (0, 0, 0):
        axes = (3, 2, 1)
    if sorted(axes) != [1, 2, 3]:
        raise StructureError(f"the header's axis order {axes[::-1]} is no order of x, y, z", path=path)
    ordered = data.transpose([axes.index(axis) for axis in (3, 2, 1)])
    return Volume(torch.from_numpy(_pad_to_cube(ordered)), float(pixel.mean()))


def _read_mrc(path: Path) -> tuple[NDArray[np.generic], tuple[int, ...], NDArray[np.float64]]:
    """Read the data, the axes (1 = x) that its dimensions run along, and the voxel's sides (x, y, z) in Å."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old files lack the magic word or the machine stamp
        with mrcfile.open(path, permissive=True, header_only=True) as file:
            shape = [int(file.header[name]) for name in ("nz", "ny", "nx")]
        if not all(1 <= n <= _LONGEST_SIDE for n in shape):
            raise ValueError(f"its header says a size of {shape}")
        file = mrcfile.open(path, permissive=True)
    with file:
        if file.data is None:
            raise ValueError("its size does not fit its header")
        axes = tuple(int(file.header[name]) for name in ("maps", "mapr", "mapc"))
        pixel = np.array([float(file.voxel_size[name]) for name in ("x", "y", "z")])
        return np.array(file.data), axes, pixel


def _pad_to_cube(data: NDArray[np.generic]) -> NDArray[np.float32]:
    side = max(data.shape)
    cube = np.zeros((side, side, side), np.float32)
    start = [side // 2 - n // 2 for n in data.shape]
    cube[tuple(slice(s, s + n) for s, n in zip(start, data.shape, strict=True))] = data
    return cube


def write_map(path: str | Path, volume: Volume) -> None:
    """Write an MRC map, replacing what was there; the file appears under its name only when whole."""
    # mrcfile leaves a file open on a disk that is full, so it writes to memory.
    content = io.BytesIO()
    with mrcfile.mrcinterpreter.MrcInterpreter() as file:
        file._create_default_attributes()
        file._iostream = content
        file.set_data(volume.density.detach().cpu().float().numpy())
        file.set_volume()
        file.voxel_size = volume.pixel_size_A
        file.flush()
        with whole(path) as partial:
            partial.write_bytes(content.getvalue())

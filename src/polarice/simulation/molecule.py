"""What is to be simulated, by its name: a structure, a map, an entry of a bank, the example."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import PolariceError, StructureError
from .bank import StructureBank
from .example import example_structure
from .structure import Structure, read_structure
from .volume import Volume, density_from_structure, read_map, resample_volume

__all__ = ["Molecule", "molecule_density", "molecule_diameter_px", "read_molecule"]

Molecule = Structure | Volume | str | Path
"""A structure, a density, or the name of one (`read_molecule`)."""

_FILL = 0.6
_MAP_SUFFIXES = (".mrc", ".map", ".ccp4", ".rec")
_ENTRY = ".npz:"
# Of the squared density: what lies farther out is not seen.
_WITHIN = 0.999


def read_molecule(source: Molecule) -> tuple[str, Structure | Volume]:
    """Name and content of a molecule.

    Parameters
    ----------
    source : Structure, Volume or path-like
        Something that is known already; a PDB, mmCIF or MRC file; ``bank.npz:NAME``, a structure of a bank;
        or the word ``example``, for which a file of that name has to make way.

    Raises
    ------
    StructureError
        When there is no such thing, or it cannot be read.
    """
    if not isinstance(source, (str, Path)):
        return getattr(source, "name", "volume"), source
    name = str(source)
    if name == "example":
        return name, example_structure()
    if _ENTRY in name:
        path, _, entry = name.rpartition(":")
        bank = StructureBank.load(Path(path))
        return name, bank[bank.index(entry)].centred()
    plain = name.lower().removesuffix(".gz").removesuffix(".bz2")
    return name, read_map(source) if plain.endswith(_MAP_SUFFIXES) else read_structure(source)


def molecule_density(
    molecule: Structure | Volume, box: int, pixel_size_A: float | None, max_shift_px: float = 0.0
) -> Volume:
    """Density of a molecule on the grid of its images.

    Parameters
    ----------
    molecule : Structure or Volume
    box : int
    pixel_size_A : float, optional
        When absent, a structure fills 60 % of the box, and a map keeps its field of view.
    max_shift_px : float
        How far from the centre a structure has to fit.

    Raises
    ------
    PolariceError
        When a structure does not fit the box.
    """
    if isinstance(molecule, Volume):
        pixel = molecule.box * molecule.pixel_size_A / box if pixel_size_A is None else pixel_size_A
        return resample_volume(molecule, box, pixel)
    pixel = molecule.diameter_A / (_FILL * box) if pixel_size_A is None else pixel_size_A
    if molecule.diameter_A / 2 / pixel + max_shift_px > box / 2:
        shifted = f"; with shifts of {max_shift_px:g} pixels it" if max_shift_px else " and"
        raise PolariceError(
            f"structure {molecule.name} is {molecule.diameter_A:.0f} Å across{shifted} "
            f"leaves a box of {box} pixels of {pixel:.3g} Å",
            hint="Take larger pixels, a larger box or smaller shifts",
        )
    return density_from_structure(molecule, box, pixel)


def molecule_diameter_px(volume: Volume) -> float:
    """Diameter, in pixels, of the sphere about the centre that holds all but a trace of a density.

    Raises
    ------
    StructureError
        When the map is empty.
    """
    axis = torch.arange(volume.box, dtype=torch.float64) - volume.box // 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().flatten()
    power = volume.density.double().square().flatten()
    order = distance.argsort()
    held = power[order].cumsum(0)
    if not held[-1] > 0:
        raise StructureError("the map is empty")
    return 2 * float(distance[order][int((held < _WITHIN * held[-1]).sum())])

"""Atomic structures: what is read from PDB and mmCIF files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from ..errors import StructureError

__all__ = ["Structure", "read_structure"]

_MOST_ATOMS = 150_000
_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".pdb.gz", ".ent.gz", ".cif.gz", ".mmcif.gz")


@dataclass(frozen=True)
class Structure:
    """Heavy atoms of a molecule.

    Attributes
    ----------
    name : str
        What to call it, such as the PDB ID.
    coordinates_A : ndarray, shape (n, 3), float32
        Positions (x, y, z) in Å; whoever makes a structure puts its centre at the origin.
    atomic_numbers : ndarray, shape (n,), uint8
        Chemical elements.

    Raises
    ------
    StructureError
        When it has no atoms, or the two arrays do not fit together.
    """

    name: str
    coordinates_A: NDArray[np.float32]
    atomic_numbers: NDArray[np.uint8]

    def __post_init__(self) -> None:
        n = len(self.atomic_numbers)
        if n == 0:
            raise StructureError(f"structure {self.name} has no atoms")
        if self.coordinates_A.shape != (n, 3):
            raise StructureError(
                f"structure {self.name} has {n} elements but coordinates of shape {self.coordinates_A.shape}"
            )
        if not np.isfinite(self.coordinates_A).all():
            raise StructureError(f"structure {self.name} has coordinates that are not numbers")

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    @property
    def radius_A(self) -> float:
        """Distance of the outermost atom from the origin, Å."""
        return float(np.linalg.norm(self.coordinates_A, axis=1).max())

    @property
    def diameter_A(self) -> float:
        """Diameter of the smallest sphere about the origin that holds all atoms, Å."""
        return 2 * self.radius_A

    def centred(self) -> Structure:
        """Copy whose centre of mass lies at the origin."""
        mass = np.array([gemmi.Element(z).weight for z in range(120)])[self.atomic_numbers]
        centre = np.average(self.coordinates_A.astype(np.float64), axis=0, weights=mass)
        moved = (self.coordinates_A - centre).astype(np.float32)
        return Structure(self.name, moved, self.atomic_numbers)


def read_structure(path: str | Path) -> Structure:
    """Read the heavy atoms of a PDB or mmCIF file, which may be gzipped.

    The first model is taken, or biological assembly 1 where the file carries its operators and the
    result has at most 150,000 heavy atoms. Waters, hydrogens and unknown elements are dropped, the
    first alternate location is kept, and the centre of mass is moved to the origin.

    Parameters
    ----------
    path : path-like
        File name ending in .pdb, .ent, .cif or .mmcif, with or without .gz.

    Returns
    -------
    Structure
        Named after the file.

    Raises
    ------
    StructureError
        When the file is missing, cannot be parsed, or holds no heavy atoms.
    """
    path = Path(path)
    if not path.is_file():
        raise StructureError("the file does not exist", path=path)
    suffix = next((s for s in _SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise StructureError(
            "this is not a structure file by its name",
            path=path,
            hint="Give a file whose name ends in .pdb, .ent, .cif or .mmcif, or one of these with .gz",
        )
    try:
        atoms = _heavy_atoms(gemmi.read_structure(str(path)))
    except (RuntimeError, ValueError, OSError) as problem:
        raise StructureError(
            f"the structure cannot be read: {problem}",
            path=path,
            hint="Check that the download is whole, and that the file is PDB or mmCIF",
        ) from problem
    if not atoms:
        raise StructureError(
            "the file has no heavy atoms besides water", path=path, hint="Give a file with atomic coordinates"
        )
    return Structure(
        name=path.name[: -len(suffix)],
        coordinates_A=np.array([atom.pos.tolist() for atom in atoms], np.float32),
        atomic_numbers=np.array([atom.element.atomic_number for atom in atoms], np.uint8),
    ).centred()


def _heavy_atoms(parsed: gemmi.Structure) -> list[gemmi.Atom]:
    """Atoms of the assembly or the first model that scatter and are not solvent."""
    if len(parsed) == 0:
        return []
    parsed.setup_entities()
    model = parsed[0]
    assembly = next((a for a in parsed.assemblies if a.name == "1"), None)
    if assembly is not None and 0 < _assembly_size(assembly, model) <= _MOST_ATOMS:
        model = gemmi.make_assembly(assembly, model, gemmi.HowToNameCopiedChain.Dup)
    model.remove_alternative_conformations()
    return [
        atom
        for chain in model
        for residue in chain
        if not residue.is_water()
        for atom in residue
        if not atom.is_hydrogen() and atom.element.atomic_number > 0
    ]


def _assembly_size(assembly: gemmi.Assembly, model: gemmi.Model) -> int:
    """Count the heavy atoms that an assembly will have; drops operators' targets that the file lacks."""
    atoms_of_chain: Counter[str] = Counter()
    atoms_of_subchain: Counter[str] = Counter()
    for chain in model:
        for residue in chain:
            heavy = 0 if residue.is_water() else sum(not atom.is_hydrogen() for atom in residue)
            atoms_of_chain[chain.name] += heavy
            atoms_of_subchain[residue.subchain] += heavy
    size = 0
    for generator in assembly.generators:
        generator.chains = [name for name in generator.chains if name in atoms_of_chain]
        generator.subchains = [name for name in generator.subchains if name in atoms_of_subchain]
        atoms = sum(atoms_of_chain[name] for name in generator.chains)
        atoms += sum(atoms_of_subchain[name] for name in generator.subchains)
        size += len(generator.operators) * atoms
    return size

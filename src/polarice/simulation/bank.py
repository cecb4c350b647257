"""A bank of structures to train on: the atoms of thousands of molecules in one file.

Atoms are kept instead of volumes: they are a hundred times smaller, and they project at any pixel
size without interpolation (`polarice.simulation.splat`).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import PolariceError, StructureError
from ..files import whole
from .structure import Structure, read_structure

__all__ = ["StructureBank", "build_bank"]

_UNIT_A = 0.01
_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".pdb.gz", ".ent.gz", ".cif.gz")


@dataclass(frozen=True)
class StructureBank:
    """Atoms of many structures, concatenated.

    Attributes
    ----------
    names : tuple of str
        One for each structure.
    offsets : ndarray of int64, shape (n + 1,)
        Structure i owns the atoms ``offsets[i]:offsets[i + 1]``.
    coordinates : ndarray of int16, shape (atoms, 3)
        In units of 0.01 Å, each structure about its own centre.
    atomic_numbers : ndarray of uint8, shape (atoms,)
    """

    names: tuple[str, ...]
    offsets: NDArray[np.int64]
    coordinates: NDArray[np.int16]
    atomic_numbers: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Structure:
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        coordinates = self.coordinates[rows].astype(np.float32) * np.float32(_UNIT_A)
        return Structure(self.names[index], coordinates, self.atomic_numbers[rows])

    def index(self, name: str) -> int:
        """Position of the structure called ``name`` (upper or lower case)."""
        upper = [known.upper() for known in self.names]
        if name.upper() not in upper:
            raise StructureError(f"no structure is called {name!r}", hint="see StructureBank.names")
        return upper.index(name.upper())

    def subset(self, indices: Sequence[int]) -> StructureBank:
        """The bank of some of the structures."""
        return StructureBank.from_structures([self[int(i)] for i in indices])

    def split(self, held_out: int, seed: int = 0) -> tuple[StructureBank, StructureBank]:
        """A training and a validation part, the latter of ``held_out`` structures drawn at random."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.subset(sorted(order[held_out:])), self.subset(sorted(order[:held_out]))

    @classmethod
    def from_structures(cls, structures: Iterable[Structure]) -> StructureBank:
        """Gather structures; each must fit in ±320 Å."""
        kept = list(structures)
        if not kept:
            raise StructureError("a bank needs at least one structure")
        for structure in kept:
            if np.abs(structure.coordinates_A).max() > 327:
                raise StructureError(f"{structure.name} is wider than 650 Å, which a bank cannot hold")
        coordinates = [np.rint(s.coordinates_A / _UNIT_A).astype(np.int16) for s in kept]
        return cls(
            tuple(s.name for s in kept),
            np.concatenate([[0], np.cumsum([len(c) for c in coordinates])]).astype(np.int64),
            np.concatenate(coordinates),
            np.concatenate([s.atomic_numbers for s in kept]).astype(np.uint8),
        )

    def save(self, path: Path) -> None:
        """Write as ``.npz``, whole or not at all."""
        with whole(path) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file,
                names=np.array(self.names),
                offsets=self.offsets,
                coordinates=self.coordinates,
                atomic_numbers=self.atomic_numbers,
            )

    @classmethod
    def load(cls, path: str | Path) -> StructureBank:
        """Read a bank written by `save`, or a corpus file with ``lo``, ``hi``, ``z``, ``offset``, ``id``.

        Raises
        ------
        StructureError
            The file is missing or holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise StructureError("no such bank", path=path, hint="make one with `polarice bank build`")
        try:
            with path.open("rb") as handle, np.load(handle) as file:
                arrays = {name: file[name] for name in file.files}
        # TypeError: a single array (.npy) is no archive.
        except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise StructureError(f"not a bank ({error})", path=path) from error
        if {"names", "offsets", "coordinates", "atomic_numbers"} <= arrays.keys():
            return cls(
                tuple(str(name) for name in arrays["names"]),
                arrays["offsets"],
                arrays["coordinates"],
                arrays["atomic_numbers"],
            )
        if {"lo", "hi", "z", "offset", "id"} <= arrays.keys():
            return cls(*_decode_corpus(arrays))
        raise StructureError("not a bank: it holds " + ", ".join(sorted(arrays)), path=path)

    @classmethod
    def concatenate(cls, banks: Sequence[StructureBank]) -> StructureBank:
        """Join several banks."""
        starts = np.cumsum([0] + [len(bank.coordinates) for bank in banks])
        return cls(
            tuple(name for bank in banks for name in bank.names),
            np.concatenate([[0]] + [b.offsets[1:] + s for b, s in zip(banks, starts, strict=False)]),
            np.concatenate([bank.coordinates for bank in banks]),
            np.concatenate([bank.atomic_numbers for bank in banks]),
        )


def _decode_corpus(
    arrays: dict[str, NDArray[np.generic]],
) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int16], NDArray[np.uint8]]:
    """Undo the corpus files' coding: byte planes of the differences along the atoms of each entry."""
    offsets = arrays["offset"].astype(np.int64)
    differences = (arrays["hi"].astype(np.uint16) << 8 | arrays["lo"].astype(np.uint16)).view(np.int16)
    coordinates = np.empty(differences.shape[::-1], np.int16)
    for start, stop in pairwise(offsets.tolist()):
        coordinates[start:stop] = np.cumsum(differences[:, start:stop], axis=1, dtype=np.int16).T
    names = tuple(str(name) for name in arrays["id"])
    return names, offsets, coordinates, arrays["z"].astype(np.uint8)


def build_bank(
    source: Path, out: Path, *, progress: Callable[[int, int], None] | None = None
) -> tuple[StructureBank, list[str]]:
    """Gather a folder of structure files, or corpus files, into a bank.

    Parameters
    ----------
    source : Path
        A folder with PDB or mmCIF files (gzipped or not) or corpus ``.npz`` files whose names do not
        contain ``test`` or ``named``, or one such file.
    out : Path
        Where the bank is written.
    progress : callable, optional
        Called with (files done, files in all).

    Returns
    -------
    bank : StructureBank
    skipped : list of str
        A line for each file that could not be used.

    Raises
    ------
    StructureError
        Nothing usable was found.
    """
    if not source.exists():
        raise StructureError("no such file or folder", path=source)
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    corpora = [f for f in files if f.suffix == ".npz" and (f == source or not _held_back(f))]
    structures = [f for f in files if f.name.lower().endswith(_SUFFIXES)]
    parts, read, skipped = [], [], []
    for done, file in enumerate(corpora + structures):
        try:
            if file.suffix == ".npz":
                parts.append(StructureBank.load(file))
            else:
                read.append(read_structure(file))
        except PolariceError as error:
            skipped.append(str(error))
        if progress is not None:
            progress(done + 1, len(corpora) + len(structures))
    if read:
        parts.append(StructureBank.from_structures(read))
    if not parts:
        hint = "give a folder of PDB or mmCIF files" + (f"; {skipped[0]}" if skipped else "")
        raise StructureError("no structure could be read", path=source, hint=hint)
    bank = StructureBank.concatenate(parts)
    bank.save(out)
    return bank, skipped


def _held_back(file: Path) -> bool:
    """Whether a corpus file is one that must not be trained on."""
    return "test" in file.stem or "named" in file.stem

"""Neighbour tables on disk: written for one stack, and refused for any other."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ParticleFileError
from ..files import save_arrays
from ..neighbours import NOBODY, Search, groups_of
from ..particles import ParticleStack

__all__ = ["NEIGHBOUR_FILE", "GivenNeighbours", "NeighbourTable", "stack_digest"]

NEIGHBOUR_FILE = "neighbours.npz"
# Images whose pixels tell stacks apart that have the same names.
_LOOKED_AT = 8


@dataclass(frozen=True)
class NeighbourTable:
    """Which particles show one view, and how one lies upon the other.

    A neighbour j of particle i, mirrored along y if the table says so, then turned by the angle about the
    centre of the box and then moved by the shift, lies upon i.

    Attributes
    ----------
    rows : ndarray of int64, shape (n, k)
        Rows of the neighbours from 0, likeliest first, -1 in empty places.
    probability : ndarray of float32, shape (n, k)
        That the two show one view, as far as the stack alone can tell; 0 in empty places.
    angles_deg : ndarray of float32, shape (n, k)
        From x towards y.
    shifts_px : ndarray of float32, shape (n, k, 2)
        (x, y) in pixels of the stack.
    mirrored : ndarray of bool, shape (n, k)
        Neighbours that see the view from the other side.
    centre_px : ndarray of float32, shape (n, 2)
        Where each particle lies from the centre of its box, (x, y) in pixels of the stack.
    informed : bool
        Whether anything that tells views apart stood out of the noise; if not, neighbours are guesses.
    """

    rows: NDArray[np.int64]
    probability: NDArray[np.float32]
    angles_deg: NDArray[np.float32]
    shifts_px: NDArray[np.float32]
    mirrored: NDArray[np.bool_]
    centre_px: NDArray[np.float32]
    informed: bool = True

    @classmethod
    def of_search(cls, found: Search, pixels: float) -> NeighbourTable:
        """What a search found in images each pixel of which is so many of the stack's."""
        companions = found.companions
        centre = found.centre * np.float32(pixels)
        angle = np.deg2rad(companions.angles_deg)
        there = centre[companions.rows]
        x, y = there[..., 0], there[..., 1] * np.where(companions.mirrored, -1, 1)
        turned = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], -1)
        shifts = np.where((companions.rows == NOBODY)[..., None], 0, centre[:, None] - turned)
        return cls(
            companions.rows,
            companions.probability,
            companions.angles_deg,
            shifts.astype(np.float32),
            companions.mirrored,
            centre,
            found.informed,
        )

    def frames(self, row: int, places: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How to look at some neighbours of a particle so that they lie upon it.

        Parameters
        ----------
        row : int
        places : ndarray of int, shape (m,)
            Columns of the table.

        Returns
        -------
        matrices : ndarray, shape (m, 2, 2)
        shifts_px : ndarray, shape (m, 2)
            A neighbour at ``M p + t`` shows what the particle shows at p, from the centre of the box.
        """
        angle = np.deg2rad(self.angles_deg[row, places]).astype(np.float64)
        cos, sin = np.cos(angle), np.sin(angle)
        flip = np.where(self.mirrored[row, places], -1.0, 1.0)
        matrices = np.stack([np.stack([cos, sin], -1), flip[:, None] * np.stack([-sin, cos], -1)], -2)
        return matrices, -(matrices @ self.shifts_px[row, places][..., None])[..., 0]

    def save(self, path: Path, stack: ParticleStack) -> None:
        """Write ``.npz`` for a stack, whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {
            "neighbours": self.rows,
            "probability": self.probability,
            "angles_deg": self.angles_deg,
            "shifts_px": self.shifts_px,
            "mirrored": self.mirrored,
            "centre_px": self.centre_px,
            "stack": np.array(stack_digest(stack)),
        }
        save_arrays(path, arrays)


class GivenNeighbours(NamedTuple):
    """Neighbours that denoising takes from a file.

    Attributes
    ----------
    rows : ndarray of int64, shape (n, k)
        `NOBODY` in empty places and in those of mirror images.
    probability : ndarray of float32, shape (n, k), or None
        If the file says it.
    mirror_images : int
        That were left out.
    """

    rows: NDArray[np.int64]
    probability: NDArray[np.float32] | None
    mirror_images: int

    @classmethod
    def load(cls, path: str | Path, stack: ParticleStack, most: int) -> GivenNeighbours:
        """Read a file of `NeighbourTable.save`, or of a denoising run, or the folder that it lies in.

        Parameters
        ----------
        path : path-like
        stack : ParticleStack
            That it was made for.
        most : int
            Neighbours of a particle that are taken, the likeliest.

        Raises
        ------
        ParticleFileError
            There is no such table, or it is for another stack, or it joins what must stay apart.
        """
        path = Path(path)
        path = path / NEIGHBOUR_FILE if path.is_dir() else path
        arrays = _read(path)
        rows = arrays["neighbours"]
        if arrays["stack"].item() != stack_digest(stack):
            reason = f"these neighbours were found in another stack than {stack.path.name}, or in other rows"
            raise ParticleFileError(reason, path=path, hint="run polarice neighbours on this stack")
        _require_table(path, rows, stack)
        mirrored = arrays.get("mirrored", np.zeros(rows.shape, bool))
        # The likeliest that can be used move to the front.
        order = np.argsort((rows == NOBODY) | mirrored, axis=1, kind="stable")[:, :most]
        rows, mirrored = (np.take_along_axis(part, order, 1) for part in (rows, mirrored))
        rows = np.where(mirrored, NOBODY, rows)
        probability = arrays.get("probability")
        if probability is not None:
            probability = np.where(rows == NOBODY, 0, np.take_along_axis(probability, order, 1))
        return cls(rows, probability, int(arrays["mirrored"].sum()) if "mirrored" in arrays else 0)


def stack_digest(stack: ParticleStack) -> str:
    """Tells stacks apart by their images' names and order, and by some of the images; folders may move."""
    names = stack.column("rlnImageName") if stack.tables else [f"{len(stack)}@{stack.path.name}"]
    digest = hashlib.sha256("\n".join(names or []).encode())
    digest.update(stack.images(np.unique(np.linspace(0, len(stack) - 1, _LOOKED_AT).astype(int))).tobytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, NDArray[Any]]:
    hint = "give the folder that polarice neighbours has written"
    if not path.is_file():
        raise ParticleFileError("there is no neighbour table", path=path, hint=hint)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError):
        raise ParticleFileError("is not a neighbour table", path=path, hint=hint) from None
    if not {"neighbours", "stack"} <= arrays.keys():
        raise ParticleFileError("is not a neighbour table", path=path, hint=hint)
    return arrays


def _require_table(path: Path, rows: NDArray[np.int64], stack: ParticleStack) -> None:
    """Raise unless rows lie within the stack, differ from their own, and keep to their half set."""
    count = len(stack)
    if rows.ndim != 2 or len(rows) != count or not np.issubdtype(rows.dtype, np.integer):
        raise ParticleFileError(f"the table is not one of {count} rows of numbers", path=path)

    def refuse(wrong: NDArray[np.bool_], why: str) -> None:
        if wrong.any():
            row, place = np.argwhere(wrong)[0]
            reason = f"neighbour {rows[row, place] + 1} {why}"
            raise ParticleFileError(reason, path=path, row=int(row) + 1)

    refuse((rows < NOBODY) | (rows >= count), "is not in the stack")
    refuse(rows == np.arange(count)[:, None], "is the particle itself")
    halves = groups_of(count, stack.half_sets)
    refuse((rows != NOBODY) & (halves[rows] != halves[:, None]), "is of the other half set")

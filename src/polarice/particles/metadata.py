"""What the tables of a particle stack say: columns, pixel size, CTF, poses, half sets.

A particle-level column overrides the optics-group column of the same name; the optics table may
stand anywhere in the file.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..conventions import euler_to_matrix
from ..errors import ParticleFileError
from ..imaging import CTF
from .cryosparc_fields import EXPOSURE_GROUP
from .geometry import SAME_SIZE
from .star import StarTable

__all__ = ["ParticleMetadata"]

_GIVE_PIXEL_SIZE = "Give it with --pixel-size (pixel_size_A in Python)"
# What a pixel of a particle image can measure.
_LEAST_PIXEL_A, _LARGEST_PIXEL_A = 0.01, 1000.0
# Optics groups whose pixels differ by a larger factor are a mistake in the table.
_MOST_DIFFERENT = 3.0
_REQUIRED_CTF = ("rlnDefocusU", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")


class ParticleMetadata:
    """The tables of ``n`` particles and what they mean.

    Parameters
    ----------
    path : Path
        The STAR or MRC file, for messages.
    tables : list of StarTable
        Every block of the STAR file in its order; empty for a bare stack.
    count : int
        Number of particles.
    pixel_size_A : float, optional
        Å per pixel; overrides what the tables say.

    Attributes
    ----------
    particles, optics : StarTable or None
        The particle table, and the optics table where there is one.
    given_pixel_size_A : float or None
        What overrides the tables.
    given_half_sets : ndarray of int8, shape (n,), or None
        What `split_halves` has made.
    """

    def __init__(
        self, path: Path, tables: list[StarTable], count: int, pixel_size_A: float | None = None
    ) -> None:
        self.path = path
        self.tables = tables
        self.particles = find_particle_table(path, tables) if tables else None
        self.optics = next((table for table in tables if table.name == "optics" and len(table)), None)
        self._count = count
        self.given_pixel_size_A = pixel_size_A
        self.given_half_sets: NDArray[np.int8] | None = None
        self._numeric: dict[str, NDArray[np.float64] | None] = {}

    def __len__(self) -> int:
        return self._count

    def column(self, name: str) -> list[str] | None:
        """Text of a column, one value a particle; None where neither table has it.

        Parameters
        ----------
        name : str
            Without the leading underscore. A particle-level column overrides the optics group's.
        """
        if self.particles is not None and name in self.particles.columns:
            return self.particles.columns[name]
        if self.optics is None or name not in self.optics.columns:
            return None
        values = self.optics.columns[name]
        return [values[row] for row in self._optics_rows]

    def numeric(self, name: str) -> NDArray[np.float64] | None:
        """Return a column as numbers, shape (n,); None where neither table has it.

        Raises
        ------
        ParticleFileError
            If a value is not a number, with its row.
        """
        if name not in self._numeric:
            text = self.column(name)
            self._numeric[name] = None if text is None else self._to_numbers(name, text)
        return self._numeric[name]

    def _to_integers(self, name: str, text: list[str], where: str = "") -> NDArray[np.int64]:
        numbers = self._to_numbers(name, text, where)
        # RELION itself writes 1.000000 now and then; NaN is not below anything.
        bad = np.flatnonzero(~(np.abs(numbers) < 2**31) | (numbers != np.floor(numbers)))
        if len(bad):
            raise self._misread(name, text, int(bad[0]), "a whole number", where)
        return numbers.astype(np.int64)

    def _to_numbers(self, name: str, text: list[str], where: str = "") -> NDArray[np.float64]:
        try:
            return np.array(text, dtype=np.float64)
        except ValueError:
            row = next(row for row, value in enumerate(text) if not _is_number(value))
            raise self._misread(name, text, row, "a number", where) from None

    def _misread(self, name: str, text: list[str], row: int, what: str, where: str) -> ParticleFileError:
        """Error for a value; ``where`` names the table whose row it is in, if that is not the particles'."""
        reason = f"column _{name}{where} has '{text[row]}', which is not {what}"
        return ParticleFileError(reason, path=self.path, row=None if where else row + 1)

    @cached_property
    def optics_groups(self) -> NDArray[np.int64]:
        """Optics group of each particle as numbered in the file, shape (n,); 1 where there are none."""
        text = None if self.particles is None else self.particles.columns.get("rlnOpticsGroup")
        if text is not None:
            return self._to_integers("rlnOpticsGroup", text)
        if self.optics is None or "rlnOpticsGroup" not in self.optics.columns:
            return np.ones(len(self), dtype=np.int64)
        if len(self.optics) > 1:
            raise ParticleFileError(
                f"the particles have no _rlnOpticsGroup, and there are {len(self.optics)} groups",
                path=self.path, hint="Add the column to the particle table",
            )  # fmt: skip
        return np.full(len(self), self._optics_numbers[0])

    @cached_property
    def _optics_numbers(self) -> NDArray[np.int64]:
        """Number of each group of the optics table."""
        assert self.optics is not None
        if "rlnOpticsGroup" not in self.optics.columns:
            raise ParticleFileError("the optics table has no _rlnOpticsGroup", path=self.path)
        numbers = self._to_integers(
            "rlnOpticsGroup", self.optics.columns["rlnOpticsGroup"], " of the optics table"
        )
        found, counts = np.unique(numbers, return_counts=True)
        if (counts > 1).any():
            raise ParticleFileError(
                f"optics group {found[counts.argmax()]} comes twice in the optics table", path=self.path,
                hint="Leave one of them, or give them numbers of their own",
            )  # fmt: skip
        return numbers

    @cached_property
    def _optics_rows(self) -> list[int]:
        """Row of the optics table for each particle."""
        row_of = {number: row for row, number in enumerate(self._optics_numbers.tolist())}
        groups = self.optics_groups.tolist()
        for row, group in enumerate(groups, 1):
            if group not in row_of:
                raise ParticleFileError(
                    f"optics group {group} is not in the optics table", path=self.path, row=row
                )
        return [row_of[group] for group in groups]

    def rows(self, rows: slice | ArrayLike) -> NDArray[np.int64]:
        """Row numbers, counted from 0, that a slice, an integer array or a mask stands for."""
        index = rows if isinstance(rows, slice) else np.asarray(rows)
        if isinstance(index, np.ndarray) and index.size == 0:
            index = index.astype(np.int64)
        return np.arange(len(self))[index]

    @cached_property
    def pixel_size_A(self) -> float:
        """Å per pixel of the images as they are read: the coarsest, where those of optics groups differ.

        Raises
        ------
        ParticleFileError
            If it is nowhere, or differs by more than 0.1 % between particles of one optics group.
        """
        if self.given_pixel_size_A is not None:
            return self.given_pixel_size_A
        sizes = self.pixel_sizes_A()
        if sizes is None or not len(sizes):
            raise ParticleFileError("the pixel size is nowhere", path=self.path, hint=_GIVE_PIXEL_SIZE)
        low, high = float(sizes.min()), float(sizes.max())
        for size in (low, high):
            require_pixel_size(size, self.path, _GIVE_PIXEL_SIZE)
        if high <= low * SAME_SIZE:
            return float(np.median(sizes))
        # Of a cryoSPARC file an optics group is what has one pixel size, and says nothing.
        exposure = self.numeric(EXPOSURE_GROUP)
        groups = self.optics_groups if exposure is None else exposure
        alike = (
            self.optics is not None
            and high <= low * _MOST_DIFFERENT
            and all(np.ptp(sizes[groups == group]) <= low * (SAME_SIZE - 1) for group in np.unique(groups))
        )
        if not alike:
            raise ParticleFileError(
                f"the pixel sizes differ between particles: from {low:.4f} to {high:.4f} A", path=self.path,
                hint="Give each pixel size an optics group of its own, or split the stack",
            )  # fmt: skip
        return high

    @cached_property
    def own_pixels(self) -> NDArray[np.float64]:
        """How many pixels as they are read each pixel of a particle's own image is, shape (n,)."""
        sizes = None if self.given_pixel_size_A is not None else self.pixel_sizes_A()
        if sizes is None or float(sizes.max()) <= float(sizes.min()) * SAME_SIZE:
            return np.ones(len(self))
        return sizes / self.pixel_size_A

    def pixel_sizes_A(self) -> NDArray[np.float64] | None:
        """Pixel size of each particle as the tables say it, shape (n,); None where they do not."""
        for name in ("rlnImagePixelSize", "rlnPixelSize"):
            sizes = self.numeric(name)
            if sizes is not None:
                return sizes
        detector_um, magnification = self.numeric("rlnDetectorPixelSize"), self.numeric("rlnMagnification")
        if detector_um is None or magnification is None:
            return None
        return detector_um * 1e4 / np.where(magnification > 0, magnification, np.inf)

    @property
    def missing_ctf_columns(self) -> list[str]:
        """CTF columns that must be there and are not.

        The defocus along V, its angle, the phase shift and the B-factor may be absent, as in RELION;
        an astigmatic defocus without its angle may not.
        """
        missing = [name for name in _REQUIRED_CTF if not self.has_column(name)]
        if self.has_column("rlnDefocusV") and not self.has_column("rlnDefocusAngle"):
            missing.append("rlnDefocusAngle")
        return missing

    def has_column(self, name: str) -> bool:
        """Whether the particle or the optics table has a column."""
        return any(name in table.columns for table in (self.particles, self.optics) if table is not None)

    @property
    def has_ctf(self) -> bool:
        """Whether every CTF column that must be there is there."""
        return not self.missing_ctf_columns

    def ctf(self, rows: slice | ArrayLike) -> CTF:
        """CTF parameters of some particles.

        Parameters
        ----------
        rows : slice or integer array
            Counted from 0.

        Returns
        -------
        CTF
            float32 tensors of shape (n,).

        Raises
        ------
        ParticleFileError
            If a column is missing or a value is not a number.
        """
        if not self.has_ctf:
            raise ParticleFileError(
                "has no complete CTF: missing " + ", ".join(f"_{name}" for name in self.missing_ctf_columns),
                path=self.path,
            )
        wanted = self.rows(rows)

        def tensor(name: str, default: str | float = 0.0) -> Tensor:
            values = self.numeric(name)
            if values is None and isinstance(default, str):
                values = self.numeric(default)
            if values is None:
                return torch.full((len(wanted),), float(default))
            return torch.from_numpy(values[wanted].astype(np.float32))

        return CTF(
            defocus_u_A=tensor("rlnDefocusU"),
            defocus_v_A=tensor("rlnDefocusV", default="rlnDefocusU"),
            defocus_angle_deg=tensor("rlnDefocusAngle"),
            voltage_kV=tensor("rlnVoltage"),
            cs_mm=tensor("rlnSphericalAberration"),
            amplitude_contrast=tensor("rlnAmplitudeContrast"),
            phase_shift_deg=tensor("rlnPhaseShift"),
            b_factor_A2=tensor("rlnCtfBfactor"),
        )

    @property
    def phase_flipped(self) -> bool:
        """Whether the CTF's sign changes have been undone already, by flipping or by multiplication.

        Raises
        ------
        ParticleFileError
            If that is so for some particles only.
        """
        done = np.zeros(len(self), dtype=bool)
        for name in ("rlnCtfDataArePhaseFlipped", "rlnCtfDataAreCtfPremultiplied"):
            flag = self.numeric(name)
            if flag is not None:
                done |= flag != 0
        if done.any() and not done.all():
            row = int(np.flatnonzero(done != done[0])[0])
            raise ParticleFileError(
                f"this particle is {'' if done[row] else 'not '}phase-flipped, others are"
                f"{' not' if done[row] else ''}",
                path=self.path, row=row + 1, hint="Split the stack",
            )  # fmt: skip
        return bool(done.any())

    @property
    def premultiplied(self) -> bool:
        """Whether any images were multiplied by their CTFs, noise and all."""
        flag = self.numeric("rlnCtfDataAreCtfPremultiplied")
        return flag is not None and bool((flag != 0).any())

    @property
    def denoised(self) -> bool:
        """Whether polarice has denoised any of these images."""
        flag = self.numeric("polariceDenoised")
        return flag is not None and bool((flag != 0).any())

    @property
    def half_sets(self) -> NDArray[np.int8] | None:
        """Random half (1 or 2) of each particle, shape (n,); None where the file does not say.

        Raises
        ------
        ParticleFileError
            If a particle has another number.
        """
        halves = self.numeric("rlnRandomSubset")
        if halves is None:
            return self.given_half_sets
        wrong = np.flatnonzero(~np.isin(halves, (1, 2)))
        if len(wrong):
            raise ParticleFileError(
                f"column _rlnRandomSubset has {halves[wrong[0]]:g}, not 1 or 2",
                path=self.path, row=int(wrong[0]) + 1,
            )  # fmt: skip
        return halves.astype(np.int8)

    def split_halves(self) -> None:
        """Put each particle into one of two halves at random, as long as the tables do not say which.

        Halves are of one size, but for an odd particle, and the same whenever as many are split.
        """
        order = np.random.default_rng(0).permutation(len(self))
        self.given_half_sets = (order % 2 + 1).astype(np.int8)

    def rotations(self) -> Tensor | None:
        """Rotation matrices of the poses, shape (n, 3, 3), float32; None without all three angles."""
        angles = [self.numeric(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
        found = [angle for angle in angles if angle is not None]
        if len(found) < 3:
            return None
        return euler_to_matrix(torch.from_numpy(np.stack(found, -1))).float()

    def shifts_px(self) -> NDArray[np.float32] | None:
        """Where each particle lies from its box's centre in pixels as they are read, (n, 2) as (x, y).

        None without ``rlnOriginXAngst/YAngst`` (Å) or RELION 3.0's ``rlnOriginX/Y`` (pixels).
        """
        for suffix, unit_A in (("Angst", True), ("", False)):
            x, y = self.numeric(f"rlnOriginX{suffix}"), self.numeric(f"rlnOriginY{suffix}")
            if x is not None and y is not None:
                scale = np.full(len(x), 1 / self.pixel_size_A) if unit_A else self.own_pixels
                shifts: NDArray[Any] = -np.stack([x, y], -1) * scale[:, None]
                return shifts.astype(np.float32)
        return None


def require_pixel_size(size_A: float, path: Path, hint: str | None = None) -> None:
    """Raise ParticleFileError unless a particle image could have such pixels."""
    if not _LEAST_PIXEL_A <= size_A <= _LARGEST_PIXEL_A:
        raise ParticleFileError(f"a pixel size of {size_A} A makes no sense", path=path, hint=hint)


def find_particle_table(path: Path, tables: list[StarTable]) -> StarTable:
    """Find the table with the images' names, or raise ParticleFileError."""
    candidates = [table for table in tables if table.is_loop and "rlnImageName" in table.columns]
    if not candidates:
        raise ParticleFileError(
            "has no particle table: no block with a column _rlnImageName", path=path,
            hint="Give the STAR file of extracted particles, not of coordinates, micrographs or a job",
        )  # fmt: skip
    for name in ("particles", "images"):
        candidates = [table for table in candidates if table.name == name] or candidates
    if len(candidates) > 1:
        raise ParticleFileError(
            f"has two particle tables, '{candidates[0].name}' and '{candidates[1].name}'", path=path,
            hint="Call the one that is meant data_particles, or split the file",
        )  # fmt: skip
    return candidates[0]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

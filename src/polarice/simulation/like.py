"""What a simulated stack takes over from the tables of a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..conventions import matrix_to_euler
from ..errors import ParticleFileError
from ..imaging import CTF
from ..particles import ParticleStack, StarTable
from .views import uniform_views

__all__ = ["RealMetadata"]

_MICROSCOPE = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
_DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor")
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")


class RealMetadata:
    """Micrographs, CTFs, poses, shifts and half sets of a real stack; its images may be absent.

    Parameters
    ----------
    path : path-like
        A ``.star`` or ``.cs`` file.
    seed : int
        For the views of a stack that has no orientations, which are uniform.

    Attributes
    ----------
    rotations : Tensor, shape (n, 3, 3)
    shifts_A : Tensor, shape (n, 2)
        Where particles lie from the centre of the box, (x, y); 0 where the file does not say.
    notices : tuple of str
        What the file does not say.

    Raises
    ------
    ParticleFileError
        When the file cannot be read, holds no particle, no CTF, or values that make no sense.
    """

    def __init__(self, path: str | Path, seed: int = 0) -> None:
        self.stack = stack = ParticleStack.open(path)
        if not len(stack):
            raise ParticleFileError("holds no particles", path=stack.path)
        if not stack.has_ctf:
            missing = ", ".join(f"_{name}" for name in stack.missing_ctf_columns)
            raise ParticleFileError(
                f"has no CTF to take over (missing {missing})", path=stack.path,
                hint="Give a stack whose defocus is known",
            )  # fmt: skip
        self._ctf = stack.ctf(slice(None))
        notices = []
        rotations, shifts_px = stack.rotations(), stack.shifts_px()
        if rotations is None:
            notices.append("The real particles have no orientations: views are uniform.")
            rotations = uniform_views(len(stack), seed)
        if shifts_px is None:
            notices.append("The real particles have no shifts: molecules lie in the centre.")
            self.shifts_A = torch.zeros(len(stack), 2)
        else:
            self.shifts_A = torch.from_numpy(shifts_px) * stack.pixel_size_A
        if stack.half_sets is None:
            notices.append("The real particles have no half sets: they are split at random.")
            stack.split_halves()
        self.rotations = rotations
        self.notices = tuple(notices)

    def __len__(self) -> int:
        return len(self.stack)

    def ctf(self, rows: slice) -> CTF:
        """CTF parameters of some particles."""
        return self._ctf[rows]

    def poses(self, count: int) -> dict[str, Any]:
        """Columns of the first particles' poses, origins, half sets and micrographs, as the file has them."""
        angles = matrix_to_euler(self.rotations[:count].double()).unbind(-1)
        origins_A = (-self.shifts_A[:count]).unbind(-1)
        columns = self._said(self.stack.particles, ("rlnMicrographName", "rlnOpticsGroup"), count)
        for names, made in ((_ANGLES, angles), (_ORIGINS, origins_A)):
            said = self._said(self.stack.particles, names, count)
            # Where only some are said, they mean nothing.
            columns |= said if len(said) == len(names) else dict(zip(names, made, strict=True))
        assert self.stack.half_sets is not None
        return columns | {"rlnRandomSubset": self.stack.half_sets[:count]}

    def defoci(self, count: int) -> dict[str, Any]:
        """Columns of the first particles' CTFs, and of the microscope where it is said for each particle."""
        return self._said(self.stack.particles, (*_DEFOCUS, *_MICROSCOPE), count)

    def optics(self) -> dict[str, Any]:
        """Columns of the optics table."""
        if self.stack.optics is not None:
            names = ("rlnOpticsGroupName", "rlnOpticsGroup", *_MICROSCOPE)
            return self._said(self.stack.optics, names, len(self.stack.optics))
        # RELION 3.0 has no such table, and later ones want the microscope there.
        return {name: (self.stack.column(name) or [""])[0] for name in _MICROSCOPE}

    @staticmethod
    def _said(table: StarTable | None, names: tuple[str, ...], count: int) -> dict[str, Any]:
        columns = {} if table is None else table.columns
        return {name: columns[name][:count] for name in names if name in columns}

"""Exceptions that name the file, the row, the reason and the way out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

# Control characters, and bytes of a file's name that are no text.
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class PolariceError(Exception):
    """Base of every error that polarice raises on purpose.

    Parameters
    ----------
    reason : str
        What is wrong, in one sentence without a full stop.
    path : path-like, optional
        The file that is at fault.
    row : int, optional
        The row of the file's particle table that is at fault, counted from 1.
    hint : str, optional
        The way out, in one sentence without a full stop.
    """

    def __init__(
        self, reason: str, *, path: str | Path | None = None, row: int | None = None, hint: str | None = None
    ) -> None:
        self.reason = reason
        self.path = None if path is None else Path(path)
        self.row = row
        self.hint = hint
        super().__init__(self._message())

    def _message(self) -> str:
        where = [] if self.path is None else [str(self.path)]
        if self.row is not None:
            where.append(f"row {self.row}")
        text = f"{', '.join(where)}: {self.reason}." if where else f"{self.reason}."
        text = f"{text} {self.hint[0].upper()}{self.hint[1:]}." if self.hint else text
        # Names and values come out of files that may hold anything; an error is one line.
        return _NOT_SHOWN.sub(lambda match: ascii(match.group())[1:-1], text)


class ParticleFileError(PolariceError):
    """A STAR, cryoSPARC or MRC file is missing, broken, or lacks what is asked of it."""


class StructureError(PolariceError):
    """A structure, map or bank file cannot be used."""


class ModelError(PolariceError):
    """A model is unknown, or does not fit the data."""


class RecipeError(PolariceError):
    """A training recipe has an unknown or wrong entry."""


class DeviceError(PolariceError):
    """The asked-for device is absent."""


class OutputError(PolariceError):
    """The output folder cannot be used."""


class DiskError(OutputError):
    """The system refuses to write: a disk is full, or a folder is not the user's to write to."""


class PreflightError(PolariceError):
    """Several problems found before any computing.

    Parameters
    ----------
    problems : sequence of PolariceError
        The message lists each on its own line.
    """

    def __init__(self, problems: Sequence[PolariceError]) -> None:
        self.problems = list(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{len(self.problems)} problems found before starting:\n{lines}")

    def _message(self) -> str:
        return self.reason

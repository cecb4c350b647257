"""cryoSPARC's ``.cs`` files: NumPy structured arrays, read with their passthrough file, and written.

A job writes what it has changed to its own file and leaves the rest to a second one beside it, whose rows
have the same ``uid``: ``J24_005_particles.cs`` and ``J24_passthrough_particles.cs``.
"""

from __future__ import annotations

import re
import tokenize
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ParticleFileError
from ..files import whole

__all__ = ["Dataset", "field_names", "find_passthrough", "make_dataset", "read_cs", "write_cs"]

Dataset = NDArray[np.void]
"""Structured array of shape (n,), fields named ``group/field`` as cryoSPARC names them."""

_NUMPY, _COMPRESSED = b"\x93NUMPY", b"\x94CSDAT"
# NumPy refuses longer headers than 10,000 characters unless told; a hundred fields come near that.
_LONGEST_HEADER = 1_000_000
_JOB = re.compile(r"(?:^|_)(J\d+)_")
_PASSTHROUGH = re.compile(r"passthrough_(.+)$")


def read_cs(path: str | Path, passthrough: str | Path | None = None) -> Dataset:
    """Read a ``.cs`` file of particles with the fields of its passthrough file.

    Parameters
    ----------
    path : path-like
    passthrough : path-like, optional
        Found by its name beside the file by default (`find_passthrough`). Its rows are joined by ``uid``,
        and only fields that the file itself lacks are taken.

    Returns
    -------
    Dataset, shape (n,)
        In the file's order, with ``uid``, ``blob/path`` and ``blob/idx`` among its fields.

    Raises
    ------
    ParticleFileError
        If a file is missing, is no such table, or is truncated; if a field that must be there is not, a
        ``uid`` comes twice, or the passthrough file lacks a row.
    """
    path = Path(path)
    dataset = _load(path)
    beside = find_passthrough(path) if passthrough is None else Path(passthrough)
    if beside is not None:
        dataset = _join(dataset, _load(beside), beside, path)
    missing = [name for name in ("blob/path", "blob/idx") if name not in field_names(dataset)]
    if missing:
        raise ParticleFileError(
            f"has no {' and no '.join(missing)}, so it names no images", path=path,
            hint="Give the .cs file of extracted particles, or put the job's passthrough file beside it",
        )  # fmt: skip
    return dataset


def write_cs(path: str | Path, dataset: Dataset) -> None:
    """Write a ``.cs`` file that appears under its name only when whole.

    Parameters
    ----------
    path : path-like
    dataset : Dataset

    Raises
    ------
    DiskError
        If the file cannot be written.
    """
    with whole(path) as partial, partial.open("wb") as file:
        # Given a file, NumPy writes past Python, and a disk that runs full at the end goes unnoticed.
        np.lib.format.write_array(SimpleNamespace(write=file.write), dataset, allow_pickle=False)


def find_passthrough(path: Path) -> Path | None:
    """Passthrough file beside a ``.cs`` file: of the same job, for the output of the same name."""
    job = _JOB.search(path.name)
    for candidate in sorted(path.parent.glob("*passthrough_*.cs")):
        output, its_job = _PASSTHROUGH.search(candidate.stem), _JOB.search(candidate.name)
        same_job = job is None or its_job is None or job[1] == its_job[1]
        if candidate != path and output is not None and same_job and path.stem.endswith(output[1]):
            return candidate
    return None


def field_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the fields, in the file's order."""
    return dataset.dtype.names or ()


def make_dataset(fields: Mapping[str, NDArray[Any]], base: Dataset | None = None) -> Dataset:
    """Dataset of fields, of shape (n,) or (n, k); those of a base are kept, or replaced in their place."""
    kept = {} if base is None else {name: base[name] for name in field_names(base)}
    columns = kept | dict(fields)
    dtype = np.dtype([(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    dataset = np.empty(len(next(iter(columns.values()))), dtype)
    for name, values in columns.items():
        dataset[name] = values
    return dataset


def _load(path: Path) -> Dataset:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_NUMPY))
            file.seek(0)
            if magic == _COMPRESSED:
                raise ParticleFileError(
                    "is in cryoSPARC's compressed format, which is not read", path=path,
                    hint="Save it with cryosparc-tools and format=NUMPY_FORMAT",
                )  # fmt: skip
            if magic != _NUMPY:
                raise ParticleFileError("is no .cs file: it does not begin as NumPy's files do", path=path)
            dataset = np.lib.format.read_array(file, allow_pickle=False, max_header_size=_LONGEST_HEADER)
    except FileNotFoundError:
        raise ParticleFileError("the file does not exist", path=path) from None
    except OSError as error:
        raise ParticleFileError(f"cannot be read ({error.strerror})", path=path) from None
    except (ValueError, MemoryError, SyntaxError, tokenize.TokenError) as error:
        if "Object arrays" in str(error):
            raise ParticleFileError(
                "holds pickled Python objects, which could run anything and are not read", path=path,
                hint="Save it with cryosparc-tools, or with text as bytes of a fixed width",
            ) from None  # fmt: skip
        raise ParticleFileError(
            "is truncated or damaged", path=path, hint="Copy it again from the cryoSPARC project"
        ) from None
    _require_uids(dataset, path)
    return dataset


def _require_uids(dataset: Dataset, path: Path) -> None:
    """Raise unless the array is a table in which each row has a uid of its own."""
    if dataset.dtype.names is None or dataset.ndim != 1:
        raise ParticleFileError("is no .cs file: it holds no table", path=path)
    if "uid" not in field_names(dataset):
        raise ParticleFileError(
            "has no uid, by which cryoSPARC tells particles apart", path=path,
            hint="Give a .cs file that a cryoSPARC job has written",
        )  # fmt: skip
    uids = dataset["uid"]
    if uids.ndim != 1 or uids.dtype.kind not in "iu":
        raise ParticleFileError(
            "uid is not a whole number for each particle", path=path,
            hint="Give a .cs file that a cryoSPARC job has written",
        )  # fmt: skip
    first = np.unique(uids, return_index=True)[1]
    if len(first) < len(dataset):
        row = int(np.setdiff1d(np.arange(len(dataset)), first)[0])
        raise ParticleFileError(
            f"uid {uids[row]} comes twice", path=path, row=row + 1,
            hint="Remove duplicate particles in cryoSPARC",
        )  # fmt: skip


def _join(dataset: Dataset, passthrough: Dataset, its_path: Path, path: Path) -> Dataset:
    """Add the passthrough file's further fields to the rows that have its uids."""
    lost = np.flatnonzero(~np.isin(dataset["uid"], passthrough["uid"]))
    if len(lost):
        row = int(lost[0])
        raise ParticleFileError(
            f"has no particle with the uid {dataset['uid'][row]}, which is row {row + 1} of {path.name}",
            path=its_path, hint="Give the passthrough file of the same job and output",
        )  # fmt: skip
    order = np.argsort(passthrough["uid"])
    at = order[np.searchsorted(passthrough["uid"], dataset["uid"], sorter=order)]
    further = [name for name in field_names(passthrough) if name not in field_names(dataset)]
    return make_dataset({name: passthrough[name][at] for name in further}, dataset)

"""A cryoSPARC dataset as RELION 3.1's tables, so that all that follows knows one kind of stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ..conventions import matrix_to_euler
from ..errors import ParticleFileError
from .cryosparc import Dataset, field_names
from .cryosparc_fields import ALIGNED_IN, EXPOSURE_GROUP, MARKS, OPTICS, PARTICLE, SIGN, UID, Scaled
from .star import StarTable, format_values

__all__ = ["star_tables"]

# Beyond them are numbers that were never set, as -1 is where nothing has a sign.
_MOST_IMAGES = 2**53


def star_tables(dataset: Dataset, path: Path) -> list[StarTable]:
    """Optics and particle table of a dataset.

    Parameters
    ----------
    dataset : Dataset, shape (n,)
        As `read_cs` gives it.
    path : Path
        Its file, for messages.

    Returns
    -------
    list of StarTable
        ``optics``, one row for each exposure group whose microscope, pixel size, box and sign agree, and
        ``particles``, in the dataset's order.

    Raises
    ------
    ParticleFileError
        If a path is no text, a field has another shape than cryoSPARC's, or a value is not finite.
    """
    fields = _Fields(dataset, path)
    optics, group = _optics(fields)
    columns = {"rlnImageName": _image_names(fields), "rlnOpticsGroup": group}
    if "location/micrograph_path" in fields:
        columns["rlnMicrographName"] = fields.paths("location/micrograph_path")
    columns |= _scaled(fields, PARTICLE) | _alignment(fields) | _scaled(fields, MARKS)
    columns[UID] = dataset["uid"].astype(str).tolist()
    return [optics, StarTable("particles", columns)]


class _Fields:
    """Fields of a dataset that are held to their shape and to finite values."""

    def __init__(self, dataset: Dataset, path: Path) -> None:
        self.dataset, self.path = dataset, path

    def __contains__(self, name: str) -> bool:
        return name in field_names(self.dataset)

    def numbers(self, name: str, width: int | None = None) -> NDArray[Any]:
        """Values, shape (n,) or (n, width)."""
        values = self.dataset[name]
        shape = (len(self.dataset),) if width is None else (len(self.dataset), width)
        if values.shape != shape or values.dtype.kind not in "iuf":
            raise ParticleFileError(
                f"{name} is not {width or 'one'} number for each particle", path=self.path
            )
        bad = ~np.isfinite(values.reshape(len(values), width or 1)).all(1)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ParticleFileError(
                f"{name} has {values[row]}, which makes no sense", path=self.path, row=row + 1,
                hint="Take the particle out of the set in cryoSPARC",
            )  # fmt: skip
        return values

    def paths(self, name: str) -> list[str]:
        """Text of paths; ``>``, which marks one that is relative to the project, is left out."""
        values = self.dataset[name]
        if values.ndim != 1 or values.dtype.kind not in "SU":
            raise ParticleFileError(f"{name} is not text for each particle", path=self.path)
        found, of_row = np.unique(values, return_inverse=True)
        texts = []
        for k, value in enumerate(found.tolist()):
            try:
                text = value.decode() if isinstance(value, bytes) else str(value)
            except UnicodeDecodeError:
                row = int(np.flatnonzero(of_row == k)[0]) + 1
                raise ParticleFileError(f"{name} is not UTF-8 text", path=self.path, row=row) from None
            texts.append(text.strip().removeprefix(">"))
        return [texts[k] for k in of_row]


def _text(values: NDArray[Any]) -> list[str]:
    """Digits that give a 32-bit number back exactly; six decimals of what was computed."""
    text: list[str] = format_values(values, len(values))
    if values.dtype != np.float64:
        text = values.astype(str).tolist()
    return text


def _image_names(fields: _Fields) -> list[str]:
    numbers = fields.numbers("blob/idx")
    broken = np.flatnonzero((numbers != np.floor(numbers)) | (numbers > _MOST_IMAGES))
    if len(broken):
        row = int(broken[0])
        raise ParticleFileError(
            f"blob/idx has {numbers[row]}, which is no number of an image", path=fields.path, row=row + 1
        )
    index = (numbers.astype(np.int64) + 1).tolist()
    return [f"{k:06d}@{path}" for k, path in zip(index, fields.paths("blob/path"), strict=True)]


def _scaled(fields: _Fields, wanted: tuple[Scaled, ...]) -> dict[str, list[str]]:
    columns = {}
    for field, column, factor in wanted:
        if field in fields:
            values = fields.numbers(field)
            columns[column] = _text(values if factor == 1 else values.astype(np.float64) * factor)
    return columns


def _optics(fields: _Fields) -> tuple[StarTable, list[str]]:
    """The optics table, and each particle's group in it."""
    # The exposure group first: groups are numbered in the order of what is said first.
    of_group = (("ctf/exp_group_id", EXPOSURE_GROUP), *(each[:2] for each in OPTICS), ("blob/sign", SIGN))
    said = {column: fields.numbers(field) for field, column in of_group if field in fields}
    if "blob/shape" in fields:
        said["rlnImageSize"] = fields.numbers("blob/shape", 2)[:, 0]
    codes = [np.unique(values, return_inverse=True)[1] for values in said.values()]
    codes.append(np.zeros(len(fields.dataset), np.intp))
    _, first, group = np.unique(np.stack(codes, 1), axis=0, return_index=True, return_inverse=True)
    numbers = [str(k) for k in range(1, len(first) + 1)]
    columns = {"rlnOpticsGroupName": [f"opticsGroup{k}" for k in numbers], "rlnOpticsGroup": numbers}
    columns |= {column: _text(values[first]) for column, values in said.items()}
    columns["rlnImageDimensionality"] = ["2"] * len(first)
    return StarTable("optics", columns), [numbers[k] for k in group.reshape(-1)]


def _alignment(fields: _Fields) -> dict[str, list[str]]:
    """Pose, origin, half set and class, all of one alignment."""
    group = next((name for name in ALIGNED_IN if f"{name}/pose" in fields), ALIGNED_IN[0])
    pose, shift, scale, split, label = (
        f"{group}/{x}" for x in ("pose", "shift", "psize_A", "split", "class")
    )
    columns: dict[str, NDArray[Any]] = {}
    if pose in fields and group == "alignments3D":
        angles_deg = _euler_angles_deg(fields.numbers(pose, 3))
        columns |= {f"rlnAngle{name}": angles_deg[:, k] for k, name in enumerate(("Rot", "Tilt", "Psi"))}
    elif pose in fields:
        columns["rlnAnglePsi"] = np.rad2deg(fields.numbers(pose).astype(np.float64))
    scale = scale if scale in fields else "blob/psize_A"
    if shift in fields and scale in fields:
        # In pixels of the alignment, which are larger than the images' where these were binned for it.
        origin_A = fields.numbers(shift, 2).astype(np.float64) * fields.numbers(scale)[:, None]
        columns |= {"rlnOriginXAngst": origin_A[:, 0], "rlnOriginYAngst": origin_A[:, 1]}
    if split in fields:
        halves = fields.numbers(split)
        # Where nothing has been split, cryoSPARC writes 0 for all.
        if np.unique(halves).size > 1:
            columns["rlnRandomSubset"] = halves + 1
    if label in fields:
        columns["rlnClassNumber"] = fields.numbers(label) + 1
    return {name: _text(values) for name, values in columns.items()}


def _euler_angles_deg(rotation_vectors: NDArray[Any]) -> NDArray[np.float64]:
    """(rot, tilt, psi) of rotation vectors, both (n, 3).

    cryoSPARC's vector turns the axes as RELION's angles do; polarice's matrix, its inverse, is that of the
    coordinates.
    """
    axes = Rotation.from_rotvec(rotation_vectors.astype(np.float64)).as_matrix()
    angles_deg: NDArray[np.float64] = matrix_to_euler(torch.from_numpy(axes).mT).numpy()
    return angles_deg

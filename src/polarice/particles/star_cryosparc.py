"""The tables of a particle stack as a cryoSPARC dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ..conventions import euler_to_matrix
from ..errors import ParticleFileError
from .cryosparc import Dataset, field_names, make_dataset
from .cryosparc_fields import EXPOSURE_GROUP, MARKS, OPTICS, PARTICLE, SIGN, UID, Scaled
from .metadata import ParticleMetadata
from .stack import ParticleStack

__all__ = ["dataset_of", "with_images", "with_marks"]

# What cryoSPARC's tables have beside what STAR files tell; as it fills them for imported particles.
_CTF_REST: dict[str, Any] = {
    "ctf/type": b"imported",
    "ctf/scale": np.float32(1),
    "ctf/scale_const": np.float32(0),
    **{f"ctf/{name}_A": np.zeros(2, "f4") for name in ("shift", "tilt", "trefoil")},
    **{f"ctf/{name}": np.zeros(4, "f4") for name in ("tetra_A", "anisomag")},
}
_ALIGNMENT_REST = {
    **dict.fromkeys(("error", "error_min", "resid_pow", "slice_pow", "image_pow", "cross_cor"), 0.0),
    **dict.fromkeys(("weight", "pose_ess", "shift_ess"), 0.0),
    **dict.fromkeys(("alpha", "class_posterior", "class_ess"), 1.0),
}


def dataset_of(stack: ParticleStack, *, contrast: Literal["bright", "dark"] = "bright") -> Dataset:
    """Dataset of a stack that has none, from its STAR tables.

    Parameters
    ----------
    stack : ParticleStack
    contrast : {"bright", "dark"}
        Of the protein, which a STAR file does not say; bright as RELION wants it. Particles that came from
        cryoSPARC keep their sign.

    Returns
    -------
    Dataset, shape (n,)
        In the tables' order, image paths as they are. A particle that came from cryoSPARC has its ``uid``
        again, others have one that depends on the image's name.

    Raises
    ------
    ParticleFileError
        If the pixel size or the box is nowhere, an image name makes no sense, or a value is not finite.
    """
    bad = np.flatnonzero(stack.names.file < 0)
    if len(bad):
        raise stack.bad_name(int(bad[0]))
    count = len(stack)
    sizes = _numbers(stack, "rlnImageSize")
    box = np.full(count, stack.box) if sizes is None else sizes
    # An optics group may have its own, as long as nobody computes with the images.
    sizes_A = None if stack.given_pixel_size_A else stack.pixel_sizes_A()
    if sizes_A is None or not (sizes_A > 0).all():
        sizes_A = np.full(count, stack.pixel_size_A)
    pixel_size_A = sizes_A.astype("f4")
    sign = _numbers(stack, SIGN)
    if sign is None:
        sign = np.full(count, -1.0 if contrast == "dark" else 1.0)
    fields: dict[str, NDArray[Any]] = {
        "uid": _uids(stack),
        "blob/path": _bytes(stack.names.files)[stack.names.file],
        "blob/idx": stack.names.index.astype("u4"),
        "blob/shape": np.stack([box, box], 1).astype("u4"),
        "blob/psize_A": pixel_size_A,
        "blob/sign": sign.astype("f4"),
        "blob/import_sig": np.zeros(count, "u8"),
    }
    if stack.has_ctf:
        fields |= _ctf(stack)
    micrographs = stack.column("rlnMicrographName")
    if micrographs is not None:
        fields["location/micrograph_path"] = _bytes(micrographs)
    fields |= _alignment(stack, pixel_size_A)
    return with_marks(make_dataset(fields), stack)


def with_images(dataset: Dataset, stack: str, *, box: int, pixel_size_A: float) -> Dataset:
    """Copy whose row k has image k of a stack file; all else, ``uid`` and sign among it, is kept."""
    count = len(dataset)
    fields: dict[str, NDArray[Any]] = {
        "blob/path": _bytes([stack] * count),
        "blob/idx": np.arange(count, dtype="u4"),
        "blob/shape": np.full((count, 2), box, "u4"),
        "blob/psize_A": np.full(count, pixel_size_A, "f4"),
    }
    if "blob/import_sig" in field_names(dataset):
        # By this cryoSPARC knows the pixels that it has seen, which these are not.
        fields["blob/import_sig"] = np.zeros(count, "u8")
    return make_dataset(fields, dataset)


def with_marks(dataset: Dataset, metadata: ParticleMetadata) -> Dataset:
    """Copy with what tables of the same rows say in columns that cryoSPARC does not know."""
    return make_dataset(_scaled(metadata, MARKS), dataset)


def _numbers(metadata: ParticleMetadata, name: str) -> NDArray[np.float64] | None:
    values = metadata.numeric(name)
    if values is not None and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ParticleFileError(
            f"column _{name} has {values[row]:g}, which makes no sense", path=metadata.path, row=row + 1,
            hint="Correct or remove this particle",
        )  # fmt: skip
    return values


def _scaled(metadata: ParticleMetadata, wanted: tuple[Scaled, ...]) -> dict[str, NDArray[Any]]:
    found = ((field, _numbers(metadata, column), factor) for field, column, factor in wanted)
    return {field: (values / factor).astype("f4") for field, values, factor in found if values is not None}


def _bytes(texts: Sequence[str]) -> NDArray[np.bytes_]:
    return np.array([text.encode() for text in texts], dtype=np.bytes_)


def _uids(stack: ParticleStack) -> NDArray[np.uint64]:
    text = stack.column(UID)
    if text is None:
        seen: dict[str, int] = {}
        text = []
        for name in stack.column("rlnImageName") or []:
            seen[name] = seen.get(name, 0) + 1
            digest = hashlib.blake2b(f"{name}#{seen[name]}".encode(), digest_size=8).digest()
            text.append(str(int.from_bytes(digest, "little")))
    first: dict[str, int] = {}
    for row, uid in enumerate(text):
        if not (uid.isdecimal() and int(uid) < 2**64):
            raise ParticleFileError(f"column _{UID} has '{uid}'", path=stack.path, row=row + 1)
        if first.setdefault(uid, row) != row:
            raise ParticleFileError(
                f"column _{UID} has {uid}, as row {first[uid] + 1} has", path=stack.path, row=row + 1,
                hint=f"Remove duplicate particles, or the column _{UID}",
            )  # fmt: skip
    return np.array([int(uid) for uid in text], dtype=np.uint64)


def _ctf(stack: ParticleStack) -> dict[str, NDArray[Any]]:
    fields = _scaled(stack, (*OPTICS[:3], *PARTICLE))
    count = len(stack)
    group = _numbers(stack, EXPOSURE_GROUP)
    rest: dict[str, NDArray[Any]] = {
        "ctf/exp_group_id": (stack.optics_groups if group is None else group).astype("u4"),
        **{field: np.zeros(count, "f4") for field, _, _ in PARTICLE},
        "ctf/df2_A": fields["ctf/df1_A"],
        **{field: np.repeat(np.array([value]), count, axis=0) for field, value in _CTF_REST.items()},
    }
    return rest | fields


def _alignment(stack: ParticleStack, pixel_size_A: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Pose, shift, half set and class, as far as the tables have them."""
    count = len(stack)
    angles = [_numbers(stack, f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
    whole = [angle for angle in angles if angle is not None]
    fields: dict[str, NDArray[Any]] = {}
    group = "alignments3D"
    if len(whole) == 3:
        fields["pose"] = _rotation_vectors(np.stack(whole, 1))
    elif angles[2] is not None:
        group = "alignments2D"
        fields["pose"] = np.deg2rad(angles[2])
    origins = [_numbers(stack, f"rlnOrigin{axis}Angst") for axis in "XY"]
    old = [_numbers(stack, f"rlnOrigin{axis}") for axis in "XY"]
    if origins[0] is not None and origins[1] is not None:
        fields["shift"] = np.stack([origins[0], origins[1]], 1) / pixel_size_A[:, None]
    elif old[0] is not None and old[1] is not None:
        fields["shift"] = np.stack([old[0], old[1]], 1)
    if "shift" in fields:
        fields["psize_A"] = pixel_size_A
    if "pose" in fields:
        fields |= {name: np.full(count, value) for name, value in _ALIGNMENT_REST.items()}
    made = {f"{group}/{name}": values.astype("f4") for name, values in fields.items()}
    halves, label = stack.half_sets, _numbers(stack, "rlnClassNumber")
    if halves is not None:
        made[f"{group}/split"] = (halves - 1).astype("u4")
    if label is not None and (label >= 1).all():
        made[f"{group}/class"] = (label - 1).astype("u4")
    return made


def _rotation_vectors(angles_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation vectors of (rot, tilt, psi), both (n, 3): those of the axes, not of the coordinates."""
    axes = euler_to_matrix(torch.from_numpy(angles_deg)).mT.numpy()
    vectors: NDArray[np.float64] = Rotation.from_matrix(axes).as_rotvec()
    return vectors

"""Builders of small particle files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

OPTICS_31 = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
opticsGroup1 1 300.0 2.7 0.1 2.0 {box} 2
"""


def _write_stack(path: Path, images: np.ndarray, pixel_size_A: float = 2.0) -> Path:
    with warnings.catch_warnings(), mrcfile.new(path, overwrite=True) as mrc:
        warnings.simplefilter("ignore", RuntimeWarning)  # NaN is what some tests are about
        mrc.set_data(images)
        if images.ndim == 3:
            mrc.set_image_stack()
        mrc.voxel_size = pixel_size_A
    return path


def _write_star(path: Path, names: list[str], box: int = 8, optics: str = OPTICS_31) -> Path:
    rows = "".join(f"{name} {10000 + 10 * k}.0 {9000 + 10 * k}.0 30.0 1\n" for k, name in enumerate(names))
    columns = ("rlnImageName", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnOpticsGroup")
    head = "".join(f"_{name} #{k}\n" for k, name in enumerate(columns, 1))
    path.write_text(f"{optics.format(box=box)}\ndata_particles\n\nloop_\n{head}{rows}\n")
    return path


@pytest.fixture
def write_stack() -> Callable[..., Path]:
    """Write an MRC stack with mrcfile: (path, images, pixel_size_A=2.0) -> path."""
    return _write_stack


@pytest.fixture
def write_particles() -> Callable[..., Path]:
    """Write a RELION 3.1 STAR file: (path, image names, box=8, optics=...) -> path."""
    return _write_star


@pytest.fixture
def small_stack(tmp_path: Path) -> Path:
    """STAR file of ten 8 x 8 images, image k filled around the value k."""
    rng = np.random.default_rng(0)
    images = np.arange(10, dtype=np.float32)[:, None, None] + rng.normal(0, 0.1, (10, 8, 8)).astype("f4")
    _write_stack(tmp_path / "stack.mrcs", images)
    return _write_star(tmp_path / "particles.star", [f"{k:06d}@stack.mrcs" for k in range(1, 11)])


def _write_cs(path: Path, fields: dict[str, object] | None = None, drop: tuple[str, ...] = ()) -> Path:
    """A cryoSPARC file of four particles, made with NumPy alone."""
    columns: dict[str, np.ndarray] = {
        "uid": np.array([2**64 - 1, 7, 12345678901234567890, 42], "u8"),
        "blob/path": np.array([b"stack.mrcs"] * 4, "S24"),
        "blob/idx": np.array([3, 0, 2, 1], "u4"),
        "blob/shape": np.full((4, 2), 8, "u4"),
        "blob/psize_A": np.full(4, 2.0, "f4"),
        "blob/sign": np.full(4, -1.0, "f4"),
        "blob/import_sig": np.full(4, 99, "u8"),
        "ctf/type": np.array([b"patch_ctf"] * 4),
        "ctf/exp_group_id": np.array([5, 5, 9, 9], "u4"),
        "ctf/accel_kv": np.array([300, 300, 200, 200], "f4"),
        "ctf/cs_mm": np.full(4, 2.7, "f4"),
        "ctf/amp_contrast": np.full(4, 0.1, "f4"),
        "ctf/df1_A": np.array([15000.5, 16000, 17000, 18000], "f4"),
        "ctf/df2_A": np.array([14000.25, 15000, 16000, 17000], "f4"),
        "ctf/df_angle_rad": np.array([0.5, -1.0, 0.0, 1.5], "f4"),
        "ctf/phase_shift_rad": np.array([0, 0.25, 0.5, 1.5], "f4"),
        "alignments3D/pose": np.array([[0, 0, 0.5], [0.3, -1.2, 0.7], [3, 1, -1], [0, 0, 0]], "f4"),
        "alignments3D/shift": np.array([[1.5, -2.0], [0, 0], [0.25, 3], [-1, -1]], "f4"),
        "alignments3D/psize_A": np.full(4, 4.0, "f4"),
        "alignments3D/split": np.array([0, 1, 1, 0], "u4"),
        "alignments3D/class": np.array([0, 1, 2, 0], "u4"),
        "pick_stats/ncc_score": np.linspace(0, 1, 4).astype("f4"),
    }
    columns |= {name: np.asarray(values) for name, values in (fields or {}).items()}
    columns = {name: values for name, values in columns.items() if name not in drop}
    table = np.zeros(4, [(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    with path.open("wb") as file:
        np.save(file, table)
    return path


@pytest.fixture
def write_cs_file() -> Callable[..., Path]:
    """Write a .cs file of four particles: (path, fields to set, drop=names to leave out) -> path."""
    return _write_cs


@pytest.fixture
def small_cs(tmp_path: Path) -> Path:
    """That file beside its stack of 8 x 8 images, image k filled around the value k."""
    rng = np.random.default_rng(0)
    images = np.arange(4, dtype=np.float32)[:, None, None] + rng.normal(0, 0.1, (4, 8, 8)).astype("f4")
    _write_stack(tmp_path / "stack.mrcs", images)
    return _write_cs(tmp_path / "J24_005_particles.cs")

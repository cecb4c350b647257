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

"""Outgoing stacks: what is kept, what is set, what is left after an accident, and what RELION reads."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polarice.errors import OutputError
from polarice.particles import (
    MrcStackWriter,
    ParticleStack,
    ParticleWriter,
    StarTable,
    denoised_columns,
    read_star,
)

Build = Callable[..., Path]

OLD = """
data_images

loop_
_rlnImageName #1
_rlnMagnification #2
_rlnDetectorPixelSize #3
_rlnOriginX #4
_rlnOriginY #5
_mine #6
2@stack.mrcs 50000 10.0 1.0 -2.0 'a b'
1@stack.mrcs 50000 10.0 3.0 4.0 ""

data_other

_key value
"""


def some_images(count: int, box: int = 8) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, box, box)).astype("f4")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_denoised_stack_keeps_the_tables_of_relion_31(small_stack: Path, out: Path) -> None:
    small_stack.write_text(small_stack.read_text() + "\ndata_other\n\n_key value\n")
    source = ParticleStack.open(small_stack)
    images = some_images(10)
    with ParticleWriter(
        out, "denoised", box=8, pixel_size_A=2.0, source=source,
        **denoised_columns(source, phase_flipped=True),
    ) as writer:  # fmt: skip
        writer.append(images[:7])
        writer.append(images[7:])
        writer.set_columns(particles={"polariceConfidence": np.linspace(0, 1, 10)})
    assert sorted(path.name for path in out.iterdir()) == ["denoised.mrcs", "denoised.star"]
    stack = ParticleStack.open(out / "denoised.star")
    assert stack.problems() == []
    np.testing.assert_array_equal(stack.images(slice(None)), images)
    assert stack.denoised
    assert stack.phase_flipped
    assert not source.phase_flipped
    assert stack.pixel_size_A == 2.0
    assert [table.name for table in stack.tables] == ["optics", "particles", "other"]
    assert stack.version == 30001
    assert stack.particles is not None
    assert source.particles is not None
    names = list(source.particles.columns)
    assert list(stack.particles.columns) == [*names, "polariceDenoised", "polariceConfidence"]
    assert stack.column("rlnDefocusU") == source.column("rlnDefocusU")
    assert stack.column("rlnImageName") == [f"{k:06d}@denoised.mrcs" for k in range(1, 11)]


def test_rows_of_the_source_and_another_box(small_stack: Path, out: Path) -> None:
    source = ParticleStack.open(small_stack)
    with ParticleWriter(out, "a", box=4, pixel_size_A=4.0, source=source, rows=[9, 2]) as writer:
        writer.append(some_images(2, 4))
    stack = ParticleStack.open(out / "a.star")
    assert stack.problems() == []
    assert (stack.box, stack.pixel_size_A) == (4, 4.0)
    assert stack.ctf(slice(None)).defocus_u_A.tolist() == [10090, 10020]


def test_relion_30_stays_relion_30(tmp_path: Path, write_stack: Build, out: Path) -> None:
    write_stack(tmp_path / "stack.mrcs", some_images(2))
    (tmp_path / "old.star").write_text(OLD)
    source = ParticleStack.open(tmp_path / "old.star")
    with ParticleWriter(
        out, "a", box=4, pixel_size_A=4.0, source=source, **denoised_columns(source, phase_flipped=True)
    ) as writer:
        writer.append(some_images(2, 4))
    stack = ParticleStack.open(out / "a.star")
    assert stack.format == "RELION 3.0"
    assert stack.version is None
    assert stack.problems() == []
    assert stack.pixel_size_A == pytest.approx(4.0)
    assert stack.column("mine") == ["a b", ""]
    assert [table.name for table in stack.tables] == ["images", "other"]
    assert stack.phase_flipped
    assert stack.denoised
    # The particle lies at the same place in Angstrom: half as many of the new, larger pixels.
    np.testing.assert_allclose(stack.shifts_px(), source.shifts_px() / 2)


def test_pixel_size_that_the_user_gave_is_written(tmp_path: Path, write_stack: Build, out: Path) -> None:
    write_stack(tmp_path / "stack.mrcs", some_images(2))
    for text in (OLD, "data_\nloop_\n_rlnImageName\n1@stack.mrcs\n2@stack.mrcs\n"):
        (tmp_path / "old.star").write_text(text)
        source = ParticleStack.open(tmp_path / "old.star", pixel_size_A=1.3)
        with ParticleWriter(out, "a", box=8, pixel_size_A=1.3, source=source, overwrite=True) as writer:
            writer.append(some_images(2))
        assert ParticleStack.open(out / "a.star").pixel_size_A == pytest.approx(1.3, abs=1e-5)


def test_bare_stack_gets_relion_31_tables(tmp_path: Path, write_stack: Build, out: Path) -> None:
    source = ParticleStack.open(write_stack(tmp_path / "a.mrcs", some_images(3), 1.5))
    with ParticleWriter(
        out, "b", box=8, pixel_size_A=1.5, source=source, **denoised_columns(source, phase_flipped=False)
    ) as writer:
        writer.append(some_images(3))
    stack = ParticleStack.open(out / "b.star")
    assert (stack.format, stack.version, len(stack), stack.pixel_size_A) == ("RELION 3.1", 30001, 3, 1.5)
    assert stack.problems() == []
    assert stack.denoised
    assert not stack.phase_flipped


def test_simulated_stack_without_a_source(out: Path) -> None:
    with ParticleWriter(
        out,
        "sim",
        box=8,
        pixel_size_A=3.0,
        particles={
            "rlnDefocusU": [1e4, 2e4],
            "rlnDefocusV": 1e4,
            "rlnDefocusAngle": 0.0,
            "rlnOpticsGroup": [2, 1],
        },
        optics={
            "rlnOpticsGroupName": ["one", "two"],
            "rlnOpticsGroup": [1, 2],
            "rlnVoltage": [200.0, 300.0],
            "rlnSphericalAberration": 2.7,
            "rlnAmplitudeContrast": 0.1,
        },
    ) as writer:
        writer.append(some_images(2))
    stack = ParticleStack.open(out / "sim.star")
    assert stack.problems() == []
    assert stack.ctf(slice(None)).voltage_kV.tolist() == [300, 200]
    assert stack.ctf(slice(None)).defocus_u_A.tolist() == [1e4, 2e4]


def test_an_accident_leaves_nothing(small_stack: Path, out: Path) -> None:
    source = ParticleStack.open(small_stack)

    def interrupted() -> None:
        with ParticleWriter(out, "a", box=8, pixel_size_A=2.0, source=source) as writer:
            writer.append(some_images(4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "columns", "message"),
    [
        (9, {}, "9 images were written for 10 rows"),
        (10, {"x": [1, 2]}, "column _x has 2 values for 10 rows"),
        (10, {"x": "a\nb"}, "line break"),
    ],
)
def test_what_does_not_fit_leaves_nothing(
    small_stack: Path, out: Path, count: int, columns: dict[str, object], message: str
) -> None:
    source = ParticleStack.open(small_stack)
    with (
        pytest.raises(OutputError, match=message),
        ParticleWriter(out, "a", box=8, pixel_size_A=2.0, source=source, particles=columns) as writer,
    ):
        writer.append(some_images(count))
    assert list(out.iterdir()) == []


def test_existing_files_are_kept_unless_told(small_stack: Path, out: Path) -> None:
    source = ParticleStack.open(small_stack)
    (out / "a.star").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        ParticleWriter(out, "a", box=8, pixel_size_A=2.0, source=source)
    assert (out / "a.star").read_text() == "precious"
    with ParticleWriter(out, "a", box=8, pixel_size_A=2.0, source=source, overwrite=True) as writer:
        writer.append(some_images(10))
        assert (out / "a.star").read_text() == "precious"
    assert len(ParticleStack.open(out / "a.star")) == 10
    with pytest.raises(OutputError, match="folder does not exist"):
        ParticleWriter(out / "no", "a", box=8, pixel_size_A=2.0)


def test_the_source_is_never_replaced(small_stack: Path) -> None:
    source = ParticleStack.open(small_stack)
    for name in ("stack", "particles"):  # the images, and the STAR file
        with pytest.raises(OutputError, match="would be replaced"):
            ParticleWriter(small_stack.parent, name, box=8, pixel_size_A=2.0, source=source, overwrite=True)


# -- RELION reads it --------------------------------------------------------------------------------


def relion(program: str, *arguments: str, cwd: Path) -> str:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        [program, *arguments], cwd=cwd, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.interop
def test_relion_reads_our_stack_header(out: Path) -> None:
    images = some_images(3) * 5 + 2
    with MrcStackWriter(out / "a.mrcs", 8, 1.37) as writer:
        writer.append(images)
    lines = relion("relion_image_handler", "--i", "a.mrcs", "--stats", cwd=out).splitlines()
    assert len([line for line in lines if "@a.mrcs" in line]) == 3
    for line, image in zip(lines, images, strict=False):
        said = dict(re.findall(r"(\w+) ?= (\S+)", line))
        assert float(said["avg"]) == pytest.approx(image.mean(), abs=1e-4)
        assert float(said["stddev"]) == pytest.approx(image.std(), rel=1e-3)
        assert float(said["angpix"]) == pytest.approx(1.37, abs=1e-3)


@pytest.mark.interop
@pytest.mark.parametrize("version", ["3.1", "3.0", "bare"])
def test_relion_reads_our_particles(
    tmp_path: Path, write_stack: Build, small_stack: Path, out: Path, version: str
) -> None:
    if version == "3.0":
        (tmp_path / "old.star").write_text(OLD)
    path = {"3.1": small_stack, "3.0": tmp_path / "old.star", "bare": tmp_path / "stack.mrcs"}[version]
    source = ParticleStack.open(path)
    images = some_images(len(source))
    with ParticleWriter(
        out, "ours", box=8, pixel_size_A=source.pixel_size_A, source=source,
        **denoised_columns(source, phase_flipped=source.has_ctf),
    ) as writer:  # fmt: skip
        writer.append(images)
        writer.set_columns(particles={"rlnMicrographName": "with a space.mrc", "rlnGroupName": ""})
    old = ["--ignore_optics"] if version == "3.0" else []
    relion("relion_stack_create", "--i", "ours.star", "--o", "theirs", *old, cwd=out)
    theirs = ParticleStack.open(out / "theirs.star", pixel_size_A=2.0)
    np.testing.assert_array_equal(theirs.images(slice(None)), images)
    assert theirs.denoised
    assert theirs.column("rlnMicrographName") == ["with a space.mrc"] * len(source)
    assert theirs.column("rlnGroupName") == [""] * len(source)
    if version != "3.0":
        ours, _ = read_star(out / "ours.star")
        optics = next(table for table in ours if table.name == "optics")
        assert isinstance(optics, StarTable)
        assert theirs.optics is not None
        assert list(theirs.optics.columns) == list(optics.columns)
        assert theirs.phase_flipped == source.has_ctf

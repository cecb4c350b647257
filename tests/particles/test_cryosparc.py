"""cryoSPARC files: opened as any stack is, joined with their passthrough file, and every way to be broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polarice.errors import OutputError, ParticleFileError, PolariceError
from polarice.particles import (
    ParticleStack,
    ParticleWriter,
    denoised_columns,
    describe,
    read_cs,
    read_star,
    write_cs,
)

Write = Callable[..., Path]
LOCATION = {"location/micrograph_path": np.array([b">J2/imported/1.mrc"] * 4)}
# Of the file of four particles that the fixtures write.
IMAGES_ONLY = ("alignments3D/pose", "alignments3D/shift", "alignments3D/split", "alignments3D/class")


def fields_of(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    table = np.load(path)
    return {name: table[name] for name in names}


# -- reading ----------------------------------------------------------------------------------------


def test_a_cs_file_is_a_stack(small_cs: Path) -> None:
    stack = ParticleStack.open(small_cs)
    assert (len(stack), stack.box, stack.format, stack.pixel_size_A) == (4, 8, "cryoSPARC", 2.0)
    np.testing.assert_allclose(stack.images(slice(None)).mean((1, 2)), [3, 0, 2, 1], atol=0.1)
    assert stack.problems() == []
    assert stack.half_sets is not None
    assert stack.half_sets.tolist() == [1, 2, 2, 1]
    assert stack.column("rlnClassNumber") == ["1", "2", "3", "1"]
    assert stack.column("cryosparcUid") == ["18446744073709551615", "7", "12345678901234567890", "42"]
    assert not stack.denoised
    assert not stack.phase_flipped
    facts = describe(small_cs)
    assert (facts["format"], facts["poses"], facts["shifts"], facts["problems"]) == (
        "cryoSPARC",
        True,
        True,
        [],
    )


def test_exposure_groups_become_optics_groups(small_cs: Path) -> None:
    stack = ParticleStack.open(small_cs)
    assert stack.optics is not None
    assert stack.optics_groups.tolist() == [1, 1, 2, 2]
    assert stack.column("cryosparcExposureGroup") == ["5", "5", "9", "9"]
    assert stack.ctf(slice(None)).voltage_kV.tolist() == [300, 300, 200, 200]


def test_a_group_whose_particles_differ_becomes_two(tmp_path: Path, write_cs_file: Write) -> None:
    path = write_cs_file(tmp_path / "a.cs", {"ctf/cs_mm": np.array([2.7, 0.01, 2.7, 2.7], "f4")})
    stack = ParticleStack.open(path)
    assert stack.numeric("rlnSphericalAberration") == pytest.approx([2.7, 0.01, 2.7, 2.7])
    assert len(set(stack.optics_groups.tolist())) == 3


def test_files_are_found_in_the_project_and_the_mark_is_no_part_of_the_name(
    tmp_path: Path, write_stack: Write, write_cs_file: Write
) -> None:
    for folder in ("J19", "J24"):
        (tmp_path / folder).mkdir()
    write_stack(tmp_path / "J19" / "stack.mrc", np.zeros((4, 8, 8), "f4"))
    paths = np.array([b">J19/stack.mrc", b"J19/stack.mrc  ", b"J19/stack.mrc", b"J19/stack.mrc"])
    stack = ParticleStack.open(write_cs_file(tmp_path / "J24" / "J24_005_particles.cs", {"blob/path": paths}))
    assert stack.names.files == ["J19/stack.mrc"]
    assert stack.problems() == []


def test_text_may_be_unicode(small_cs: Path, write_cs_file: Write) -> None:
    write_cs_file(small_cs, {"blob/path": np.array(["stack.mrcs"] * 4)})
    assert ParticleStack.open(small_cs).problems() == []


def test_without_a_ctf(tmp_path: Path, write_cs_file: Write) -> None:
    ctf = tuple(f"ctf/{name}" for name in ("accel_kv", "cs_mm", "amp_contrast", "df1_A", "exp_group_id"))
    stack = ParticleStack.open(write_cs_file(tmp_path / "a.cs", drop=ctf))
    assert not stack.has_ctf
    assert stack.optics_groups.tolist() == [1, 1, 1, 1]


def test_nothing_split_is_no_half_set(tmp_path: Path, write_cs_file: Write) -> None:
    path = write_cs_file(tmp_path / "a.cs", {"alignments3D/split": np.zeros(4, "u4")})
    assert ParticleStack.open(path).half_sets is None


# -- passthrough ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "passthrough"),
    [
        ("J24_005_particles.cs", "J24_passthrough_particles.cs"),
        ("cryosparc_P12_J24_005_particles.cs", "P12_J24_passthrough_particles.cs"),
        ("particles_selected.cs", "P3_J5_passthrough_particles_selected.cs"),
        ("extracted_particles.cs", "J7_passthrough_particles.cs"),
    ],
)
def test_the_passthrough_file_is_found_and_joined_by_uid(
    tmp_path: Path, write_cs_file: Write, name: str, passthrough: str
) -> None:
    path = write_cs_file(tmp_path / name, drop=IMAGES_ONLY)
    whole = np.load(write_cs_file(tmp_path / "whole.cs", LOCATION | {"ctf/cs_mm": np.full(4, 9.0, "f4")}))
    (tmp_path / "whole.cs").unlink()
    with (tmp_path / passthrough).open("wb") as file:
        np.save(file, whole[[2, 0, 3, 1]])  # other rows' order
    # Neither another job's nor another output's.
    write_cs_file(tmp_path / "J99_passthrough_volumes.cs", {"uid": np.arange(4, dtype="u8")})
    joined = read_cs(path)
    for field in (*IMAGES_ONLY, "location/micrograph_path"):
        np.testing.assert_array_equal(joined[field], whole[field])
    np.testing.assert_array_equal(joined["ctf/cs_mm"], np.full(4, 2.7, "f4"))  # the file's own comes first
    assert ParticleStack.open(path).column("rlnMicrographName") == ["J2/imported/1.mrc"] * 4


def test_a_passthrough_file_of_another_job_is_left_alone(tmp_path: Path, write_cs_file: Write) -> None:
    path = write_cs_file(tmp_path / "J24_005_particles.cs")
    write_cs_file(tmp_path / "J25_passthrough_particles.cs", {"uid": np.arange(4, dtype="u8")})
    assert len(read_cs(path)) == 4


def test_images_may_be_in_the_passthrough_file(small_cs: Path, write_cs_file: Write) -> None:
    write_cs_file(small_cs.with_name("other.cs"))
    write_cs_file(small_cs, drop=("blob/path", "blob/idx", "blob/psize_A"))
    with pytest.raises(ParticleFileError, match="has no blob/path and no blob/idx"):
        ParticleStack.open(small_cs)
    stack = ParticleStack.open(small_cs, passthrough=small_cs.with_name("other.cs"))
    assert stack.problems() == []


def test_a_passthrough_file_that_does_not_match(tmp_path: Path, write_cs_file: Write) -> None:
    path = write_cs_file(tmp_path / "J24_005_particles.cs")
    uids = np.array([2**64 - 1, 8, 12345678901234567890, 42], "u8")
    other = write_cs_file(tmp_path / "J24_passthrough_particles.cs", {"uid": uids})
    with pytest.raises(
        ParticleFileError, match="no particle with the uid 7, which is row 2 of J24_005"
    ) as caught:
        read_cs(path)
    assert caught.value.path == other
    assert caught.value.hint


# -- what is broken ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "drop", "message"),
    [
        ({}, ("uid",), "has no uid"),
        ({}, ("blob/path",), "has no blob/path, so it names no images"),
        ({"uid": np.array([1, 2, 3, 2], "u8")}, (), "row 4: uid 2 comes twice"),
        (
            {"alignments3D/pose": np.array([[0, 0, 0]] * 3 + [[0, np.nan, 0]], "f4")},
            (),
            "row 4: alignments3D/pose",
        ),
        ({"alignments3D/shift": np.array([[0, 0], [0, np.inf]] * 2, "f4")}, (), "row 2: alignments3D/shift"),
        (
            {"ctf/df1_A": np.array([1, 2, np.nan, 4], "f4")},
            (),
            "row 3: ctf/df1_A has nan, which makes no sense",
        ),
        ({"alignments3D/pose": np.zeros((4, 2), "f4")}, (), "alignments3D/pose is not 3 number"),
        ({"blob/psize_A": np.array([b"two"] * 4)}, (), "blob/psize_A is not one number"),
        (
            {"blob/path": np.array([b"a.mrc", b"\xff\xfe", b"a.mrc", b"a.mrc"])},
            (),
            "row 2: blob/path is not UTF-8",
        ),
    ],
)
def test_broken_tables_are_one_error(
    tmp_path: Path, write_cs_file: Write, fields: dict[str, np.ndarray], drop: tuple[str, ...], message: str
) -> None:
    path = write_cs_file(tmp_path / "a.cs", fields, drop)
    with pytest.raises(ParticleFileError, match=message) as caught:
        ParticleStack.open(path)
    assert caught.value.path == path


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    table = np.zeros(2, [("uid", "u8"), ("blob/path", "O")])
    with (tmp_path / "a.cs").open("wb") as file:
        np.save(file, table, allow_pickle=True)
    with pytest.raises(ParticleFileError, match=r"pickled Python objects.*cryosparc-tools"):
        ParticleStack.open(tmp_path / "a.cs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin as NumPy's files do"),
        (b"data_particles\n", "does not begin as NumPy's files do"),
        (b"\x94CSDAT" + bytes(20), "cryoSPARC's compressed format"),
        (b"\x93NUMPY\x01\x00", "truncated or damaged"),
        (None, "the file does not exist"),
    ],
)
def test_other_content(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.cs").write_bytes(content)
    with pytest.raises(ParticleFileError, match=message):
        ParticleStack.open(tmp_path / "a.cs")


def test_an_array_that_is_no_table_and_a_folder(tmp_path: Path) -> None:
    with (tmp_path / "a.cs").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ParticleFileError, match="holds no table"):
        ParticleStack.open(tmp_path / "a.cs")
    (tmp_path / "b.cs").mkdir()
    with pytest.raises(ParticleFileError, match="cannot be read"):
        ParticleStack.open(tmp_path / "b.cs")


def test_truncated_anywhere(small_cs: Path) -> None:
    whole = small_cs.read_bytes()
    for length in range(6, len(whole), 97):
        small_cs.write_bytes(whole[:length])
        with pytest.raises(ParticleFileError, match="truncated or damaged"):
            ParticleStack.open(small_cs)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(6, 1500), value=st.integers(0, 255))
def test_a_damaged_byte_is_no_traceback(small_cs: Path, place: int, value: int) -> None:
    whole = small_cs.read_bytes()
    try:
        small_cs.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        describe(small_cs)
    finally:
        small_cs.write_bytes(whole)


def test_an_empty_table(small_cs: Path) -> None:
    write_cs(small_cs, read_cs(small_cs)[:0])
    (problem,) = ParticleStack.open(small_cs).problems()
    assert "has no particles" in str(problem)


# -- writing ----------------------------------------------------------------------------------------


def test_written_and_read_again_is_the_same(small_cs: Path, tmp_path: Path) -> None:
    write_cs(tmp_path / "b.cs", read_cs(small_cs))
    again, original = np.load(tmp_path / "b.cs", allow_pickle=False), np.load(small_cs)
    assert again.dtype == original.dtype
    np.testing.assert_array_equal(again, original)
    with pytest.raises(OutputError, match="cannot be written"):
        write_cs(tmp_path / "nowhere" / "b.cs", again)


def test_many_fields_are_read(small_cs: Path, write_cs_file: Write) -> None:
    """NumPy takes headers of more than 10,000 characters for an attack."""
    write_cs_file(small_cs, {f"alignments_class_{k}/class_posterior": np.zeros(4, "f4") for k in range(300)})
    assert ParticleStack.open(small_cs).problems() == []


def test_new_images_get_star_and_cs(small_cs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    source = ParticleStack.open(small_cs)
    images = np.random.default_rng(1).normal(size=(3, 4, 4)).astype("f4")
    with ParticleWriter(
        out, "denoised", box=4, pixel_size_A=4.0, source=source, rows=[2, 0, 1],
        **denoised_columns(source, phase_flipped=True),
    ) as writer:  # fmt: skip
        writer.append(images)
        writer.set_columns(particles={"polariceConfidence": [0.5, 0.25, 1.0]})
    assert sorted(path.name for path in out.iterdir()) == ["denoised.cs", "denoised.mrcs", "denoised.star"]
    assert set(writer.paths) == set(out.iterdir())
    for name in ("denoised.star", "denoised.cs"):
        stack = ParticleStack.open(out / name)
        assert stack.problems() == []
        np.testing.assert_array_equal(stack.images(slice(None)), images)
        assert (stack.pixel_size_A, stack.denoised, stack.phase_flipped) == (4.0, True, True)
        assert stack.column("cryosparcUid") == [source.column("cryosparcUid")[k] for k in (2, 0, 1)]
        assert stack.numeric("polariceConfidence").tolist() == [0.5, 0.25, 1.0]
        np.testing.assert_allclose(stack.shifts_px(), source.shifts_px()[[2, 0, 1]] / 2)
    made, original = np.load(out / "denoised.cs", allow_pickle=False), np.load(small_cs)[[2, 0, 1]]
    changed = {name for name in original.dtype.names if (made[name] != original[name]).any()}
    assert changed == {"blob/path", "blob/idx", "blob/shape", "blob/psize_A", "blob/import_sig"}
    assert made["blob/path"].tolist() == [b"denoised.mrcs"] * 3
    assert made["blob/idx"].tolist() == [0, 1, 2]
    assert made["blob/shape"].tolist() == [[4, 4]] * 3


def test_no_file_is_left_of_a_run_that_fails(small_cs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (
        pytest.raises(PolariceError, match="1 images were written for 4 rows"),
        ParticleWriter(out, "a", box=8, pixel_size_A=2.0, source=ParticleStack.open(small_cs)) as writer,
    ):
        writer.append(np.zeros((8, 8), "f4"))
    assert list(out.iterdir()) == []
    (out / "a.cs").touch()
    with pytest.raises(OutputError, match=r"a\.cs: the file exists already"):
        ParticleWriter(out, "a", box=8, pixel_size_A=2.0, source=ParticleStack.open(small_cs))


def test_the_source_is_never_replaced(small_cs: Path) -> None:
    with pytest.raises(OutputError, match="would be replaced"):
        ParticleWriter(
            small_cs.parent, small_cs.stem, box=8, pixel_size_A=2.0,
            source=ParticleStack.open(small_cs), overwrite=True,
        )  # fmt: skip


def test_a_bare_cs_file_has_no_other_tables(small_cs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with ParticleWriter(out, "a", box=8, pixel_size_A=2.0, source=ParticleStack.open(small_cs)) as writer:
        writer.append(np.zeros((4, 8, 8), "f4"))
    tables, version = read_star(out / "a.star")
    assert [table.name for table in tables] == ["optics", "particles"]
    assert version == 30001

"""From STAR to cryoSPARC files and back: the same numbers, images found, one error for what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polarice.conventions import euler_to_matrix
from polarice.errors import OutputError, ParticleFileError
from polarice.particles import ParticleStack, StarTable, convert_metadata, read_star, write_star

Write = Callable[..., Path]

OPTICS = {
    "rlnOpticsGroupName": ["a", "b"],
    "rlnOpticsGroup": ["1", "2"],
    "rlnVoltage": ["300", "200"],
    "rlnSphericalAberration": ["2.7", "0.01"],
    "rlnAmplitudeContrast": ["0.1", "0.07"],
    "rlnImagePixelSize": ["1.25", "1.24"],
    "rlnImageSize": ["64", "64"],
    "rlnImageDimensionality": ["2", "2"],
}
COLUMNS = {
    "rlnDefocusU": st.floats(500, 60000),
    "rlnDefocusV": st.floats(500, 60000),
    "rlnDefocusAngle": st.floats(-180, 180),
    "rlnPhaseShift": st.floats(0, 180),
    "rlnCtfBfactor": st.floats(0, 200),
    "rlnAngleRot": st.floats(-180, 180),
    "rlnAngleTilt": st.floats(0, 180),
    "rlnAnglePsi": st.floats(-180, 180),
    "rlnOriginXAngst": st.floats(-30, 30),
    "rlnOriginYAngst": st.floats(-30, 30),
    "rlnRandomSubset": st.integers(1, 2),
    "rlnClassNumber": st.integers(1, 200),
    "rlnOpticsGroup": st.integers(1, 2),
}
ROWS = st.lists(st.fixed_dictionaries(COLUMNS), min_size=1, max_size=5)


def write_rows(path: Path, rows: list[dict[str, float]]) -> Path:
    columns = {name: [repr(row[name]) for row in rows] for name in COLUMNS}
    columns["rlnImageName"] = [f"{k}@x/stack.mrcs" for k in range(1, len(rows) + 1)]
    columns["rlnMicrographName"] = ["mic.mrc"] * len(rows)
    write_star(path, [StarTable("optics", OPTICS), StarTable("particles", columns)], version=30001)
    return path


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_star_to_cs_to_star(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, float]]) -> None:
    folder = tmp_path_factory.mktemp("convert")
    star = write_rows(folder / "a.star", rows)
    convert_metadata(star, folder / "b.cs")
    convert_metadata(folder / "b.cs", folder / "c.star")
    before, after = ParticleStack.open(star), ParticleStack.open(folder / "c.star")
    names = set(COLUMNS) - {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnRandomSubset", "rlnOpticsGroup"}
    for name in names | {"rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize"}:
        np.testing.assert_allclose(
            after.numeric(name), before.numeric(name), rtol=3e-7, atol=2e-6, err_msg=name
        )
    # Euler angles of a rotation are not unique at the poles, the rotation is.
    rotations = [stack.rotations() for stack in (before, after)]
    np.testing.assert_allclose(rotations[0], rotations[1], atol=2e-6)
    assert after.numeric("cryosparcExposureGroup").tolist() == before.optics_groups.tolist()
    halves = before.half_sets
    assert halves is not None
    # One half alone is cryoSPARC's sign that nothing has been split.
    if len(set(halves.tolist())) == 2:
        assert after.half_sets.tolist() == halves.tolist()
    assert after.names.index.tolist() == before.names.index.tolist()
    assert after.names.files == ["x/stack.mrcs"]
    assert after.column("rlnMicrographName") == before.column("rlnMicrographName")


def test_optics_groups_keep_their_numbers(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, 1.0) | {"rlnRandomSubset": 1, "rlnClassNumber": 1}
    star = write_rows(tmp_path / "a.star", [row | {"rlnOpticsGroup": k} for k in (2, 1, 2)])
    convert_metadata(star, tmp_path / "b.cs")
    table = np.load(tmp_path / "b.cs")
    assert table["ctf/exp_group_id"].tolist() == [2, 1, 2]
    assert table["ctf/accel_kv"].tolist() == [200, 300, 200]
    assert ParticleStack.open(tmp_path / "b.cs").optics_groups.tolist() == [2, 1, 2]


def test_cs_to_star_to_cs(small_cs: Path, tmp_path: Path) -> None:
    convert_metadata(small_cs, tmp_path / "a.star")
    convert_metadata(tmp_path / "a.star", tmp_path / "b.cs")
    before, after = np.load(small_cs), np.load(tmp_path / "b.cs", allow_pickle=False)
    for name in before.dtype.names:
        if name not in (
            "blob/import_sig",
            "ctf/type",
            "alignments3D/pose",
            "alignments3D/psize_A",
        ) and name in (after.dtype.names):
            scale = 2 if name == "alignments3D/shift" else 1  # now in pixels of the images
            kept = before[name] if before[name].dtype.kind == "S" else before[name] * scale
            if before[name].dtype.kind == "S":
                assert after[name].tolist() == kept.tolist()
            else:
                np.testing.assert_allclose(after[name], kept, rtol=3e-7, atol=1e-8, err_msg=name)
    assert "pick_stats/ncc_score" not in after.dtype.names  # STAR has no place for it
    rotations = [ParticleStack.open(path).rotations() for path in (small_cs, tmp_path / "b.cs")]
    np.testing.assert_allclose(rotations[0], rotations[1], atol=1e-6)


def test_cs_to_cs_joins_and_loses_nothing(small_cs: Path, tmp_path: Path, write_cs_file: Write) -> None:
    write_cs_file(tmp_path / "other.cs", {"location/micrograph_path": np.array([b"a.mrc"] * 4)})
    convert_metadata(small_cs, tmp_path / "b.cs", passthrough=tmp_path / "other.cs")
    before, after = np.load(small_cs), np.load(tmp_path / "b.cs", allow_pickle=False)
    assert after.dtype.names == (*before.dtype.names, "location/micrograph_path")
    for name in before.dtype.names:
        np.testing.assert_array_equal(after[name], before[name])


def test_relion_30_becomes_cs(tmp_path: Path, write_stack: Write) -> None:
    write_stack(tmp_path / "stack.mrcs", np.zeros((2, 8, 8), "f4"))
    (tmp_path / "old.star").write_text(
        "data_\nloop_\n_rlnImageName\n_rlnMagnification\n_rlnDetectorPixelSize\n_rlnOriginX\n_rlnOriginY\n"
        "_rlnAnglePsi\n2@stack.mrcs 50000 10.0 1.0 -2.0 90\n1@stack.mrcs 50000 10.0 3.0 4.0 -45\n"
    )
    result = convert_metadata(tmp_path / "old.star", tmp_path / "a.cs")
    assert result.notices == (
        "no CTF is written: _rlnDefocusU, _rlnVoltage, _rlnSphericalAberration, _rlnAmplitudeContrast "
        "is missing.",
    )
    table = np.load(tmp_path / "a.cs")
    assert table["blob/psize_A"].tolist() == [2.0, 2.0]
    assert table["blob/shape"].tolist() == [[8, 8], [8, 8]]
    assert table["alignments2D/shift"].tolist() == [[1, -2], [3, 4]]
    np.testing.assert_allclose(table["alignments2D/pose"], [np.pi / 2, -np.pi / 4])
    assert ParticleStack.open(tmp_path / "a.cs").problems() == []


def test_new_uids_depend_on_the_image_alone(small_stack: Path, tmp_path: Path) -> None:
    tables, version = read_star(small_stack)
    twice = [tables[0], tables[1].take([5, 2, 2])]
    write_star(tmp_path / "few.star", twice, version=version)
    convert_metadata(small_stack, tmp_path / "all.cs")
    convert_metadata(tmp_path / "few.star", tmp_path / "few.cs")
    whole, few = (np.load(tmp_path / f"{name}.cs")["uid"] for name in ("all", "few"))
    assert len(set(whole.tolist())) == 10
    assert few[:2].tolist() == whole[[5, 2]].tolist()
    assert few[2] not in whole  # copies of a particle are two particles


@pytest.mark.parametrize(("contrast", "sign"), [("bright", 1), ("dark", -1)])
def test_contrast_becomes_the_sign(small_stack: Path, tmp_path: Path, contrast: str, sign: int) -> None:
    convert_metadata(small_stack, tmp_path / "a.cs", contrast=contrast)
    assert set(np.load(tmp_path / "a.cs")["blob/sign"].tolist()) == {sign}


# -- where the images are ---------------------------------------------------------------------------


def test_paths_lead_to_the_images_from_another_folder(
    small_cs: Path, small_stack: Path, tmp_path: Path
) -> None:
    (tmp_path / "stack.mrcs").rename(tmp_path / "moved")
    for folder in ("images", "out", "project"):
        (tmp_path / folder).mkdir()
    (tmp_path / "moved").rename(tmp_path / "images" / "stack.mrcs")
    for source in (small_cs, small_stack):
        home = source.rename(tmp_path / "images" / source.name)
        for target in ("a.star", "a.cs"):
            convert_metadata(home, tmp_path / "out" / target, overwrite=True)
            stack = ParticleStack.open(tmp_path / "out" / target)
            assert stack.names.files == [os.path.join("..", "images", "stack.mrcs")]
            assert stack.problems() == []
            np.testing.assert_array_equal(stack.images([0, 3]), ParticleStack.open(home).images([0, 3]))


def test_paths_of_a_project_stay_as_they_are(
    tmp_path: Path, write_stack: Write, write_cs_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("J19", "J24", "elsewhere"):
        (tmp_path / folder).mkdir()
    write_stack(tmp_path / "J19" / "stack.mrcs", np.zeros((4, 8, 8), "f4"))
    source = write_cs_file(tmp_path / "J24" / "a.cs", {"blob/path": np.array([b">J19/stack.mrcs"] * 4)})
    convert_metadata(source, tmp_path / "elsewhere" / "a.star")
    assert ParticleStack.open(tmp_path / "elsewhere" / "a.star").names.files == ["J19/stack.mrcs"]
    convert_metadata(source, tmp_path / "elsewhere" / "a.cs")
    assert np.load(tmp_path / "elsewhere" / "a.cs")["blob/path"].tolist() == [b">J19/stack.mrcs"] * 4
    monkeypatch.chdir(tmp_path / "elsewhere")
    convert_metadata(source, "b.star")
    assert ParticleStack.open("b.star").problems() == []


def test_images_need_not_be_there(tmp_path: Path, write_cs_file: Write) -> None:
    (tmp_path / "out").mkdir()
    result = convert_metadata(write_cs_file(tmp_path / "a.cs"), tmp_path / "out" / "a.star")
    assert result.particles == 4
    assert result.notices[0] == "1 of 1 stack files were not found; their paths are left as they are."
    assert ParticleStack.open(result.path).names.files == ["stack.mrcs"]


def test_what_relion_wants_otherwise_is_said(
    tmp_path: Path, write_stack: Write, write_cs_file: Write
) -> None:
    write_stack(tmp_path / "stack.mrc", np.zeros((4, 8, 8), "f4"))
    path = write_cs_file(tmp_path / "a.cs", {"blob/path": np.array([b"stack.mrc"] * 4)})
    dark, suffix = convert_metadata(path, tmp_path / "a.star").notices
    assert "dark" in dark
    assert "end in .mrcs" in suffix


# -- what is wrong ----------------------------------------------------------------------------------


def test_targets_that_cannot_be(small_cs: Path, tmp_path: Path) -> None:
    convert_metadata(small_cs, tmp_path / "a.star")
    for target, message in (
        (tmp_path / "a.star", "exists already.*--overwrite"),
        (tmp_path / "a.csv", r"'\.csv' files are not written\. End it in \.star or \.cs"),
        (tmp_path / "nowhere" / "a.star", "output folder does not exist"),
        (small_cs, "would be replaced by what is made from it"),
    ):
        with pytest.raises(OutputError, match=message):
            convert_metadata(small_cs, target)
    with pytest.raises(OutputError, match="would be replaced"):
        convert_metadata(small_cs, small_cs, overwrite=True)
    assert convert_metadata(small_cs, tmp_path / "a.star", overwrite=True).particles == 4


def test_a_bare_stack_has_no_metadata(tmp_path: Path, write_stack: Write) -> None:
    stack = write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 8), "f4"))
    with pytest.raises(ParticleFileError, match=r"no metadata to convert\. Give a \.star or \.cs file"):
        convert_metadata(stack, tmp_path / "a.cs")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("000004@stack.mrcs", "x@stack.mrcs", "row 4: image name 'x@stack.mrcs'"),
        ("10030.0", "nan", "row 4: column _rlnDefocusU has nan.*Correct or remove"),
        ("10030.0", "ten", "row 4: column _rlnDefocusU has 'ten', which is not a number"),
        ("300.0 2.7 0.1 2.0", "300.0 2.7 0.1 0", "pixel size of 0.0 A makes no sense"),
        ("_rlnDefocusAngle #4", "_cryosparcUid #4", "row 1: column _cryosparcUid has '30.0'"),
        ("_rlnDefocusAngle #4", "_rlnAnglePsi #4", None),
        ("_rlnOpticsGroup #5", "_rlnOther #5", None),
    ],
)
def test_rows_that_cannot_be_converted(small_stack: Path, old: str, new: str, message: str | None) -> None:
    small_stack.write_text(small_stack.read_text().replace(old, new))
    target = small_stack.with_name("a.cs")
    if message is None:
        assert convert_metadata(small_stack, target).particles == 10
        return
    with pytest.raises(ParticleFileError, match=message):
        convert_metadata(small_stack, target)
    assert not target.exists()


def test_uids_that_come_twice(small_cs: Path, tmp_path: Path) -> None:
    convert_metadata(small_cs, tmp_path / "a.star")
    tables, version = read_star(tmp_path / "a.star")
    write_star(tmp_path / "b.star", [tables[0], tables[1].take([0, 1, 0])], version=version)
    with pytest.raises(ParticleFileError, match=r"row 3: column _cryosparcUid has \d+, as row 1 has"):
        convert_metadata(tmp_path / "b.star", tmp_path / "b.cs")


def test_the_pixel_size_can_be_told(tmp_path: Path, write_stack: Write) -> None:
    write_stack(tmp_path / "a.mrcs", np.zeros((1, 8, 8), "f4"))
    (tmp_path / "p.star").write_text("data_\nloop_\n_rlnImageName\n1@a.mrcs\n")
    with pytest.raises(ParticleFileError, match=r"pixel size is nowhere.*--pixel-size"):
        convert_metadata(tmp_path / "p.star", tmp_path / "a.cs")
    convert_metadata(tmp_path / "p.star", tmp_path / "a.cs", pixel_size_A=1.5)
    assert ParticleStack.open(tmp_path / "a.cs").pixel_size_A == 1.5


# -- real files -------------------------------------------------------------------------------------


@pytest.mark.data
def test_real_star_files_survive(shared_data: Path, tmp_path: Path) -> None:
    converted = 0
    for path in sorted((shared_data / "particles").glob("*/*.star")):
        try:
            convert_metadata(path, tmp_path / "a.cs", overwrite=True)
        except ParticleFileError:
            continue  # metadata without its images that nowhere says the box
        before, after = ParticleStack.open(path), ParticleStack.open(tmp_path / "a.cs")
        converted += 1
        for name in ("DefocusU", "DefocusV", "DefocusAngle", "PhaseShift", "AmplitudeContrast"):
            if before.has_ctf and before.has_column(f"rln{name}"):
                np.testing.assert_allclose(
                    after.numeric(f"rln{name}"), before.numeric(f"rln{name}"), rtol=1e-6, atol=2e-6
                )
        angles = [before.numeric(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
        if all(angle is not None for angle in angles):
            expected = euler_to_matrix(torch.from_numpy(np.stack(angles, -1)))
            np.testing.assert_allclose(after.rotations(), expected, atol=2e-6)
        for name, unit_A in (("rlnOriginX", before.pixel_sizes_A()), ("rlnOriginXAngst", 1.0)):
            if before.has_column(name):
                expected = before.numeric(name) * unit_A
                np.testing.assert_allclose(after.numeric("rlnOriginXAngst"), expected, rtol=1e-5, atol=1e-5)
    assert converted > 8, converted

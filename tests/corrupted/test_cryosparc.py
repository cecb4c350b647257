"""cryoSPARC files with fields that are missing, of another type or absurd, damaged bytes, wrong company."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

KIND = "cryoSPARC"
COUNT, ROW = 8, 5
Fields = dict[str, np.ndarray]

MISSING = {
    "uid": "uid",
    "blob/path": "blob/path",
    "blob/idx": "blob/idx",
    "blob/psize_A": "--pixel-size",
    "ctf/accel_kv": "_rlnVoltage",
    "ctf/cs_mm": "_rlnSphericalAberration",
    "ctf/amp_contrast": "_rlnAmplitudeContrast",
    "ctf/df1_A": "_rlnDefocusU",
    "ctf/df_angle_rad": "_rlnDefocusAngle",
}
NOT_NEEDED = (
    "blob/shape", "blob/sign", "ctf/exp_group_id", "ctf/phase_shift_rad", "ctf/bfactor", "alignments3D/pose",
    "alignments3D/shift", "alignments3D/class",
)  # fmt: skip
# Values that a row of a field can have and that no particle has.
ABSURD: dict[str, tuple[float, ...]] = {
    "blob/idx": (8, 2**32 - 1),
    "blob/shape": (64, 0),
    "blob/psize_A": (np.nan, np.inf, 0, -3, 6, 1e30),
    "ctf/accel_kv": (np.nan, np.inf, 0, -300, 300_000),
    "ctf/cs_mm": (np.nan, -np.inf, 1e30),
    "ctf/amp_contrast": (np.nan, 10, -2),
    "ctf/df1_A": (np.nan, np.inf, 1e30),
    "ctf/df2_A": (np.nan, -1e30),
    "ctf/df_angle_rad": (np.nan, 1e30),
    "ctf/phase_shift_rad": (np.nan, np.inf),
    "ctf/bfactor": (np.nan, -1e30),
    "alignments3D/pose": (np.nan, np.inf),
    "alignments3D/shift": (np.nan, np.inf, 1e30),
    "alignments3D/psize_A": (np.nan,),
    "alignments3D/split": (2, 2**32 - 1),
}

TYPES: dict[str, tuple[str, np.ndarray]] = {
    "uid of fractions": ("uid", np.arange(COUNT) + 0.5),
    "uid of NaN": ("uid", np.full(COUNT, np.nan)),
    "uid of text": ("uid", np.array([b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"])),
    "uid of two numbers": ("uid", np.arange(2 * COUNT, dtype="u8").reshape(COUNT, 2)),
    "uid twice": ("uid", np.array([1, 2, 3, 4, 2, 6, 7, 8], "u8")),
    "uid all zero": ("uid", np.zeros(COUNT, "u8")),
    "path of numbers": ("blob/path", np.arange(COUNT)),
    "path of fractions": ("blob/path", np.full(COUNT, np.nan)),
    "path of flags": ("blob/path", np.ones(COUNT, "?")),
    "two paths": ("blob/path", np.full((COUNT, 2), b"particles.mrcs")),
    "path of bytes without meaning": ("blob/path", np.zeros(COUNT, "V14")),
    "path of dates": ("blob/path", np.zeros(COUNT, "M8[s]")),
    "path not UTF-8": ("blob/path", np.array([b"particles.mrcs"] * 4 + [b"\xff\xfe.mrcs"] * 4)),
    "path in Latin-1": ("blob/path", np.array([b"particles.mrcs"] * 4 + [b"Gr\xf6\xdfe.mrcs"] * 4)),
    "path with a lone surrogate": ("blob/path", np.array(["particles.mrcs"] * 4 + ["\udcff.mrcs"] * 4)),
    "path that is empty": ("blob/path", np.array([b"particles.mrcs"] * 4 + [b""] * 4)),
    "path with a zero in it": ("blob/path", np.array([b"particles.mrcs"] * 4 + [b"part\0icles.mrcs"] * 4)),
    "path with a line break": ("blob/path", np.array([b"particles.mrcs"] * 4 + [b"a\nb.mrcs"] * 4)),
    "path that is too long": ("blob/path", np.array([b"particles.mrcs"] * 4 + [b"a" * 5000] * 4)),
    "path of a folder": ("blob/path", np.array([b"particles.mrcs"] * 4 + [b"."] * 4)),
    "path of an absent file": ("blob/path", np.array([b">absent.mrcs"] * COUNT)),
    "index of fractions": ("blob/idx", np.arange(COUNT) + 0.5),
    "index below zero": ("blob/idx", np.arange(COUNT, dtype="i4") - 1),
    "index at the end of 64 bits": ("blob/idx", np.full(COUNT, 2**64 - 1, "u8")),
    "index at the end of signed 64 bits": ("blob/idx", np.full(COUNT, 2**63 - 1, "i8")),
    "index of text": ("blob/idx", np.array([b"0"] * COUNT)),
    "index of two numbers": ("blob/idx", np.zeros((COUNT, 2), "u4")),
    "shape of one number": ("blob/shape", np.full(COUNT, 32, "u4")),
    "shape of three numbers": ("blob/shape", np.full((COUNT, 3), 32, "u4")),
    "pixel size of text": ("blob/psize_A", np.array([b"three"] * COUNT)),
    "pixel size of complex numbers": ("blob/psize_A", np.full(COUNT, 3j)),
    "voltage of flags": ("ctf/accel_kv", np.ones(COUNT, "?")),
    "defocus of text": ("ctf/df1_A", np.array([b"15000"] * COUNT)),
    "defocus of two numbers": ("ctf/df1_A", np.zeros((COUNT, 2), "f4")),
    "defocus of float16": ("ctf/df1_A", np.full(COUNT, np.inf, "f2")),
    "defocus of times": ("ctf/df2_A", np.zeros(COUNT, "m8[s]")),
    "pose of two numbers": ("alignments3D/pose", np.zeros((COUNT, 2), "f4")),
    "pose of one number": ("alignments3D/pose", np.zeros(COUNT, "f4")),
    "pose of matrices": ("alignments3D/pose", np.zeros((COUNT, 3, 3), "f4")),
    "shift of one number": ("alignments3D/shift", np.zeros(COUNT, "f4")),
    "half sets of text": ("alignments3D/split", np.array([b"A", b"B"] * 4)),
    "half sets of fractions": ("alignments3D/split", np.linspace(0, 1, COUNT)),
    "class of text": ("alignments3D/class", np.array([b"0"] * COUNT)),
    "exposure group of text": ("ctf/exp_group_id", np.array([b"0"] * COUNT)),
}
SAME: dict[str, tuple[str, np.ndarray]] = {
    "uid signed": ("uid", np.arange(COUNT, dtype="i8") - 4),
    "path of Unicode": ("blob/path", np.array(["particles.mrcs"] * COUNT)),
    "path with spaces about it": ("blob/path", np.array([b" particles.mrcs  "] * COUNT)),
    "index of whole fractions": ("blob/idx", np.arange(COUNT, dtype="f8")),
    "index of 8 bits": ("blob/idx", np.arange(COUNT, dtype="u1")),
    "index of the other byte order": ("blob/idx", np.arange(COUNT, dtype=">u4")),
    "voltage of whole numbers": ("ctf/accel_kv", np.full(COUNT, 300)),
    "a field of nobody's that is not a number": ("pick_stats/score", np.full(COUNT, np.nan)),
    "a field of nobody's of text": ("location/note", np.array([b"\xff\xfe"] * COUNT)),
}
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"data_particles\n" * 100,
    "a zip file": lambda data: b"PK\x03\x04" + data,
    "a pickle": lambda data: b"\x80\x04}q\x00." + data,
    "cryoSPARC's compressed form": lambda data: b"\x94CSDAT" + data[6:],
    "another version": lambda data: data[:6] + b"\x09\x00" + data[8:],
    "version 3 of the format": lambda data: data[:6] + b"\x03\x00" + data[8:],
    "a header of no length": lambda data: data[:8] + b"\0\0" + data[10:],
    "a header too long": lambda data: data[:8] + b"\xff\xff" + data[10:],
    "a header one shorter": lambda data: (
        data[:8] + (int.from_bytes(data[8:10], "little") - 64).to_bytes(2, "little") + data[10:]
    ),
    "a header that is no dict": lambda data: data.replace(b"{'descr'", b"['descr'"),
    "a header with a call": lambda data: data.replace(b"'fortran_order': False", b"'fortran_order': exit()"),
    "another key": lambda data: data.replace(b"'shape'", b"'shapf'"),
    "rows more than there are": lambda data: data.replace(b"(8,)", b"(9,)"),
    "a billion rows": lambda data: data.replace(b"(8,), }          ", b"(8000000000,), } "),
    "rows below zero": lambda data: data.replace(b"(8,), } ", b"(-8,), }"),
    "two axes": lambda data: data.replace(b"(8,), }  ", b"(4, 2), }"),
    "no axis": lambda data: data.replace(b"(8,), }", b"(), }  "),
    "an unknown type": lambda data: data.replace(b"'<f4'", b"'<q4'", 1),
    "half the bytes of a type": lambda data: data.replace(b"'<f4'", b"'<f2'", 1),
    "an object's type": lambda data: data.replace(b"'<f4'", b"'|O'", 1),
    "a field twice": lambda data: data.replace(b"'ctf/df2_A'", b"'ctf/df1_A'"),
    "a field with another name": lambda data: data.replace(b"'blob/path'", b"'blob/math'"),
    "noise in the header": lambda data: data[:100] + bytes(range(128, 228)) + data[200:],
    "all bits set": lambda data: data[:-400] + b"\xff" * 400,
    "all of the rows lost but one": lambda data: data[: -7 * (len(data) // 9)],
}
CUTS = 24


@pytest.fixture
def write(whole: Any, tmp_path: Path) -> Callable[[Fields], Path]:
    """Write a ``.cs`` file of fields beside the stack, as NumPy writes it."""

    def to_file(fields: Fields, name: str = "particles.cs") -> Path:
        path = whole.copy(tmp_path / "in", ".cs", ".mrcs").with_name(name)
        count = len(next(iter(fields.values())))
        table = np.zeros(count, [(name, values.dtype, values.shape[1:]) for name, values in fields.items()])
        for field, values in fields.items():
            table[field] = values
        with path.open("wb") as file:
            np.save(file, table, allow_pickle=True)
        return path

    return to_file


@pytest.mark.parametrize("field", MISSING)
def test_missing_fields(field: str, whole: Any, judge: Any, write: Any) -> None:
    fields = whole.fields()
    del fields[field]
    incomplete = field.startswith("ctf/")
    judge.refused(KIND, write(fields), [MISSING[field]], seen=not incomplete)


@pytest.mark.parametrize(("field", "value"), [(f, value) for f, values in ABSURD.items() for value in values])
def test_absurd_values(field: str, value: float, whole: Any, judge: Any, write: Any) -> None:
    fields = whole.fields()
    fields[field][ROW - 1] = value
    whole_stack = field == "blob/psize_A" and np.isfinite(value)
    judge.refused(KIND, write(fields), ["pixel size" if whole_stack else f"row {ROW}"])


@pytest.mark.parametrize("name", TYPES)
def test_other_types_and_shapes(name: str, whole: Any, judge: Any, write: Any) -> None:
    field, values = TYPES[name]
    judge.refused(KIND, write({**whole.fields(), field: values}))


@pytest.mark.parametrize("name", BYTES)
def test_broken_bytes(name: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".cs", ".mrcs")
    data = path.read_bytes()
    path.write_bytes(BYTES[name](data))
    assert path.read_bytes() != data
    judge.refused(KIND, path)


@pytest.mark.parametrize("cut", range(CUTS))
def test_cut_anywhere(cut: int, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".cs", ".mrcs")
    data = path.read_bytes()
    path.write_bytes(data[: (len(data) - 1) * (cut + 1) // CUTS])
    judge.refused(KIND, path)


@pytest.mark.parametrize("protocol", [2, 5])
def test_objects_that_would_need_a_pickle(protocol: int, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".cs", ".mrcs")
    table = np.zeros(COUNT, [("uid", "u8"), ("blob/path", "O" if protocol == 2 else ("O", (2,)))])
    with path.open("wb") as file:
        np.save(file, table, allow_pickle=True)
    judge.refused(KIND, path, ["pickled"])


def test_no_rows(whole: Any, judge: Any, write: Any) -> None:
    judge.refused(
        KIND, write({name: values[:0] for name, values in whole.fields().items()}), ["no particles"]
    )


def test_a_table_without_names(whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".cs", ".mrcs")
    with path.open("wb") as file:
        np.save(file, np.zeros((COUNT, 3)))
    judge.refused(KIND, path, ["no table"])


PASSTHROUGH: dict[str, Callable[[Fields], Fields]] = {
    "another job's particles": lambda fields: fields | {"uid": fields["uid"] + np.uint64(1)},
    "a particle less": lambda fields: {name: values[:-1] for name, values in fields.items()},
    "no rows": lambda fields: {name: values[:0] for name, values in fields.items()},
    "a particle twice": lambda fields: fields | {"uid": np.append(fields["uid"][:-1], fields["uid"][0])},
    "no uid": lambda fields: {name: values for name, values in fields.items() if name != "uid"},
    "uid of fractions": lambda fields: fields | {"uid": fields["uid"].astype("f8")},
}


@pytest.mark.parametrize("name", [*PASSTHROUGH, "garbage", "cut"])
def test_passthrough_files_that_do_not_match(name: str, whole: Any, judge: Any, write: Any) -> None:
    fields = whole.fields()
    beside = {field: fields[field] for field in ("uid", "ctf/df1_A", "ctf/accel_kv")}
    company = write(PASSTHROUGH.get(name, dict)(beside), "P1_J5_passthrough_particles.cs")
    if name == "garbage":
        company.write_bytes(b"garbage" * 30)
    elif name == "cut":
        company.write_bytes(company.read_bytes()[:-20])
    judge.refused(KIND, company.with_name("particles.cs"), names=company)


# -- harmless ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", NOT_NEEDED)
def test_fields_that_are_not_needed(field: str, whole: Any, judge: Any, write: Any) -> None:
    fields = whole.fields()
    del fields[field]
    judge.harmless(KIND, write(fields))


@pytest.mark.parametrize("name", SAME)
def test_other_types_of_the_same(name: str, whole: Any, judge: Any, write: Any) -> None:
    field, values = SAME[name]
    judge.harmless(KIND, write({**whole.fields(), field: values}))


def test_the_other_byte_order(whole: Any, judge: Any, write: Any) -> None:
    swapped = {name: v.astype(v.dtype.newbyteorder(">")) for name, v in whole.fields().items()}
    judge.harmless(KIND, write(swapped))


def test_bytes_after_the_end(whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".cs", ".mrcs")
    path.write_bytes(path.read_bytes() + b"more")
    judge.harmless(KIND, path)

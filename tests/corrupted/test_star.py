"""STAR files broken in every way that a table can be, and those that only look so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KIND = "STAR"
Tables = dict[str, dict[str, list[str]]]
ROW = 5  # the row that is broken, counted from 1


def drop(table: str, label: str) -> Callable[[Tables], object]:
    return lambda tables: tables[table].pop(label)


def put(table: str, label: str, value: str, row: int | None = None) -> Callable[[Tables], None]:
    """Set a value in one row, or in all."""

    def change(tables: Tables) -> None:
        values = tables[table].setdefault(label, ["0"] * len(next(iter(tables[table].values()))))
        for k in range(len(values)):
            if row is None or k == row - 1:
                values[k] = value

    return change


def change_text(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


# -- tables -----------------------------------------------------------------------------------------

MISSING = [
    ("particles", "rlnImageName", "no particle table"),
    ("particles", "rlnDefocusU", "_rlnDefocusU"),
    ("particles", "rlnDefocusAngle", "_rlnDefocusAngle"),
    ("optics", "rlnVoltage", "_rlnVoltage"),
    ("optics", "rlnSphericalAberration", "_rlnSphericalAberration"),
    ("optics", "rlnAmplitudeContrast", "_rlnAmplitudeContrast"),
    ("optics", "rlnImagePixelSize", "--pixel-size"),
    ("optics", "rlnOpticsGroup", "_rlnOpticsGroup"),
]

CTF = ("DefocusU", "DefocusAngle", "Voltage", "SphericalAberration", "AmplitudeContrast")

NUMBERS = {
    "rlnDefocusU": ["nan", "inf", "-inf", "1e300", "-1e300", "1e9", "none", "1.5.2", "0x10", "--3"],
    "rlnDefocusV": ["nan", "1e300", "text"],
    "rlnDefocusAngle": ["nan", "inf", "1e30", "north"],
    "rlnPhaseShift": ["nan", "1e300", "ninety"],
    "rlnCtfBfactor": ["nan", "1e300", "-1e30", "B"],
    "rlnAngleRot": ["nan", "inf", "left"],
    "rlnAngleTilt": ["nan", "tilted"],
    "rlnAnglePsi": ["-inf", "x"],
    "rlnOriginXAngst": ["nan", "1e300", "?"],
    "rlnOriginYAngst": ["inf", "."],
    "rlnRandomSubset": ["0", "3", "-1", "nan", "1.5", "half", "1e300"],
    "rlnOpticsGroup": ["0", "2", "-1", "1.5", "nan", "inf", "1e300", "first"],
    "rlnCtfDataArePhaseFlipped": ["1", "nan", "yes"],
    "polariceDenoised": ["nan", "2", "yes"],
    "rlnImagePixelSize": ["nan", "-3.0", "0", "inf", "6.0", "1e300", "wide"],
    "rlnVoltage": ["0", "-300", "nan", "300000"],
    "rlnImageSize": ["64", "nan", "large"],
}

EVERYWHERE = {
    "rlnVoltage": ["0", "-300", "nan", "inf", "1e300", "300000", "1e-9", "high"],
    "rlnSphericalAberration": ["nan", "inf", "1e300", "-1e6", "two"],
    "rlnAmplitudeContrast": ["nan", "inf", "10", "-7", "1e300", "low"],
    "rlnImagePixelSize": ["0", "-1", "nan", "inf", "1e300", "1e-300", "three"],
    "rlnImageSize": ["0", "-32", "33", "nan", "1e300", "box"],
    "rlnOpticsGroup": ["2", "nan", "inf", "1.5", "one", "99999999999999999999"],
}

NAMES = {
    "index 0": "000000@particles.mrcs",
    "one past the end": "000009@particles.mrcs",
    "far past the end": "999999999@particles.mrcs",
    "negative": "-00001@particles.mrcs",
    "beyond 64 bits": "99999999999999999999@particles.mrcs",
    "thousands of digits": "9" * 5000 + "@particles.mrcs",
    "no digits": "one@particles.mrcs",
    "a fraction": "1.5@particles.mrcs",
    "an exponent": "1e0@particles.mrcs",
    "no index": "@particles.mrcs",
    "no file": "000001@",
    "an at sign": "@",
    "a name that is too long": "000001@" + "a" * 5000 + ".mrcs",
    "a folder": "000001@folder.mrcs",
    "the folder itself": "000001@.",
    "an absent file": "000001@absent.mrcs",
    "an absolute absent file": "000001@/absent/particles.mrcs",
    "a file in a file": "000001@particles.star/particles.mrcs",
    "the star file": "000001@particles.star",
    "two at signs": "000001@2@particles.mrcs",
}


@pytest.mark.parametrize(("table", "label", "words"), MISSING, ids=lambda value: str(value))
def test_missing_labels(table: str, label: str, words: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    path.write_text(whole.text(drop(table, label)))
    # Without a CTF a stack is no worse for `polarice info`, which tells what is missing of it.
    judge.refused(KIND, path, [words], seen=label[3:] not in CTF)


@pytest.mark.parametrize(
    ("label", "value"), [(label, value) for label, values in NUMBERS.items() for value in values]
)
def test_absurd_numbers_in_a_row(label: str, value: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    text = {"rlnImagePixelSize": "3.000000", "rlnVoltage": "300.000000", "rlnImageSize": "32"}.get(label)
    first = (lambda tables: None) if text is None else put("particles", label, text)

    def change(tables: Tables) -> None:
        first(tables)
        put("particles", label, value, ROW)(tables)

    path.write_text(whole.text(change))
    # Of a stack whose pixel sizes differ no single row is to blame.
    whole_stack = label == "rlnImagePixelSize" and value != "wide"
    judge.refused(KIND, path, ["pixel size" if whole_stack else f"row {ROW}"])


@pytest.mark.parametrize(
    ("label", "value"), [(label, value) for label, values in EVERYWHERE.items() for value in values]
)
def test_absurd_numbers_of_the_optics(label: str, value: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    path.write_text(whole.text(put("optics", label, value)))
    words = {"rlnImagePixelSize": "--pixel-size", "rlnOpticsGroup": "ptics"}.get(label, f"_{label}")
    judge.refused(KIND, path, [f"_{label}" if value == "three" else words])


@pytest.mark.parametrize("name", NAMES)
def test_image_names_that_lead_nowhere(name: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    (path.parent / "folder.mrcs").mkdir()
    path.write_text(whole.text(put("particles", "rlnImageName", NAMES[name], ROW)))
    judge.refused(KIND, path, [f"row {ROW}"])


def _two_groups(tables: Tables) -> None:
    for label, values in tables["optics"].items():
        values.append("2" if label == "rlnOpticsGroup" else values[0])


def _groups_twice(tables: Tables) -> None:
    _two_groups(tables)
    tables["optics"]["rlnOpticsGroup"] = ["1", "1"]


def _no_group_of_two(tables: Tables) -> None:
    _two_groups(tables)
    del tables["particles"]["rlnOpticsGroup"]


def _second_table(name: str) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables[name] = {label: values[:4] for label, values in tables["particles"].items()}

    return change


def _two_nameless(tables: Tables) -> None:
    tables["first"] = tables.pop("particles")
    tables["second"] = tables["first"]


TABLES: dict[str, tuple[Callable[[Tables], object], str]] = {
    "no particle table": (lambda tables: tables.pop("particles"), "no particle table"),
    "no optics table": (lambda tables: tables.pop("optics"), "pixel size"),
    "no rows": (lambda tables: [v.clear() for v in tables["particles"].values()], ""),
    "no rows of optics": (lambda tables: [v.clear() for v in tables["optics"].values()], ""),
    "no columns": (lambda tables: tables["particles"].clear(), ""),
    "optics alone": (lambda tables: [v.clear() for t in tables.values() for v in t.values()], ""),
    "two particle tables": (_two_nameless, "two particle tables"),
    "a value short": (lambda tables: tables["particles"]["rlnClassNumber"].pop(), ""),
    "a value more": (lambda tables: tables["particles"]["rlnClassNumber"].append("1"), ""),
    "a column of one value": (
        lambda tables: tables["particles"]["rlnDefocusU"].__delitem__(slice(1, None)),
        "",
    ),
    "an optics value short": (lambda tables: tables["optics"]["rlnVoltage"].pop(), ""),
    "an optics group twice": (_groups_twice, "optics group 1"),
    "no group where there are two": (_no_group_of_two, "_rlnOpticsGroup"),
}


@pytest.mark.parametrize("name", TABLES)
def test_broken_tables(name: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    change, words = TABLES[name]
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    path.write_text(whole.text(change))
    judge.refused(KIND, path, [words])


# -- text and bytes ---------------------------------------------------------------------------------

BYTES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "white space": lambda data: b" \n\n\t\n",
    "a comment": lambda data: b"# version 30001\n",
    "zeros": lambda data: bytes(len(data)),
    "an MRC header": lambda data: b"\x20\0\0\0" * 256,
    "latin-1": lambda data: data.replace(b"opticsGroup1", b"Gr\xf6\xdfe"),
    "a byte of UTF-8 short": lambda data: data.replace(b"opticsGroup1", b"\xe2\x84"),
    "a byte in a number": lambda data: data.replace(b"15500.0", b"15\xff00.0"),
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "UTF-32": lambda data: data.decode().encode("utf-32"),
    "a zero in a number": lambda data: data.replace(b"15500.0", b"15\x0000.0"),
    "a zero in a name": lambda data: data.replace(b"000005@", b"000005@\x00"),
    "a zero at the end": lambda data: data + b"\x00",
    "a bell": lambda data: data.replace(b"15500.0", b"\x07"),
    "a quote that does not end": lambda data: data.replace(b"15500.0", b"'15500.0"),
    "text that does not end": lambda data: data.replace(b"000005@", b"\n;000005@"),
    "no loop": lambda data: data.replace(b"loop_", b"", 1),
    "no underscore": lambda data: data.replace(b"_rlnDefocusU", b"rlnDefocusU"),
    "a label twice": lambda data: data.replace(b"_rlnDefocusV", b"_rlnDefocusU"),
    "a block twice": lambda data: data + data,
    "no block": lambda data: data.replace(b"data_optics", b""),
    "a comma for the point": lambda data: data.replace(b"15500.0", b"15500,0"),
    "a line lost": lambda data: data.replace(b"_rlnOpticsGroup #2 \n_rlnDefocusU", b"_rlnDefocusU"),
    "commas": lambda data: data.replace(b" ", b","),
    "JSON": lambda data: b'{"particles": []}\n',
    "a page": lambda data: b"<html><body>404</body></html>\n",
}


@pytest.mark.parametrize("name", BYTES)
def test_broken_bytes(name: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    data = path.read_bytes()
    path.write_bytes(BYTES[name](data))
    assert path.read_bytes() != data
    judge.refused(KIND, path)


CUTS = 40


@pytest.mark.parametrize("cut", range(CUTS))
def test_cut_anywhere_within_a_line(cut: int, whole: Any, judge: Any, tmp_path: Path) -> None:
    """Places spread over the file, each moved to where it is within a line."""
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    data = path.read_bytes()
    length = (len(data) * (2 * cut + 1)) // (2 * CUTS)
    while data[length - 1 : length] == b"\n":
        length -= 1
    path.write_bytes(data[:length])
    judge.refused(KIND, path)


@pytest.mark.parametrize("cut", ["last digits", "spaces", "number and spaces"])
def test_cut_within_the_last_value(cut: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    """All values are there, though not all of the last."""
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    text = path.read_text().rstrip()
    path.write_text({"last digits": text[:-1], "spaces": text, "number and spaces": text[:-1] + " \t"}[cut])
    judge.refused(KIND, path, ["line break"])


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_cut_between_two_rows_is_a_shorter_file(rows: int, whole: Any, judge: Any, tmp_path: Path) -> None:
    """Nothing in the format tells it from a whole one: what is there is denoised, and no more."""
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    lines = path.read_text().splitlines(keepends=True)
    first = next(k for k, line in enumerate(lines) if line.startswith("000001@"))
    path.write_text("".join(lines[: first + rows]))
    judge.harmless(KIND, path, rows=rows, same=False)


def test_not_a_file(whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    path.unlink()
    judge.refused(KIND, path, ["does not exist"])
    path.mkdir()
    judge.refused(KIND, path, ["cannot be read"])
    (path.parent / "particles.txt").write_text(whole.text())
    judge.refused(KIND, path.parent / "particles.txt", [".star"])


@pytest.mark.parametrize("stack", ["absent", "a folder", "a dead link"])
def test_no_stack(stack: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star")
    if stack == "a folder":
        path.with_suffix(".mrcs").mkdir()
    elif stack == "a dead link":
        path.with_suffix(".mrcs").symlink_to(tmp_path / "nowhere")
    judge.refused(KIND, path, ["row 1", "particles.mrcs does not exist"])


# -- harmless ---------------------------------------------------------------------------------------

HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "Windows line ends": lambda data: data.replace(b"\n", b"\r\n"),
    "old Macintosh line ends": lambda data: data.replace(b"\n", b"\r"),
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "both": lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"),
    "no empty lines at the end": lambda data: data.rstrip() + b"\n",
    "many empty lines": lambda data: data.replace(b"\n \n", b"\n\n\n\n \n"),
    "tabs": lambda data: data.replace(b" ", b"\t"),
    "comments": lambda data: b"# written by hand\n" + data,
    "text in a column of no use": lambda data: data.replace(b" 12 ", b" 'not a number' "),
    "absurd numbers in a column of no use": lambda data: data.replace(b" 12 ", b" 1e300 "),
    "Greek in a column of no use": lambda data: data.replace(b" 12 ", "  αβγ ".encode()),
    "another order of the blocks": lambda data: b"".join(
        b"\n# version" + part for part in reversed(data.split(b"\n# version")[1:])
    ),
    "a column of no use less": lambda data: data.replace(b"_rlnNrOfSignificantSamples", b"_nobodysOwn"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless(name: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    data = path.read_bytes()
    path.write_bytes(HARMLESS[name](data))
    assert path.read_bytes() != data
    judge.harmless(KIND, path)


def test_a_further_table_that_is_not_called_particles(whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    path.write_text(whole.text(_second_table("other")))
    judge.harmless(KIND, path)


NOT_NEEDED = [
    *[("optics", f"rln{name}") for name in ("OpticsGroupName", "ImageSize", "ImageDimensionality")],
    *[("particles", f"rln{name}") for name in ("OpticsGroup", "PhaseShift", "CtfBfactor", "ClassNumber")],
    *[("particles", f"rln{name}") for name in ("AngleRot", "OriginXAngst")],
]


@pytest.mark.parametrize(("table", "label"), NOT_NEEDED)
def test_labels_that_are_not_needed(table: str, label: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    path.write_text(whole.text(drop(table, label)))
    judge.harmless(KIND, path)

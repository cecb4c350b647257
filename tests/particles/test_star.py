"""STAR files: round trips, quoting, broken ones, and the time for many rows."""

import time
from pathlib import Path

import numpy as np
import pytest
from gemmi import cif
from hypothesis import given, settings
from hypothesis import strategies as st

from polarice.errors import OutputError, ParticleFileError
from polarice.particles import StarTable, read_star, write_star
from polarice.particles.star import format_values

TWO_BLOCKS = """
# version 30001

data_particles

loop_ 
_rlnImageName #1 
_rlnDefocusU #2 
_mySecret #3
1@a.mrcs 10000.10 'two words'
2@a.mrcs 1.0e+04 ""

data_optics

loop_
_rlnOpticsGroup #1
_rlnOddZernike #2
1 [0.5,1.25,-3]

data_job
_jobName   "it's mine"
_jobNumber 3
"""  # noqa: W291 - RELION leaves spaces at the ends of lines


def test_blocks_pairs_quotes_and_digits_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text(TWO_BLOCKS)
    tables, version = read_star(tmp_path / "a.star")
    assert version == 30001
    assert [(t.name, t.is_loop, len(t)) for t in tables] == [
        ("particles", True, 2), ("optics", True, 1), ("job", False, 1),
    ]  # fmt: skip
    assert tables[0].columns["rlnDefocusU"] == ["10000.10", "1.0e+04"]
    assert tables[0].columns["mySecret"] == ["two words", ""]
    assert tables[1].columns["rlnOddZernike"] == ["[0.5,1.25,-3]"]
    assert dict(tables[2].columns) == {"jobName": ["it's mine"], "jobNumber": ["3"]}


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text(TWO_BLOCKS)
    tables, version = read_star(tmp_path / "a.star")
    write_star(tmp_path / "b.star", tables, version=version)
    assert read_star(tmp_path / "b.star") == (tables, version)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.star", "b.star"]


@pytest.mark.data
def test_round_trip_of_real_files(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "particles").glob("*/*.star"))
    assert len(files) > 10
    for path in files:
        tables, version = read_star(path)
        write_star(tmp_path / "b.star", tables, version=version)
        again, version_again = read_star(tmp_path / "b.star")
        assert (again, version_again) == (tables, version)
        # gemmi reads the same values out of both, so nothing of ours stands between
        ours, theirs = cif.read(str(tmp_path / "b.star")), cif.read(str(path))
        for block, original in zip(ours, theirs, strict=True):
            for item, source in zip(block, original, strict=True):
                assert item.pair == source.pair
                if item.loop is not None:
                    assert item.loop.tags == source.loop.tags
                    assert [cif.as_string(v) for v in item.loop.values] == [
                        cif.as_string(v) for v in source.loop.values
                    ]


words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12
).filter(lambda word: "' " not in word or '" ' not in word)
awkward = st.sampled_from(
    [
        "",
        " ",
        "_a",
        "#1",
        "$x",
        ";",
        "data_1.mrc",
        "loop_",
        "LOOP_",
        "save_me",
        "it's",
        'a"b',
        "'",
        "[1 2]",
        "]",
        "?",
        ".",
    ]
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.one_of(words, awkward), st.one_of(words, awkward)), min_size=1, max_size=4))
def test_any_value_survives(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("star") / "a.star"
    loop = StarTable("a", {"x": [row[0] for row in rows], "y": [row[1] for row in rows]})
    pair = StarTable("b", {"x": [rows[0][0]], "y": [rows[0][1]]}, is_loop=False)
    write_star(path, [loop, pair])
    assert read_star(path)[0] == [loop, pair]


def test_line_breaks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="line break"):
        write_star(tmp_path / "a.star", [StarTable("a", {"x": ["one\ntwo"]})])
    assert list(tmp_path.iterdir()) == []


def test_what_no_quotes_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be quoted"):
        write_star(tmp_path / "a.star", [StarTable("a", {"x": ["a' b\" c"]})])


def test_names_beyond_ascii_survive(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnImageName\n1@données/粒子.mrcs\n", encoding="utf-8")
    tables, _ = read_star(tmp_path / "a.star")
    assert tables[0].columns["rlnImageName"] == ["1@données/粒子.mrcs"]


def test_unequal_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="differ in length"):
        write_star(tmp_path / "a.star", [StarTable("a", {"x": ["1"], "y": []})])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no data block"),
        ("hello", "no valid STAR file .*line 1"),
        ("data_a\nloop_\n_x\n_y\n1 2\n3\n", "Wrong number of values"),
        ("data_a\nloop_\n_x\n_x\n1 2\n", "duplicate"),
        ("data_a\n_x 'open\n", "line 2"),
    ],
)
def test_broken_text_is_one_error_with_the_path(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.star").write_text(text)
    with pytest.raises(ParticleFileError, match=message) as caught:
        read_star(tmp_path / "a.star")
    assert caught.value.path == tmp_path / "a.star"


def test_binary_missing_and_folder(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ParticleFileError, match="not UTF-8 text"):
        read_star(tmp_path / "a.star")
    with pytest.raises(ParticleFileError, match="does not exist"):
        read_star(tmp_path / "b.star")
    with pytest.raises(ParticleFileError, match="cannot be read"):
        read_star(tmp_path)


def test_empty_loop_keeps_its_columns(tmp_path: Path) -> None:
    table = StarTable("particles", {"rlnImageName": [], "rlnDefocusU": []})
    write_star(tmp_path / "a.star", [table])
    assert read_star(tmp_path / "a.star")[0] == [table]


def test_table_copies_are_independent() -> None:
    table = StarTable("a", {"x": ["1", "2", "3"]})
    assert table.take([2, 0]).columns == {"x": ["3", "1"]}
    assert list(table.with_columns({"y": ["4", "5", "6"], "x": ["0"] * 3}).columns) == ["x", "y"]
    assert table.columns == {"x": ["1", "2", "3"]}


def test_numbers_are_written_as_relion_does() -> None:
    assert format_values(np.array([1.5, 0.0, 1e-7, 123456.5]), 4) == [
        "1.500000", "0.000000", "1.000000e-07", "1.234565e+05",
    ]  # fmt: skip
    assert format_values(True, 2) == ["1", "1"]
    assert format_values(np.int64(7), 1) == ["7"]
    assert format_values("a", 2) == ["a", "a"]
    assert format_values(["a", "b"], 2) == ["a", "b"]


def test_a_hundred_thousand_rows_are_read_and_written_in_seconds(tmp_path: Path) -> None:
    columns = {f"rlnColumn{k}": [f"{row * k * 0.37:.6f}" for row in range(100_000)] for k in range(10)}
    start = time.perf_counter()
    write_star(tmp_path / "a.star", [StarTable("particles", columns)])
    tables, _ = read_star(tmp_path / "a.star")
    assert time.perf_counter() - start < 6  # 1 s when the machine is free
    assert len(tables[0]) == 100_000

"""Descriptions of whole and of broken stacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polarice.particles import describe, format_description

Build = Callable[..., Path]


def test_a_whole_stack(small_stack: Path) -> None:
    facts = describe(small_stack)
    assert facts["format"] == "RELION 3.1"
    assert (facts["particles"], facts["box"], facts["pixel_size_A"]) == (10, 8, 2.0)
    assert facts["pixel_types"] == ["float32 (mode 2)"]
    assert facts["defocus_A"] == [10000, 10090]
    assert facts["missing_ctf_columns"] == []
    assert facts["problems"] == []
    assert json.loads(json.dumps(facts)) == facts
    text = format_description(facts)
    assert "8 px = 16.0 A" in text
    assert "10000 to 10090 A" in text
    assert text.endswith("no problems found")


def test_a_broken_stack_is_described_as_far_as_it_goes(tmp_path: Path, write_particles: Build) -> None:
    path = write_particles(tmp_path / "p.star", ["1@gone.mrcs", "nonsense@x"])
    facts = describe(path)
    assert facts["particles"] == 2
    assert facts["box"] is None
    assert facts["pixel_size_A"] == 2.0
    assert len(facts["problems"]) == 2
    text = format_description(facts)
    assert "2 problems:" in text
    assert "gone.mrcs does not exist" in text
    assert "nonsense@x" in text
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"hello"])
@pytest.mark.parametrize("suffix", [".star", ".mrcs", ".xyz"])
def test_what_cannot_be_opened_is_one_problem(tmp_path: Path, content: bytes | None, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if content is not None:
        path.write_bytes(content)
    facts = describe(path)
    assert facts["format"] is None
    assert len(facts["problems"]) == 1
    assert "1 problem:" in format_description(facts)


def test_bare_stack(tmp_path: Path, write_stack: Build) -> None:
    text = format_description(describe(write_stack(tmp_path / "a.mrcs", np.zeros((3, 8, 8), "i2"))))
    assert "int16 (mode 1)" in text
    assert "CTF             none" in text


@pytest.mark.data
def test_every_real_file_is_described(shared_data: Path) -> None:
    files = [p for p in sorted((shared_data / "particles").rglob("*")) if p.is_file()]
    assert len(files) > 20
    for path in files:
        assert format_description(describe(path)).startswith(str(path))

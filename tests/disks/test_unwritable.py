"""Folders that nobody may write to: said before any computing, by every command that writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

NAMES = (
    "convert to .cs",
    "convert to .star",
    "simulate",
    "bank build",
    "train",
    "neighbours",
    "classify",
    "denoise singly",
    "denoise jointly",
    "denoise a .cs file",
    "demo",
    "benchmark attention",
    "benchmark neighbours",
    "benchmark paper",
)


BEGINNINGS = {
    "stacks.prepared": "scan",
    "simulation.simulate": "SimulatedStack",
    "simulation.bank": "read_structure",
    "training.loop": "_Trainer",
}


def test_every_command_is_tried(commands: Any) -> None:
    assert set(commands) == set(NAMES)


@pytest.fixture(params=["in a folder that is a file", "on a disk that is read only", "in another's folder"])
def refusing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A place where nothing can be written, whoever asks."""
    place = tmp_path / "place"
    if "file" in request.param:
        place.write_text("a file")
        yield place
    elif "disk" in request.param:
        disk = request.getfixturevalue("disk")
        disk.read_only(True)
        yield disk.folder
    else:
        if os.geteuid() == 0:
            pytest.skip("an administrator may write to every folder")
        place.mkdir(mode=0o555)
        yield place
        place.chmod(0o755)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_begun(
    name: str, commands: Any, judge: Any, refusing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: object, **__: object) -> None:
        pytest.fail("computing has begun")

    for module, start in BEGINNINGS.items():
        monkeypatch.setattr(import_module(f"polarice.{module}"), start, begun)
    ended = judge.run(commands[name](refusing))
    judge.require_refusal(ended, refusing)
    assert not refusing.is_dir() or not list(refusing.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_the_output_is_there_as_something_else(name: str, commands: Any, judge: Any, tmp_path: Path) -> None:
    """A folder where a file is to be, a file where a folder is to be."""
    out = tmp_path / "out"
    out.mkdir()
    words = commands[name](out)
    wanted = next(word for word in words if isinstance(word, Path) and word.parent == out)
    if wanted.suffix:
        wanted.mkdir()
    else:
        wanted.write_text("a file")
    ended = judge.run(words)
    judge.require_refusal(ended, out)
    assert list(out.iterdir()) == [wanted]
    assert not wanted.is_dir() or not list(wanted.iterdir())

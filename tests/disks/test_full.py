"""A disk that runs full at any moment: one clear error, no half file that looks whole, and a way to go on."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

QUICK = (
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
)
# So that the large files of each command are refused, and then the small ones too.
LARGEST = (32_768, 512)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, for this process alone: so a full disk looks to who may make none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room that is there when it is asked for, and gone when it is needed: others write too."""
    plenty = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=1 << 50))
    monkeypatch.setattr("polarice.files.shutil", plenty)


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.usefixtures("unforeseen")
def test_no_room_for_a_file(name: str, commands: Any, judge: Any, tmp_path: Path) -> None:
    for size in LARGEST:
        out = tmp_path / str(size)
        out.mkdir()
        with largest_file(size):
            ended = judge.run(commands[name](out))
        left = judge.left(out)
        if ended.status != 0:
            judge.require_refusal(ended, out)
        assert not any(file.endswith(".partial") or ".scratch" in file for file in left)
    assert ended.status == 2


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.usefixtures("unforeseen")
def test_a_disk_runs_full(name: str, commands: Any, judge: Any, disk: Any) -> None:
    """Whatever room is left, up to as much as is needed."""
    pages, refused = 0, 0
    while True:
        disk.clear()
        disk.leave(pages)
        ended = judge.run(commands[name](disk.folder))
        left = judge.left(disk.folder)
        if ended.status == 0:
            break
        judge.require_refusal(ended, disk.folder)
        assert not any(file.endswith(".partial") or ".scratch" in file for file in left)
        refused += 1
        pages = 4 * pages + 3
    assert refused


@pytest.mark.parametrize(("name", "step"), [("denoise singly", 20), ("denoise jointly", 60)])
@pytest.mark.usefixtures("unforeseen")
def test_denoising_goes_on_when_there_is_room(
    name: str, step: int, commands: Any, judge: Any, disk: Any
) -> None:
    """Room is made little by little; in the end there is what a run leaves that was never stopped."""
    whole = disk.folder / "whole"
    disk.leave(0)
    ended = judge.run(commands[name](disk.folder))
    stops = 0
    while ended.status != 0:
        judge.require_refusal(ended, disk.folder)
        stops += 1
        assert "--resume" in ended.err
        unfinished = disk.folder / "new" / ".unfinished"
        again = judge.run(commands[name](disk.folder))
        assert again.status == 2
        if unfinished.is_dir():
            assert "a run was interrupted here" in again.err
        disk.leave(step * stops)
        ended = judge.run([*commands[name](disk.folder), "--resume"])
    assert stops > 2
    (disk.folder / "ballast").unlink()
    whole.mkdir()
    assert judge.run(commands[name](whole)).status == 0
    found, expected = disk.folder / "new", whole / "new"
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
    for file in ("denoised.mrcs", "denoised.star"):
        assert (found / file).read_bytes() == (expected / file).read_bytes()
    if (expected / "neighbours.npz").exists():
        with np.load(found / "neighbours.npz") as one, np.load(expected / "neighbours.npz") as other:
            for array in other.files:
                np.testing.assert_array_equal(one[array], other[array])


@pytest.mark.parametrize("name", ["simulate", "neighbours", "classify", "denoise singly", "denoise jointly"])
def test_too_small_a_disk_is_seen_before_anything_is_written(
    name: str, commands: Any, judge: Any, disk: Any
) -> None:
    disk.leave(1)
    ended = judge.run(commands[name](disk.folder))
    judge.require_refusal(ended, disk.folder)
    assert "GB of disk" in ended.err
    assert judge.left(disk.folder) == {"ballast"}


@pytest.mark.usefixtures("unforeseen")
def test_training_keeps_its_last_checkpoint(commands: Any, judge: Any, disk: Any) -> None:
    """What is written once more is not lost where that fails; then the run goes on."""
    words = commands["train"](disk.folder)
    assert judge.run([*words, "--max-minutes", 0]).status == 0
    before = {path.name: path.read_bytes() for path in (disk.folder / "new").iterdir()}
    disk.leave(2)
    ended = judge.run([*words, "--resume"])
    judge.require_refusal(ended, disk.folder)
    assert {path.name: path.read_bytes() for path in (disk.folder / "new").iterdir()} == before
    (disk.folder / "ballast").unlink()
    assert judge.run([*words, "--resume"]).status == 0
    judge.left(disk.folder)


def test_standard_output_on_a_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    words = [sys.executable, "-c", "from polarice.cli import main; main()", "info", tmp_path / "absent.star"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"polarice: standard output cannot be written ({os.strerror(errno.ENOSPC)}).\n"

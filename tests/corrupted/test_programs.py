"""One broken input of each kind, as a program of its own meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Note = Callable[[str, object], None]
PROGRAM = (sys.executable, "-c", "from polarice.cli import main; main()")


def run(*tokens: object, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *map(str, tokens)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )


@pytest.mark.parametrize("kind", ["MRC", "cryoSPARC", "weights"])
def test_one_line_and_status_2(
    kind: str, whole: Any, single_weights: Path, tmp_path: Path, record_property: Note
) -> None:
    path = whole.copy(tmp_path / "in", ".cs" if kind == "cryoSPARC" else ".star", ".mrcs")
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(single_weights.read_bytes())
    broken = {"MRC": path.with_suffix(".mrcs"), "weights": weights}.get(kind, path)
    broken.write_bytes(broken.read_bytes()[:-50])
    ended = run("denoise", path, "--out", tmp_path / "out", "--model", weights, "--device", "cpu")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("polarice: ")
    assert ended.stderr.count("\n") == 1
    assert broken.name in ended.stderr
    assert not (tmp_path / "out").exists()
    record_property("corrupted input", (kind, "one error, nothing left"))


def test_a_terminal_that_cannot_show_a_name(whole: Any, tmp_path: Path, record_property: Note) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    path.write_text(path.read_text().replace("000005@particles", "000005@Größe"), encoding="utf-8")
    ended = run("info", path, encoding="ascii")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "Gr\\xf6\\xdfe.mrcs does not exist" in ended.stdout
    record_property("corrupted input", ("STAR", "one error, nothing left"))

"""Runs that are killed, and runs that several processes share."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from polarice.denoising import DenoiseSettings, denoise_stack, graph
from polarice.errors import OutputError
from polarice.simulation import SimulationResult
from polarice.stacks import Work

SCRIPT = """
import os, sys
from polarice.denoising import DenoiseSettings, denoise_stack, graph

graph._BATCH, graph._ENCODED, graph._PART = 4, 4, 8
settings = DenoiseSettings(model=sys.argv[3], neighbours=8, device="cpu", mixed_precision=False)


def progress(stage, done, total):
    if "KILLED" in os.environ and stage == os.environ["KILLED"] and done > total // 2:
        os.kill(os.getpid(), 9)


result = denoise_stack(sys.argv[1], sys.argv[2], settings, resume=True, progress=progress)
assert bool(result.files) == (os.environ.get("RANK", "0") == "0")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "run.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def whole(
    example_stack: SimulationResult, joint_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """What a run in one piece leaves."""
    for name, value in (("_BATCH", 4), ("_ENCODED", 4), ("_PART", 8)):
        monkeypatch.setattr(graph, name, value)
    settings = DenoiseSettings(model=str(joint_weights), neighbours=8, device="cpu", mixed_precision=False)
    return denoise_stack(example_stack.particles, tmp_path / "whole", settings).star.parent


def assert_same_pixels(out: Path, whole: Path) -> None:
    for name in ("denoised.mrcs", "denoised.star"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    with np.load(out / "neighbours.npz") as found, np.load(whole / "neighbours.npz") as expected:
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"} | more


def test_a_killed_run_goes_on(
    script: Path, whole: Path, example_stack: SimulationResult, joint_weights: Path, tmp_path: Path
) -> None:
    """Kill -9, twice: nothing of Python's could tidy up."""
    out = tmp_path / "out"
    command = [sys.executable, script, example_stack.particles, out, joint_weights]
    for stage in ("encode", "attend (2 of 3)"):
        killed = subprocess.run(command, env=environment(KILLED=stage), capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert [path.name for path in out.iterdir()] == [".unfinished"]
    journal = (out / ".unfinished" / "journal-0").read_text()
    assert "neighbours" in journal
    assert "round 2, part 1" in journal
    assert "round 2, part 6" not in journal
    subprocess.run(command, env=environment(), check=True)
    assert_same_pixels(out, whole)


def test_processes_share_a_run(
    script: Path, whole: Path, example_stack: SimulationResult, joint_weights: Path, tmp_path: Path
) -> None:
    """Two processes, one of which dies on the way; then three: bit for bit what one leaves."""
    out = tmp_path / "out"

    def start(processes: int, **more: str) -> int:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        arguments = [str(processes), script, example_stack.particles, out, joint_weights]
        return subprocess.run(
            [*torchrun, *arguments], env=environment(**more), capture_output=True
        ).returncode

    assert start(2, KILLED="attend (2 of 3)") != 0
    names = [path.name for path in (out / ".unfinished").glob("journal-*")]
    assert sorted(names) == ["journal-0", "journal-1"]
    assert "encode, part 2" in (out / ".unfinished" / "journal-1").read_text()
    assert start(3) == 0
    assert_same_pixels(out, whole)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with Work(tmp_path / "work", "mine"), pytest.raises(OutputError, match="another process is at work"):
        Work(tmp_path / "work", "mine")
    with pytest.raises(OutputError, match="another stack, model"):
        Work(tmp_path / "work", "another's")
    with Work(tmp_path / "work", "mine") as again:
        again.remove()
    assert not (tmp_path / "work").exists()


def test_a_line_that_was_not_finished_counts_for_nothing(tmp_path: Path) -> None:
    with Work(tmp_path, "mine") as work:
        assert list(work.parts("stage", "ab")) == ["a", "b"]
        assert list(work.parts("stage", "ab")) == []
    journal = tmp_path / "journal-0"
    journal.write_text(journal.read_text()[:-3])
    with Work(tmp_path, "mine") as work:
        assert list(work.parts("stage", "ab")) == ["b"]
    assert journal.read_text() == "mine\nstage, part 1\nstage, part 2\n"
    # Nor does one of a process that is no longer there.
    (tmp_path / "journal-1").write_text("mine\nother, part 2\nother, part 1")
    with Work(tmp_path, "mine") as work:
        assert list(work.parts("other", "ab")) == ["a"]
    (tmp_path / "journal-1").unlink()
    journal.write_text("mi")
    with Work(tmp_path, "mine") as work:
        assert list(work.parts("stage", "ab")) == ["a", "b"]


def test_an_array_is_there_again(tmp_path: Path) -> None:
    with Work(tmp_path) as work:
        work.array("numbers", np.float32, (3, 2))[:] = 5
    with Work(tmp_path) as work:
        assert (work.array("numbers", np.float32, (3, 2)) == 5).all()
        # Of another size it is another one.
        assert (work.array("numbers", np.float32, (3, 3)) == 0).all()
        work.drop("numbers", "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["journal-0"]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with Work(tmp_path) as work, pytest.raises(OutputError, match="No space left") as caught:
        work.array("numbers", np.float32, (3, 2))
    assert str(tmp_path / "numbers") in str(caught.value)

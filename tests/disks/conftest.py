"""Commands that write, disks of a chosen size, and what may be left when one refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from safetensors.torch import load_file

from polarice.cli import main
from polarice.particles import ParticleStack, convert_metadata
from polarice.simulation import SimulationResult, StructureBank, example_structure

PAGE = 4096
RECIPE = """
[model]
architecture = "unet"
box = 32
widths = [4, 8]

[data]
box = 32
set_size = 2

[optimiser]
images = 8
sets_per_step = 2
warmup_images = 4
decay_images = 4

[run]
held_out = 1
validate_every = 8
precision = "32-true"
"""
Commands = dict[str, Callable[[Path], list[object]]]


@pytest.fixture(scope="session")
def commands(
    example_stack: SimulationResult,
    joint_weights: Path,
    single_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Commands:
    """Every command that writes: the folder that it may write to -> its words."""
    folder = tmp_path_factory.mktemp("commands")
    stack, cs = example_stack.particles, folder / "particles.cs"
    convert_metadata(stack, cs)
    heap = example_structure()
    StructureBank.from_structures([heap, heap, heap]).save(folder / "bank.npz")
    corpus = folder / "corpus"
    corpus.mkdir()
    shutil.copy(folder / "bank.npz", corpus)
    (folder / "recipe.toml").write_text(RECIPE)
    few, joint = ("--neighbours", 4), ("--model", joint_weights)
    bank = folder / "bank.npz"
    return {
        "convert to .cs": lambda out: ["convert", stack, out / "new.cs"],
        "convert to .star": lambda out: ["convert", cs, out / "new.star"],
        "simulate": lambda out: ["simulate", "example", "--out", out / "new", "--particles", 8, "--box", 32],
        "bank build": lambda out: ["bank", "build", corpus, "--out", out / "new.npz"],
        "train": lambda out: ["train", folder / "recipe.toml", "--bank", bank, "--out", out / "new"],
        "neighbours": lambda out: ["neighbours", stack, "--out", out / "new", *few, *joint],
        "classify": lambda out: ["classify", stack, "--out", out / "new", "--classes", 3, *joint],
        "denoise singly": lambda out: ["denoise", stack, "--out", out / "new", "--model", single_weights],
        "denoise jointly": lambda out: ["denoise", stack, "--out", out / "new", *few, *joint],
        "denoise a .cs file": lambda out: ["denoise", cs, "--out", out / "new", "--model", single_weights],
        "demo": lambda out: ["demo", "--out", out / "new", "--particles", 64],
        "benchmark attention": lambda out: [
            *("benchmark", "attention", bank, "--out", out / "new", "--quick", *joint),
            *("--structures", 1),
        ],
        "benchmark neighbours": lambda out: [
            *("benchmark", "neighbours", bank, "--out", out / "new", "--structures", 1, "--snr", 0.25),
            *("--particles", 40, *few, *joint, "--single-model", single_weights),
        ],
        "benchmark paper": lambda out: [
            *("benchmark", "paper", bank, "--out", out / "new", "--structures", 1, "--models", single_weights)
        ],
    }


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    status: object
    out: str
    err: str


@dataclass(frozen=True)
class Judge:
    """Runs commands, and looks at what they say and leave."""

    capsys: pytest.CaptureFixture[str]

    def run(self, tokens: Sequence[object]) -> Ended:
        """Run polarice in this process."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, tokens), "--quiet"])
        return Ended(ended.value.code, *self.capsys.readouterr())

    def require_refusal(self, ended: Ended, folder: Path) -> None:
        """Status 2, and one line on standard error that names a file or folder there and a way out."""
        assert (ended.status, ended.out) == (2, ""), ended
        assert ended.err.startswith(f"polarice: {folder}"), ended.err
        assert ended.err.count("\n") == 1, ended.err
        ways_out = ("ame another", "ame a folder", "hoose another")
        assert any(way in ended.err for way in ways_out), ended.err

    def left(self, folder: Path) -> set[str]:
        """Files of a folder and those below, of which all that look finished are whole."""
        found = {path for path in folder.rglob("*") if path.is_file()}
        for path in found:
            if ".unfinished" not in path.parts:
                require_whole(path)
        return {str(path.relative_to(folder)) for path in found}


@pytest.fixture
def judge(capsys: pytest.CaptureFixture[str]) -> Judge:
    """Catches what is said in memory: a limit on files does not limit that."""
    return Judge(capsys)


def require_whole(path: Path) -> None:
    """Raise if a file can not be read to its end."""
    match path.suffix:
        case ".star" | ".cs":
            if "model" not in path.name:
                assert ParticleStack.open(path).problems() == []
        case ".mrcs" | ".mrc":
            assert np.isfinite(mrcfile.read(path)).all()
        case ".npz":
            with np.load(path) as arrays:
                assert all(arrays[name].size for name in arrays.files)
        case ".json":
            json.loads(path.read_text())
        case ".safetensors":
            load_file(path)
        case ".html":
            assert path.read_text().rstrip().endswith("</html>")
        case ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
        case _:
            assert path.name in ("ballast", "checkpoint.pt"), path


@dataclass
class Disk:
    """A file system of its own, whose room is what one likes."""

    folder: Path

    def leave(self, pages: int) -> None:
        """Fill it up to so many pages."""
        ballast = self.folder / "ballast"
        ballast.unlink(missing_ok=True)
        free = shutil.disk_usage(self.folder).free
        with ballast.open("wb") as file:
            file.write(bytes(free - pages * PAGE))

    def clear(self) -> None:
        """Empty it."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def read_only(self, flag: bool) -> None:
        """Refuse all writing."""
        subprocess.run(["mount", "-o", f"remount,{'ro' if flag else 'rw'}", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk in memory; only an administrator may have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no `mount`")
    options = ["-t", "tmpfs", "-o", "size=8m,nr_inodes=500", "none", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted ({done.stderr.strip()})")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)

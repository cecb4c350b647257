"""Every command, as it is called: what it prints where, and with which status it ends."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

from polarice import __version__
from polarice.cli import main
from polarice.evaluation import benchmark
from polarice.models import read_card, shipped_models
from polarice.particles import ParticleStack
from polarice.simulation import SimulationResult, StructureBank, example_structure, simulate

Altered = Callable[..., Path]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    status: object
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one object on standard output, where nothing else may be."""
        assert self.out.count("\n") == 1
        found = json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert isinstance(found, dict)
        return found


Run = Callable[..., Ended]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run polarice in this process, and catch what reaches the two streams."""

    def call(*tokens: object) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(token) for token in tokens])
        out, err = capfd.readouterr()
        return Ended(ended.value.code, out, err)

    return call


def check_error(ended: Ended, *words: str) -> None:
    """Status 2 and one line on standard error, which says what is wrong."""
    assert ended.status == 2
    assert ended.out == ""
    assert ended.err.startswith("polarice: ")
    assert ended.err.count("\n") == 1
    for word in words:
        assert word in ended.err


def write_pdb(folder: Path, name: str, turns: int) -> None:
    """The example protein, turned a little for each name, as gemmi writes it."""
    molecule = example_structure()
    angle = 0.3 * turns
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    atom_names = ("N", "CA", "C", "O", "CB")
    for k, position in enumerate(molecule.coordinates_A @ turn.T):
        if k % 5 == 0:
            residue = gemmi.Residue()
            residue.name, residue.seqid = "ALA", gemmi.SeqId(k // 5 + 1, " ")
        atom = gemmi.Atom()
        atom.name, atom.element = atom_names[k % 5], gemmi.Element(int(molecule.atomic_numbers[k]))
        atom.pos = gemmi.Position(*position.tolist())
        residue.add_atom(atom)
        if k % 5 == 4:
            chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.write_pdb(str(folder / f"{name}.pdb"))


@pytest.fixture(scope="module")
def structures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three structures, and one file that is none."""
    folder = tmp_path_factory.mktemp("structures")
    for k, name in enumerate(("one", "two", "three")):
        write_pdb(folder, name, k)
    (folder / "broken.pdb").write_text("HEADER    NOTHING\nEND\n")
    (folder / "notes.txt").write_text("not a structure")
    return folder


RECIPE = """
[model]
architecture = "{architecture}"
box = 32
widths = [4, 8]
{more}

[data]
box = 32
set_size = 2

[optimiser]
images = {images}
sets_per_step = 2
warmup_images = 4
decay_images = 4

[run]
held_out = 1
validate_every = 8
precision = "32-true"
"""


# -- the whole program --------------------------------------------------------------------------------


def test_as_a_program() -> None:
    """Once as users call it: a process of its own."""
    command = [sys.executable, "-c", "from polarice.cli import main; main()", "info", "absent.star", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["problems"] == ["absent.star: the file does not exist."]
    assert done.stderr == ""


def test_a_reader_that_has_left(example_stack: SimulationResult) -> None:
    """As in ``polarice info ... | head``: no traceback, and no status of success."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from polarice.cli import main; main()", "info", example_stack.particles]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_version_and_help(run: Run) -> None:
    assert run("--version").out.strip() == __version__
    for tokens in ((), ("--help",)):
        ended = run(*tokens)
        assert ended.status == 0
        commands = (
            "info",
            "convert",
            "simulate",
            "field",
            "denoise",
            "neighbours",
            "classify",
            "guard",
            "evaluate",
        )
        for command in (*commands, "bank", "train", "models", "demo", "benchmark"):
            assert command in ended.out


OPTIONS = {
    "info": {"--pixel-size": "Å"},
    "convert": {
        "--passthrough": "found by its name",
        "--pixel-size": "Å",
        "--contrast": "[default: bright]",
        "--overwrite": "Replace",
    },
    "simulate": {
        "--particles": "[default: 2048]",
        "--box": "pixels",
        "--snr": "[default: 0.03]",
        "--pixel-size": "Å",
        "--defocus": "Å",
        "--voltage": "kV",
        "--cs": "mm",
        "--amplitude-contrast": "[default: 0.1]",
        "--max-shift": "pixels",
        "--noise": "[default: gaussian]",
        "--set-angle": "degrees",
        "--seed": "[default: 0]",
    },
    "field": {
        "--like": "[required]",
        "--noise": "white by default",
        "--stranger": "[default: example]",
        "--particles": "all by default",
        "--crowding": "0 to 6",
        "--gradient": "standard deviations",
        "--junk": "[default: 0.05]",
        "--contrast": "[default: bright]",
    },
    "bank build": {"--out": ".npz"},
    "train": {"--device": "[default: auto]", "--max-minutes": "minutes", "--resume": "checkpoint"},
    "denoise": {
        "--model": "[default: polar-transformer-64]",
        "--neighbours": "[default: 16]",
        "--device": "[default: auto]",
        "--pixel-size": "Å",
        "--mask-diameter": "Å",
        "--contrast": "found out by default",
        "--ctf": "--no-ctf",
        "--sets-from": "rlnClassNumber",
        "--neighbours-from": "polarice neighbours",
    },
    "neighbours": {
        "--neighbours": "[default: 16]",
        "--mirrored": "mirror images",
        "--pixel-size": "Å",
        "--mask-diameter": "Å",
        "--ctf": "--no-ctf",
    },
    "guard": {"--particles": "[default: 500]", "--noise-from": "ice", "--foreign": "PDB", "--device": "auto"},
    "classify": {"--classes": "[default: 100]", "--denoised": "polarice denoise", "--device": "auto"},
    "evaluate": {"--truth": "[required]", "--pixel-size": "Å"},
    "adapt": {
        "--steps": "[default: 150]",
        "--half": "_rlnRandomSubset",
        "--device": "auto",
        "--mask-diameter": "Å",
    },
    "models": {"--json": "standard output"},
    "demo": {"--out": "[default: demo-out]", "--particles": "[default: 800]", "--snr": "[default: 0.05]"},
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_units_and_defaults(command: str, run: Run) -> None:
    ended = run(*command.split(), "--help")
    assert (ended.status, ended.err) == (0, "")
    # The frame of the table is no part of the words.
    lines = [" ".join(line.strip("│╭╮╰╯─* ").split()) for line in ended.out.splitlines()]
    options: dict[str, str] = {}
    name = ""
    for line in lines:
        for word in line.split():
            if word.startswith("--"):
                name = word if not word.startswith(("--no-", "--empty-")) else name
        options[name] = f"{options.get(name, '')} {line}"
    for option, words in OPTIONS[command].items():
        assert words in options[option]
    for option in ("--json", "--quiet"):
        assert option in options
    assert "--empty" not in ended.out


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["frobnicate"], ["frobnicate", "denoise"]),
        (["denoise", "--frobnicate"], ["--frobnicate"]),
        (["denoise", "a.star"], ["--out"]),
        (["simulate", "example", "--out", "x", "--particles", "ten"], ["--particles", "ten"]),
        (["simulate", "example", "--out", "x", "--noise", "pink"], ["--noise", "pink", "poisson"]),
        (["simulate", "example", "--out", "x", "--snr", "-1"], ["signal-to-noise"]),
        (["simulate", "absent.pdb", "--out", "x"], ["absent.pdb", "does not exist"]),
        (["denoise", "absent.star", "--out", "x", "--model", "nothing"], ["nothing"]),
        (["evaluate", "absent.star", "--truth", "absent.star"], ["absent.star", "does not exist"]),
        (["convert", "absent.cs", "x.star"], ["absent.cs", "does not exist"]),
        (["bank", "build", "absent", "--out", "x.npz"], ["absent"]),
        (["train", "absent.toml", "--bank", "x.npz", "--out", "x"], ["absent.toml"]),
        (["adapt", "absent.star", "--out", "x"], ["absent.star", "does not exist"]),
        (["adapt", "absent.star", "--out", "x", "--resume"], ["no run to resume"]),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"], ["--quiet"]])
def test_errors(
    tokens: Sequence[str],
    words: Sequence[str],
    flags: list[str],
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if flags and tokens == ["frobnicate"]:
        return
    check_error(run(*tokens, *flags), *words)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_and_a_full_disk(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "x")

    command = ("simulate", "example", "--out", tmp_path / "x", "--particles", "4", "--box", "32")
    monkeypatch.setattr("polarice.simulation.simulate", interrupt)
    ended = run(*command)
    assert (ended.status, ended.out, ended.err) == (130, "", "polarice: interrupted\n")
    monkeypatch.setattr("polarice.simulation.simulate", refuse)
    check_error(run(*command), "No space left on device", "x")


# -- info ---------------------------------------------------------------------------------------------


def test_info(run: Run, example_stack: SimulationResult) -> None:
    ended = run("info", example_stack.particles)
    assert (ended.status, ended.err) == (0, "")
    for words in ("RELION 3.1", "48", "32", "no problems found"):
        assert words in ended.out
    figures = run("info", example_stack.particles, "--json").json()
    assert (figures["particles"], figures["box"], figures["problems"]) == (48, 32, [])
    assert figures["half_sets"] == {"1": 24, "2": 24}
    assert run("info", example_stack.particles, "--quiet") == Ended(0, "", "")


def test_info_on_a_broken_stack(run: Run, altered: Altered, tmp_path: Path) -> None:
    star = altered(tmp_path / "in", columns={"rlnRandomSubset": [3] * 48})
    stack = star.with_suffix(".mrcs")
    stack.write_bytes(stack.read_bytes()[:-4])
    ended = run("info", star)
    assert ended.status == 1
    for words in ("2 problems", "truncated", "_rlnRandomSubset"):
        assert words in ended.out
    ended = run("info", star, "--json")
    assert ended.status == 1
    assert len(ended.json()["problems"]) == 2
    assert run("info", star, "--quiet") == Ended(1, "", "")


def test_convert(run: Run, example_stack: SimulationResult, tmp_path: Path) -> None:
    """Out and back."""
    cs, star = tmp_path / "a.cs", tmp_path / "b.star"
    ended = run("convert", example_stack.particles, cs)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"48 particles: {cs}\n"
    figures = run("convert", cs, star, "--json").json()
    assert figures == {"particles": 48, "notices": [], "files": {str(star): "particles"}}
    check_error(run("convert", cs, star), "b.star", "exists already", "--overwrite")
    assert run("convert", cs, star, "--overwrite", "--quiet") == Ended(0, "", "")
    before, after = ParticleStack.open(example_stack.particles), ParticleStack.open(star)
    np.testing.assert_array_equal(after.images(slice(None)), before.images(slice(None)))
    assert (
        run("info", cs).out.splitlines()[1:4]
        == run("info", star).out.replace("RELION 3.1", "cryoSPARC").splitlines()[1:4]
    )
    ended = run("convert", example_stack.particles, tmp_path / "dark.cs", "--contrast", "dark")
    ended = run("convert", tmp_path / "dark.cs", tmp_path / "dark.star")
    assert "note: the protein is dark in these images; RELION wants it bright" in ended.err


# -- simulate and evaluate ----------------------------------------------------------------------------


def test_simulate(run: Run, tmp_path: Path) -> None:
    command = ("simulate", "example", "--particles", 8, "--box", 32, "--ctf", "--defocus", 9000, 11000)
    ended = run(*command, "--out", tmp_path / "a")
    assert ended.status == 0
    assert str(tmp_path / "a" / "particles.star") in ended.out
    assert "simulate: 16 of 16" in ended.err
    figures = run(*command, "--out", tmp_path / "b", "--json").json()
    assert figures["particles"] == 8
    for path in figures["files"].values():
        assert Path(path).is_file()
    assert run(*command, "--out", tmp_path / "c", "--quiet") == Ended(0, "", "")
    defocus = ParticleStack.open(tmp_path / "c" / "particles.star").numeric("rlnDefocusU")
    assert defocus is not None
    assert ((defocus > 8900) & (defocus < 11600)).all()
    check_error(run(*command, "--out", tmp_path / "a"), str(tmp_path / "a"), "--overwrite")
    assert run(*command, "--out", tmp_path / "a", "--overwrite").status == 0


def test_simulate_from_a_structure_file(run: Run, structures: Path, tmp_path: Path) -> None:
    command = ("simulate", structures / "one.pdb", "--particles", 4, "--box", 32, "--views", "sets")
    assert run(*command, "--out", tmp_path / "a", "--quiet") == Ended(0, "", "")


def test_field(run: Run, example_stack: SimulationResult, tmp_path: Path) -> None:
    command = ("field", "example", "--like", example_stack.particles, "--particles", 8, "--box", 32)
    ended = run(*command, "--junk", 0.5, "--contrast", "dark", "--out", tmp_path / "a")
    assert ended.status == 0
    assert str(tmp_path / "a" / "clean.star") in ended.out
    assert "simulate: 16 of 16" in ended.err
    figures = run(*command, "--out", tmp_path / "b", "--json").json()
    assert (figures["particles"], figures["notices"]) == (8, [])
    for path in figures["files"].values():
        assert Path(path).is_file()
    assert run(*command, "--out", tmp_path / "c", "--quiet") == Ended(0, "", "")
    check_error(run(*command, "--out", tmp_path / "a"), str(tmp_path / "a"), "--overwrite")
    check_error(run("field", "example", "--like", "absent.star", "--out", tmp_path / "d"), "absent.star")


def test_evaluate(run: Run, example_stack: SimulationResult) -> None:
    command = ("evaluate", example_stack.particles, "--truth", example_stack.clean)
    ended = run(*command)
    assert (ended.status, ended.err) == (0, "")
    assert "Relative MSE" in ended.out
    assert "dB" in ended.out
    figures = run(*command, "--noisy", example_stack.particles, "--json").json()
    assert figures["denoised"] == figures["noisy"]
    # Images against themselves.
    same = run("evaluate", example_stack.clean, "--truth", example_stack.clean, "--json").json()
    assert same["denoised"]["relative_mse"] == 0
    assert same["denoised"]["psnr_dB"] is None
    assert run(*command, "--quiet") == Ended(0, "", "")


# -- bank and train -----------------------------------------------------------------------------------


def test_bank_build(run: Run, structures: Path, tmp_path: Path) -> None:
    ended = run("bank", "build", structures, "--out", tmp_path / "a.npz")
    assert ended.status == 0
    assert "3 structures, 5,250 atoms" in ended.out
    assert "skipped: " in ended.err
    assert "broken.pdb" in ended.err
    figures = run("bank", "build", structures, "--out", tmp_path / "b.npz", "--json").json()
    assert (figures["structures"], figures["atoms"], len(figures["skipped"])) == (3, 5250, 1)
    assert run("bank", "build", structures, "--out", tmp_path / "c.npz", "--quiet") == Ended(0, "", "")
    bank = StructureBank.load(tmp_path / "c.npz")
    assert bank.names == ("one", "three", "two")
    found = bank[0].coordinates_A
    np.testing.assert_allclose(found, example_structure().coordinates_A, atol=0.02)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    check_error(run("bank", "build", nothing, "--out", tmp_path / "d.npz"), str(nothing))
    assert not (tmp_path / "d.npz").exists()
    check_error(run("bank", "build", structures, "--out", tmp_path / "no" / "d.npz"), str(tmp_path / "no"))


@pytest.fixture(scope="module")
def bank(structures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bank") / "bank.npz"
    with pytest.raises(SystemExit):
        main(["bank", "build", str(structures), "--out", str(path), "--quiet"])
    return path


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("unet", ""),
        ("polar-transformer", "coarse_rounds = 1\nfine_rounds = 1\nembedding = 4"),
    ],
)
def test_train_and_resume(architecture: str, more: str, run: Run, bank: Path, tmp_path: Path) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(RECIPE.format(architecture=architecture, images=8, more=more))
    command = ("train", recipe, "--bank", bank, "--out", out, "--device", "cpu")
    ended = run(*command, "--json")
    assert ended.status == 0
    assert ended.json()["images"] == 8
    assert "relative MSE" in ended.err
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint.pt", "curves.png", "history.json", "weights.safetensors",
    ]  # fmt: skip
    assert read_card(out / "weights.safetensors").figures["images_seen"] == 8
    check_error(run(*command), str(out), "--resume")
    recipe.write_text(RECIPE.format(architecture=architecture, images=12, more=more))
    assert run(*command, "--resume", "--quiet") == Ended(0, "", "")
    assert read_card(out / "weights.safetensors").figures["images_seen"] == 12
    # Its weights are a model.
    models = run("denoise", "absent.star", "--out", tmp_path / "x", "--model", out / "weights.safetensors")
    check_error(models, "absent.star")


def test_train_says_what_is_wrong(run: Run, bank: Path, tmp_path: Path) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(RECIPE.format(architecture="unet", images=8, more=""))
    command = ("train", recipe, "--bank", bank, "--out", out)
    check_error(run(*command, "--resume"), str(out), "no run to resume")
    check_error(run("train", recipe, "--bank", tmp_path / "no.npz", "--out", out), "no.npz")
    recipe.write_text(RECIPE.format(architecture="unet", images=8, more="depth = 3"))
    check_error(run(*command), "depth")
    assert not out.exists()


def test_adapt(run: Run, joint_weights: Path, tmp_path: Path) -> None:
    made = simulate(example_structure(), tmp_path / "sim", particles=128, box=32, snr=0.3, ctf=True)
    out = tmp_path / "out"
    command = ("adapt", made.particles, "--model", joint_weights, "--out", out, "--device", "cpu")
    ended = run(*command, "--neighbours", 4, "--steps", 2, "--json")
    assert ended.status == 0
    figures = ended.json()
    assert [check["step"] for check in figures["history"]] == [2]
    assert set(figures["files"]) == {
        str(out / name) for name in ("adapted.safetensors", "adapt.json", "curves.png", "neighbours.npz")
    }
    assert "half sets" in ended.err
    check_error(run(*command), str(out), "--overwrite")
    assert read_card(out / "adapted.safetensors").figures["adapted_to"] == "particles.star"


# -- denoise ------------------------------------------------------------------------------------------


def test_denoise(run: Run, example_stack: SimulationResult, joint_weights: Path, tmp_path: Path) -> None:
    command = ("denoise", example_stack.particles, "--model", joint_weights, "--neighbours", 6)
    ended = run(*command, "--out", tmp_path / "a", "--device", "cpu")
    assert ended.status == 0
    assert str(tmp_path / "a" / "denoised.star") in ended.out
    assert str(tmp_path / "a" / "report.html") in ended.out
    for stage in ("check and measure: 48 of 48", "encode: 48 of 48", "attend (3 of 3): 48 of 48"):
        assert stage in ended.err
    written = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert written == ["denoise.json", "denoised.mrcs", "denoised.star", "neighbours.npz", "report.html"]
    ended = run(*command, "--out", tmp_path / "b", "--json", "--truth", example_stack.clean)
    figures = ended.json()
    assert sorted(Path(path).name for path in figures["files"]) == written
    assert figures["particles"] == 48
    assert 0 < figures["evaluation"]["denoised"]["relative_mse"] < 100
    assert run(*command, "--out", tmp_path / "c", "--quiet") == Ended(0, "", "")
    check_error(run(*command, "--out", tmp_path / "c"), str(tmp_path / "c"), "--overwrite")
    assert run(*command, "--out", tmp_path / "c", "--overwrite").status == 0


def test_guard(run: Run, example_stack: SimulationResult, single_weights: Path, tmp_path: Path) -> None:
    command = ("guard", example_stack.particles, "--model", single_weights, "--device", "cpu")
    ended = run(*command, "--out", tmp_path / "a", "--particles", 24)
    assert ended.status == 0
    for guard in ("noise", "phases", "foreign", "duplicates", "agreement"):
        assert re.search(rf"^{guard} .*(passes|fails|not judged)", ended.out, re.MULTILINE)
    assert "phases: check and measure: 24 of 24" in ended.err
    written = ["guard.html", "guard.json", "sample"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == written
    figures = run(*command, "--out", tmp_path / "b", "--json").json()
    assert figures["particles"] == 48
    assert [one["verdict"] for one in figures["verdicts"]][-1] == "not judged"
    assert str(tmp_path / "b" / "guard.html") in figures["files"]
    check_error(run(*command, "--out", tmp_path / "b"), str(tmp_path / "b"), "--overwrite")
    check_error(
        run(*command, "--out", tmp_path / "c", "--foreign", tmp_path / "no.pdb"), str(tmp_path / "no.pdb")
    )
    assert not (tmp_path / "c").exists()


def test_a_run_without_its_page_has_not_ended(
    run: Run,
    example_stack: SimulationResult,
    single_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    command = ("denoise", example_stack.particles, "--model", single_weights, "--out", out, "--device", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr("polarice.evaluation.run_report", interrupt)
        ended = run(*command)
    assert ended.status == 130
    assert "--resume" in ended.err
    assert not (out / "report.html").exists()
    check_error(run(*command), "interrupted", "--resume")
    # Nothing is denoised again.
    ended = run(*command, "--resume")
    assert ended.status == 0
    assert "denoise: " not in ended.err
    assert "write the page: 1 of 1" in ended.err
    assert sorted(path.name for path in out.iterdir()) == [
        "denoise.json", "denoised.mrcs", "denoised.star", "report.html",
    ]  # fmt: skip


def test_neighbours_and_denoising_with_them(
    run: Run, example_stack: SimulationResult, joint_weights: Path, tmp_path: Path
) -> None:
    model = ("--model", joint_weights, "--neighbours", 6, "--device", "cpu")
    ended = run("neighbours", example_stack.particles, *model, "--out", tmp_path / "n", "--mirrored")
    assert ended.status == 0
    assert "of 6 neighbours are expected" in ended.out
    assert "find neighbours: 48 of 48" in ended.err
    written = ["neighbours.html", "neighbours.json", "neighbours.npz"]
    assert sorted(path.name for path in (tmp_path / "n").iterdir()) == written
    settings = json.loads((tmp_path / "n" / "neighbours.json").read_text())["configuration"]["settings"]
    assert (settings["neighbours"], settings["mirrored"]) == (6, True)
    page = (tmp_path / "n" / "neighbours.html").read_text()
    assert "Who shows the same view" in page
    assert page.count('class="neighbourhood"') == 8
    command = ("denoise", example_stack.particles, *model, "--neighbours-from", tmp_path / "n")
    figures = run(*command, "--out", tmp_path / "d", "--json").json()
    assert any("mirror images" in notice for notice in figures["notices"])
    assert "find neighbours" not in figures["seconds"]
    check_error(run("neighbours", example_stack.particles, *model, "--out", tmp_path / "n"), "--overwrite")
    again = run(
        "neighbours", example_stack.particles, *model, "--out", tmp_path / "n", "--overwrite", "--json"
    )
    assert sorted(Path(path).name for path in again.json()["files"]) == written


def test_classify(run: Run, example_stack: SimulationResult, tmp_path: Path) -> None:
    command = ("classify", example_stack.particles, "--classes", 6, "--device", "cpu")
    ended = run(*command, "--out", tmp_path / "c")
    assert ended.status == 0
    assert "48 particles in 6 classes" in ended.out
    names = ["averages.mrcs", "data.star", "model.star"]
    written = ["classes.html", *(f"classes_{name}" for name in names), "classify.json"]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == written
    assert (tmp_path / "c" / "classes.html").read_text().count('class="tile"') == 6
    figures = run(*command, "--out", tmp_path / "j", "--json").json()
    assert (figures["classes"], figures["particles"]) == (6, 48)
    assert run(*command, "--out", tmp_path / "q", "--quiet") == Ended(0, "", "")
    check_error(
        run("classify", example_stack.particles, "--out", tmp_path / "x"), "100 classes", "--classes 4"
    )


def test_denoise_options_reach_the_run(
    run: Run, altered: Altered, joint_weights: Path, single_weights: Path, tmp_path: Path
) -> None:
    star = altered(tmp_path / "in", drop=["rlnImagePixelSize", "rlnRandomSubset"])
    options: dict[str, object] = {
        "--model": joint_weights,
        "--neighbours": 5,
        "--sets-from": "rlnClassNumber",
        "--device": "cpu",
        "--pixel-size": 2.5,
        "--contrast": "bright",
        "--mask-diameter": 60,
    }
    tokens = [token for option in options.items() for token in option]
    tokens += ["--no-ctf", "--no-whiten", "--no-mixed-precision", "--json"]
    ended = run("denoise", star, "--out", tmp_path / "a", *tokens)
    assert "note: No half-set labels" in ended.err
    assert ended.json()["phase_flipped"] is False
    settings = json.loads((tmp_path / "a" / "denoise.json").read_text())["configuration"]["settings"]
    assert settings == {
        "model": str(joint_weights),
        "neighbours": 5,
        "sets_from": "rlnClassNumber",
        "neighbours_from": None,
        "split_halves": False,
        "agreement": False,
        "device": "cpu",
        "pixel_size_A": 2.5,
        "contrast": "bright",
        "mask_diameter_A": 60,
        "ctf": False,
        "whiten": False,
        "mixed_precision": False,
    }
    figures = run(
        "denoise", star, "--out", tmp_path / "b", "--model", single_weights, "--pixel-size", 2, "--json"
    )
    assert "mean_confidence" not in figures.json()
    ended = run("denoise", star, "--out", tmp_path / "h", *tokens, "--split-halves")
    assert "note: The particles were divided into half sets" in ended.err
    assert ParticleStack.open(tmp_path / "h" / "denoised.star").half_sets is not None


def test_a_bare_stack_with_its_truth(
    run: Run, example_stack: SimulationResult, joint_weights: Path, tmp_path: Path
) -> None:
    """The pixel size that was given holds for every file."""
    noisy, clean = (path.with_suffix(".mrcs") for path in (example_stack.particles, example_stack.clean))
    ended = run(
        "denoise", noisy, "--out", tmp_path / "a", "--model", joint_weights, "--pixel-size", 3,
        "--truth", clean, "--json",
    )  # fmt: skip
    assert ended.json()["evaluation"]["pixel_size_A"] == 3


def test_a_truth_that_does_not_fit_is_found_first(
    run: Run, example_stack: SimulationResult, joint_weights: Path, altered: Altered, tmp_path: Path
) -> None:
    command = ("denoise", example_stack.particles, "--model", joint_weights, "--out", tmp_path / "out")
    check_error(run(*command, "--truth", tmp_path / "absent.star"), "absent.star")
    larger = altered(tmp_path / "in", images=lambda images: np.pad(images, ((0, 0), (4, 4), (4, 4))))
    check_error(run(*command, "--truth", larger), str(larger), "40")
    assert not (tmp_path / "out").exists()


def test_many_problems_have_a_line_each(
    run: Run, altered: Altered, joint_weights: Path, tmp_path: Path
) -> None:
    star = altered(tmp_path / "in", drop=["rlnImagePixelSize", "rlnVoltage"])
    ended = run("denoise", star, "--out", tmp_path / "out", "--model", joint_weights)
    assert (ended.status, ended.out) == (2, "")
    lines = ended.err.splitlines()
    assert lines[0] == "polarice: 2 problems found before starting:"
    assert all(line.startswith(f"  - {star}: ") for line in lines[1:])
    assert not (tmp_path / "out").exists()


# -- models and demo ----------------------------------------------------------------------------------


def test_benchmark_paper(
    run: Run,
    bank: Path,
    single_weights: Path,
    joint_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two columns instead of eight: every one goes the same way.
    conditions = benchmark.Condition("gaussian", 0.05), benchmark.Condition("gaussian", 0.2)
    short = partial(
        benchmark.BenchmarkSettings,
        conditions=conditions,
        set_size=4,
        curve_snrs=(),
        sweep_sizes=(1, 2),
        sweep_views=(1,),
        resamples=20,
    )
    monkeypatch.setattr(benchmark, "BenchmarkSettings", short)
    models = "--models", single_weights, "--models", joint_weights, "--models", "absent"
    out = tmp_path / "out"
    ended = run("benchmark", "paper", bank, "--out", out, "--quick", *models)
    assert ended.status == 0
    assert "absent is left out" in ended.err
    for name in ("radial Wiener filter", "tiny-unet", "tiny-joint, directional 4", "oracle alignment of 4"):
        assert name in ended.out
    check_error(run("benchmark", "paper", bank, "--out", out), "not empty")
    again = ("benchmark", "paper", bank, "--out", out, "--structures", 2, "--overwrite", *models)
    figures = run(*again, "--json").json()
    files = figures.pop("files")
    assert figures == {**json.loads((out / "benchmark.json").read_text()), "seconds": figures["seconds"]}
    assert len(figures["structures"]) == 2
    assert all(Path(path).is_file() for path in files.values())
    check_error(run("benchmark", "paper", tmp_path / "no.npz", "--out", tmp_path / "new"), "no.npz")
    assert not (tmp_path / "new").exists()


def test_models(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    table = run("models", "--json").json()["models"]
    names = [entry["name"] for entry in table]
    assert names[: len(shipped_models())] == list(shipped_models())
    for entry in table:
        assert entry["parameters"] > 1000
        assert entry["flops_per_image"] > 1e6
    # Counting takes its time; what is printed of it does not.
    monkeypatch.setattr("polarice.models.model_table", lambda: table)
    ended = run("models")
    assert (ended.status, ended.err) == (0, "")
    for entry in table:
        assert entry["name"] in ended.out
    assert run("models", "--quiet") == Ended(0, "", "")


def test_demo_says_what_is_missing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polarice.models.registry.WEIGHTS_FOLDER", tmp_path / "none")
    check_error(run("demo", "--out", tmp_path / "demo"), "unet-64")
    check_error(run("demo", "--out", tmp_path / "demo", "--particles", 20), "at least 64")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not {"unet-64", "polar-transformer-64"} <= set(shipped_models()), reason="no weights are shipped"
)
def test_demo(run: Run, tmp_path: Path) -> None:
    command = ("demo", "--particles", 64, "--device", "cpu", "--out", tmp_path / "demo")
    figures = run(*command, "--json").json()
    assert Path(figures["files"]["page"]).is_file()
    errors = figures["relative_mse"]
    assert errors["polar-transformer-64"] < errors["unet-64"] < 0.5 < 2 < errors["noisy"]
    check_error(run(*command), "--overwrite")

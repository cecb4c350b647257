"""Corrupted inputs: the whole ones that they are made from, and how a run with each must end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

from polarice.cli import main
from polarice.particles import read_cs, write_cs

COUNT, BOX, PIXEL_SIZE_A = 8, 32, 3.0
_LEDGER = "corrupted input"

Stars = dict[str, dict[str, list[str]]]


@dataclass
class Whole:
    """Eight particles in every format, none of them broken.

    Attributes
    ----------
    folder : Path
        Of ``particles.star``, ``particles.cs`` and ``particles.mrcs``.
    tables : dict
        Block -> column -> values of the STAR file.
    pixels : dict
        Denoised images of each of the three.
    """

    folder: Path
    tables: Stars
    pixels: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def copy(self, folder: Path, *suffixes: str) -> Path:
        """Copies of the files with these suffixes; the path of the first."""
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in suffixes:
            (folder / f"particles{suffix}").write_bytes((self.folder / f"particles{suffix}").read_bytes())
        return folder / f"particles{suffixes[0]}"

    def text(self, change: Callable[[Stars], object] | None = None) -> str:
        """The STAR file after a change to a copy of its tables."""
        tables = {name: {k: list(v) for k, v in columns.items()} for name, columns in self.tables.items()}
        if change is not None:
            change(tables)
        return star_text(tables)

    def fields(self) -> dict[str, NDArray[Any]]:
        """The ``.cs`` file's."""
        dataset = read_cs(self.folder / "particles.cs")
        return {name: dataset[name].copy() for name in dataset.dtype.names or ()}


def star_text(tables: Stars) -> str:
    """Tables as RELION writes them, whose columns may differ in length."""
    text = ""
    for name, columns in tables.items():
        text += f"\n# version 30001\n\ndata_{name}\n\nloop_ \n"
        text += "".join(f"_{label} #{k} \n" for k, label in enumerate(columns, 1))
        rows = max((len(values) for values in columns.values()), default=0)
        for row in range(rows):
            text += " ".join(values[row] for values in columns.values() if row < len(values)) + " \n"
        text += " \n"
    return text


def _images() -> NDArray[np.float32]:
    """Noise with a bright disc in it."""
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    noise = np.random.default_rng(11).normal(size=(COUNT, BOX, BOX))
    return (noise + 2.0 * (np.hypot(y, x) < 8)).astype(np.float32)


def _tables() -> Stars:
    rows = range(1, COUNT + 1)
    optics = {
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnOpticsGroup": ["1"],
        "rlnVoltage": ["300.000000"],
        "rlnSphericalAberration": ["2.700000"],
        "rlnAmplitudeContrast": ["0.100000"],
        "rlnImagePixelSize": [f"{PIXEL_SIZE_A:.6f}"],
        "rlnImageSize": [str(BOX)],
        "rlnImageDimensionality": ["2"],
    }
    particles = {
        "rlnImageName": [f"{k:06d}@particles.mrcs" for k in rows],
        "rlnOpticsGroup": ["1"] * COUNT,
        "rlnDefocusU": [f"{15000 + 100 * k:.6f}" for k in rows],
        "rlnDefocusV": [f"{14500 + 100 * k:.6f}" for k in rows],
        "rlnDefocusAngle": [f"{10 * k:.6f}" for k in rows],
        "rlnPhaseShift": ["0.000000"] * COUNT,
        "rlnCtfBfactor": ["0.000000"] * COUNT,
        "rlnAngleRot": [f"{3 * k:.6f}" for k in rows],
        "rlnAngleTilt": [f"{5 * k:.6f}" for k in rows],
        "rlnAnglePsi": [f"{7 * k:.6f}" for k in rows],
        "rlnOriginXAngst": [f"{0.5 * k:.6f}" for k in rows],
        "rlnOriginYAngst": [f"{-0.5 * k:.6f}" for k in rows],
        "rlnRandomSubset": [str(1 + k % 2) for k in rows],
        "rlnClassNumber": [str(1 + k % 3) for k in rows],
        # RELION's own and of no use here: its values are nobody's business.
        "rlnNrOfSignificantSamples": ["12"] * COUNT,
    }
    return {"optics": optics, "particles": particles}


def _dataset() -> NDArray[np.void]:
    columns: dict[str, NDArray[Any]] = {
        "uid": np.arange(COUNT, dtype="u8") * 7919 + 2**63,
        "blob/path": np.array([b">particles.mrcs"] * COUNT),
        "blob/idx": np.arange(COUNT, dtype="u4"),
        "blob/shape": np.full((COUNT, 2), BOX, "u4"),
        "blob/psize_A": np.full(COUNT, PIXEL_SIZE_A, "f4"),
        "blob/sign": np.ones(COUNT, "f4"),
        "ctf/exp_group_id": np.full(COUNT, 1, "u4"),
        "ctf/accel_kv": np.full(COUNT, 300, "f4"),
        "ctf/cs_mm": np.full(COUNT, 2.7, "f4"),
        "ctf/amp_contrast": np.full(COUNT, 0.1, "f4"),
        "ctf/df1_A": np.linspace(15000, 16000, COUNT, dtype="f4"),
        "ctf/df2_A": np.linspace(14000, 15000, COUNT, dtype="f4"),
        "ctf/df_angle_rad": np.linspace(-1, 1, COUNT, dtype="f4"),
        "ctf/phase_shift_rad": np.zeros(COUNT, "f4"),
        "ctf/bfactor": np.zeros(COUNT, "f4"),
        "alignments3D/pose": np.linspace(-1, 1, 3 * COUNT, dtype="f4").reshape(COUNT, 3),
        "alignments3D/shift": np.zeros((COUNT, 2), "f4"),
        "alignments3D/psize_A": np.full(COUNT, PIXEL_SIZE_A, "f4"),
        "alignments3D/split": (np.arange(COUNT) % 2).astype("u4"),
        "alignments3D/class": np.zeros(COUNT, "u4"),
    }
    return as_dataset(columns)


def as_dataset(columns: dict[str, NDArray[Any]]) -> NDArray[np.void]:
    """Structured array of columns."""
    table = np.zeros(COUNT, [(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return table


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, single_weights: Path) -> Whole:
    """The inputs that are not broken, and what is made of them."""
    made = Whole(tmp_path_factory.mktemp("whole"), _tables())
    with mrcfile.new(made.folder / "particles.mrcs") as file:
        file.set_data(_images())
        file.set_image_stack()
        file.voxel_size = PIXEL_SIZE_A
    (made.folder / "particles.star").write_text(made.text())
    write_cs(made.folder / "particles.cs", _dataset())
    for suffix in (".star", ".cs", ".mrcs"):
        out = made.folder / f"out{suffix}"
        source = made.folder / f"particles{suffix}"
        tokens = ["denoise", source, "--out", out, "--model", single_weights, "--device", "cpu", "--quiet"]
        with pytest.raises(SystemExit) as ended:
            main([str(token) for token in tokens])
        assert ended.value.code == 0
        made.pixels[suffix] = mrcfile.read(out / "denoised.mrcs")
    return made


@dataclass(frozen=True)
class Judge:
    """Runs the program on an input, and holds it to one of two ends."""

    model: Path
    tmp_path: Path
    capfd: pytest.CaptureFixture[str]
    note: Callable[[str, object], None]
    pixels: dict[str, NDArray[np.float32]]

    def _run(self, *tokens: object) -> tuple[object, str, str]:
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(token) for token in tokens])
        out, err = self.capfd.readouterr()
        assert "Traceback" not in out + err
        return ended.value.code, out, err

    def _denoise(self, path: Path, model: Path) -> tuple[object, str, str]:
        out = self.tmp_path / "out"
        return self._run("denoise", path, "--out", out, "--model", model, "--device", "cpu", "--quiet")

    def refused(
        self,
        kind: str,
        path: Path,
        words: Iterable[str] = (),
        *,
        names: Path | None = None,
        model: Path | None = None,
        seen: bool = True,
    ) -> None:
        """One clear error that names the file (``names``, where that is another) and says these words.

        Not ``seen`` is what `polarice info` does not call a problem, such as pixels, which it does not read.
        """
        before = _seen(path.parent)
        status, out, err = self._denoise(path, model or self.model)
        assert (status, out) == (2, "")
        lines = err.splitlines()
        assert lines[0].startswith("polarice: ")
        if lines[0].endswith(" problems found before starting:"):
            assert len(lines) == 1 + int(lines[0].split()[1])
            assert all(line.startswith("  - ") for line in lines[1:])
        else:
            assert len(lines) == 1
        for word in ((names or path).name, *words):
            assert word in err
        folder = self.tmp_path / "out"
        assert not folder.exists() or not any(folder.iterdir())
        assert before == _seen(path.parent)
        if model is None:
            status, out, err = self._run("info", path)
            assert (status, err) == (1 if seen else 0, "")
            assert (names or path).name in out or not seen
            status, out, err = self._run("info", path, "--json")
            assert bool(json.loads(out)["problems"]) == seen
        self.note(_LEDGER, (kind, "one error, nothing left"))

    def harmless(
        self, kind: str, path: Path, *, model: Path | None = None, rows: int = COUNT, same: bool = True
    ) -> None:
        """A run that ends well, with the pixels of the input that is not changed if they are the ``same``."""
        status, out, err = self._denoise(path, model or self.model)
        assert (status, out, err) == (0, "", "")
        pixels = mrcfile.read(self.tmp_path / "out" / "denoised.mrcs").reshape(-1, BOX, BOX)
        assert len(pixels) == rows
        assert np.isfinite(pixels).all()
        if same:
            np.testing.assert_array_equal(pixels, self.pixels[path.suffix])
        status, out, err = self._run("info", path)
        assert (status, err) == (0, "")
        self.note(
            _LEDGER, (kind, "harmless, the same pixels" if same else "a whole input, as far as it says")
        )


def _seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of each file of a folder; some are too large to be read."""
    return {file.name: (file.lstat().st_size, file.lstat().st_mtime_ns) for file in folder.iterdir()}


@pytest.fixture
def judge(
    single_weights: Path,
    whole: Whole,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> Judge:
    """Hold a run to its end."""
    return Judge(single_weights, tmp_path, capfd, record_property, whole.pixels)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many corrupted inputs of each kind ended in which way."""
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            said = [value for name, value in report.user_properties if name == _LEDGER]
            counts.update(said)
    for (kind, end), count in sorted(counts.items()):
        terminalreporter.write_line(f"corrupted inputs: {kind:<10} {count:4d}  {end}")
    if counts:
        terminalreporter.write_line(f"corrupted inputs: {'all':<10} {sum(counts.values()):4d}")

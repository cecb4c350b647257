"""The benchmark of orientations and maps, on a small stack."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from polarice import cli
from polarice.errors import PolariceError
from polarice.evaluation import ThreedBenchmarkSettings, benchmark_threed, threed_table
from polarice.simulation import StructureBank, example_structure


@pytest.fixture(scope="module")
def bank_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example protein as a bank."""
    molecule = example_structure()
    path = tmp_path_factory.mktemp("bank") / "bank.npz"
    arrays = {
        "names": np.array(["one"]),
        "offsets": np.array([0, len(molecule.coordinates_A)]),
        "coordinates": np.round(100 * molecule.coordinates_A).astype(np.int16),
        "atomic_numbers": molecule.atomic_numbers.astype(np.uint8),
    }
    np.savez(path, **arrays)
    return path


def test_rows(bank_file: Path, joint_weights: Path, tmp_path: Path) -> None:
    settings = ThreedBenchmarkSettings(
        names=("one",),
        snr=(4.0,),
        particles=40,
        methods=("truth", "true-map", "sets", "noisy"),
        model=str(joint_weights),
        representatives=40,
        rounds=0,
        device="cpu",
    )
    stages: set[str] = set()
    figures = benchmark_threed(
        StructureBank.load(bank_file), tmp_path, settings, progress=lambda stage, *_: stages.add(stage)
    )
    assert json.loads((tmp_path / "threed.json").read_text())["rows"] == figures["rows"]
    assert (tmp_path / "threed.md").read_text() == threed_table(figures)
    truth, true_map, *others, noisy = figures["rows"]
    assert truth["method"] == "true orientations"
    # Who knows the map finds the way in it.
    assert true_map["mean_deg"] < 5
    # With images this clean common lines need no denoising; a network with random weights spoils them.
    assert noisy["lines_mean_deg"] < 10
    # Without rounds of refinement these are the orientations of the maps.
    assert all(row["mean_deg"] == pytest.approx(row["lines_mean_deg"]) for row in (*others, noisy))
    assert all(row["fsc_half_A"] >= 0.99 * truth["fsc_half_A"] for row in (*others, noisy))
    assert all(math.isfinite(row[key]) for row in others for key in ("lines_mean_deg", "seconds"))
    assert any(stage.startswith("one, SNR 4, ") for stage in stages)


def test_what_is_refused(bank_file: Path, tmp_path: Path) -> None:
    bank = StructureBank.load(bank_file)
    with pytest.raises(PolariceError, match="no structure two"):
        benchmark_threed(bank, tmp_path / "a", ThreedBenchmarkSettings(names=("two",)))
    with pytest.raises(PolariceError, match="guess is no method"):
        benchmark_threed(bank, tmp_path / "a", ThreedBenchmarkSettings(names=("one",), methods=("guess",)))
    assert not (tmp_path / "a").exists()


def test_command(bank_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"--out {tmp_path / 'out'} --names one --methods truth --particles 32 --device cpu --json"
    with pytest.raises(SystemExit) as ended:
        cli.main(["benchmark", "threed", str(bank_file), *options.split()])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["rows"][0]["method"] == "true orientations"

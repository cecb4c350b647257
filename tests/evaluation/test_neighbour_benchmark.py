import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polarice.errors import OutputError, PolariceError
from polarice.evaluation import (
    NeighbourBenchmarkSettings,
    benchmark_neighbours,
    neighbour_benchmark_table,
)
from polarice.simulation import StructureBank, example_structure


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> StructureBank:
    """The example protein under two names."""
    folder = tmp_path_factory.mktemp("bank")
    molecule = example_structure()
    arrays = {
        "names": np.array(["one", "two"]),
        "offsets": np.array([0, *np.cumsum([len(molecule.coordinates_A)] * 2)]),
        "coordinates": np.round(100 * np.tile(molecule.coordinates_A, (2, 1))).astype(np.int16),
        "atomic_numbers": np.tile(molecule.atomic_numbers, 2).astype(np.uint8),
    }
    np.savez(folder / "bank.npz", **arrays)
    return StructureBank.load(folder / "bank.npz")


@pytest.fixture(scope="module")
def settings(joint_weights: Path, single_weights: Path) -> NeighbourBenchmarkSettings:
    return NeighbourBenchmarkSettings(
        model=str(joint_weights),
        single_model=str(single_weights),
        structures=2,
        snr=(0.5, 0.02),
        particles=160,
        neighbours=4,
        device="cpu",
    )


def test_what_is_measured(bank: StructureBank, settings: NeighbourBenchmarkSettings, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    figures = benchmark_neighbours(bank, tmp_path / "out", settings, progress=lambda *step: told.append(step))
    assert json.loads((tmp_path / "out" / "neighbours.json").read_text())["rows"] == figures["rows"]
    table = neighbour_benchmark_table(figures)
    assert (tmp_path / "out" / "neighbours.md").read_text() == table
    assert table.count("median of 2") == 2
    assert ("one, SNR 0.5: encode", 160, 160) in told
    for row in figures["rows"]:
        # Nobody finds nearer ones than there are; who knows the molecule finds about those.
        angles = [row[name] for name in ("molecule_known", "embedding", "pairs", "averages")]
        assert row["nearest"] <= min(angles) + 1e-3
        assert row["nearest"] < 20
        told_of = row["calibration"].values()
        assert sum(part["share"] for part in told_of) == pytest.approx(1, abs=1e-3)
        assert all(0 <= part["near"] <= 1 for part in told_of)
    clear, noisy = figures["rows"][:2]
    assert clear["molecule_known"] < noisy["molecule_known"] < 40
    assert clear["averages"] < 25 < noisy["averages"]
    assert clear["wiener"] < noisy["wiener"] < 1


def test_what_cannot_be_measured(
    bank: StructureBank, settings: NeighbourBenchmarkSettings, single_weights: Path, tmp_path: Path
) -> None:
    for changes, words in (
        ({"structures": 3}, "has 2 structures"),
        ({"names": ("one", "nine")}, "no structure nine"),
        ({"particles": 4}, "too few"),
        ({"model": str(single_weights)}, "no embedding"),
        ({"single_model": settings.model}, "does not denoise single images"),
    ):
        with pytest.raises(PolariceError, match=words):
            benchmark_neighbours(bank, tmp_path / "out", replace(settings, **changes))  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()
    (tmp_path / "mine").write_text("")
    with pytest.raises(OutputError, match="not empty"):
        benchmark_neighbours(bank, tmp_path, settings)

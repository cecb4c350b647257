import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polarice.conventions import view_angle_deg
from polarice.errors import PolariceError
from polarice.evaluation.benchmark import (
    PAPER_CONDITIONS,
    BenchmarkResult,
    BenchmarkSettings,
    Condition,
    run_benchmark,
    table_lines,
    write_benchmark,
)
from polarice.evaluation.benchmark.images import ImageSource, Sets
from polarice.evaluation.benchmark.methods import classical_methods, oracle_methods
from polarice.evaluation.benchmark.output import markdown
from polarice.evaluation.benchmark.statistics import bootstrap, effective_images, resamples
from polarice.simulation import Structure, StructureBank

BOX = 32
CPU = torch.device("cpu")
GAUSSIAN = Condition("gaussian", 0.1)
SMALL = BenchmarkSettings(
    conditions=(GAUSSIAN, Condition("ctf", 0.1, ctf=True, max_shift_px=3.0)),
    set_size=4,
    strangers=1,
    curve_snrs=(0.05, 0.2, 0.8),
    sweep_sizes=(1, 2, 4),
    sweep_views=(1, 2),
    resamples=100,
    shown=2,
)


@pytest.fixture(scope="module")
def bank() -> StructureBank:
    """Three molecules of a few lumps each, without symmetry."""
    rng = np.random.default_rng(0)

    def molecule(name: str) -> Structure:
        lumps = rng.normal(0, 20, (6, 1, 3)) + rng.normal(0, 5, (6, 80, 3))
        return Structure(name, lumps.reshape(-1, 3).astype(np.float32), np.full(480, 7, np.uint8))

    return StructureBank.from_structures(molecule(name) for name in "ABC")


@pytest.fixture(scope="module")
def source(bank: StructureBank) -> ImageSource:
    return ImageSource(bank, SMALL, BOX, CPU)


@pytest.fixture(scope="module")
def result(bank: StructureBank, single_weights: Path, joint_weights: Path) -> BenchmarkResult:
    models = (str(single_weights), str(joint_weights), "no-such-model")
    return run_benchmark(bank, replace(SMALL, models=models))


def relative(estimate: torch.Tensor, sets: Sets) -> float:
    return float((estimate - sets.clean).square().sum() / sets.clean.square().sum())


# How many images an error is worth


def wiener_errors(snr: float, images: int, noise: np.ndarray) -> np.ndarray:
    """Relative MSE of shrinking the mean of noisy values, for unknowns of variance one."""
    truth = np.random.default_rng(1).normal(size=noise.shape[1:])
    mean = truth + noise[:images].mean(0) / np.sqrt(snr)
    estimate = mean * images * snr / (images * snr + 1)
    errors: np.ndarray = np.square(estimate - truth).mean(1) / np.square(truth).mean(1)
    return errors


@pytest.mark.parametrize("images", [1, 2, 5, 8])
def test_a_denoiser_that_averages_k_images_is_worth_k(images: int) -> None:
    noise = np.random.default_rng(0).normal(size=(8, 50, 4000))
    snrs = np.geomspace(0.01, 0.5, 14)
    curve = np.stack([wiener_errors(snr, 1, noise) for snr in snrs])
    errors = wiener_errors(0.03, images, noise)
    worth = effective_images(errors, 0.03, snrs, curve, resamples(50, 200, 0))
    assert worth.value == pytest.approx(images, rel=0.05)
    assert worth.low < worth.value < worth.high
    assert worth.high / worth.low < 1.2
    assert worth.beyond == ""


def test_worth_beyond_the_curve_is_said_to_be_so() -> None:
    snrs, draws = np.array([0.1, 0.2, 0.4]), resamples(4, 50, 0)
    curve = np.array([[0.4], [0.2], [0.1]]) * np.ones(4)
    for error, snr, text in ((0.05, 0.1, "> 4"), (0.05, 0.25, "> 1.6"), (0.5, 0.2, "< 0.5"), (0.2, 0.1, "2")):
        assert str(effective_images(np.full(4, error), snr, snrs, curve, draws)) == text


def test_a_curve_that_rises_again_is_worth_no_more() -> None:
    snrs, draws = np.array([0.1, 0.2, 0.4]), resamples(4, 50, 0)
    curve = np.array([[0.4], [0.1], [0.3]]) * np.ones(4)
    assert effective_images(np.full(4, 0.1), 0.1, snrs, curve, draws).value == pytest.approx(2)
    assert str(effective_images(np.full(4, 0.09), 0.1, snrs, curve, draws)) == "> 4"


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3, 0.5, 400)
    interval = bootstrap(values, resamples(400, 2000, 0))
    half = 1.96 * values.std(ddof=1) / 20
    assert interval.value == values.mean()
    assert interval.high - interval.value == pytest.approx(half, rel=0.1)
    assert interval.value - interval.low == pytest.approx(half, rel=0.1)
    # A ratio of paired values that are proportional has no spread at all.
    ratio = bootstrap(values, resamples(400, 100, 0), 2 * values)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((0.5, 0.5, 0.5))


# Images


def test_images_depend_on_seed_and_place_alone(source: ImageSource, bank: StructureBank) -> None:
    all_three, last = (source.views(places, GAUSSIAN) for places in ([0, 1, 2], [2]))
    assert torch.equal(all_three.noisy[2:], last.noisy)
    other = ImageSource(bank, replace(SMALL, seed=1), BOX, CPU).views([2], GAUSSIAN)
    assert not torch.allclose(other.rotations, last.rotations)


def test_conditions_share_their_molecules_and_views(source: ImageSource) -> None:
    first, second = (source.views([0, 1], condition).clean for condition in (GAUSSIAN, GAUSSIAN.at(0.4)))
    torch.testing.assert_close(second, 2 * first)


def test_views_come_in_rotated_copies(source: ImageSource) -> None:
    sets = source.views([0, 1], GAUSSIAN).divided(4)
    assert sets.noisy.shape == (4, 4, BOX, BOX)
    turns = sets.rotations @ sets.rotations[:, :1].mT
    torch.testing.assert_close(turns[..., 2, 2], torch.ones(4, 4))
    assert bool((view_angle_deg(sets.rotations[::2, 0], sets.rotations[1::2, 0]) > 1).all())


def test_neighbourhoods_have_near_views_and_strangers(source: ImageSource) -> None:
    sets = source.neighbourhoods([0, 1, 2], GAUSSIAN)
    assert sets.measured.sum(1).tolist() == [3] * 6
    near = sets.rotations[:, :3]
    angles = view_angle_deg(
        near[:, :, None].expand(-1, -1, 3, -1, -1), near[:, None].expand(-1, 3, -1, -1, -1)
    )
    assert float(angles.max()) < 2 * SMALL.cap_deg + 0.1
    assert float(angles.max()) > 2
    stranger = view_angle_deg(sets.rotations[:, 3], near[:, 0])
    assert float(stranger.max()) > 60


def test_any_few_of_a_series_show_all_views(source: ImageSource) -> None:
    rotations = source.series([1], GAUSSIAN, 2, 8).rotations[0]
    angle = view_angle_deg(rotations[:, None].expand(-1, 8, -1, -1), rotations[None].expand(8, -1, -1, -1))
    same = (torch.arange(8)[:, None] - torch.arange(8)) % 2 == 0
    assert torch.equal(angle < 0.1, same)


def test_noisy_images_have_the_error_that_the_snr_says(source: ImageSource) -> None:
    sets = source.views([0, 1, 2], GAUSSIAN)
    assert relative(sets.noisy, sets) == pytest.approx(sets.noise_power / GAUSSIAN.snr, rel=0.05)


def test_poisson_noise_at_k_times_the_snr_is_that_of_k_images() -> None:
    poisson = next(condition for condition in PAPER_CONDITIONS if condition.kind == "poisson")
    merged = poisson.at(4 * poisson.snr)
    # Four images bring four times the electrons, each worth half of the noise that is left.
    assert merged.poissonicity == pytest.approx(poisson.poissonicity / 2)
    assert merged.poissonicity**-2 == pytest.approx(4 * poisson.poissonicity**-2)


# Methods


@pytest.mark.parametrize("condition", [Condition("gaussian", 1e4), Condition("ctf", 1e3, True, 3.0)])
def test_the_oracle_knows_the_poses(condition: Condition, source: ImageSource) -> None:
    sets = source.views([0, 1, 2], condition)
    oracle = oracle_methods([], SMALL)[0]
    assert relative(oracle(sets), sets) < (0.002 if condition.kind == "gaussian" else 0.03)


def test_the_oracle_averages_noise_away(source: ImageSource) -> None:
    bright = Condition("gaussian", 1.0)
    sets, alone = source.views([0, 1, 2], bright), source.views([0, 1, 2], bright.at(4.0))
    wiener, oracle = classical_methods(SMALL)[1], oracle_methods([], SMALL)[0]
    # Four images told how they lie are worth one of four times the SNR.
    assert relative(oracle(sets), sets) == pytest.approx(relative(wiener(alone), alone), rel=0.15)


# The whole


def test_every_method_is_measured_under_every_condition(result: BenchmarkResult) -> None:
    names = [row.name for row in result.rows]
    joint = [f"tiny-joint/{kind}" for kind in ("directional", "general", "neighbourhood")]
    assert names == ["noisy", "wiener", "class-average", "tiny-unet", *joint, "oracle", "single image"]
    for row in result.rows:
        for condition in SMALL.conditions:
            energies = row.energies[condition.name]
            assert energies.relative.shape == (3,)
            assert np.isfinite(energies.relative).all()
            assert result.error(row, condition).value == energies.relative.mean()
    assert len(result.notes) == 1
    assert "no-such-model" in result.notes[0]


def test_single_images_are_worth_one_image(result: BenchmarkResult) -> None:
    row = result.rows[-1]
    assert [str(result.effective(row, condition)) for condition in SMALL.conditions] == ["1", "1"]


def test_the_oracle_is_the_best_of_its_ways(result: BenchmarkResult) -> None:
    oracle, wiener = result.rows[-2], result.rows[1]
    assert result.error(oracle, GAUSSIAN).value < result.error(wiener, GAUSSIAN).value
    assert oracle.models[GAUSSIAN.name] == "wiener"  # the networks are random


def test_sweep_has_every_size_that_holds_its_views(result: BenchmarkResult) -> None:
    sizes = {(row.name, row.views): list(row.energies) for row in result.sweep}
    assert sizes == {
        ("tiny-joint", 1): [1, 2, 4],
        ("class-average", 1): [1, 2, 4],
        ("oracle", 1): [1, 2, 4],
        ("tiny-joint", 2): [2, 4],
    }
    oracle = next(row for row in result.sweep if row.name == "oracle")
    errors = [one.pooled for one in oracle.energies.values()]
    assert errors == sorted(errors, reverse=True)


def test_files_hold_everything(result: BenchmarkResult, tmp_path: Path) -> None:
    files = write_benchmark(result, tmp_path / "out")
    assert all(path.stat().st_size > 0 for path in files.values())
    figures = json.loads(files["json"].read_text(), parse_constant=lambda name: pytest.fail(name))
    wiener = figures["rows"][1]["conditions"][GAUSSIAN.name]
    assert wiener["relative_mse"]["low"] <= wiener["relative_mse"]["value"] <= wiener["relative_mse"]["high"]
    per_structure = wiener["relative_mse_per_structure"]
    assert np.mean(per_structure) == pytest.approx(wiener["relative_mse"]["value"], abs=1e-5)
    assert figures["settings"]["seed"] == 0
    assert set(figures["models"]) == {"tiny-unet", "tiny-joint"}
    page = files["table"].read_text()
    for row in result.rows:
        assert f"| {row.label} |" in page
    assert all(path.name in page for path in files.values() if path.suffix == ".png")
    lines = table_lines(result)
    assert len(lines) == 1 + len(result.rows)


def test_the_same_seed_gives_the_same_figures(
    result: BenchmarkResult, bank: StructureBank, single_weights: Path
) -> None:
    again = run_benchmark(bank, replace(SMALL, models=(str(single_weights),), sweep_sizes=()))
    for name in ("noisy", "wiener", "tiny-unet"):
        first, second = (next(row for row in r.rows if row.name == name) for r in (result, again))
        assert np.array_equal(first.energies["ctf-0.1"].relative, second.energies["ctf-0.1"].relative)


def test_without_models_the_classical_methods_are_left(bank: StructureBank) -> None:
    settings = replace(SMALL, models=(), conditions=(GAUSSIAN,), sweep_sizes=(), shown=1, structures=2)
    result = run_benchmark(bank, settings)
    assert [row.name for row in result.rows] == ["noisy", "wiener", "class-average", "oracle"]
    assert result.effective(result.rows[1], GAUSSIAN) is None
    assert result.structures == ("A", "B")
    assert "K_eff" in result.notes[-1]


def test_cwf_is_shown_beside(result: BenchmarkResult, bank: StructureBank, tmp_path: Path) -> None:
    path = tmp_path / "cwf.json"
    path.write_text('{"relative_mse": {"0.1": {"mean": 0.1234}}}')
    few = replace(SMALL, models=(), conditions=(GAUSSIAN,), sweep_sizes=(), shown=1, structures=2)
    with pytest.raises(PolariceError, match=r"cwf\.json"):
        run_benchmark(bank, few, cwf=path)
    path.write_text('{"relative_mse": {"0.10": {"mean": 0.1234, "low": 0.1, "high": 0.2}}}')
    found = run_benchmark(bank, few, cwf=path)
    assert "(CWF) | 0.123 (0.100–0.200) |" in markdown(found, {})
    assert "0.123" in table_lines(found)[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"structures": 1}, "two structures"),
        ({"strangers": 4}, "strangers"),
        ({"sweep_sizes": (2, 3)}, "divide"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, object], words: str, bank: StructureBank) -> None:
    with pytest.raises(PolariceError, match=words):
        run_benchmark(bank, replace(SMALL, **change))  # type: ignore[arg-type]

"""Adaptation: who is learned from, what is kept, and that an interruption changes nothing."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from polarice.denoising import DenoiseSettings, denoise_stack
from polarice.errors import ModelError, OutputError, ParticleFileError, PolariceError
from polarice.models import load_model, read_card
from polarice.neighbours import NOBODY
from polarice.particles import ParticleStack
from polarice.simulation import SimulationResult, example_structure, simulate
from polarice.stacks import GivenNeighbours, PreparedStack, open_stack
from polarice.training import AdaptSettings, adapt, adapter
from polarice.training.adapter import Adapter
from polarice.training.held_out import hold_out


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    """160 particles of the example protein: box 32, CTF, sets of sixteen, half sets."""
    folder = tmp_path_factory.mktemp("stack")
    return simulate(
        example_structure(), folder, particles=160, box=32, snr=0.3, ctf=True, views="sets", set_size=16
    )


@pytest.fixture(scope="module")
def settings(joint_weights: Path) -> AdaptSettings:
    return AdaptSettings(
        model=str(joint_weights),
        neighbours=6,
        steps=4,
        device="cpu",
        mixed_precision=False,
        learning_rate=3e-3,
    )


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_CHECK_EVERY", 2)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_model(path)[0].state_dict()


def alike(first: Path, second: Path) -> bool:
    one, other = tensors(first), tensors(second)
    return all(torch.equal(one[name], other[name]) for name in one)


def test_nobody_held_out_is_learned_from() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.choice(np.delete(np.arange(300), i), 8, replace=False) for i in range(300)])
    rows[rng.random(rows.shape) < 0.1] = NOBODY
    original = np.arange(300)
    original[200:220] = np.arange(20)
    members = np.arange(250)
    division = hold_out(rows, original, members, 3)
    judging = np.concatenate(division.judges)
    assert len(judging) == len(np.unique(judging))
    assert np.isin(judging, members).all()
    assert not np.isin(division.training, judging).any()
    # Nor are copies of their pixels.
    assert not np.isin(original[division.training], original[judging]).any()
    assert 0.1 < division.held_out.sum() / len(members) < 0.4
    assert hold_out(rows, original, members, 4).judges[0].tolist() != division.judges[0].tolist()


def test_pixels_of_held_out_particles_change_no_weight(
    stack: SimulationResult, settings: AdaptSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = open_stack(stack.particles, settings)
    rows = np.array([[(16 * (i // 16) + (i + j) % 16) for j in range(1, 7)] for i in range(160)])
    division = hold_out(rows, np.arange(160), np.arange(160), 0)

    def learned(change: float) -> dict[str, torch.Tensor]:
        network, _ = load_model(settings.model)
        prepared = PreparedStack.measure(opened, settings, 32, torch.device("cpu"), lambda *_: None)
        seen = PreparedStack.seen

        def changed(self: PreparedStack, some: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
            images, ctf = seen(self, some)
            images[torch.from_numpy(division.held_out[some])] *= change
            return images, ctf

        monkeypatch.setattr(PreparedStack, "seen", changed)
        made = Adapter(network, prepared, rows, division, settings, "")
        made.run(tmp_path / f"{change}.pt", None)
        monkeypatch.setattr(PreparedStack, "seen", seen)
        return made.average.state_dict()

    as_they_are, turned = learned(1.0), learned(-2.0)
    assert all(torch.equal(as_they_are[name], turned[name]) for name in as_they_are)


@pytest.fixture(scope="module")
def adapted(
    stack: SimulationResult, settings: AdaptSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, float]]:
    """A run whose end is not in question: any change of random weights is taken for one for the better."""
    out = tmp_path_factory.mktemp("adapted") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter, "_CHECK_EVERY", 2)
        patch.setattr("polarice.training.adaptation._SIGNIFICANCE", 1.1)
        patch.setattr("polarice.training.adaptation._LEAST_GAIN", -math.inf)
        result = adapt(stack.particles, out, settings)
    assert result.finished
    assert result.better
    return out, result.summary()


def test_a_run_leaves_weights_that_denoise(
    adapted: tuple[Path, dict[str, float]], stack: SimulationResult, settings: AdaptSettings, tmp_path: Path
) -> None:
    out, figures = adapted
    names = ["adapt.json", "adapted.safetensors", "checkpoint.pt", "curves.png", "neighbours.npz"]
    assert sorted(path.name for path in out.iterdir()) == names
    card = read_card(out / "adapted.safetensors")
    assert card.figures["adapted_to"] == "particles.star"
    assert card.figures["adapted_to_half_set"] == "both"
    assert card.figures["adapted_to_particles"] + card.figures["adapted_held_out"] == 160
    assert json.loads((out / "adapt.json").read_text())["figures"]["history"] == [
        dict(entry)
        for entry in figures["history"]  # type: ignore[attr-defined]
    ]
    weights = out / "adapted.safetensors"
    before, after = tensors(Path(settings.model)), tensors(weights)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # How much counts, and no feature.
    assert {"skip", "head.weight", "rounds.0.threshold", "rounds.1.refine.enter.conv.gain"} <= changed
    assert not any(name.split(".")[0] in ("centring", "encoder", "embed") for name in changed)
    assert not any(
        name.endswith(("match.weight", "conv.kernel", "hidden.weight"))
        for name in changed - {"gain.hidden.weight"}
    )
    result = denoise_stack(
        stack.particles,
        tmp_path / "denoised",
        DenoiseSettings(
            model=str(weights), neighbours=6, neighbours_from=out, device="cpu", mixed_precision=False
        ),
    )
    assert np.isfinite(ParticleStack.open(result.star).images(slice(None))).all()
    assert any("half set" in notice and "adapted" in notice for notice in result.notices)
    # The grey scale is learned: it is neither measured nor said to be uncertain.
    assert (result.gains == 1).all()
    assert not any("grey scale" in notice for notice in result.notices)


def test_the_first_look_and_with_it_the_neighbours_stay(
    adapted: tuple[Path, dict[str, float]], stack: SimulationResult, settings: AdaptSettings
) -> None:
    out, _ = adapted
    prepared = PreparedStack.measure(
        open_stack(stack.particles, settings), settings, 32, torch.device("cpu"), lambda *_: None
    )
    images, ctf = prepared.seen(slice(0, 16))
    networks = [load_model(path)[0] for path in (Path(settings.model), out / "adapted.safetensors")]
    with torch.inference_mode():
        (state, codes), (other, others_codes) = (network.encode(images, ctf) for network in networks)
    assert torch.equal(codes, others_codes)
    assert torch.equal(state.centre, other.centre)
    halves = prepared.halves
    rows = GivenNeighbours.load(out, prepared.stack, 6).rows
    there = rows != NOBODY
    assert (halves[rows] == halves[:, None])[there].all()


def test_an_interruption_changes_nothing(
    adapted: tuple[Path, dict[str, float]],
    stack: SimulationResult,
    settings: AdaptSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polarice.training.adaptation._SIGNIFICANCE", 1.1)
    monkeypatch.setattr("polarice.training.adaptation._LEAST_GAIN", -math.inf)

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "learn" and done == 3:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        adapt(stack.particles, out, settings, progress=interrupt)
    assert not (out / "adapted.safetensors").exists()
    with pytest.raises(OutputError, match="another stack"):
        adapt(stack.particles, out, replace(settings, seed=1), resume=True)
    stopped = adapt(stack.particles, out, settings, resume=True, max_minutes=0)
    assert not stopped.finished
    assert any("--resume" in notice for notice in stopped.notices)
    result = adapt(stack.particles, out, settings, resume=True)
    assert result.finished
    assert result.summary()["history"] == adapted[1]["history"]
    assert alike(result.weights, adapted[0] / "adapted.safetensors")


@pytest.mark.parametrize(("rate", "uphill"), [(3e-3, True), (1e30, False)])
def test_what_does_not_help_is_not_kept(
    rate: float,
    uphill: bool,
    stack: SimulationResult,
    settings: AdaptSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.optim, "Adam", partial(torch.optim.Adam, maximize=uphill))
    result = adapt(stack.particles, tmp_path / "out", replace(settings, learning_rate=rate))
    assert not result.better
    assert any("beyond chance" in notice for notice in result.notices)
    assert alike(result.weights, Path(settings.model))
    figures = result.card.figures
    assert figures["adapted_steps"] == 0
    assert figures["adapted_error_after"] == figures["adapted_error_before"]
    assert math.isfinite(figures["adapted_error_difference"])


def test_one_half_set_knows_nothing_of_the_other(
    stack: SimulationResult, settings: AdaptSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polarice.training.adaptation._FEWEST", 64)
    result = adapt(stack.particles, tmp_path / "out", replace(settings, half=1, steps=2))
    assert result.card.figures["adapted_to_half_set"] == 1
    halves = np.asarray(ParticleStack.open(stack.particles).half_sets)
    assert (halves[result.held_out] == 1).all()
    assert result.card.figures["adapted_to_particles"] + result.held_out.sum() == (halves == 1).sum()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": 0}, PolariceError, "at least one step"),
        ({"half": 3}, ParticleFileError, "0 particles of half set 3"),
        ({"neighbours": 100}, ParticleFileError, "too few for 100 neighbours"),
        ({"learning_rate": -1.0}, PolariceError, "must be positive"),
    ],
)
def test_bad_settings(
    stack: SimulationResult,
    settings: AdaptSettings,
    tmp_path: Path,
    changes: dict[str, int],
    error: type[PolariceError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        adapt(stack.particles, tmp_path / "out", replace(settings, **changes))
    assert not (tmp_path / "out").exists()


def test_bad_input(
    stack: SimulationResult,
    example_stack: SimulationResult,
    altered: Callable[..., Path],
    settings: AdaptSettings,
    single_weights: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ParticleFileError, match="too few to learn from"):
        adapt(example_stack.particles, out, settings)
    with pytest.raises(ModelError, match="no embedding"):
        adapt(stack.particles, out, replace(settings, model=str(single_weights)))
    with pytest.raises(OutputError, match="no run to resume"):
        adapt(stack.particles, out, settings, resume=True)
    unlabelled = altered(tmp_path / "unlabelled", drop=["rlnRandomSubset"])
    with pytest.raises(ParticleFileError, match="no half sets"):
        adapt(unlabelled, out, replace(settings, half=1))
    assert not out.exists()

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polarice.errors import DeviceError, ModelError, OutputError, RecipeError
from polarice.models import load_model
from polarice.simulation.bank import StructureBank
from polarice.training import Recipe, train

Make = Callable[..., Recipe]


def run(recipe: Recipe, bank: StructureBank, out: Path, **options: Any) -> dict[str, Any]:
    return train(recipe, bank, out, device="cpu", **options)


def checkpoint(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "checkpoint.pt", weights_only=True)
    return state


@pytest.mark.parametrize("architecture", ["polar-transformer", "unet"])
def test_a_tiny_network_learns(architecture: str, recipe: Make, bank: StructureBank, tmp_path: Path) -> None:
    chosen = recipe(
        optimiser={
            "images": 640,
            "learning_rate": 5e-3,
            "kernel_learning_rate": 5e-3,
            "ema": 0.9,
            "decay_images": 200,
        },
        run={"validate_every": 320},
    )
    if architecture == "unet":
        chosen = replace(chosen, architecture="unet", model={"box": 32, "widths": [8, 16]})
    # A step so small that the first validation sees the random start.
    slow = {"images": 8, "learning_rate": 1e-12, "kernel_learning_rate": 1e-12}
    still = replace(chosen, optimiser=replace(chosen.optimiser, **slow))
    start = run(still, bank, tmp_path / "start")["as_trained"]
    figures = run(chosen, bank, tmp_path / "run")
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [entry["images"] for entry in history] == [320, 640]
    assert history[1]["as_trained"] < history[0]["as_trained"] < start
    # Zero everywhere has the error one.
    assert history[1]["as_trained"] < 0.25 < 0.9 < start
    assert history[1]["relative_mse"] < history[0]["relative_mse"]
    assert figures["images"] == 640
    assert figures["as_trained"] == history[1]["as_trained"]


def test_files_of_a_run(recipe: Make, bank: StructureBank, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    seen: list[dict[str, float]] = []
    chosen = recipe()
    run(chosen, bank, out, log=seen.append)
    assert sorted(file.name for file in out.iterdir()) == [
        "checkpoint.pt",
        "curves.png",
        "history.json",
        "weights.safetensors",
    ]
    assert [entry["images"] for entry in seen] == [32, 64]
    assert json.loads((out / "history.json").read_text()) == seen
    model, card = load_model(out / "weights.safetensors")
    assert card.architecture == "polar-transformer"
    assert card.figures["images_seen"] == 64
    assert card.figures["as_trained"] == seen[-1]["as_trained"]
    # The card holds the whole recipe: a run can be repeated from its weights alone.
    assert Recipe.from_tables(card.recipe) == chosen
    for name, value in model.state_dict().items():
        assert torch.equal(value, checkpoint(out)["average"][name])


def assert_same_end(first: Path, second: Path) -> None:
    """Bit for bit: weights, their mean, the optimiser, what was logged but for the times."""
    one, two = checkpoint(first), checkpoint(second)
    for part in ("model", "average"):
        for name in one[part]:
            assert torch.equal(one[part][name], two[part][name]), name
    assert len(one["optimisers"]) == 2
    for mine, theirs in zip(one["optimisers"], two["optimisers"], strict=True):
        for index, state in mine["state"].items():
            for name, value in state.items():
                assert torch.equal(value, theirs["state"][index][name])
    assert one["step"] == two["step"]
    last, other = ({k: v for k, v in c["history"][-1].items() if k != "images_per_s"} for c in (one, two))
    assert last == other


def test_runs_repeat(recipe: Make, bank: StructureBank, tmp_path: Path) -> None:
    run(recipe(), bank, tmp_path / "one")
    torch.rand(5)
    run(recipe(), bank, tmp_path / "two")
    assert_same_end(tmp_path / "one", tmp_path / "two")


def test_a_stopped_run_ends_like_an_uninterrupted_one(
    recipe: Make, bank: StructureBank, tmp_path: Path
) -> None:
    run(recipe(), bank, tmp_path / "whole")
    stopped = run(recipe(), bank, tmp_path / "parts", max_minutes=0)
    assert stopped["images"] == 8  # one step, then out of time
    torch.rand(5)
    run(recipe(), bank, tmp_path / "parts", resume=True)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    recipe: Make, bank: StructureBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(recipe(), bank, tmp_path / "whole")
    out = tmp_path / "killed"
    step, steps = torch.optim.Adam.step, []

    def dying(self: torch.optim.Adam, *arguments: Any, **options: Any) -> Any:
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(), bank, out)
    monkeypatch.undo()
    assert checkpoint(out)["step"] == 4
    run(recipe(), bank, out, resume=True)
    assert_same_end(tmp_path / "whole", out)
    assert len(checkpoint(out)["history"]) == len(checkpoint(tmp_path / "whole")["history"])


def test_a_finished_run_may_be_made_longer(recipe: Make, bank: StructureBank, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(recipe(optimiser={"images": 32}), bank, out)
    figures = run(recipe(optimiser={"images": 64, "learning_rate": 5e-4}), bank, out, resume=True)
    assert figures["images"] == 64
    # And nothing happens to one that is over.
    before = checkpoint(out)["model"]
    assert run(recipe(optimiser={"images": 64}), bank, out, resume=True)["images"] == 64
    for name, value in checkpoint(out)["model"].items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"widths": [8, 8]}}, "another model"),
        ({"data": {"set_size": 2}}, r"another set_size in \[data\]"),
        ({"run": {"seed": 1}}, r"another seed in \[run\]"),
        ({"optimiser": {"sets_per_step": 1}}, r"another sets_per_step in \[optimiser\]"),
    ],
)
def test_another_recipe_does_not_resume(
    changes: dict[str, Any], message: str, recipe: Make, bank: StructureBank, tmp_path: Path
) -> None:
    run(recipe(optimiser={"images": 8}), bank, tmp_path / "run")
    with pytest.raises(RecipeError, match=message):
        run(recipe(**changes), bank, tmp_path / "run", resume=True)


def test_runs_are_not_overwritten(recipe: Make, bank: StructureBank, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(OutputError, match="there is no run to resume"):
        run(recipe(), bank, out, resume=True)
    run(recipe(optimiser={"images": 8}), bank, out)
    with pytest.raises(OutputError, match=r"there is a run already\. Go on with --resume"):
        run(recipe(), bank, out)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"run": {"held_out": 6}}, RecipeError, "the bank has 6 structures and 6 are to be held out"),
        ({"model": {"box": 16}}, RecipeError, "takes boxes of 16 pixels and the data has 32"),
        ({"model": {"depth": 3}}, ModelError, "polar-transformer has no entry depth"),
        ({"model": {"widths": [4, 6]}}, ModelError, "polar-transformer cannot be built"),
    ],
)
def test_recipes_that_do_not_fit_leave_nothing_behind(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    recipe: Make,
    bank: StructureBank,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        run(recipe(**changes), bank, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_absent_device_is_an_error(recipe: Make, bank: StructureBank, tmp_path: Path) -> None:
    absent = next(kind for kind, there in _present().items() if not there)
    with pytest.raises(DeviceError, match=f"the device {absent} is absent"):
        train(recipe(), bank, tmp_path / "run", device=absent)


def _present() -> dict[str, bool]:
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def test_mixed_precision_trains(recipe: Make, bank: StructureBank, tmp_path: Path) -> None:
    figures = run(recipe(run={"precision": "bf16-mixed"}), bank, tmp_path / "run")
    assert math.isfinite(figures["as_trained"])
    state = checkpoint(tmp_path / "run")["model"]
    assert all(value.dtype == torch.float32 for value in state.values() if isinstance(value, Tensor))


def test_a_run_may_begin_from_trained_weights(recipe: Make, bank: StructureBank, tmp_path: Path) -> None:
    first = run(recipe(), bank, tmp_path / "first")
    weights = tmp_path / "first" / "weights.safetensors"
    still = {"images": 8, "learning_rate": 1e-12, "kernel_learning_rate": 1e-12}
    second = run(recipe(optimiser=still), bank, tmp_path / "second", start=weights)
    assert second["as_trained"] == pytest.approx(first["as_trained"], rel=1e-4)
    # What was learned before counts.
    card = load_model(tmp_path / "second" / "weights.safetensors")[1]
    assert card.figures["images_seen"] == 72
    with pytest.raises(RecipeError, match="holds another network"):
        run(recipe(model={"widths": [8, 8]}), bank, tmp_path / "third", start=weights)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_the_gpu(recipe: Make, bank: StructureBank, tmp_path: Path) -> None:
    figures = train(recipe(), bank, tmp_path / "run", device="cuda:0")
    assert math.isfinite(figures["as_trained"])

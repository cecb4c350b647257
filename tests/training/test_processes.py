"""Several processes under torchrun do what one does."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from polarice.simulation.bank import StructureBank
from polarice.training import Recipe, train

SCRIPT = """
import sys
from pathlib import Path
from polarice.simulation.bank import StructureBank
from polarice.training import Recipe, train
folder = Path(sys.argv[1])
bank = StructureBank.load(folder / "bank.npz")
train(Recipe.load(folder / "recipe.toml"), bank, folder / "two", device="cpu")
"""


def to_toml(recipe: Recipe) -> str:
    tables = recipe.to_tables()
    return "\n".join(
        f"[{name}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
        for name, table in tables.items()
    )


def test_two_processes_are_one(recipe: Callable[..., Recipe], bank: StructureBank, tmp_path: Path) -> None:
    """The same errors step by step, and the same weights in the end but for what the order of sums does."""
    chosen = recipe(optimiser={"images": 48}, run={"validate_every": 8})
    (tmp_path / "recipe.toml").write_text(to_toml(chosen))
    bank.save(tmp_path / "bank.npz")
    (tmp_path / "run.py").write_text(SCRIPT)
    train(chosen, bank, tmp_path / "one", device="cpu")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "run.py"), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("one", "two"))
    assert [entry["images"] for entry in two] == [8, 16, 24, 32, 40, 48]
    for mine, theirs in zip(one, two, strict=True):
        for name in ("relative_mse", "as_trained"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3)
    weights = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in ("one", "two")
    ]
    one_weights, two_weights = (torch.cat([v.flatten() for v in state.values()]) for state in weights)
    assert float((two_weights - one_weights).norm()) < 1e-2 * float(one_weights.norm())

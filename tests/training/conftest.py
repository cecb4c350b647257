"""A tiny recipe and bank: a run of them takes a second or two."""

from typing import Any

import numpy as np
import pytest

from polarice.simulation.bank import StructureBank
from polarice.simulation.structure import Structure
from polarice.training import Recipe


def tiny_recipe(**changes: dict[str, Any]) -> Recipe:
    """A recipe of small networks on small images; ``changes`` are entries of its tables."""
    tables: dict[str, dict[str, Any]] = {
        "model": {
            "architecture": "polar-transformer",
            "box": 32,
            "widths": [4, 8],
            "coarse_widths": [4, 8],
            "coarse_rounds": 1,
            "fine_rounds": 1,
            "embedding": 8,
        },
        "data": {"box": 32, "set_size": 4, "snr": [0.1, 0.3], "ctf": 0.0, "max_shift_px": 0.0},
        "optimiser": {"images": 64, "sets_per_step": 2, "warmup_images": 8, "decay_images": 16},
        "run": {"held_out": 2, "validate_every": 32, "precision": "32-true"},
    }
    for name, entries in changes.items():
        tables[name] |= entries
    return Recipe.from_tables(tables)


@pytest.fixture(scope="session")
def recipe() -> Any:
    return tiny_recipe


@pytest.fixture(scope="session")
def bank() -> StructureBank:
    """Six random heaps of 200 atoms."""
    rng = np.random.default_rng(0)
    return StructureBank.from_structures(
        Structure(f"heap {i}", rng.normal(0, 15, (200, 3)).astype(np.float32), np.full(200, 6, np.uint8))
        for i in range(6)
    )

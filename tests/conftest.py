"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real structures and particle stacks; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("POLARICE_DATA", default))
    if not folder.is_dir():
        pytest.skip("the real data is absent (set POLARICE_DATA to its folder)")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded random generator on the CPU."""
    return torch.Generator().manual_seed(0)

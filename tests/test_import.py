"""What is imported when: heavy libraries only where they are used."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "matplotlib", "scipy", "faiss", "lightning_fabric", "gemmi", "mrcfile", "safetensors"}


def imported_by(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has after a statement."""
    code = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["polarice", "polarice.cli", "polarice.errors"])
def test_light_modules(module: str) -> None:
    assert not imported_by(f"import {module}") & (HEAVY | {"numpy"})


def test_help_needs_nothing_heavy() -> None:
    run = "from polarice.cli import main\ntry: main(['denoise', '--help'])\nexcept SystemExit: pass"
    assert not imported_by(run) & HEAVY


def test_particles_need_no_networks() -> None:
    """Reading a STAR file draws nothing and trains nothing."""
    assert not imported_by("import polarice.particles") & {"matplotlib", "faiss", "lightning_fabric"}


def test_denoising_draws_and_trains_nothing() -> None:
    assert not imported_by("import polarice.denoising") & {"matplotlib", "lightning_fabric"}

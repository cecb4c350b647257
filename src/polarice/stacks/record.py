"""What tells runs apart, and what each leaves beside its results: how it was set, and its figures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from .. import __version__
from ..files import whole
from ..models import ModelCard
from ..particles import ParticleStack, Preprocessor, StackScan
from .settings import StackSettings

__all__ = ["resolved_configuration", "run_identity", "write_record"]


class _Result(Protocol):
    """Whatever a run returns."""

    @property
    def files(self) -> dict[str, str]:
        """Files written, and what they are."""

    def configuration(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""

    def summary(self) -> dict[str, Any]:
        """Figures of the run as plain values."""


def resolved_configuration(
    source: Path, settings: StackSettings, preprocessor: Preprocessor, card: ModelCard
) -> dict[str, Any]:
    """All that a run was told and has chosen, as plain values."""
    told = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(settings).items()}
    return {
        "polarice": __version__,
        "source": str(source),
        "settings": told,
        "preprocessing": preprocessor.summary(),
        "model": asdict(card),
    }


def run_identity(stack: ParticleStack, found: StackScan, settings: StackSettings, network: nn.Module) -> str:
    """Tells runs apart by all that determines their result: rows and pixels, settings, weights, version."""
    told = {name: str(value) for name, value in asdict(settings).items()}
    digest = hashlib.sha256(json.dumps([__version__, told]).encode())
    for table in stack.tables:
        digest.update(json.dumps([table.name, table.columns]).encode())
    for values in (found.statistics.background, found.statistics.noise_sigma, *network.state_dict().values()):
        digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()


def write_record(path: Path, result: _Result) -> None:
    """Write configuration and figures as JSON, whole or not at all, and count it among the files."""
    result.files[str(path)] = "resolved configuration and figures"
    text = json.dumps({"configuration": result.configuration(), "figures": result.summary()}, indent=1)
    with whole(path) as partial:
        partial.write_text(text)

"""Recipes: everything that defines a training run, as a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ..errors import RecipeError
from ..models.registry import ARCHITECTURES
from ..simulation.sampler import SamplerConfig

__all__ = ["OptimiserConfig", "Recipe", "RunConfig"]

T = TypeVar("T")
Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class OptimiserConfig:
    """How the weights are moved: Muon and Adam, a warm-up, a plateau and a decay to zero.

    Attributes
    ----------
    learning_rate : float
        Of Adam, on the plateau.
    kernel_learning_rate : float
        Of Muon, which moves the kernels of convolutions, on the plateau.
    images : int
        Images seen in all.
    warmup_images, decay_images : int
        Length of the rise and of the cosine fall at the end. A run that is resumed with more images
        just stays on the plateau for longer.
    sets_per_step : int
        Sets in a batch, over all devices.
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay of the running mean of the weights, which is what is kept in the end.
    contrast : float
        Weight of the embedding's contrastive loss (joint networks).
    alignment : float
        Weight of the surprise, in nats, at the true angles between images of one view (joint networks), mean
        over the rounds.
    centring : float
        Weight of the squared error of the particles' centres, px² (polar networks).
    """

    learning_rate: float = 1e-3
    kernel_learning_rate: float = 2e-3
    images: int = 200_000
    warmup_images: int = 5_000
    decay_images: int = 50_000
    sets_per_step: int = 4
    clip: float = 1.0
    ema: float = 0.998
    contrast: float = 0.05
    alignment: float = 0.03
    centring: float = 0.01


@dataclass(frozen=True)
class RunConfig:
    """How the run goes.

    Attributes
    ----------
    seed : int
    held_out : int
        Structures of the bank that are kept for validation.
    validate_every : int
        Images between two validations and checkpoints.
    precision : str
        Lightning Fabric's: ``32-true`` or ``bf16-mixed``.
    """

    seed: int = 0
    held_out: int = 40
    validate_every: int = 10_000
    precision: Precision = "bf16-mixed"


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes
    ----------
    architecture : str
        Key of `polarice.models.registry.ARCHITECTURES`.
    model : dict
        Fields of that architecture's configuration.
    data : SamplerConfig
    optimiser : OptimiserConfig
    run : RunConfig
    """

    architecture: str
    model: dict[str, Any]
    data: SamplerConfig
    optimiser: OptimiserConfig
    run: RunConfig

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a TOML file.

        Raises
        ------
        RecipeError
            The file is missing or unreadable, or has an unknown or wrong entry.
        """
        if not path.is_file():
            raise RecipeError("no such recipe", path=path)
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"not TOML ({error})", path=path) from error
        return cls.from_tables(tables, path)

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any], path: Path | None = None) -> Recipe:
        """Make a recipe of nested tables ``model``, ``data``, ``optimiser`` and ``run``."""
        unknown = sorted(set(tables) - {"model", "data", "optimiser", "run"})
        if unknown:
            hint = "a recipe has the tables model, data, optimiser, run"
            raise RecipeError(f"unknown table {unknown[0]!r}", path=path, hint=hint)
        for name, table in tables.items():
            if not isinstance(table, Mapping):
                raise RecipeError(f"{name} must be a table", path=path, hint=f"begin it with [{name}]")
        model = dict(tables.get("model", {}))
        architecture = model.pop("architecture", None)
        if architecture not in ARCHITECTURES:
            hint = f"set architecture in [model] to one of {', '.join(ARCHITECTURES)}"
            raise RecipeError(f"unknown architecture {architecture!r}", path=path, hint=hint)
        return cls(
            architecture,
            model,
            _table(SamplerConfig, tables.get("data", {}), "data", path),
            _table(OptimiserConfig, tables.get("optimiser", {}), "optimiser", path),
            _table(RunConfig, tables.get("run", {}), "run", path),
        )

    def to_tables(self) -> dict[str, Any]:
        """The resolved recipe as nested plain tables."""
        return {
            "model": {"architecture": self.architecture, **self.model},
            "data": asdict(self.data),
            "optimiser": asdict(self.optimiser),
            "run": asdict(self.run),
        }


def _table(kind: type[T], table: Mapping[str, Any], name: str, path: Path | None) -> T:
    """A dataclass of a TOML table, with every entry checked."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise RecipeError(f"[{name}] has no entry {key!r}", path=path, hint=f"it has {', '.join(known)}")
        default = known[key].default
        if isinstance(default, tuple):
            if not isinstance(value, list) or len(value) != len(default) or not all(map(_is_number, value)):
                raise RecipeError(f"[{name}] {key} must be a list of {len(default)} numbers", path=path)
            values[key] = tuple(type(default[0])(item) for item in value)
        elif isinstance(default, float) and _is_number(value):
            values[key] = float(value)
        elif type(value) is type(default):
            values[key] = value
            if key == "precision" and value not in get_args(Precision):
                raise RecipeError(
                    f"[{name}] unknown precision {value!r}",
                    path=path,
                    hint=f"choose from {', '.join(get_args(Precision))}",
                )
        else:
            wanted = type(default).__name__
            raise RecipeError(f"[{name}] {key} must be of type {wanted}, not {value!r}", path=path)
    return kind(**values)


def _is_number(value: Any) -> bool:
    """Whether TOML gave a number; true and false are integers to Python."""
    return isinstance(value, int | float) and not isinstance(value, bool)

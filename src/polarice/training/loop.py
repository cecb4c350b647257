"""The training loop: one for every network, resumable to the bit, on any number of devices."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..devices import resolve_device
from ..errors import OutputError, RecipeError
from ..files import whole
from ..models.registry import ModelCard, build_model, save_model
from ..simulation.bank import StructureBank
from ..simulation.sampler import SamplerConfig, SetBatch, SetSampler
from .curves import training_curves
from .objectives import relative_squared_error, view_contrast
from .recipe import OptimiserConfig, Recipe

__all__ = ["denoise_batch", "learning_rate", "train"]

_VALIDATION_SETS = 16
_LOG_EVERY_S = 30.0
# Steps over which the error is averaged for the log.
_RECENT = 50


def learning_rate(images: int, config: OptimiserConfig) -> float:
    """Learning rate after a number of images: linear rise, plateau, cosine fall to zero."""
    rise = min(1.0, (images + 1) / max(config.warmup_images, 1))
    left = (config.images - images) / max(config.decay_images, 1)
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, left)))
    return config.learning_rate * rise * fall


def denoise_batch(model: nn.Module, batch: SetBatch) -> tuple[Tensor, Tensor | None]:
    """Denoise a batch of sets by a joint or a single-image network.

    Returns
    -------
    images : Tensor, shape (s, k, y, x)
    embedding : Tensor, shape (s, k, e), or None from a single-image network
    """
    if getattr(model, "jointly", False):
        output = model(batch.noisy, batch.mask, batch.ctf)
        return output.images, output.embedding
    return model(batch.noisy.flatten(0, 1), batch.ctf.flatten(0, 1)).view_as(batch.noisy), None


def validation_samplers(
    bank: StructureBank, data: SamplerConfig, device: torch.device
) -> dict[str, SetSampler]:
    """What validation looks at: the paper's directional sets at SNR 0.03, and the recipe's own mixture."""
    paper = replace(
        data,
        set_size=8,
        directional=1.0,
        general=0.0,
        neighbourhood=0.0,
        snr=(0.03, 0.03),
        ctf=0.0,
        max_shift_px=0.0,
        crowded=0.0,
        divided=0.0,
    )
    return {
        "directional_snr_0.03": SetSampler(bank, paper, seed=1, device=device),
        "as_trained": SetSampler(bank, data, seed=1, device=device),
    }


class _Trainer:
    """State of one run."""

    def __init__(self, recipe: Recipe, bank: StructureBank, out: Path, fabric: Fabric) -> None:
        self.recipe, self.out, self.fabric = recipe, out, fabric
        if len(bank) <= recipe.run.held_out:
            reason = f"the bank has {len(bank)} structures and {recipe.run.held_out} are to be held out"
            raise RecipeError(reason, hint="build a larger bank or lower held_out in [run]")
        sets = recipe.optimiser.sets_per_step
        if sets % fabric.world_size:
            reason = f"{sets} sets a step cannot be shared by {fabric.world_size} devices"
            raise RecipeError(reason, hint="make sets_per_step in [optimiser] a multiple of the devices")
        training, validation = bank.split(recipe.run.held_out, seed=0)
        self.sampler = SetSampler(training, recipe.data, seed=recipe.run.seed, device=fabric.device)
        self.validation = validation_samplers(validation, recipe.data, fabric.device)
        torch.manual_seed(recipe.run.seed)
        self.model: nn.Module = build_model(recipe.architecture, recipe.model)
        if self.model.box != recipe.data.box:
            reason = f"the network takes boxes of {self.model.box} pixels and the data has {recipe.data.box}"
            raise RecipeError(reason, hint="set the same box in [model] and [data]")
        self.average = copy.deepcopy(self.model).requires_grad_(False).to(fabric.device).eval()
        optimiser = torch.optim.Adam(self.model.parameters(), lr=recipe.optimiser.learning_rate)
        self.wrapped, self.optimiser = fabric.setup(self.model, optimiser)
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.recent: list[float] = []

    @property
    def images(self) -> int:
        """Images seen so far."""
        return self.step * self.recipe.optimiser.sets_per_step * self.recipe.data.set_size

    def train_step(self) -> None:
        """One step of the optimiser; the relative squared error of its sets joins the recent ones."""
        config, fabric = self.recipe.optimiser, self.fabric
        share = config.sets_per_step // fabric.world_size
        first = self.step * config.sets_per_step + fabric.global_rank * share
        batch: SetBatch = self.sampler.batch(first, share)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.images, config)
        images, embedding = denoise_batch(self.wrapped, batch)
        error = relative_squared_error(images, batch.clean)
        loss = error
        if embedding is not None and config.contrast > 0:
            loss = loss + config.contrast * view_contrast(embedding, batch.rotations)
        self.optimiser.zero_grad()
        fabric.backward(loss)
        norm = fabric.clip_gradients(
            self.wrapped, self.optimiser, max_norm=config.clip, error_if_nonfinite=False
        )
        # One overflow must not poison the optimiser's memory: such a step is left out.
        if norm is None or bool(norm.isfinite()):
            self.optimiser.step()
        self.step += 1
        # Early on the mean must follow fast, or it would remember the random start.
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.state_dict().values(), self._state().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - decay)
                else:
                    mean.copy_(now)
        self.recent = [*self.recent[1 - _RECENT :], float(error.detach())]

    def _state(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def validate(self) -> dict[str, float]:
        """Relative MSE of the averaged weights on held-out structures."""
        figures = {}
        for name, sampler in self.validation.items():
            error = power = 0.0
            with torch.no_grad():
                for first in range(0, _VALIDATION_SETS, 4):
                    batch = sampler.batch(first, 4)
                    with self.fabric.autocast():
                        images, _ = denoise_batch(self.average, batch)
                    error += float((images - batch.clean).square().sum())
                    power += float(batch.clean.square().sum())
            figures[name] = error / power
        return figures

    def save(self) -> None:
        """Checkpoint, weights, history and curves; each whole or not at all."""
        state = {
            "model": self._state(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "recent": self.recent,
            "recipe": self.recipe.to_tables(),
        }
        with whole(self.out / "checkpoint.pt") as partial:
            torch.save(state, partial)
        figures = {"images_seen": self.images, "training_hours": round(self.seconds / 3600, 3)}
        last = {k: v for k, v in self.history[-1].items() if k in self.validation} if self.history else {}
        card = ModelCard(
            self.recipe.architecture, self.recipe.model, self.recipe.to_tables(), {**figures, **last}
        )
        save_model(self.out / "weights.safetensors", self.average, card)
        with whole(self.out / "history.json") as partial:
            partial.write_text(json.dumps(self.history, indent=1))
        if self.history:
            names = ("relative_mse", *self.validation)
            errors = {name: [(entry["images"], entry[name]) for entry in self.history] for name in names}
            rates = [(entry["images"], entry["learning_rate"]) for entry in self.history]
            training_curves(self.out / "curves.png", errors, rates)

    def load(self) -> None:
        """Go on from the checkpoint."""
        path = self.out / "checkpoint.pt"
        state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        # Runs begun before recipes were kept are taken as they are.
        tables = self.recipe.to_tables()
        mine, theirs = _identity(tables), _identity(state.get("recipe", tables))
        changed = [name for name in theirs if mine.get(name) != theirs[name]]
        if changed:
            hint = "resume with the recipe it was begun with; only its length and its rates may change"
            raise RecipeError(f"the run was begun with another {changed[0]}", path=path, hint=hint)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        self.recent = state.get("recent", [])


def _identity(tables: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe a resumed run must share with its beginning, for its images to be the same."""
    return {
        "model": tables["model"],
        **{f"{key} in [data]": value for key, value in tables["data"].items()},
        "sets_per_step in [optimiser]": tables["optimiser"]["sets_per_step"],
        "seed in [run]": tables["run"]["seed"],
        "held_out in [run]": tables["run"]["held_out"],
    }


def train(
    recipe: Recipe,
    bank: StructureBank,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    max_minutes: float | None = None,
    log: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Train a network.

    Parameters
    ----------
    recipe : Recipe
    bank : StructureBank
    out : Path
        Gets ``weights.safetensors`` (the averaged weights with their card), ``checkpoint.pt``,
        ``history.json`` and ``curves.png``.
    resume : bool
        Go on from the checkpoint in ``out``; a run that was interrupted and resumed ends like one that
        was not.
    device : str
        ``auto``, ``cpu``, ``cuda`` (all there are), ``cuda:N`` or ``mps``.
    max_minutes : float, optional
        Stop (with a checkpoint) after so much time.
    log : callable, optional
        Called now and then with the step's figures, and after each validation with all.

    Returns
    -------
    dict
        The figures of the last validation, images seen and images per second.

    Raises
    ------
    OutputError
        ``out`` holds a run already and ``resume`` is false, or holds none and ``resume`` is true.
    RecipeError
        The recipe does not fit the bank, the devices, itself, or the run that is to be resumed.
    ModelError
        The recipe's network cannot be built.
    DeviceError
        The device is absent.
    """
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise OutputError("there is a run already", path=out, hint="go on with --resume, or name another")
    if resume and not checkpoint.exists():
        raise OutputError("there is no run to resume", path=out, hint="start it without --resume")
    kind = resolve_device(device)
    devices: Any = "auto" if device == "cuda" else 1 if kind.index is None else [kind.index]
    fabric = Fabric(accelerator=kind.type, devices=devices, precision=recipe.run.precision)
    fabric.launch()
    trainer = _Trainer(recipe, bank, out, fabric)
    out.mkdir(parents=True, exist_ok=True)
    if resume:
        trainer.load()
    report = log or (lambda figures: None)
    start, start_images, start_seconds = time.monotonic(), trainer.images, trainer.seconds
    last_log, rate = start, 0.0
    while trainer.images < recipe.optimiser.images:
        before = trainer.images // recipe.run.validate_every
        trainer.train_step()
        now = time.monotonic()
        trainer.seconds = start_seconds + now - start
        rate = (trainer.images - start_images) / (now - start)
        current = {"images": trainer.images, "relative_mse": sum(trainer.recent) / len(trainer.recent)}
        current |= {"images_per_s": rate, "learning_rate": learning_rate(trainer.images, recipe.optimiser)}
        late = max_minutes is not None and now - start > 60 * max_minutes
        done = late or trainer.images >= recipe.optimiser.images
        if done or trainer.images // recipe.run.validate_every > before:
            current |= trainer.validate()
            trainer.history.append(current)
            if fabric.is_global_zero:
                trainer.save()
            report(current)
        elif now - last_log > _LOG_EVERY_S:
            last_log = now
            report(current)
        if late:
            break
    last = trainer.history[-1] if trainer.history else {}
    return {"images": trainer.images, "images_per_s": round(rate, 1), **last}

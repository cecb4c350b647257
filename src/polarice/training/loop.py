"""The training loop: one for every network, resumable to the bit, on any number of devices."""

from __future__ import annotations

import copy
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import Tensor, nn

from ..devices import keep_freed_memory, resolve_device
from ..errors import OutputError, RecipeError
from ..files import make_folder, prepare_output, whole
from ..models.centring import Centring, Recentring
from ..models.registry import ModelCard, build_model, load_model, save_model
from ..polar import AttentionResult
from ..simulation.bank import StructureBank
from ..simulation.sampler import SamplerConfig, SetBatch, SetSampler
from .curves import training_curves
from .objectives import alignment_surprise, bounded, relative_squared_error, squared_distance, view_contrast
from .optimiser import learning_rate, make_optimisers, set_learning_rate
from .recipe import Recipe

__all__ = ["Prediction", "denoise_batch", "predict", "train"]

_VALIDATION_SETS = 16
_LOG_EVERY_S = 30.0
# Steps over which the error is averaged for the log.
_RECENT = 50


class Prediction(NamedTuple):
    """What a network says of a batch of sets.

    Attributes
    ----------
    images : Tensor, shape (s, k, y, x)
    embedding : Tensor, shape (s, k, e), or None
        From networks that find neighbours.
    centre : Tensor, shape (s, k, 2), or None
        From networks that look for the particle, in pixels.
    attention : tuple of AttentionResult
        Of each round of joint networks.
    """

    images: Tensor
    embedding: Tensor | None
    centre: Tensor | None
    attention: tuple[AttentionResult, ...] = ()


def predict(model: nn.Module, batch: SetBatch) -> Prediction:
    """Run a joint or a single-image network on a batch."""
    if getattr(model, "jointly", False):
        output = model(batch.noisy, batch.mask, batch.ctf)
        return Prediction(output.images, output.embedding, output.centre, output.attention)
    images, ctf = batch.noisy.flatten(0, 1), batch.ctf.flatten(0, 1)
    locate = getattr(model, "locate", None)
    if callable(locate):
        denoised, centre = locate(images, ctf)
        return Prediction(denoised.view_as(batch.noisy), None, centre.view_as(batch.shifts_px))
    return Prediction(model(images, ctf).view_as(batch.noisy), None, None)


def denoise_batch(model: nn.Module, batch: SetBatch) -> tuple[Tensor, Tensor | None]:
    """Denoise a batch of sets by a joint or a single-image network.

    Returns
    -------
    images : Tensor, shape (s, k, y, x)
    embedding : Tensor, shape (s, k, e), or None from a network that finds no neighbours
    """
    prediction = predict(model, batch)
    return prediction.images, prediction.embedding


def validation_samplers(
    bank: StructureBank, data: SamplerConfig, device: torch.device
) -> dict[str, SetSampler]:
    """What is validated on: the paper's directional sets, plain and with CTF, and the recipe's mixture."""
    plain = replace(
        data,
        set_size=8,
        directional=1.0,
        general=0.0,
        neighbourhood=0.0,
        snr=(0.03, 0.03),
        ctf=0.0,
        centred=1.0,
        crowded=0.0,
        divided=0.0,
        masked=0.0,
        empty=0.0,
    )
    seen = replace(plain, snr=(0.02, 0.02), ctf=1.0, centred=0.0, defocus_A=(15000.0, 25000.0))
    kinds = {"directional_snr_0.03": plain, "ctf_shifts_snr_0.02": seen, "as_trained": data}
    return {name: SetSampler(bank, kind, seed=1, device=device) for name, kind in kinds.items()}


class _Trainer:
    """State of one run."""

    def __init__(
        self, recipe: Recipe, bank: StructureBank, out: Path, fabric: Fabric, start: str | Path | None
    ) -> None:
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
        self.before: dict[str, Any] = {}
        if start is not None:
            self.before = self._begin_from(start)
        self.average = copy.deepcopy(self.model).requires_grad_(False).to(fabric.device).eval()
        self.wrapped = fabric.setup_module(self.model)
        if hasattr(self.model, "locate"):
            self.wrapped.mark_forward_method("locate")
        made = fabric.setup_optimizers(*make_optimisers(self.model, recipe.optimiser))
        self.optimisers = list(made) if isinstance(made, tuple | list) else [made]
        # Finding centres is a task of its own, whose large early gradients would silence the others'.
        centring = {
            p for m in self.model.modules() if isinstance(m, Centring | Recentring) for p in m.parameters()
        }
        self.parts = [list(centring), [p for p in self.model.parameters() if p not in centring]]
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
        set_learning_rate(self.optimisers, self.images, config)
        prediction = predict(self.wrapped, batch)
        error = bounded(relative_squared_error(prediction.images, batch.clean))
        loss = error
        if prediction.centre is not None and config.centring > 0:
            loss = loss + config.centring * squared_distance(prediction.centre, batch)
        if prediction.attention and config.alignment > 0:
            surprise = torch.stack([alignment_surprise(result, batch) for result in prediction.attention])
            loss = loss + config.alignment * surprise.mean()
        if prediction.embedding is not None and config.contrast > 0:
            contrast = view_contrast(*self._everywhere(prediction.embedding, batch.rotations))
            loss = loss + config.contrast * fabric.world_size * contrast
        self.model.zero_grad()
        fabric.backward(loss)
        norms = [torch.nn.utils.clip_grad_norm_(part, config.clip) for part in self.parts if part]
        # One overflow must not poison the optimisers' memory: such a step is left out.
        if bool(torch.stack(norms).isfinite().all()):
            for optimiser in self.optimisers:
                optimiser.step()
        self.step += 1
        # Early on the mean must follow fast, or it would remember the random start.
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.state_dict().values(), self._state().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - decay)
                else:
                    mean.copy_(now)
        mean_error = cast(Tensor, fabric.all_reduce(error.detach(), reduce_op="mean"))
        self.recent = [*self.recent[1 - _RECENT :], float(mean_error)]

    def _everywhere(self, embedding: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and rotations of the whole batch, whichever process they are of.

        Every process computes the contrast of all, and its derivative by its own embeddings: so the sum
        over processes is the derivative by all.
        """
        if self.fabric.world_size == 1:
            return embedding, rotations
        gathered = (cast(Tensor, self.fabric.all_gather(part)) for part in (embedding.detach(), rotations))
        embeddings, all_rotations = (list(part) for part in gathered)
        embeddings[self.fabric.global_rank] = embedding
        return torch.cat(embeddings), torch.cat(all_rotations)

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
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "recent": self.recent,
            "recipe": self.recipe.to_tables(),
            "before": self.before,
        }
        # By way of memory: torch.save does not say what a disk has against it.
        content = io.BytesIO()
        torch.save(state, content)
        with whole(self.out / "checkpoint.pt") as partial:
            partial.write_bytes(content.getvalue())
        figures = {
            "images_seen": self.images + self.before.get("images_seen", 0),
            "training_hours": round(self.seconds / 3600 + self.before.get("training_hours", 0), 3),
        }
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
        mine, theirs = _identity(self.recipe.to_tables()), _identity(state["recipe"])
        changed = [name for name in theirs if mine.get(name) != theirs[name]]
        if changed:
            hint = "resume with the recipe it was begun with; only its length and its rates may change"
            raise RecipeError(f"the run was begun with another {changed[0]}", path=path, hint=hint)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        self.recent, self.before = state["recent"], state["before"]

    def _begin_from(self, start: str | Path) -> dict[str, Any]:
        """Take over trained weights; returns how long they were trained."""
        network, card = load_model(start)
        mine = self.recipe.to_tables()["model"]
        config = asdict(self.model.config)  # type: ignore[call-overload]
        theirs = asdict(network.config)  # type: ignore[call-overload]
        if card.architecture != mine["architecture"] or config != theirs:
            hint = "give weights of the recipe's own [model], or change that"
            raise RecipeError(f"{start} holds another network: a {card.architecture} of {theirs}", hint=hint)
        self.model.load_state_dict(network.state_dict())
        return {name: card.figures.get(name, 0) for name in ("images_seen", "training_hours")}


def _identity(tables: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe a resumed run must share with its beginning, for its images to be the same."""
    return {
        "model": tables["model"],
        **{f"{key} in [data]": value for key, value in tables["data"].items()},
        "sets_per_step in [optimiser]": tables["optimiser"]["sets_per_step"],
        "seed in [run]": tables["run"]["seed"],
        "held_out in [run]": tables["run"]["held_out"],
    }


def _fabric(kind: torch.device, *, every: bool, precision: Any) -> Fabric:
    """The processes of this run: those of ``torchrun``, or one for each CUDA device there is."""
    devices: Any = "auto" if every else 1 if kind.index is None else [kind.index]
    nodes = 1
    if TorchElasticEnvironment.detect():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    strategy = "ddp" if TorchElasticEnvironment.detect() else "auto"
    fabric = Fabric(
        accelerator=kind.type, devices=devices, num_nodes=nodes, strategy=strategy, precision=precision
    )
    fabric.launch()
    return fabric


def train(
    recipe: Recipe,
    bank: StructureBank,
    out: Path,
    *,
    resume: bool = False,
    start: str | Path | None = None,
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
    start : str or Path, optional
        A shipped model's name or a weights file to begin from instead of random weights.
    device : str
        ``auto``, ``cpu``, ``cuda`` (all there are), ``cuda:N`` or ``mps``. Under ``torchrun`` its processes
        share each step's sets, and the run is the same as one process's.
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
    prepare_output(out, overwrite=True)
    if checkpoint.exists() and not resume:
        raise OutputError("there is a run already", path=out, hint="go on with --resume, or name another")
    if resume and not checkpoint.exists():
        raise OutputError("there is no run to resume", path=out, hint="start it without --resume")
    kind = resolve_device(device)
    fabric = _fabric(kind, every=device == "cuda", precision=recipe.run.precision)
    if kind.type == "cpu":
        keep_freed_memory()
    trainer = _Trainer(recipe, bank, out, fabric, None if resume else start)
    make_folder(out)
    if resume:
        trainer.load()
    report = log or (lambda figures: None)
    start_time, start_images, start_seconds = time.monotonic(), trainer.images, trainer.seconds
    last_log, rate = start_time, 0.0
    while trainer.images < recipe.optimiser.images:
        before = trainer.images // recipe.run.validate_every
        trainer.train_step()
        now = time.monotonic()
        trainer.seconds = start_seconds + now - start_time
        rate = (trainer.images - start_images) / (now - start_time)
        late = max_minutes is not None and now - start_time > 60 * max_minutes
        if max_minutes is not None:
            # All processes stop after the same step.
            late = fabric.broadcast(late)
        done = late or trainer.images >= recipe.optimiser.images
        if fabric.is_global_zero:
            current = {"images": trainer.images, "relative_mse": sum(trainer.recent) / len(trainer.recent)}
            current |= {
                "images_per_s": rate,
                "learning_rate": recipe.optimiser.learning_rate
                * learning_rate(trainer.images, recipe.optimiser),
            }
            if done or trainer.images // recipe.run.validate_every > before:
                current |= trainer.validate()
                trainer.history.append(current)
                trainer.save()
                report(current)
            elif now - last_log > _LOG_EVERY_S:
                last_log = now
                report(current)
        if late:
            break
    if fabric.world_size > 1:
        fabric.barrier()
        # Left to the interpreter's end, this can wait for ever.
        torch.distributed.destroy_process_group()
    last = trainer.history[-1] if trainer.history else {}
    return {"images": trainer.images, "images_per_s": round(rate, 1), **last}

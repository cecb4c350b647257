"""Adapting a joint network to one stack, from its noisy images alone.

A network learned what particles look like from thousands of molecules; one stack shows one of them, with a
noise and at a pixel size of its own. The error of denoising is measured without truth (`recorruption`), and
some of the weights are moved a little to make it smaller. Whole neighbourhoods are held out: their particles
are no part of any set that the network learns from, and they decide which weights are kept, if any.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ..devices import keep_freed_memory, mixed_precision, resolve_device
from ..errors import OutputError, ParticleFileError, PolariceError
from ..files import make_folder, prepare_output
from ..models import ModelCard, PolarTransformer
from ..models.registry import save_model
from ..particles import ParticleStack, Preprocessor, StackScan
from ..stacks import (
    GUESSES,
    NEIGHBOUR_FILE,
    GivenNeighbours,
    PreparedStack,
    Progress,
    StackSettings,
    clear_outputs,
    load_joint_model,
    look_at,
    open_stack,
    require_fit,
    require_room_for_views,
    resolved_configuration,
    run_identity,
    scratch_work,
    search_stack,
    too_few_for,
    unreadable,
    write_record,
)
from .adapter import CHECKPOINT, Adapter, Checked
from .curves import training_curves
from .held_out import hold_out

__all__ = ["AdaptResult", "AdaptSettings", "adapt"]

_FEWEST = 128
# An adaptation is kept if chance would look so good this rarely.
_SIGNIFICANCE = 0.025
# Of the signal's power. An estimate that is lower by less may owe it to what it cannot see.
_LEAST_GAIN = 0.003
_FILES = ("adapted.safetensors", "adapt.json", "curves.png", NEIGHBOUR_FILE, CHECKPOINT)


@dataclass(frozen=True, kw_only=True)
class AdaptSettings(StackSettings):
    """How a network is adapted to a stack.

    Attributes
    ----------
    neighbours : int
        Other particles in the set of each particle, at most.
    steps : int
        Sets that are learned from.
    learning_rate : float
        Largest rate of Adam.
    half : int, optional
        Learn from the particles of this half set (``rlnRandomSubset``) alone; from all by default.
    seed : int
        Of what is held out, of the order of the sets, and of the noise that is added.
    """

    neighbours: int = 16
    steps: int = 150
    learning_rate: float = 1e-3
    half: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class AdaptResult:
    """An adapted network, and what is known of it.

    Attributes
    ----------
    source, weights : Path
        Stack and weights file.
    settings : AdaptSettings
    card : ModelCard
        Of the weights.
    preprocessor : Preprocessor
    found : StackScan
    better : bool
        Whether the adaptation has lowered the error of held-out particles beyond chance, and enough to
        matter; if not, the weights are those that it began with.
    finished : bool
        False if time ran out: there is a checkpoint to go on from.
    held_out : ndarray of bool, shape (n,)
        Particles that were not learned from, but judged.
    history : tuple of Checked
        Errors of held-out particles.
    seconds : dict
        Time of each stage.
    notices : tuple of str
    files : dict
        Files written, and what they are.
    """

    source: Path
    weights: Path
    settings: AdaptSettings
    card: ModelCard
    preprocessor: Preprocessor
    found: StackScan
    better: bool
    finished: bool
    held_out: NDArray[np.bool_]
    history: tuple[Checked, ...]
    seconds: dict[str, float]
    notices: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)

    def configuration(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""
        return resolved_configuration(self.source, self.settings, self.preprocessor, self.card)

    def summary(self) -> dict[str, Any]:
        """Figures of the run as plain values."""
        return {
            "particles": len(self.found.statistics),
            "better": self.better,
            "finished": self.finished,
            **{name: value for name, value in self.card.figures.items() if name.startswith("adapted")},
            "history": [check._asdict() for check in self.history],
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            "notices": list(self.notices),
            "files": self.files,
        }


def adapt(
    particles: str | Path,
    out: str | Path,
    settings: AdaptSettings | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    max_minutes: float | None = None,
    progress: Progress | None = None,
) -> AdaptResult:
    """Adapt a joint network to a particle stack, file to file.

    Parameters
    ----------
    particles : path-like
        ``.star``, ``.cs``, ``.mrcs`` or ``.mrc``.
    out : path-like
        Folder for ``adapted.safetensors``, ``adapt.json``, ``curves.png``, ``neighbours.npz`` and
        ``checkpoint.pt``.
    settings : AdaptSettings, optional
    overwrite : bool
        Allow a folder that is not empty.
    resume : bool
        Go on from the checkpoint in ``out``; the result is the same as if the run had not been interrupted.
    max_minutes : float, optional
        Stop, with a checkpoint and with the best weights so far, after so much time of learning.
    progress : callable, optional
        Called with (stage, done, in all).

    Returns
    -------
    AdaptResult

    Raises
    ------
    PolariceError
        Anything wrong with the input, the model, the device or the output, before any computing.
    """
    settings, out = settings or AdaptSettings(), Path(out)
    report = progress or (lambda stage, done, total: None)
    if resume and not (out / CHECKPOINT).is_file():
        raise OutputError("there is no run to resume", path=out, hint="start it without --resume")
    prepare_output(out, overwrite or resume)
    device = resolve_device(settings.device)
    network, card = load_joint_model(settings, device)
    stack = open_stack(particles, settings)
    require_fit(stack, chain(unreadable(stack, settings), _misfits(stack, settings)))
    require_room_for_views(out, stack, network)
    prepared = PreparedStack.measure(stack, settings, network.box, device, report)
    identity = run_identity(stack, prepared.found, settings, network)
    make_folder(out)
    if not resume:
        clear_outputs(out, _FILES)
    if device.type == "cpu":
        keep_freed_memory()
    with mixed_precision(device, settings.mixed_precision):
        rows, informed = _neighbours(network, prepared, settings, out)
        division = hold_out(rows, prepared.found.original.numpy(), _members(stack, settings), settings.seed)
        adapter = Adapter(network, prepared, rows, division, settings, identity)
        if resume:
            adapter.load(out / CHECKPOINT)
        finished = adapter.run(out / CHECKPOINT, max_minutes)
    best = adapter.best
    better = best is not None and best.difference < -_LEAST_GAIN and _by_chance(best) < _SIGNIFICANCE
    network.load_state_dict(adapter.weights if better else adapter.shipped)
    figures = _figures(adapter, stack, settings, better)
    card = ModelCard(card.architecture, card.config, card.recipe, {**card.figures, **figures})
    weights = out / "adapted.safetensors"
    save_model(weights, network, card)
    files = {str(weights): "weights for polarice denoise --model"}
    files[str(out / NEIGHBOUR_FILE)] = "neighbours, for polarice denoise --neighbours-from"
    if adapter.history:
        files[str(_curves(out / "curves.png", adapter))] = "errors of held-out particles, as estimated"
    result = AdaptResult(
        stack.path,
        weights,
        settings,
        card,
        prepared.preprocessor,
        prepared.found,
        better,
        finished,
        adapter.division.held_out,
        tuple(adapter.history),
        prepared.seconds,
        (*prepared.notices, *_notices(stack, settings, better, informed, finished)),
        files,
    )
    write_record(out / "adapt.json", result)
    return result


def _misfits(stack: ParticleStack, settings: AdaptSettings) -> Iterator[PolariceError]:
    """Why a network cannot be adapted to a stack in this way."""
    if settings.steps < 1:
        yield PolariceError("an adaptation takes at least one step")
    if not settings.learning_rate > 0:
        yield PolariceError(f"the learning rate must be positive, not {settings.learning_rate:g}")
    if settings.half is not None and stack.half_sets is None:
        reason = "these particles have no half sets (_rlnRandomSubset)"
        yield ParticleFileError(reason, path=stack.path, hint="leave out --half")
        return
    members = _members(stack, settings)
    if len(members) < _FEWEST:
        which = "" if settings.half is None else f" of half set {settings.half}"
        reason = f"has {len(members)} particles{which}, too few to learn from: at least {_FEWEST} are needed"
        yield ParticleFileError(reason, path=stack.path, hint="use the shipped model as it is")
    yield from too_few_for(stack, settings.neighbours, "bring more particles")


def _members(stack: ParticleStack, settings: AdaptSettings) -> NDArray[np.int64]:
    """Rows that are learned from or held out."""
    if settings.half is None or stack.half_sets is None:
        return np.arange(len(stack))
    return np.flatnonzero(np.asarray(stack.half_sets) == settings.half)


def _neighbours(
    network: PolarTransformer, prepared: PreparedStack, settings: AdaptSettings, out: Path
) -> tuple[NDArray[np.int64], bool]:
    """Neighbours within half sets, found once for a run, and whether they are more than guesses."""
    path = out / NEIGHBOUR_FILE
    if path.is_file():
        return GivenNeighbours.load(path, prepared.stack, settings.neighbours).rows, True
    with scratch_work(out) as work:
        # What is computed here without gradients, the network keeps: so a copy of it looks.
        views = look_at(copy.deepcopy(network), prepared, work)
        table = search_stack(prepared, views, settings.neighbours, prepared.halves)
    table.save(path, prepared.stack)
    return table.rows, table.informed


def _by_chance(check: Checked) -> float:
    """How probable so good an outcome is if the weights are no better."""
    return float(student.cdf(check.difference / max(check.standard_error, 1e-12), check.sets - 1))


def _figures(adapter: Adapter, stack: ParticleStack, settings: AdaptSettings, better: bool) -> dict[str, Any]:
    """For the card: what was learned from, and what it has brought."""
    half = "both" if settings.half is None else settings.half
    figures: dict[str, Any] = {
        "adapted_to": stack.path.name,
        "adapted_to_particles": len(adapter.division.training),
        "adapted_to_half_set": half if stack.half_sets is not None else "unlabelled",
        "adapted_held_out": int(adapter.division.held_out.sum()),
    }
    best = adapter.best
    if best is not None:
        figures |= {
            "adapted_steps": best.step if better else 0,
            "adapted_error_before": round(adapter.error_before, 5),
            "adapted_error_after": round(adapter.error_before + (best.difference if better else 0.0), 5),
            "adapted_error_difference": round(best.difference, 5),
            "adapted_error_standard_error": round(best.standard_error, 5),
        }
    return figures


def _curves(path: Path, adapter: Adapter) -> Path:
    """Errors and rate against the images seen."""
    size, before, last = adapter.settings.neighbours + 1, adapter.error_before, adapter.history[-1].step
    held_out = [(float(check.step * size), before + check.difference) for check in adapter.history]
    errors = {
        "held out, adapted": [(0.0, before), *held_out],
        "held out, as it was": [(0.0, before), (float(last * size), before)],
    }
    rates = [(float(step * size), adapter.rate(step)) for step in range(last)]
    return training_curves(path, errors, rates, logarithmic=False)


def _notices(
    stack: ParticleStack, settings: AdaptSettings, better: bool, informed: bool, finished: bool
) -> Iterator[str]:
    if not better:
        yield (
            "The adaptation has not lowered the error of held-out particles beyond chance, and by 0.3 % of "
            "the signal: adapted.safetensors holds the weights that it began with."
        )
    if not finished:
        yield "Time ran out: go on with --resume."
    if not informed:
        yield GUESSES
    if stack.half_sets is not None:
        yield (
            "The network has learned from both half sets: half maps made of images that it denoises would "
            "not be independent. --half 1 learns from one alone, for that half's images."
            if settings.half is None
            else f"The network has learned from half set {settings.half}: do not denoise the other with it "
            "where half maps must be independent."
        )

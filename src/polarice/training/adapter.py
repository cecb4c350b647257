"""The loop that adapts a network to a stack: sets of neighbours, recorrupted; resumable to the bit."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import OutputError
from ..files import whole
from ..models import PolarTransformer
from ..neighbours import NOBODY
from ..particles import noise_spectrum, on_half_spectrum
from ..stacks import PreparedStack, timed
from .held_out import Division
from .recorruption import Observation, unexplained

__all__ = ["CHECKPOINT", "Adapter", "Checked"]

CHECKPOINT = "checkpoint.pt"
_CHECK_EVERY = 25
_WARM_UP = 10
_CLIP = 1.0
# Of the running mean of the weights.
_DECAY = 0.95
# Images from which the noise and the signal are measured.
_SAMPLE = 2048
# Squared CTFs below this, where the noise is white, are hardly worth to be divided by.
_LEAST_PASSED = 0.1
# Checks in a row that may bring nothing better.
_PATIENCE = 3
# How much more than its square a change counts while it is learned where nothing is seen. There its square is
# what a change adds to the error if it has nothing to do with the error that was there; one that has may add
# more: at most 1 + 1 / c squares and the share c of the error that was there, for any c. So c is a quarter.
_ANCHOR = 5.0
# Of a network that has gone astray.
_WORST = 1e6
# Draws of noise by which a set of judges judges: fewer would let the noise decide.
_DRAWS = 3
# Weights that say how much of something counts, by what a part of their names ends with: gains along the
# radius, scale and trust of the attention, what is passed on, and what of it comes out.
_GAINS = ("gain", "log_scale", "threshold", "ceiling", "trust", "correction", "skip", "head")
# What a generator is for.
_MEMBERS, _NOISE, _JUDGES, _SIGNAL = range(4)


class Checked(NamedTuple):
    """A look at held-out particles.

    Attributes
    ----------
    step : int
        Sets learned from before.
    difference : float
        Estimated relative squared error less that before the adaptation, mean over sets; negative is better.
    standard_error : float
        Of the difference, from its scatter between sets.
    sets : int
    """

    step: int
    difference: float
    standard_error: float
    sets: int


class _Settings(Protocol):
    @property
    def steps(self) -> int: ...
    @property
    def neighbours(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def seed(self) -> int: ...


def _adapted(network: PolarTransformer) -> Iterator[nn.Parameter]:
    """Weights that adaptation moves.

    A few hundred noisy images are too little to learn features from, but enough to learn how much each that
    is there counts. The first look stays as it is, and with it centres and neighbours.
    """
    for name, parameter in network.named_parameters():
        first, *_ = parts = name.split(".")
        if first != "encoder" and any(part.endswith(_GAINS) for part in parts):
            yield parameter


class Adapter:
    """State of one adaptation.

    Parameters
    ----------
    network : PolarTransformer
        Gets adapted.
    prepared : PreparedStack
    rows : ndarray of int, shape (n, k)
        Neighbours of each particle.
    division : Division
    settings : AdaptSettings
    identity : str
        Of everything that determines the result.
    """

    def __init__(
        self,
        network: PolarTransformer,
        prepared: PreparedStack,
        rows: NDArray[np.int64],
        division: Division,
        settings: _Settings,
        identity: str,
    ) -> None:
        self.network, self.prepared, self.rows = network, prepared, rows
        self.division, self.settings, self.identity = division, settings, identity
        with timed(prepared.seconds, "measure the noise"):
            self.observation, self.signal = self._measure()
        self.anchored = replace(self.observation, unseen=_ANCHOR * self.observation.unseen)
        network.requires_grad_(False)
        self.parameters = list(_adapted(network))
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.shipped = copy.deepcopy(network.state_dict())
        self.weights = self.shipped
        self.average = copy.deepcopy(network)
        self.start = copy.deepcopy(network).requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.parameters, lr=settings.learning_rate, betas=(0.9, 0.99))
        self.step = 0
        self.history: list[Checked] = []
        self.before: list[float] = []

    @property
    def best(self) -> Checked | None:
        """The check whose weights are kept."""
        return min(self.history, key=lambda check: check.difference, default=None)

    @property
    def error_before(self) -> float:
        """Estimated relative squared error of held-out particles before the adaptation."""
        return float(np.mean(self.before))

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear rise, cosine fall to zero."""
        rise = min(1.0, (step + 1) / _WARM_UP)
        return (
            self.settings.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * step / self.settings.steps))
        )

    def run(self, checkpoint: Path, max_minutes: float | None) -> bool:
        """Learn to the end, or until time runs out; whether the end was reached."""
        settings, prepared, start = self.settings, self.prepared, time.monotonic()
        if not self.before:
            with timed(prepared.seconds, "check"):
                self.before = self._errors(self.start)
        while not self._over():
            if max_minutes is not None and time.monotonic() - start > 60 * max_minutes:
                # What is looked at for the time being is no part of what the run goes on from.
                self._save(checkpoint)
                self._check()
                return False
            with timed(prepared.seconds, "learn"):
                self._learn()
            prepared.report("learn", self.step, settings.steps)
            if self.step % _CHECK_EVERY == 0 or self.step == settings.steps:
                self._check()
                self._save(checkpoint)
        return True

    def _over(self) -> bool:
        best = self.best
        tired = best is not None and len(self.history) - self.history.index(best) > _PATIENCE
        return tired or self.step >= self.settings.steps

    def _measure(self) -> tuple[Observation, float]:
        """The stack's noise, and the power of its signal, weighted, per pixel."""
        prepared, device, training = self.prepared, self.prepared.device, self.division.training
        some = training[np.unique(np.linspace(0, len(training) - 1, _SAMPLE).astype(int))]
        images, ctf = prepared.seen(some)
        box = prepared.preprocessor.model_box
        # The half sets may have discs of their own: all that any shows.
        mask = prepared.preprocessor.mask(prepared.found.statistics[torch.from_numpy(some)]).amax(0)
        images, ctf = images.cpu(), None if ctf is None else ctf.cpu()
        noise = torch.ones(box, box // 2 + 1)
        if not prepared.preprocessor.whiten:
            noise = on_half_spectrum(noise_spectrum([images], mask)[None], box)[0]
        passed = torch.ones_like(noise) if ctf is None else ctf.square().mean(0)
        # As if the CTF were undone, but for where the noise would rule.
        weight = 1 / (passed + _LEAST_PASSED * noise)
        unseen = _LEAST_PASSED * noise * weight
        observation = Observation(noise, mask, weight / weight.mean(), unseen / weight.mean())
        drawn = observation.draw(torch.randn(256, box, box, generator=self._generator(_SIGNAL)))
        power, noise_power = (float(observation.product(x, x).mean()) for x in (images, drawn))
        # Never nothing: it is divided by.
        return observation.to(device), max(power - noise_power, 0.01 * power)

    def _generator(self, *keys: int) -> torch.Generator:
        state = np.random.SeedSequence([self.settings.seed, *keys]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> 1))

    def _error(
        self,
        network: nn.Module,
        members: NDArray[np.int64],
        generator: torch.Generator,
        observation: Observation,
    ) -> Tensor:
        """Estimated relative squared error of a set."""
        images, ctf = self.prepared.seen(members)
        white = torch.randn(images.shape, generator=generator).to(images)
        told = None if ctf is None else ctf[None]

        def by(one: nn.Module) -> Callable[[Tensor], Tensor]:
            def denoise(noisy: Tensor) -> Tensor:
                denoised: Tensor = one(noisy, None, told).images
                return denoised

            return denoise

        before = None if network is self.start else by(self.start)
        error = unexplained(by(network), images[None], told, white[None], observation, before=before)
        return 1 + error.mean() / self.signal

    @torch.no_grad()
    def _errors(self, network: nn.Module) -> list[float]:
        """Estimated errors of the held-out sets, always with the same noise."""
        return [
            float(
                np.mean(
                    [
                        float(
                            self._error(
                                network, some, self._generator(_JUDGES, index, draw), self.observation
                            )
                        )
                        for draw in range(_DRAWS)
                    ]
                )
            )
            for index, some in enumerate(self.division.judges)
        ]

    def _set(self, step: int) -> NDArray[np.int64]:
        """A particle and its neighbours, without those held out."""
        draw = np.random.default_rng([self.settings.seed, _MEMBERS, step])
        row = draw.choice(self.division.training)
        others = self.rows[row][self.rows[row] != NOBODY]
        return np.concatenate([[row], others[~self.division.held_out[others]]])

    def _learn(self) -> None:
        """One step."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(self.step)
        noise = self._generator(_NOISE, self.step)
        error = self._error(self.network, self._set(self.step), noise, self.anchored)
        self.optimiser.zero_grad()
        error.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, _CLIP)
        if bool(norm.isfinite()):
            self.optimiser.step()
        self.step += 1
        # Early on the mean must follow fast, or it would remember the start.
        decay = min(_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)

    def _check(self) -> None:
        """Look at the held-out particles, and keep the weights if they are the best."""
        if self.history and self.history[-1].step == self.step:
            return
        with timed(self.prepared.seconds, "check"):
            errors = np.nan_to_num(self._errors(self.average), nan=_WORST, posinf=_WORST)
            change = np.subtract(errors, self.before)
        error = float(change.std(ddof=1) / len(change) ** 0.5)
        self.history.append(Checked(self.step, float(change.mean()), error, len(change)))
        if self.best is self.history[-1]:
            self.weights = copy.deepcopy(self.average.state_dict())

    def _save(self, checkpoint: Path) -> None:
        """Leave a checkpoint."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "weights": self.weights,
            "optimiser": self.optimiser.state_dict(),
            "history": [tuple(check) for check in self.history],
            "before": self.before,
        }
        with whole(checkpoint) as partial:
            torch.save(state, partial)

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        OutputError
            It is another run's.
        """
        state = torch.load(checkpoint, map_location=self.prepared.device, weights_only=True)
        if state["identity"] != self.identity:
            raise OutputError(
                "the run that was interrupted here had another stack, model, version or other settings",
                path=checkpoint.parent,
                hint="go on with the very same, or start anew with --overwrite",
            )
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.weights, self.step, self.before = state["weights"], state["step"], state["before"]
        self.history = [Checked(*check) for check in state["history"]]

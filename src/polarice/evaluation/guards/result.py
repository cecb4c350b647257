"""What guards are told, and what they found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...denoising import DenoiseResult, DenoiseSettings

__all__ = ["GuardResult", "GuardSettings", "Shown", "Verdict"]


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """How a stack's guards are run.

    Attributes
    ----------
    denoising : DenoiseSettings
        The run that is to be judged.
    particles : int
        How many of the stack are looked at, evenly spread over it.
    noise_from : path-like, optional
        Images without particles, whose spectrum noise has; by default the stack's own.
    foreign : path-like, optional
        Structure whose particles are planted; one that is made up by default.
    """

    denoising: DenoiseSettings = field(default_factory=DenoiseSettings)
    particles: int = 500
    noise_from: str | Path | None = None
    foreign: str | Path | None = None


@dataclass(frozen=True)
class Verdict:
    """What one guard says.

    Attributes
    ----------
    guard : str
        Its name.
    figure : str
        What was measured, as it should be read.
    goal : str
    passed : bool or None
        None where it cannot be judged.
    why : str
        What the figure is, or why there is none.
    """

    guard: str
    figure: str
    goal: str
    passed: bool | None
    why: str

    @property
    def word(self) -> str:
        """passes, fails, or not judged."""
        return {True: "passes", False: "fails", None: "not judged"}[self.passed]


@dataclass(frozen=True)
class Shown:
    """Some images of the stacks that guards have made, in units of the noise with protein bright.

    Attributes
    ----------
    before, after : ndarray, shape (n, y, x)
        As they went in, and denoised.
    beside : ndarray, shape (n, y, x)
        What they are to be compared with.
    """

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    beside: NDArray[np.float32]


@dataclass(frozen=True)
class GuardResult:
    """What the guards of a stack have found.

    Attributes
    ----------
    source : Path
    settings : GuardSettings
    sample : DenoiseResult
        Of the particles that were looked at.
    rows : ndarray of int, shape (n,)
        Which these are.
    verdicts : tuple of Verdict
    figures : dict
        Everything that was measured, of each guard, as plain values.
    curves : dict of str to ndarray, shape (rings,)
        Ring correlations and spectra, for the page.
    shown : dict of str to Shown
    agreement : ndarray, shape (n, rings), or None
        Of each particle; see `polarice.denoising.agreement`.
    seconds : dict
        Time of each guard.
    files : dict
        Files written, and what they are.
    """

    source: Path
    settings: GuardSettings
    sample: DenoiseResult
    rows: NDArray[np.int64]
    verdicts: tuple[Verdict, ...]
    figures: dict[str, Any]
    curves: dict[str, NDArray[np.float64]]
    shown: dict[str, Shown]
    agreement: NDArray[np.float32] | None
    seconds: dict[str, float]
    files: dict[str, str] = field(default_factory=dict)

    def configuration(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""
        told = self.sample.configuration()
        given = {
            name: None if path is None else str(path)
            for name, path in (("noise_from", self.settings.noise_from), ("foreign", self.settings.foreign))
        }
        return {
            **told,
            "source": str(self.source),
            "guard": {"particles": len(self.rows), "asked_for": self.settings.particles, **given},
        }

    def summary(self) -> dict[str, Any]:
        """Figures of the guards as plain values."""
        return {
            "particles": len(self.rows),
            "verdicts": [
                {
                    "guard": one.guard,
                    "figure": one.figure,
                    "goal": one.goal,
                    "verdict": one.word,
                    "why": one.why,
                }
                for one in self.verdicts
            ],
            **self.figures,
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            "notices": list(self.sample.notices),
            "files": self.files,
        }

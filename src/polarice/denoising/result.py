"""What a denoising run is told, and what it has made and learned."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..models import ModelCard
from ..particles import Contrast, Preprocessor, StackScan

__all__ = ["DenoiseResult", "DenoiseSettings", "effective_neighbours"]


@dataclass(frozen=True)
class DenoiseSettings:
    """How a stack is denoised.

    Attributes
    ----------
    model : str
        A shipped model's name or a weights file.
    neighbours : int
        Other particles that each particle is denoised with, at most.
    sets_from : str, optional
        Column whose values say which particles belong together, such as ``rlnClassNumber``; without
        it the likeliest of the whole stack are found (`polarice.neighbours`).
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    pixel_size_A : float, optional
        Overrides what the files say.
    contrast : {"bright", "dark"}, optional
        Contrast of the protein; found out by default.
    mask_diameter_A : float, optional
        Diameter of the disc outside of which nothing is looked at; the box by default.
    ctf : bool
        Use the CTF where its parameters are given: undo its sign changes, and tell the network.
    mixed_precision : bool
        Compute convolutions in bfloat16 where the device has instructions for it: nearly twice as fast, and
        the images differ by a relative squared error of a few 1e-5 between devices.
    """

    model: str = "polar-transformer-64"
    neighbours: int = 16
    sets_from: str | None = None
    device: str = "auto"
    pixel_size_A: float | None = None
    contrast: Contrast | None = None
    mask_diameter_A: float | None = None
    ctf: bool = True
    mixed_precision: bool = True


@dataclass(frozen=True)
class DenoiseResult:
    """What a run has made and learned.

    Attributes
    ----------
    source, star : Path
        Input and output.
    settings : DenoiseSettings
    card : ModelCard
        Of the weights.
    preprocessor : Preprocessor
    found : StackScan
    neighbours : ndarray of int, shape (n, k), or None
        Rows of the neighbours, likeliest first, -1 in empty places; None from a single-image network.
    weights, angles_deg : ndarray, shape (n, k), or None
        Weight of each neighbour, and how far it must be turned (from x towards y) to lie upon the
        particle.
    gains : ndarray, shape (n,)
        Factor that brought each denoised image to the data's grey scale, one for each half set; 1 where
        the CTF is not known.
    seconds : dict
        Time of each stage.
    notices : tuple of str
    files : dict
        Files written, and what they are.
    """

    source: Path
    star: Path
    settings: DenoiseSettings
    card: ModelCard
    preprocessor: Preprocessor
    found: StackScan
    neighbours: NDArray[np.int64] | None
    weights: NDArray[np.float32] | None
    angles_deg: NDArray[np.float32] | None
    gains: NDArray[np.float32]
    seconds: dict[str, float]
    notices: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)

    def configuration(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""
        return {
            "polarice": __version__,
            "source": str(self.source),
            "settings": asdict(self.settings),
            "preprocessing": self.preprocessor.summary(),
            "model": asdict(self.card),
        }

    def summary(self) -> dict[str, Any]:
        """Figures of the run as plain values."""
        figures: dict[str, Any] = {
            "particles": len(self.found.statistics),
            "contrast": self.preprocessor.contrast,
            "contrast_z": round(self.found.contrast_z, 2),
            "phase_flipped": self.preprocessor.phase_flip,
            "grey_scale_gains": sorted({round(float(gain), 4) for gain in self.gains}),
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            "images_per_s": round(len(self.found.statistics) / sum(self.seconds.values()), 1),
            "notices": list(self.notices),
            "files": self.files,
        }
        if self.weights is not None:
            figures["mean_confidence"] = round(float(self.weights.sum(1).mean()), 4)
            figures["mean_effective_neighbours"] = round(float(effective_neighbours(self.weights).mean()), 2)
        return figures


def effective_neighbours(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """How many neighbours with equal weights would count as much: (Σ w)² / Σ w², shape (n,)."""
    squared = np.maximum(np.square(weights).sum(1), 1e-12)
    effective: NDArray[np.float32] = np.square(weights.sum(1)) / squared
    return effective

"""What a denoising run is told, and what it has made and learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from ..models import ModelCard
from ..particles import Preprocessor, StackScan
from ..stacks import StackSettings, resolved_configuration

__all__ = ["DenoiseResult", "DenoiseSettings", "confidence", "effective_neighbours", "presence"]

# How many standard deviations below the median nearly all particles' energies end, and the least such
# deviation, of the logarithm: no two views have quite the same.
_FAINTEST, _LEAST_SPREAD = 4.0, 0.2


@dataclass(frozen=True, kw_only=True)
class DenoiseSettings(StackSettings):
    """How a stack is denoised.

    Attributes
    ----------
    neighbours : int
        Other particles that each particle is denoised with, at most.
    sets_from : str, optional
        Column whose values say which particles belong together, such as ``rlnClassNumber``; without
        it the likeliest of the whole stack are found (`polarice.neighbours`).
    neighbours_from : path-like, optional
        Folder or file of `polarice.stacks.find_neighbours`, instead of a search.
    split_halves : bool
        Put particles that no half set is known of into two, at random, which do not help each other.
    agreement : bool
        Denoise twice, so that each particle has two estimates by neighbours that do not know of each other.
    """

    neighbours: int = 16
    sets_from: str | None = None
    neighbours_from: str | Path | None = None
    split_halves: bool = False
    agreement: bool = False


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
    probability : ndarray, shape (n, k), or None
        That a neighbour shows the particle's view, as far as the stack alone can tell; None also where nobody
        has searched.
    gains : ndarray, shape (n,)
        Factor that brought each denoised image to the data's grey scale, one for each half set; 1 where
        the CTF is not known.
    seconds : dict
        Time of each stage.
    notices : tuple of str
    files : dict
        Files written, and what they are.
    agreement : ndarray, shape (n, rings), or None
        Ring correlation of each particle's two estimates, if it was asked for.
    presence : ndarray, shape (n,), or None
        Whether an image shows a particle at all, 0 to 1, see `presence`; None from a single-image network.
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
    probability: NDArray[np.float32] | None
    gains: NDArray[np.float32]
    seconds: dict[str, float]
    notices: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    agreement: NDArray[np.float32] | None = None
    presence: NDArray[np.float32] | None = None

    @property
    def confidence(self) -> NDArray[np.float32]:
        """How far each image rests on others of its view, shape (n,); joint networks only."""
        assert self.weights is not None
        return confidence(self.weights, self.probability, self.presence)

    def configuration(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""
        return resolved_configuration(self.source, self.settings, self.preprocessor, self.card)

    def summary(self) -> dict[str, Any]:
        """Figures of the run as plain values."""
        figures: dict[str, Any] = {
            "particles": len(self.found.statistics),
            "contrast": self.preprocessor.contrast,
            "contrast_z": round(self.found.contrast_z, 2),
            "phase_flipped": self.preprocessor.phase_flip,
            "plane_share": [round(share, 3) for share in self.found.plane_share],
            "grey_scale_gains": sorted({round(float(gain), 4) for gain in self.gains}),
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            "images_per_s": round(len(self.found.statistics) / sum(self.seconds.values()), 1),
            "notices": list(self.notices),
            "files": self.files,
        }
        if self.preprocessor.whiten and self.found.statistics.noise_power is not None:
            power = self.found.statistics.noise_power.double().numpy()
            figures["noise_power"] = [[round(ring, 3) for ring in kind] for kind in power.tolist()]
        if self.weights is not None:
            figures["mean_confidence"] = round(float(self.confidence.mean()), 4)
            figures["mean_effective_neighbours"] = round(float(effective_neighbours(self.weights).mean()), 2)
        return figures


def confidence(
    weights: NDArray[np.float32],
    probability: NDArray[np.float32] | None,
    presence: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """What share of an image comes from neighbours that show its view, as likely as they do, shape (n,).

    Images of nothing look alike, and are neighbours of each other that nothing speaks against. So the share
    counts as far as there is a particle at all.
    """
    share: NDArray[np.float32] = (weights if probability is None else weights * probability).sum(1)
    return share if presence is None else share * presence


def presence(energy: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float32]:
    """Whether images show a particle at all, by how much of it was left of them.

    The logarithm of a denoised image's energy lies about the median of its half set, by a spread that is told
    from the median distance. An image is missed as far as it lies below what nearly all that show a particle
    have, four standard deviations under the median; brighter ones are all the same.

    Parameters
    ----------
    energy : ndarray, shape (n,)
        Of the denoised images, in units of their noise.
    groups : ndarray of int, shape (n,)
        Half set of each.

    Returns
    -------
    ndarray of float32, shape (n,)
        From 0 to 1: Φ(z + 4) for z standard deviations from the median.
    """
    found = np.ones(len(energy), np.float32)
    for group in np.unique(groups):
        of_group = energy[groups == group]
        level = np.log(np.maximum(of_group, 1e-12))
        away = level - np.median(level)
        # Half of a normal distribution lies within 0.6745 of its standard deviation.
        spread = max(float(np.median(np.abs(away))) / 0.6745, _LEAST_SPREAD)
        found[groups == group] = ndtr(away / spread + _FAINTEST)
    return found


def effective_neighbours(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """How many neighbours with equal weights would count as much: (Σ w)² / Σ w², shape (n,)."""
    squared = np.maximum(np.square(weights).sum(1), 1e-12)
    effective: NDArray[np.float32] = np.square(weights.sum(1)) / squared
    return effective

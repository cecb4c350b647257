"""What the attention of a joint network knows (paper, appendices D and E).

Three questions, each asked of sets whose answer is known: by which angle is one image rotated against
another, how sure is the network of it, and which images show the same view. Sets have no CTF and no
shifts; a set shows the same molecule, views and angles, under the same noise but for its strength, at
every SNR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..denoising import SetDenoiser
from ..errors import PolariceError
from ..simulation import SetBatch, SetSampler, StructureBank, view_sets
from .angles import (
    angle_error_deg,
    class_average_angles_deg,
    correlation_angles_deg,
    rotation_self_similarity,
    true_angles_deg,
)
from .benchmark.settings import Condition
from .classes import adjusted_rand_index, attention_classes

__all__ = [
    "AttentionDiagnostics",
    "DiagnosticSettings",
    "diagnose_attention",
]

Progress = Callable[[str, int, int], None]

# A view that another turn makes so alike has no angle to be found.
_SYMMETRIC = 0.9
_CLOSE_DEG = 10.0
_RESAMPLED = 1000


@dataclass(frozen=True)
class DiagnosticSettings:
    """What is asked of each structure at each SNR.

    Attributes
    ----------
    snrs : tuple of float
        mean(clean²) / noise variance.
    pairs : int
        Sets of two images, one the other rotated.
    sets : int
        Directional sets of `set_size` images.
    set_size : int
    class_sets : int
        Sets of `class_set_size` images, for each number of views.
    class_set_size : int
    views : tuple of int
        Numbers of views in those, in equal shares.
    cutoffs : tuple of float
        Standard deviations of the Gaussian low-pass filters that the classical alignment may use, in
        cycles per box; at each SNR the one that does best is reported.
    seed : int
    """

    snrs: tuple[float, ...] = (0.01, 0.02, 0.03, 0.05, 0.1, 0.25)
    pairs: int = 8
    sets: int = 2
    set_size: int = 8
    class_sets: int = 1
    class_set_size: int = 16
    views: tuple[int, ...] = (2, 4)
    cutoffs: tuple[float, ...] = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if any(self.class_set_size % views for views in self.views):
            raise PolariceError(
                f"{self.class_set_size} images cannot show {self.views} views in equal shares",
                hint="choose a set size that all numbers of views divide",
            )


@dataclass(frozen=True)
class AttentionDiagnostics:
    """Figures, and what the pictures show.

    Attributes
    ----------
    figures : dict
        Plain values, ready for JSON.
    pairs : dict of float to Tensor, shape (2, y, x)
        At each SNR, the noisy images of one pair: the one that looks as much like a turned copy of
        itself as half of all do.
    profiles : dict of float to ndarray, shape (2, m)
        At each SNR, the attention of the first image of a pair to the second over angles from the truth,
        which is at index m // 2: of that pair, and the mean over all.
    matrices : dict of float to ndarray, shape (2, k, k)
        At each SNR, the attention summed over angles in sets of the first number of views, the images
        of one view following each other: of the set whose views the network tells apart as well as
        those of half of all sets at the highest SNR, and the mean over all.
    """

    figures: dict[str, Any]
    pairs: dict[float, Tensor]
    profiles: dict[float, NDArray[np.float64]]
    matrices: dict[float, NDArray[np.float64]]


def diagnose_attention(
    bank: StructureBank,
    denoiser: SetDenoiser,
    settings: DiagnosticSettings | None = None,
    progress: Progress | None = None,
) -> AttentionDiagnostics:
    """Measure what the attention of a network knows about sets of each structure of a bank.

    Parameters
    ----------
    bank : StructureBank
        Structures that the network has not been trained on.
    denoiser : SetDenoiser
    settings : DiagnosticSettings, optional
    progress : callable, optional
        Called with (stage, structures done, structures in all).

    Returns
    -------
    AttentionDiagnostics
        Its figures have ``angle_error_deg``: for ``pair`` and ``set``, for ``correlation`` and
        ``class_average`` (classical alignment of the same pairs and sets) and each SNR the ``median``
        over all pairs with a 95 % interval over structures (``low``, ``high``), the quartiles, the
        fraction ``within_10_deg``, and the median without views that are nearly symmetric under
        rotation, whose share is ``symmetric_views``. And ``classes``: for each
        number of views and SNR the adjusted Rand index of `attention_classes` against the truth, not
        told and told how many views there are, and the share of the attention that stays within a view
        (``same_view_share``; ``chance_share`` if it were spread evenly).
    """
    settings = settings or DiagnosticSettings()
    report = progress or (lambda stage, done, total: None)
    collected = _Collected(settings)
    for index in range(len(bank)):
        single = bank.subset([index])
        for snr in settings.snrs:
            collected.add_angles(single, index, snr, denoiser)
            collected.add_classes(single, index, snr, denoiser)
        report("attention", index + 1, len(bank))
    return collected.result(len(bank))


class _Collected:
    """What was found, structure by structure."""

    def __init__(self, settings: DiagnosticSettings) -> None:
        self.settings = settings
        kinds = ("pair", "set", "class_average", *(f"correlation {cutoff:g}" for cutoff in settings.cutoffs))
        self.errors: dict[tuple[str, float], list[NDArray[np.float64]]] = {
            (kind, snr): [] for kind in kinds for snr in settings.snrs
        }
        self.symmetric: dict[tuple[str, float], list[NDArray[np.bool_]]] = {key: [] for key in self.errors}
        self.agreement: dict[tuple[int, float], list[tuple[float, ...]]] = {}
        self.pairs: dict[float, list[Tensor]] = {}
        self.similarity: list[float] = []
        self.profiles: dict[float, list[NDArray[np.float64]]] = {}
        self.matrices: dict[float, list[NDArray[np.float64]]] = {}

    def add_angles(self, bank: StructureBank, index: int, snr: float, denoiser: SetDenoiser) -> None:
        """Angles within pairs and within larger directional sets."""
        settings = self.settings
        for kind, count, size in (("pair", settings.pairs, 2), ("set", settings.sets, settings.set_size)):
            batch = _sets(bank, denoiser.box, count, size, 1, snr, (settings.seed, index))
            result = denoiser(batch.noisy)
            first, second = torch.triu_indices(size, size, 1)
            true = true_angles_deg(batch.rotations)[:, first, second]
            similarity = rotation_self_similarity(batch.clean[:, 0])
            symmetric = (similarity > _SYMMETRIC)[:, None].expand_as(true).flatten().numpy()
            found = {kind: result.angles_deg.cpu()}
            if kind == "pair":
                for cutoff in settings.cutoffs:
                    name = f"correlation {cutoff:g}"
                    found[name] = correlation_angles_deg(batch.noisy, cutoff)
                self.pairs.setdefault(snr, []).append(batch.noisy[0])
                if snr == settings.snrs[0]:
                    self.similarity.append(float(similarity[0]))
                profile = _about_truth(result.attention[:, 0, 1].cpu(), true[:, 0]).double().numpy()
                self.profiles.setdefault(snr, []).append(profile)
            else:
                found["class_average"] = class_average_angles_deg(batch.noisy)
            for name, angles in found.items():
                error = angle_error_deg(angles[:, first, second], true).double()
                self.errors[name, snr].append(error.flatten().numpy())
                self.symmetric[name, snr].append(symmetric)

    def add_classes(self, bank: StructureBank, index: int, snr: float, denoiser: SetDenoiser) -> None:
        """Classes within sets of several views."""
        settings, size = self.settings, self.settings.class_set_size
        for views in settings.views:
            batch = _sets(bank, denoiser.box, settings.class_sets, size, views, snr, (settings.seed, index))
            truth = np.repeat(np.arange(views), size // views)
            same = truth[:, None] == truth
            for weights in denoiser(batch.noisy).weights.cpu().double().numpy():
                found = attention_classes(weights)
                figures = (
                    adjusted_rand_index(found, truth),
                    adjusted_rand_index(attention_classes(weights, views), truth),
                    float((weights * same).sum() / max(weights.sum(), 1e-30)),
                    float(found.max() + 1),
                )
                self.agreement.setdefault((views, snr), []).append(figures)
                if views == settings.views[0]:
                    self.matrices.setdefault(snr, []).append(weights)

    def result(self, structures: int) -> AttentionDiagnostics:
        """Everything summed up."""
        settings = self.settings
        angles: dict[str, Any] = {kind: {} for kind in ("pair", "set", "correlation", "class_average")}
        for snr in settings.snrs:
            for kind in ("pair", "set", "class_average"):
                angles[kind][f"{snr:g}"] = self._angle_figures(kind, snr)
            tried = [
                {**self._angle_figures(f"correlation {cutoff:g}", snr), "cutoff": cutoff}
                for cutoff in settings.cutoffs
            ]
            angles["correlation"][f"{snr:g}"] = min(tried, key=lambda row: float(row["median"]))
        figures = {
            "structures": structures,
            "settings": asdict(settings),
            "angle_error_deg": angles,
            "symmetric_views": float(np.mean(self.symmetric["pair", settings.snrs[0]])),
            "classes": {
                str(views): {f"{snr:g}": self._class_figures(views, snr) for snr in settings.snrs}
                for views in settings.views
            },
        }
        pair = _median_place(self.similarity)
        clearest = max(settings.snrs)
        shares = [row[2] for row in self.agreement[settings.views[0], clearest]]
        matrix = _median_place(shares)
        return AttentionDiagnostics(
            figures,
            {snr: pairs[pair] for snr, pairs in self.pairs.items()},
            {snr: np.stack([kept[pair][0], np.mean(kept, (0, 1))]) for snr, kept in self.profiles.items()},
            {snr: np.stack([kept[matrix], np.mean(kept, 0)]) for snr, kept in self.matrices.items()},
        )

    def _angle_figures(self, kind: str, snr: float) -> dict[str, Any]:
        errors, symmetric = np.stack(self.errors[kind, snr]), np.stack(self.symmetric[kind, snr])
        lower, median, upper = np.quantile(errors, (0.25, 0.5, 0.75))
        low, high = _interval(errors, lambda drawn: np.median(drawn.reshape(len(drawn), -1), -1))
        return {
            "median": float(median),
            "low": low,
            "high": high,
            "lower_quartile": float(lower),
            "upper_quartile": float(upper),
            "within_10_deg": float((errors <= _CLOSE_DEG).mean()),
            "median_without_symmetric": None if symmetric.all() else float(np.median(errors[~symmetric])),
            "pairs": errors.size,
        }

    def _class_figures(self, views: int, snr: float) -> dict[str, Any]:
        each = np.array(self.agreement[views, snr]).reshape(-1, self.settings.class_sets, 4)
        means = each.mean((0, 1))
        size = self.settings.class_set_size

        def index(column: int) -> dict[str, float]:
            low, high = _interval(each[..., column], lambda drawn: drawn.mean((1, 2)))
            return {"mean": float(means[column]), "low": low, "high": high}

        return {
            "adjusted_rand_index": index(0),
            "adjusted_rand_index_told": index(1),
            "same_view_share": float(means[2]),
            "chance_share": (size / views - 1) / (size - 1),
            "classes_found": float(means[3]),
            "sets": each.shape[0] * each.shape[1],
        }


def _sets(
    bank: StructureBank, box: int, count: int, size: int, views: int, snr: float, seed: tuple[int, ...]
) -> SetBatch:
    """Sets of one structure, their views in equal shares one after the other.

    The i-th set of a seed has the same views and diameter whatever its size.
    """
    config = Condition("gaussian", snr).sampler(box, size)
    mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    rotations, _ = view_sets(count * size, size // views, 0.0, mixed)
    return SetSampler(bank, config, seed=mixed).batch(0, count, rotations.view(count, size, 3, 3))


def _about_truth(attention: Tensor, true_deg: Tensor) -> Tensor:
    """Attention (b, m) over angles from the truth (b,), which comes to lie at m // 2."""
    size = attention.shape[-1]
    shift = torch.round(true_deg * size / 360).long()
    places = (torch.arange(size) - size // 2 + shift[:, None]) % size
    return attention.gather(-1, places)


def _median_place(values: list[float]) -> int:
    """Where the (upper) median lies."""
    return int(np.argsort(values, kind="stable")[len(values) // 2])


def _interval(
    values: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> tuple[float, float]:
    """95 % interval of a statistic over structures (the first axis), by resampling them."""
    rows = np.random.default_rng(0).integers(0, len(values), (_RESAMPLED, len(values)))
    low, high = np.quantile(statistic(values[rows]), (0.025, 0.975))
    return float(low), float(high)

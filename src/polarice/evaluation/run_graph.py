"""Who was denoised with whom: what a run's neighbours and weights give to its page."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..denoising import DenoiseResult, SetDenoiser
from ..neighbours import NOBODY
from ..particles import ParticleStack
from .chart_data import AngleProfile, AttentionMap, ViewMap
from .content import ClassTile, Heading, Neighbour, Neighbourhood
from .relatives import average_upon, relatives_of
from .seen import LOW_PASS_A, bright, low_pass, magnitudes, model_images
from .similarity import map_graph, spread_seeds

__all__ = ["VIEWS", "angle_profiles", "attention", "neighbourhoods", "turned", "views"]

_NEIGHBOURHOODS = 3
# Regions of the map of which a view is shown, points of each at least, and particles averaged.
_VIEWS, _FEWEST_POINTS, _AVERAGED = 24, 4, 48

VIEWS = Heading(
    "Views that attention brings together",
    "Above, the average of the original images of a particle, of its neighbours, and of theirs, turned as "
    "attention says; it has seen no denoised pixel but to find shifts. Below, that one particle "
    "denoised. Both should show the same; what is only in the lower one was not in the data of these "
    "particles. The numbers are those of the map below.",
)


def turned(images: Tensor, angles_deg: Tensor) -> Tensor:
    """Images (n, y, x) turned about the origin pixel, from x towards y."""
    size = images.shape[-1]
    angle = torch.deg2rad(angles_deg)
    axis = torch.arange(size, dtype=images.dtype) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    # A turned image takes each pixel from where the inverse turn leads.
    from_x, from_y = cos * x + sin * y, -sin * x + cos * y
    place = (torch.stack([from_x, from_y], -1) + size // 2) * 2 / (size - 1) - 1
    turned = torch.nn.functional.grid_sample(images[:, None], place, mode="bicubic", align_corners=True)
    return turned[:, 0]


def _chosen(result: DenoiseResult) -> np.ndarray:
    """Rows whose neighbours are shown: of high, middling and low confidence."""
    assert result.weights is not None
    order = np.argsort(-result.confidence, kind="stable")
    return order[[int(f * (len(order) - 1)) for f in np.linspace(0.1, 0.9, _NEIGHBOURHOODS)]]


def neighbourhoods(
    result: DenoiseResult, source: ParticleStack, denoised: ParticleStack
) -> tuple[Neighbourhood, ...]:
    """Some particles, and the images that they were denoised with."""
    if result.neighbours is None or result.weights is None or result.angles_deg is None:
        return ()
    pixel = result.preprocessor.model_pixel_size_A
    sure = result.confidence
    found = []
    for row in _chosen(result):
        places = np.flatnonzero(result.neighbours[row] != NOBODY)
        places = places[np.argsort(-result.weights[row, places], kind="stable")][:8]
        partners = result.neighbours[row, places]
        angles = result.angles_deg[row, places]
        aligned = turned(model_images(result, source, partners), torch.from_numpy(angles))
        laid = low_pass(aligned, pixel).numpy()
        query = low_pass(model_images(result, source, np.array([row])), pixel)[0].numpy()
        found.append(
            Neighbourhood(
                f"row {row + 1}",
                query,
                tuple(
                    Neighbour(f"row {p + 1}", view, float(angle), float(result.weights[row, place]))
                    for p, view, angle, place in zip(partners, laid, angles, places, strict=True)
                ),
                bright(result, denoised, np.array([row]))[0],
                f"confidence {sure[row]:.0%}; low-passed to {LOW_PASS_A:.0f} Å for the eye",
            )
        )
    return tuple(found)


def attention(result: DenoiseResult) -> AttentionMap | None:
    """Who took how much from whom in one family."""
    if result.neighbours is None or result.weights is None:
        return None
    members = _family(result)
    weights = np.zeros((len(members), len(members)))
    for i, row in enumerate(members):
        for j, other in enumerate(members):
            weights[i, j] = result.weights[row, result.neighbours[row] == other].sum()
    note = "A particle and its neighbours: how much each (row) took from each other (column)"
    return AttentionMap(weights, note=note)


def _family(result: DenoiseResult) -> np.ndarray:
    assert result.neighbours is not None
    row = int(_chosen(result)[0])
    partners = result.neighbours[row]
    return np.concatenate([[row], partners[partners != NOBODY]])


def angle_profiles(result: DenoiseResult, source: ParticleStack) -> tuple[AngleProfile, ...]:
    """Attention over the angle for one particle and its family, from a fresh look at that set."""
    if result.weights is None:
        return ()
    members = _family(result)[:17]
    denoiser = SetDenoiser(result.settings.model, "cpu")
    coefficients = denoiser(model_images(result, source, members)[None]).attention[0, 0]
    best = torch.argsort(coefficients.sum(-1), descending=True)[:4]
    angles = np.arange(coefficients.shape[-1]) * 360 / coefficients.shape[-1]
    names = tuple(f"row {members[int(i)] + 1}" for i in best)
    label = f"row {members[0] + 1} and the four that it took most from"
    return (AngleProfile(label, angles, coefficients[best].numpy(), names),)


def views(
    result: DenoiseResult, source: ParticleStack, denoised: ParticleStack
) -> tuple[tuple[ClassTile, ...], ViewMap | None]:
    """Averages of original images for views from all over the stack, and the map that they are from."""
    if result.neighbours is None or result.weights is None or result.angles_deg is None:
        return (), None
    members, which = _one_half(denoised)
    found = map_graph(result.neighbours, result.weights, members)
    if found is None:
        return (), None
    count = min(_VIEWS, len(found.rows) // _FEWEST_POINTS)
    pinned = spread_seeds(found, result.weights, count)
    rows = found.rows[pinned]
    tiles = []
    for number, row in enumerate(rows):
        relatives = relatives_of(
            int(row), result.neighbours, result.weights, result.angles_deg, most=_AVERAGED
        )
        family = np.concatenate([[row], relatives.rows])
        seen, ctf = model_images(result, source, family), magnitudes(result, source, family)
        clean = bright(result, denoised, family)
        average = average_upon(seen, ctf, torch.from_numpy(clean), relatives.angles_deg)
        note = f"row {row + 1}, {len(family)} images"
        tiles.append(ClassTile(f"{number + 1}", note, (average.numpy(), clean[0])))
    usable = int((found.stands_for >= 0).sum())
    shown = f"{len(found.rows):,} points stand for" if usable > len(found.rows) else "Shown are"
    lost = len(members) - int((found.stands_for[members] >= 0).sum())
    apart = f" {lost:,} that took next to nothing from others have no place on it." if lost else ""
    note = f"{shown} {usable:,} particles{which}.{apart}"
    share = result.confidence[found.rows]
    names = tuple(f"row {row + 1}" for row in found.rows)
    images = tuple(bright(result, denoised, rows))
    return tuple(tiles), ViewMap(names, found.position, share, tuple(pinned.tolist()), images, note)


def _one_half(stack: ParticleStack) -> tuple[np.ndarray, str]:
    """Rows of the larger half set, of which the other is no neighbour, and its name."""
    if stack.half_sets is None:
        return np.arange(len(stack)), ""
    names, counts = np.unique(np.array(stack.half_sets), return_counts=True)
    name = names[counts.argmax()]
    which = f" of half set {name}; the other looks alike" if len(names) > 1 else ""
    return np.flatnonzero(np.array(stack.half_sets) == name), which

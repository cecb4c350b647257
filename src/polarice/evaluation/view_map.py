"""The map of a stack's views as a drawing in the page: SVG, which takes the page's colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .chart_data import ViewMap
from .figures import grey_png, grey_range
from .fragments import data_uri, paragraph, text

__all__ = ["view_map"]

# In the drawing's own units.
_SIDE, _THUMB = 1000, 76


def view_map(shown: ViewMap) -> str:
    """Draw points, and the images of some beside them, moved aside where they would hide each other."""
    position = np.asarray(shown.position, float) * [1, -1]
    # Room for images around the points.
    place = _THUMB + (position - position.min(0)) / 2 * (_SIDE - 2 * _THUMB)
    width, height = (place.max(0) + _THUMB).round().astype(int)
    name = text(shown.share_name)
    points = "".join(
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="6" style="--v:{100 * value:.0f}%">'
        f"<title>{text(label)}, {name} {value:.0%}</title></circle>"
        for (x, y), value, label in zip(place, np.clip(shown.share, 0, 1), shown.names, strict=True)
    )
    pinned = place[list(shown.pinned)]
    thumbs = "".join(
        _thumb(number + 1, here, there, shown)
        for number, (here, there) in enumerate(zip(pinned, _beside(pinned, (width, height)), strict=True))
    )
    lead = (
        "Each point is a particle; particles that attended to each other lie close together. Distances "
        "between far points mean nothing, nor do the axes. The numbered images are denoised particles: close "
        f"ones should look alike but for a turn in the plane. {text(shown.note)}"
    )
    return (
        f'{paragraph(lead)}<div class="scroll"><svg class="map" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Map of particles by likeness">{points}{thumbs}</svg></div>'
        f'<p class="legend"><span>{name} 0</span><i></i><span>1</span></p>'
    )


def _thumb(number: int, here: NDArray[np.float64], there: NDArray[np.float64], shown: ViewMap) -> str:
    image = shown.images[number - 1]
    uri = data_uri(grey_png(image, *grey_range(image), enlarged=False))
    x, y = there - _THUMB / 2
    size = f'x="{x:.0f}" y="{y:.0f}" width="{_THUMB}" height="{_THUMB}"'
    label = text(shown.names[shown.pinned[number - 1]])
    return (
        f'<line x1="{here[0]:.0f}" y1="{here[1]:.0f}" x2="{there[0]:.0f}" y2="{there[1]:.0f}"></line>'
        f'<a href="#class-{number}"><title>{number}: {label}</title><image href="{uri}" {size}></image>'
        f'<rect {size}></rect><text x="{x + 6:.0f}" y="{y + 22:.0f}">{number}</text></a>'
    )


def _beside(pinned: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Put squares of the images' side outwards of points, and apart until hardly one hides another."""
    outwards = pinned - np.array(size) / 2
    outwards = outwards / np.maximum(np.linalg.norm(outwards, axis=1, keepdims=True), 1)
    place: NDArray[np.float64] = pinned + 0.8 * _THUMB * outwards
    for _ in range(200):
        gap = place[:, None] - place
        overlap = _THUMB + 4 - np.abs(gap)
        hidden = (overlap > 0).all(-1) & ~np.eye(len(place), dtype=bool)
        if not hidden.any():
            break
        # Each pair along the axis on which it needs the shorter way.
        axis = overlap.argmin(-1)[..., None] == np.arange(2)
        # Squares in one place go apart by their numbers.
        order = np.sign(np.arange(len(place))[:, None] - np.arange(len(place)))[..., None]
        way = np.where(gap == 0, order, np.sign(gap))
        place += (0.3 * way * overlap * axis * hidden[..., None]).sum(1)
        place = place.clip(_THUMB / 2, np.array(size) - _THUMB / 2)
    return place

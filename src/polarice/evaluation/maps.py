"""Maps as HTML: surfaces from three sides, central slices, and one to turn by hand (``assets/maps.js``)."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..simulation import Volume, resample_volume
from .chart_data import Floats
from .content import MapShown
from .figures import grey_range
from .fragments import data_uri, paragraph, picture, text
from .surface import AXES, contour_level, draw_surface, level_enclosing, reach

__all__ = ["maps"]

_SIDE_PX = 224
# Voxels a side of what is sent with the page.
_LARGEST_SIDE = 64
_COLOUR, _NAMES = (0.56, 0.72, 0.84), ("along z", "along x", "along y")


def maps(shown: tuple[MapShown, ...]) -> str:
    """Show maps below each other, their surfaces enclosing one volume: that of the last."""
    if not shown:
        return ""
    densities = [_small(one.density) for one in shown]
    reference = densities[-1]
    share = max(1 / reference.numel(), float((reference > contour_level(reference)).float().mean()))
    levels = [level_enclosing(density, share) for density in densities]
    width = min(1.0, max(reach(*each) for each in zip(densities, levels, strict=True)))
    lead = (
        "Surfaces of equal density, to be turned by dragging and from three sides, each enclosing the same "
        "volume; the slider sets how much. Beneath, the slices through the centre."
    )
    rows = [
        _row(one, density, level, width) for one, density, level in zip(shown, densities, levels, strict=True)
    ]
    return paragraph(lead) + "".join(rows)


def _row(one: MapShown, density: Tensor, level: float, width: float) -> str:
    drawn = [_coloured(draw_surface(density, level, turn, _SIDE_PX, width)) for turn in AXES]
    surfaces = "".join(
        f'<img class="surface" src="{data_uri(png)}" alt="{text(one.label)}, surface seen {name}" />'
        for png, name in zip(drawn, _NAMES, strict=True)
    )
    centre = len(density) // 2
    half = min(centre, max(4, round(width * centre)))
    middle = density.numpy()[(slice(centre - half, centre + half),) * 3]
    # Each as its surface is seen.
    cuts = [middle[half], middle[:, :, half], middle[:, half].T]
    low, high = grey_range(np.stack(cuts))
    slices = "".join(
        picture(cut, low, high, f"{one.label}, slice {name}") for cut, name in zip(cuts, _NAMES, strict=True)
    )
    return (
        f'<div class="mapname"><strong>{text(one.label)}</strong> <span>{text(one.note)}</span></div>'
        f'<div class="mapshown">{_canvas(one.label, density, level, width)}'
        f'<div class="sides">{surfaces}{slices}</div></div>'
    )


def _canvas(label: str, density: Tensor, level: float, width: float) -> str:
    """A map to turn, its densities as bytes, with a slider for the level."""
    low, high = float(density.min()), float(density.max())
    scale = 255 / max(high - low, 1e-12)
    data = base64.b64encode(((density - low) * scale).round().byte().numpy().tobytes()).decode()
    name = text(label)
    return (
        f'<div class="turned" hidden="hidden"><canvas width="448" height="448" role="img" tabindex="0" '
        f'data-side="{len(density)}" data-width="{width:.4f}" data-voxels="{data}" '
        f'aria-label="{name}: drag, or use the arrow keys, to turn"></canvas>'
        f'<label>level <input type="range" min="1" max="254" step="0.5" value="{(level - low) * scale:.1f}" '
        f'aria-label="Density of the surface of {name}" /></label></div>'
    )


def _coloured(shade: Tensor) -> bytes:
    """A transparent picture of a surface."""
    bright = shade.nan_to_num(0).numpy()
    colours = [255 * np.clip(bright * tone * 1.25, 0, 1) for tone in _COLOUR]
    image = np.stack([*colours, np.where(shade.isnan().numpy(), 0, 255)], -1)
    buffer = io.BytesIO()
    Image.fromarray(image.round().astype(np.uint8), "RGBA").save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _small(density: Floats) -> Tensor:
    """A map with no more voxels than a page should carry."""
    found = torch.as_tensor(np.ascontiguousarray(density)).float()
    if len(found) <= _LARGEST_SIDE:
        return found
    return resample_volume(Volume(found, 1.0), _LARGEST_SIDE, len(found) / _LARGEST_SIDE).density

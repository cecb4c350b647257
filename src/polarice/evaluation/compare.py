"""Pairs of images under one slider, as HTML; what moves is in ``assets/compare.js``."""

from __future__ import annotations

import numpy as np

from .content import Comparison
from .figures import grey_range
from .fragments import paragraph, picture, text

__all__ = ["comparison"]


def comparison(shown: Comparison) -> str:
    """Show a gallery; without scripts its first tiles, cut in the middle."""
    before, after = text(shown.before_name), text(shown.after_name)
    lead = f"Left of the cut {before}, right of it {after}: move the slider, or drag across a tile. "
    lead += text(shown.note)
    order = ""
    if shown.share is not None:
        choices = "".join(f"<option>{name}</option>" for name in ("as in the stack", "surest", "least sure"))
        lead += f" The bar below a tile is its {text(shown.share_name)}."
        order = f"<label>Order <select>{choices}</select></label>"
    controls = (
        '<div class="controls" hidden="hidden">'
        f'<label class="cut"><span>{before}</span>'
        '<input type="range" min="0" max="100" value="50" aria-label="Where all tiles are cut, in percent" />'
        f"<span>{after}</span></label>{order}"
        '<span class="turn"><button type="button" aria-label="Page back">‹</button>'
        '<output aria-live="polite"></output>'
        '<button type="button" aria-label="Next page">›</button></span></div>'
    )
    label = f"Particles, {before} and {after}; the arrow keys turn pages"
    return (
        f'{paragraph(lead)}<div class="compare">{controls}'
        f'<div class="tiles" role="group" tabindex="0" aria-label="{label}">{_tiles(shown)}</div></div>'
    )


def _tiles(shown: Comparison) -> str:
    ranges = grey_range(shown.before), grey_range(shown.after)
    tiles = []
    for index, name in enumerate(shown.names):
        images = "".join(
            picture(images[index], *grey, f"{name}, {what}", enlarged=False)
            for images, grey, what in zip(
                (shown.before, shown.after), ranges, (shown.before_name, shown.after_name), strict=True
            )
        )
        told, data, bar = name, "", ""
        if shown.share is not None:
            share = float(np.clip(shown.share[index], 0, 1))
            told = f"{name}, {shown.share_name} {share:.0%}"
            data = f' data-share="{share:.4f}"'
            bar = f'<i class="bar" style="--share:{100 * share:.0f}%"></i>'
        tiles.append(
            f'<figure class="pair" title="{text(told)}"{data}><div>{images}</div>{bar}'
            f"<figcaption>{text(name)}</figcaption></figure>"
        )
    return "".join(tiles)

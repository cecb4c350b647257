"""Small pieces of HTML that the sections of a page are made of.

Every piece is well-formed XML too, and everything that came from outside passes `text`.
"""

from __future__ import annotations

import base64
import html

from . import figures
from .chart_data import Floats

__all__ = ["chart", "charts", "data_uri", "duration", "number", "paragraph", "picture", "text"]


def text(value: object) -> str:
    """Escape anything for use as HTML text or as an attribute's value."""
    return html.escape(str(value))


def number(value: float, format_spec: str = ".3g") -> str:
    """Format a number with a true minus sign."""
    return format(value, format_spec).replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds as people say them: "0.4 s", "3 min 12 s", "2 h 05 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def data_uri(png: bytes) -> str:
    """An address that is the picture itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def picture(image: Floats, low: float, high: float, alt: str, *, enlarged: bool = True) -> str:
    """Draw a particle in grey, black at ``low`` and white at ``high``."""
    uri = data_uri(figures.grey_png(image, low, high, enlarged=enlarged))
    return f'<img class="particle" src="{uri}" alt="{text(alt)}" />'


def chart(drawn: figures.Chart, caption: str, alt: str) -> str:
    """Put a chart with a caption of HTML, as light or dark as the page."""
    size = f'width="{drawn.width_px}" height="{drawn.height_px}"'
    return (
        '<figure class="chart"><picture>'
        '<source media="screen and (prefers-color-scheme: dark)"'
        f' srcset="{data_uri(drawn.dark)}" />'
        f'<img src="{data_uri(drawn.light)}" alt="{text(alt)}" {size} />'
        f"</picture><figcaption>{caption}</figcaption></figure>"
    )


def charts(several: list[str]) -> str:
    """Charts side by side."""
    return f'<div class="charts">{"".join(several)}</div>' if several else ""


def paragraph(body: str) -> str:
    """A paragraph of HTML, unless it is empty."""
    return f"<p>{body}</p>" if body else ""

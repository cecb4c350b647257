"""One HTML file that shows what happened in a run; it needs nothing but a browser."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from ..files import whole
from .content import ReportContent
from .fragments import text
from .sections import Section, sections

__all__ = ["report_html", "write_report"]

# The page may show what it carries and nothing else: no font, no picture, no script from elsewhere.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {}"


def write_report(path: str | Path, content: ReportContent) -> Path:
    """Write a report as one self-contained page.

    Parameters
    ----------
    path : path-like
        Where; an older report there is replaced once the new one is whole.
    content : ReportContent

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    DiskError
        The file cannot be written.
    """
    path = Path(path)
    page = report_html(content)
    with whole(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def report_html(content: ReportContent) -> str:
    """Build the page; see `write_report`."""
    found = sections(content)
    style = _asset("report.css")
    names = [name for name, shown in (("compare", content.comparison), ("maps", content.maps)) if shown]
    script, allowed = _script(names) if names else ("", "'none'")
    policy = POLICY.format(allowed)
    footer = f"<footer>{text(content.provenance)}</footer>" if content.provenance else ""
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en" xmlns="http://www.w3.org/1999/xhtml"><head><meta charset="utf-8" />'
        f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}" />'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />'
        '<meta name="color-scheme" content="light dark" />'
        f"<title>{text(content.title)}</title><style>{style}</style></head>\n<body><header>"
        f"<h1>{text(content.title)}</h1><p>{text(content.summary)}</p></header>\n<main>"
        f"{_notices(content)}{_key_figures(content)}{_contents(found)}"
        f"{''.join(_section(*each) for each in found)}</main>\n{footer}{script}</body></html>\n"
    )


def _script(names: list[str]) -> tuple[str, str]:
    """The page's script, and by what its policy knows it."""
    # For readers of XML what is between the tags is no markup.
    words = f"//<![CDATA[\n{''.join(_asset(f'{name}.js') for name in names)}//]]>"
    digest = base64.b64encode(hashlib.sha256(words.encode()).digest()).decode()
    return f"<script>{words}</script>", f"'sha256-{digest}'"


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _notices(content: ReportContent) -> str:
    words = {"good": "Good", "warning": "Take care", "note": "Note"}
    return "".join(
        f'<p class="notice {text(notice.level)}" role="note"><b>{words[notice.level]}</b> '
        f"{text(notice.text)}</p>"
        for notice in content.notices
    )


def _key_figures(content: ReportContent) -> str:
    figures = "".join(
        f"<div><dt>{text(figure.label)}</dt><dd>{text(figure.value)}</dd>"
        + (f'<dd class="aside">{text(figure.note)}</dd>' if figure.note else "")
        + "</div>"
        for figure in content.key_figures
    )
    return f'<dl class="figures">{figures}</dl>' if figures else ""


def _contents(found: list[Section]) -> str:
    if len(found) < 3:
        return ""
    links = "".join(f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, heading, _ in found)
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


def _section(anchor: str, heading: str, body: str) -> str:
    return f'<section id="{anchor}"><h2>{heading}</h2>{body}</section>\n'

"""The report's sections as HTML fragments.

Every fragment is well-formed XML too, and everything that came from outside passes `text`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np

from . import figures
from .chart_data import AttentionMap, Histogram, RadialCurves
from .compare import comparison
from .content import Chapter, Gallery, GuardCheck, Neighbourhood, ReportContent
from .fragments import chart, charts, duration, number, paragraph, picture, text
from .maps import maps
from .view_map import view_map

__all__ = ["Section", "sections"]

# Anchor, heading, body.
Section = tuple[str, str, str]


def sections(content: ReportContent) -> list[Section]:
    """All sections that have something to say, in the order of the page."""
    found = [
        ("maps", "In three dimensions", maps(content.maps)),
        ("compare", "Before and after", comparison(content.comparison) if content.comparison else ""),
        ("classes", content.classes_heading.title, _classes(content)),
        ("map", "Which particles look alike", view_map(content.view_map) if content.view_map else ""),
        ("images", content.gallery_heading.title, _images(content)),
        ("neighbours", content.neighbours_heading.title, _neighbourhoods(content)),
        ("attention", "Attention between images", _attention(content)),
        ("frequencies", "Down to which detail", _radial(content.radial) if content.radial else ""),
        ("spectra", "Spectra and optics", _spectra(content)),
        ("confidence", "How far to trust each particle", _histograms(content.histograms)),
        ("guard", "What pure noise turns into", _guard(content.guard) if content.guard else ""),
        *((each.anchor, each.heading.title, _chapter(each)) for each in content.chapters),
        ("time", "Where the time went", _timings(content)),
        ("files", "Files", _files(content)),
        ("configuration", "Settings", _configuration(content)),
    ]
    return [(anchor, heading, body) for anchor, heading, body in found if body]


def _images(content: ReportContent) -> str:
    if content.gallery is None:
        return ""
    return paragraph(content.gallery_heading.lead) + _gallery(content.gallery)


def _gallery(gallery: Gallery) -> str:
    cells = []
    for row in gallery.rows:
        low, high = row.grey or figures.grey_range(row.images)
        cells.append(
            f'<div class="rowname"><strong>{text(row.label)}</strong> <span>{text(row.note)}</span> '
            f'<span class="range">grey {number(low)} to {number(high)}</span></div>'
        )
        cells += [
            picture(image, low, high, f"{row.label}, {column}")
            for column, image in zip(gallery.columns, row.images, strict=True)
        ]
    cells += [f'<div class="colname">{text(column)}</div>' for column in gallery.columns]
    columns = f"--n:{len(gallery.columns)}"
    return f'<div class="scroll"><div class="gallery" style="{columns}">{"".join(cells)}</div></div>'


def _classes(content: ReportContent) -> str:
    if not content.classes:
        return ""
    tiles = []
    for number_, one in enumerate(content.classes):
        images = "".join(picture(image, *figures.grey_range(image), one.label) for image in one.images)
        tiles.append(
            f'<div class="tile" id="class-{number_ + 1}">{images}<b>{text(one.label)}</b>'
            f"<span>{text(one.note)}</span></div>"
        )
    return paragraph(content.classes_heading.lead) + f'<div class="classes">{"".join(tiles)}</div>'


def _neighbourhoods(content: ReportContent) -> str:
    if not content.neighbourhoods:
        return ""
    shown = "".join(_neighbourhood(each) for each in content.neighbourhoods)
    return paragraph(content.neighbours_heading.lead) + shown


def _neighbourhood(one: Neighbourhood) -> str:
    raw = np.stack([one.query, *(neighbour.image for neighbour in one.neighbours)])
    low, high = figures.grey_range(raw)
    largest = max((neighbour.weight for neighbour in one.neighbours), default=1.0) or 1.0
    own = (
        f'<div class="tile own">{picture(one.query, low, high, f"{one.label}, as it came")}'
        f"<b>{text(one.label)}</b><span>as it came</span></div>"
    )
    strip = []
    for neighbour in one.neighbours:
        angle = (neighbour.angle_deg + 180) % 360 - 180
        alt = f"{neighbour.label}, turned by {angle:.0f} degrees"
        strip.append(
            f'<div class="tile">{picture(neighbour.image, low, high, alt)}'
            f'<i class="bar" style="--share:{100 * neighbour.weight / largest:.1f}%"></i>'
            f"<b>{number(angle, '+.0f')}°</b><span>{neighbour.weight:.1%}</span>"
            f'<span class="who">{text(neighbour.label)}</span></div>'
        )
    low, high = figures.grey_range(one.denoised)
    out = (
        f'<div class="tile out">{picture(one.denoised, low, high, f"{one.label}, {one.outcome}")}'
        f"<b>{text(one.outcome)}</b></div>"
    )
    note = f'<p class="aside">{text(one.note)}</p>' if one.note else ""
    return f'<div class="neighbourhood">{own}<div class="strip">{"".join(strip)}</div>{out}</div>{note}'


def _attention(content: ReportContent) -> str:
    drawn = []
    if content.attention is not None:
        drawn.append(_attention_map(content.attention))
    for profile in content.angle_profiles:
        caption = (
            f"<b>{text(profile.label)}: attention by in-plane angle.</b> One sharp peak means that the "
            "rotation was found; a flat curve means that it was not."
        )
        drawn.append(chart(figures.angle_chart(profile), caption, f"Attention by angle, {profile.label}"))
    return charts(drawn)


def _attention_map(attention: AttentionMap) -> str:
    caption = (
        f"<b>Who attended to whom.</b> {text(attention.note)}. Each row is one particle, each column an "
        "image it could attend to; the darker or, on a dark page, the brighter, the larger its share, summed "
        "over all in-plane angles."
    )
    return chart(figures.attention_chart(attention), caption, "Attention weights as a heat map")


def _radial(radial: RadialCurves) -> str:
    drawn = []
    if radial.gain:
        caption = (
            f"<b>Amplitude kept</b>, relative to {text(radial.gain_reference)}. At 1 nothing is damped; "
            "where the curve falls, detail of that size has been smoothed away."
        )
        drawn.append(chart(figures.gain_chart(radial), caption, "Amplitude kept against resolution"))
    if radial.frc:
        caption = (
            f"<b>Fourier ring correlation</b> with {text(radial.frc_reference)}. 1 is perfect agreement "
            f"at that resolution, 0 none; dashed: {' and '.join(f'{v:g}' for v in radial.frc_levels)}."
        )
        drawn.append(chart(figures.frc_chart(radial), caption, "Ring correlation against resolution"))
    if radial.power:
        caption = "<b>Power spectrum</b>, averaged over rings and particles, on a logarithmic scale. " + text(
            radial.power_note
        )
        drawn.append(chart(figures.power_chart(radial), caption, "Power against resolution"))
    return charts(drawn)


def _spectra(content: ReportContent) -> str:
    spectra = "" if content.spectra is None else _radial(content.spectra)
    return spectra + _histograms(content.optics)


def _histograms(histograms: tuple[Histogram, ...]) -> str:
    return charts(_histogram_charts(histograms))


def _histogram_charts(histograms: tuple[Histogram, ...]) -> list[str]:
    return [
        chart(figures.histogram_chart(each), f"<b>{text(each.title)}.</b> {text(each.note)}", each.title)
        for each in histograms
    ]


def _guard(guard: GuardCheck) -> str:
    lead = (
        "Noise like the stack's own, with no particle in it, went through the same network. "
        f"It kept <b>{guard.noise_energy:.2%}</b> of its energy; the particles kept "
        f"<b>{guard.particle_energy:.2%}</b> of theirs. A denoiser that draws proteins into noise would "
        "show here; <code>polarice guard</code> looks for more."
    )
    return paragraph(lead) + (_gallery(guard.gallery) if guard.gallery else "")


def _chapter(chapter: Chapter) -> str:
    pictures = _gallery(chapter.gallery) if chapter.gallery else ""
    curves = _radial(chapter.radial) if chapter.radial else ""
    drawn = _histogram_charts(chapter.histograms)
    if (seen := chapter.directions) is not None:
        caption = f"<b>{text(seen.title)}.</b> {text(seen.note)}"
        drawn = [chart(figures.direction_chart(seen), caption, seen.title), *drawn]
    return f"<p>{text(chapter.heading.lead)}</p>{pictures}{curves}{charts(drawn)}"


def _timings(content: ReportContent) -> str:
    if not content.timings:
        return ""
    longest = max(each.seconds for each in content.timings) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{text(each.stage)}</th>'
        f'<td><i class="bar" style="--share:{100 * each.seconds / longest:.1f}%"></i></td>'
        f"<td>{duration(each.seconds)}</td></tr>"
        for each in content.timings
    )
    total = duration(sum(each.seconds for each in content.timings))
    return (
        f'<table class="times"><tbody>{rows}</tbody><tfoot><tr><th scope="row">all together</th>'
        f"<td></td><td>{total}</td></tr></tfoot></table>"
    )


def _files(content: ReportContent) -> str:
    rows = "".join(f"<dt>{text(each.path)}</dt><dd>{text(each.what)}</dd>" for each in content.files)
    return f'<dl class="files">{rows}</dl>' if rows else ""


def _configuration(content: ReportContent) -> str:
    if not content.configuration:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{text(key)}</th><td>{text(value)}</td></tr>'
        for key, value in _flatten(content.configuration)
    )
    return (
        "<details><summary>Every setting of this run, defaults included</summary>"
        f'<table class="settings"><tbody>{rows}</tbody></table></details>'
    )


def _flatten(configuration: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values as JSON writes them."""
    for key, value in configuration.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, default=str, ensure_ascii=False)

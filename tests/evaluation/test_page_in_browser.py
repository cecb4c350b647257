"""The page in a real browser: what moves, moves; nothing is fetched; nothing is wider than a phone."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polarice.evaluation.chart_data import Histogram, ViewMap
from polarice.evaluation.content import (
    ClassTile,
    Comparison,
    FileWritten,
    Gallery,
    GalleryRow,
    KeyFigure,
    MapShown,
    Neighbour,
    Neighbourhood,
    Notice,
    ReportContent,
    StageTime,
)
from polarice.evaluation.report import write_report

COUNT = 200
# Of conftest.py, which nothing can be imported from.
Browser = Any


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(COUNT, 16, 16))
    names = tuple(f"row {row + 1}" for row in range(COUNT))
    share = rng.random(COUNT)
    neighbours = tuple(Neighbour(names[i], images[i], 20.0 * i, 1 / (i + 1)) for i in range(8))
    content = ReportContent(
        title="A_run_with_a_name_that_goes_on_and_on_and_has_no_place_where_it_could_be_broken.star",
        summary="Something happened.",
        key_figures=tuple(KeyFigure(f"Figure {i}", "1,000,000", "of them all") for i in range(9)),
        notices=(Notice("All is well", "good"), Notice("Take care " * 30)),
        comparison=Comparison(names, images, 2 * images, "noisy", "denoised", "All.", share),
        classes=tuple(ClassTile(f"{i + 1}", "49 images", (images[i], images[i])) for i in range(24)),
        view_map=ViewMap(names, rng.uniform(-1, 1, (COUNT, 2)), share, (3, 5), (images[3], images[5])),
        gallery=Gallery(names[:12], (GalleryRow("Noisy", "as it came", images[:12]),)),
        neighbourhoods=(Neighbourhood("row 1", images[0], neighbours, images[0]),),
        histograms=(Histogram("Confidence", "confidence", share),),
        maps=(MapShown("Map", "of two balls", two_balls()),),
        timings=(StageTime("attend and decode", 192.4),),
        files=(FileWritten(Path("/a/very") / ("long" * 40) / "path.star", "the table"),),
        configuration={"a": {"b": "c" * 300}},
    )
    return write_report(tmp_path_factory.mktemp("page") / "page.html", content)


def two_balls() -> Any:
    """A large ball at the left, a small one at the right."""
    axis = np.arange(24) - 12
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    large = 5 - np.hypot(np.hypot(x + 5, y), z)
    small = 2.5 - np.hypot(np.hypot(x - 6, y), z)
    return 1 / (1 + np.exp(-2 * np.maximum(large, small)))


def shown(browser: Browser) -> list[str]:
    return list(browser.evaluate("[...document.querySelectorAll('.pair figcaption')].map(e => e.innerText)"))


def cut(browser: Browser) -> str:
    """How the denoised half of the first tile is really clipped."""
    return str(browser.evaluate("getComputedStyle(document.querySelector('.pair img + img')).clipPath"))


def cut_percent(browser: Browser) -> float:
    found = re.fullmatch(r"inset\(0px 0px 0px ([\d.]+)%\)", cut(browser))
    assert found
    return float(found[1])


def test_the_slider_moves_all_tiles(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert cut_percent(browser) == 50
    browser.evaluate("document.querySelector('.cut input').focus()")
    for _ in range(5):
        browser.press("ArrowRight")
    assert cut_percent(browser) == 55
    clips = browser.evaluate(
        "[...new Set([...document.querySelectorAll('.pair img + img')]"
        ".map(e => getComputedStyle(e).clipPath))]"
    )
    assert clips == [cut(browser)]
    # By the mouse on a tile too, which takes the slider along.
    browser.drag(".pair:nth-child(14) div", 0.2)
    assert cut_percent(browser) == pytest.approx(20, abs=2)
    assert float(browser.evaluate("document.querySelector('.cut input').value")) == cut_percent(browser)


def test_the_gallery_pages(browser: Browser, page: Path) -> None:
    browser.open(page)
    rows = [f"row {row + 1}" for row in range(COUNT)]
    told, back, onwards = (f"document.querySelector('.turn {which}')" for which in (
        "output", "button", "button:last-child"
    ))  # fmt: skip
    assert shown(browser) == rows[:96]
    assert browser.evaluate(f"{back}.disabled")
    browser.evaluate(f"{onwards}.click()")
    assert shown(browser) == rows[96:192]
    assert browser.evaluate(f"{told}.value") == "page 2 of 3"
    browser.evaluate("document.querySelector('.tiles').focus()")
    browser.press("ArrowRight")
    assert shown(browser) == rows[192:]
    browser.press("ArrowRight")
    assert shown(browser) == rows[192:]
    assert browser.evaluate(f"{onwards}.disabled")
    browser.press("ArrowLeft")
    assert shown(browser) == rows[96:192]


def test_the_gallery_is_put_in_order(browser: Browser, page: Path) -> None:
    browser.open(page)
    share = np.random.default_rng(0)
    share.normal(size=(COUNT, 16, 16))
    rows = [f"row {row + 1}" for row in np.argsort(share.random(COUNT), kind="stable")]
    for name, expected in (("least sure", rows), ("surest", rows[::-1])):
        browser.evaluate(
            f"(() => {{ const order = document.querySelector('select'); order.value = '{name}';"
            "order.dispatchEvent(new Event('change')); })()"
        )
        assert shown(browser) == expected[:96]


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_fetched_wrong_or_too_wide(width: int, browser: Browser, page: Path) -> None:
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(page, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    columns = browser.evaluate(
        "new Set([...document.querySelectorAll('.pair')].map(e => e.getBoundingClientRect().left)).size"
    )
    assert columns == (12 if width == 1280 else 4)
    assert len(shown(browser)) == 8 * columns
    assert all(browser.evaluate("[...document.images].map(e => e.complete && e.naturalWidth > 0)"))
    browser.evaluate("document.querySelector('.turn button:last-child').click()")
    # Not even a script that somebody has put in may fetch, or run at all.
    assert browser.complaints == []
    assert {request for request in browser.requests if not request.startswith("data:")} == {page.as_uri()}


def test_other_scripts_do_not_run(browser: Browser, page: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered.html"
    text = page.read_text(encoding="utf-8")
    altered.write_text(text.replace("</main>", "<script>document.title = 'taken'</script></main>"))
    browser.open(altered)
    assert browser.evaluate("document.title") != "taken"
    assert browser.complaints
    browser.complaints.clear()


# How many pixels of the canvas the surface covers in its left and in its right half.
COVERED = """(() => { const canvas = document.querySelector(".turned canvas");
    const copy = Object.assign(document.createElement("canvas"), {width: 100, height: 100});
    const context = copy.getContext("2d");
    context.drawImage(canvas, 0, 0, 100, 100);
    const alpha = context.getImageData(0, 0, 100, 100).data.filter((_, i) => i % 4 === 3);
    const count = [0, 0];
    alpha.forEach((a, i) => { if (a > 127) count[i % 100 < 50 ? 0 : 1] += 1; });
    return count; })()"""
FRAME = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def test_map_can_be_turned(browser: Browser, page: Path) -> None:
    browser.open(page)
    left, right = browser.evaluate(COVERED)
    assert left > 2.5 * right > 0
    browser.evaluate("document.querySelector('.turned canvas').focus()")
    # Twelve times 15 degrees: half a turn.
    for _ in range(12):
        browser.press("ArrowRight")
    browser.evaluate(FRAME)
    turned_left, turned_right = browser.evaluate(COVERED)
    assert turned_right > 2.5 * turned_left > 0
    assert abs(turned_right - left) < 0.05 * left


def test_level_of_a_map(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = sum(browser.evaluate(COVERED))
    browser.evaluate(
        "(() => { const slider = document.querySelector('.turned input');"
        " slider.value = 250; slider.dispatchEvent(new Event('input')); })()"
    )
    browser.evaluate(FRAME)
    assert 0 < sum(browser.evaluate(COVERED)) < before

import base64
import hashlib
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from polarice.errors import OutputError
from polarice.evaluation.chart_data import (
    AngleProfile,
    AttentionMap,
    Histogram,
    RadialCurve,
    RadialCurves,
    ViewMap,
)
from polarice.evaluation.content import (
    ClassTile,
    Comparison,
    FileWritten,
    Gallery,
    GalleryRow,
    GuardCheck,
    KeyFigure,
    Neighbour,
    Neighbourhood,
    Notice,
    ReportContent,
    StageTime,
)
from polarice.evaluation.report import report_html, write_report
from polarice.evaluation.view_map import _THUMB, _beside

NAMESPACE = {"h": "http://www.w3.org/1999/xhtml"}
NASTY = """<script>alert("x & 'y'")</script>"""


@pytest.fixture(scope="module")
def full() -> ReportContent:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 16, 16))
    gallery = Gallery(
        ("row 1", "row 2", "row 3"),
        (GalleryRow("Noisy", "as it came", images), GalleryRow("Denoised", "", images / 9, grey=(-1.5, 2))),
    )
    neighbours = tuple(
        Neighbour(f"row {i}", images[i], angle, weight)
        for i, angle, weight in ((1, 190.0, 0.5), (2, 20, 0.25))
    )
    ring = np.linspace(1, 0, 9)
    return ReportContent(
        title="A run",
        summary="Something happened.",
        provenance="polarice 0",
        key_figures=(KeyFigure("Particles", "3", "all of them"),),
        notices=(Notice("No half-set labels"), Notice("Only for looking", "note")),
        comparison=Comparison(("row 1", "row 2", "row 3"), images, images, share=rng.random(3)),
        gallery=gallery,
        classes=(ClassTile("1", "9 images", (images[0], images[1])),),
        view_map=ViewMap(
            ("row 1", "row 2", "row 3"),
            np.array([[-1, 0], [0, 1], [1, -1.0]]),
            rng.random(3),
            (1,),
            (images[1],),
        ),
        neighbourhoods=(Neighbourhood("row 1", images[0], neighbours, images[0], "two of two"),),
        attention=AttentionMap(rng.random((4, 6))),
        angle_profiles=(
            AngleProfile("row 1", np.arange(12) * 30.0, rng.random((2, 12)), ("row 2", "row 3")),
        ),
        radial=RadialCurves(
            16,
            2.0,
            gain=(RadialCurve("denoised", ring),),
            frc=(RadialCurve("denoised", ring),),
            power=(RadialCurve("noisy", ring + 0.1),),
        ),
        spectra=RadialCurves(
            16, 2.0, power=(RadialCurve("noisy", ring + 0.1),), power_note="How to read it."
        ),
        optics=(Histogram("Defocus", "µm", rng.random(50)),),
        histograms=(Histogram("Effective images", "images", rng.random(50)),),
        guard=GuardCheck(0.004, 0.21, gallery),
        timings=(StageTime("denoise", 192.4), StageTime("write", 1.26)),
        files=(FileWritten(Path("out/denoised.star"), "the table"),),
        configuration={"model": {"grid": {"radii": 32}}, "low_pass_A": None, "path": Path("out")},
    )


def parse(page: str) -> ET.Element:
    """Every fragment is well-formed, so a strict parser must accept the page."""
    return ET.fromstring(page)


def visible(page: str) -> str:
    body = parse(re.sub("<script>.*</script>", "", page, flags=re.DOTALL)).find("h:body", NAMESPACE)
    assert body is not None
    return " ".join(" ".join(body.itertext()).split())


def test_page_is_well_formed_and_anchors_lead_somewhere(full: ReportContent) -> None:
    root = parse(report_html(full))
    identifiers = [element.get("id") for element in root.iter() if element.get("id")]
    targets = [element.get("href") or "" for element in root.iter() if element.tag.endswith("}a")]
    sections = [element.get("id") for element in root.iter() if element.tag.endswith("}section")]
    assert len(sections) == 13
    assert len(identifiers) == len(set(identifiers))
    assert targets == [*(f"#{section}" for section in sections), "#class-1"]
    assert {target.removeprefix("#") for target in targets} <= set(identifiers)
    headings = [element.tag for element in root.iter() if re.search(r"}h\d$", element.tag)]
    assert headings[0].endswith("h1")
    assert all(tag.endswith("h2") for tag in headings[1:])


def test_void_elements_are_as_html_wants_them(full: ReportContent) -> None:
    # Browsers read the page as HTML: no element may rely on XML's self-closing but the void ones.
    closed: set[str] = set()

    class Reader(HTMLParser):
        def handle_startendtag(self, tag: str, attrs: object) -> None:
            closed.add(tag)

    Reader().feed(report_html(full))
    assert closed == {"img", "input", "meta", "source"}


def test_page_fetches_nothing(full: ReportContent) -> None:
    page = report_html(full)
    root = parse(page)
    for element in root.iter():
        assert not element.tag.endswith(("link", "iframe", "object"))
        for name in ("src", "srcset"):
            assert element.get(name, "data:").startswith("data:")
        assert element.get("href", "#").startswith("data:" if element.tag.endswith("}image") else "#")
        assert not [name for name in element.attrib if name.startswith("on")]
    without_namespace = page.replace(NAMESPACE["h"], "")
    assert not re.search(r"https?://|url\(|@import", without_namespace)
    assert "default-src &#x27;none&#x27;" in page


def test_no_script_runs_but_the_page_s_own(full: ReportContent) -> None:
    page = report_html(full)
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;" in page
    assert not re.search(r"fetch|XMLHttp|import\b|eval|innerHTML", scripts[0])
    # Where nothing moves, nothing runs.
    page = report_html(replace(full, comparison=None))
    assert "<script" not in page
    assert "script-src &#x27;none&#x27;" in page


def test_images_are_true_pictures_with_words(full: ReportContent) -> None:
    root = parse(report_html(full))
    images = [element for element in root.iter() if element.tag.endswith("}img")]
    small = {image for pair in root.iter() if pair.get("class") == "pair" for image in pair.iter()}
    # Three pairs, two averages, two galleries of 2 × 3, one query with two neighbours and its result, charts.
    assert len(images) == 6 + 2 + 12 + 4 + 8
    for element in images:
        assert element.get("alt")
        kind, _, data = element.get("src", "").partition(",")
        assert kind == "data:image/png;base64"
        picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)), format="png")
        assert element in small or min(picture.shape[:2]) >= 128
        assert picture[..., :3].std() > 0.01


def test_charts_come_for_light_and_dark_paper(full: ReportContent) -> None:
    root = parse(report_html(full))
    sources = [element for element in root.iter() if element.tag.endswith("}source")]
    assert len(sources) == 8
    for source in sources:
        assert "dark" in source.get("media", "")
        data = source.get("srcset", "").partition(",")[2]
        picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)), format="png")
        assert picture[0, 0, :3].mean() < 0.2


def test_words_say_what_is_shown(full: ReportContent) -> None:
    words = visible(report_html(full))
    for expected in (
        "No half-set labels",
        "grey −1.5 to 2",
        "−170°",
        "50.0%",
        "0.40%",
        "21.00%",
        "3 min 12 s",
        "1.3 s",
        "3 min 14 s",
        "model.grid.radii 32",
        "low_pass_A null",
        "out/denoised.star the table",
    ):
        assert expected in words


def test_absent_sections_are_left_out() -> None:
    page = report_html(ReportContent("A run", "Nothing happened."))
    root = parse(page)
    assert not [e for e in root.iter() if e.tag.endswith(("section", "img", "nav", "dl", "footer", "table"))]
    assert visible(page) == "A run Nothing happened."
    page = report_html(ReportContent("A", "B", timings=(StageTime("read", 0.0),)))
    assert [e.get("id") for e in parse(page).iter() if e.tag.endswith("section")] == ["time"]
    only_frc = RadialCurves(16, 2.0, frc=(RadialCurve("a", np.linspace(1, -0.2, 9)),))
    page = report_html(ReportContent("A", "B", radial=only_frc))
    assert len([e for e in parse(page).iter() if e.tag.endswith("figure")]) == 1


def test_words_from_outside_are_escaped() -> None:
    image = np.eye(8)
    content = ReportContent(
        title=NASTY,
        summary=NASTY,
        provenance=NASTY,
        key_figures=(KeyFigure(NASTY, NASTY, NASTY),),
        notices=(Notice(NASTY),),
        comparison=Comparison((NASTY,), image[None], image[None], NASTY, NASTY, NASTY, np.ones(1), NASTY),
        gallery=Gallery((NASTY,), (GalleryRow(NASTY, NASTY, image[None]),)),
        classes=(ClassTile(NASTY, NASTY, (image,)),),
        view_map=ViewMap((NASTY,), np.zeros((1, 2)), np.ones(1), (0,), (image,), NASTY, NASTY),
        neighbourhoods=(Neighbourhood(NASTY, image, (Neighbour(NASTY, image, 0, 1),), image, NASTY),),
        attention=AttentionMap(image, note=NASTY),
        radial=RadialCurves(
            16, 2.0, (RadialCurve("$\\x", np.ones(9)),), NASTY, (RadialCurve("a$b$", np.ones(9)),), NASTY
        ),
        histograms=(Histogram(NASTY, "$\\frac$", np.ones(3), NASTY),),
        timings=(StageTime(NASTY, 1),),
        files=(FileWritten(Path("x") / NASTY, NASTY),),
        configuration={NASTY: {NASTY: NASTY}},
    )
    page = report_html(content)
    assert page.count("<script") == 1
    assert len([element for element in parse(page).iter() if element.tag.endswith("script")]) == 1
    # Each of them is still there to be read: 20 in the body besides the title's and those in alt texts.
    assert visible(page).count("alert(") >= 20


def test_report_is_written_beside_and_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("older")
    content = ReportContent("A run", "Something happened, 10 Å.")
    assert write_report(path, content) == path
    assert path.read_text(encoding="utf-8") == report_html(content)
    assert list(tmp_path.iterdir()) == [path]

    def full_disk(self: Path, *args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    path.write_text("older")
    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        write_report(path, content)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent.*No such file"):
        write_report(tmp_path / "absent" / "report.html", ReportContent("A", "B"))


def test_images_of_a_map_do_not_hide_each_other() -> None:
    rng = np.random.default_rng(0)
    for pinned in (rng.uniform(100, 900, (24, 2)), np.full((6, 2), 500.0)):
        place = _beside(pinned, (1000, 1000))
        gap = np.abs(place[:, None] - place).max(-1) + 1000 * np.eye(len(place))
        assert gap.min() >= 0.9 * _THUMB
        assert place.min() >= _THUMB / 2
        assert place.max() <= 1000 - _THUMB / 2

"""The page of every kind of report, and the gallery: what stands in the HTML, and how it behaves in a real browser."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.report import build_gallery
from analysis.report.palette import PALETTE
from analysis.report.provenance import patterns
from eval.results_file import write_results
from eval.storage import read_json
from tests.analysis.report.studies.planted_circuits import planted_study
from tests.analysis.report.test_gallery import rule_run, runs  # noqa: F401


# Its pages or models take seconds to make.
pytestmark = pytest.mark.slow


KINDS = ("circuits", "claims", "clocks", "compare", "sequential", "single")
PAGES = (*KINDS, "gallery")
SMALLEST_TEXT = 11
CONTRAST = 4.5


@pytest.fixture(scope="module")
def pages(runs):  # noqa: F811
    """{kind: its page}."""
    write_results(runs / "circuits" / "results.json", "circuits", planted_study())
    gallery = build_gallery(runs)
    return {kind: runs / kind / "report" / "index.html" for kind in KINDS} | {"gallery": gallery}


class Elements(HTMLParser):
    """Every element of a page: (tag, attributes, the tags around it)."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, path: Path):
        super().__init__()
        self.found: list[tuple[str, dict, tuple[str, ...]]] = []
        self.inside: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), tuple(self.inside)))
        if tag not in self.VOID:
            self.inside.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes), tuple(self.inside)))

    def handle_endtag(self, tag):
        while self.inside.pop() != tag:
            pass

    def all(self, *tags: str) -> list[tuple[str, dict, tuple[str, ...]]]:
        return [one for one in self.found if one[0] in tags]


@pytest.mark.parametrize("kind", PAGES)
def test_tables_have_captions_and_scopes(pages, kind):
    page = Elements(pages[kind])
    assert len(page.all("caption")) == len(page.all("table")) > 0
    for _, attributes, inside in page.all("th"):
        assert attributes["scope"] == ("col" if "thead" in inside else "row")
    assert not any("title" in attributes for _, attributes, _ in page.all("td", "th"))


@pytest.mark.parametrize("kind", PAGES)
def test_nothing_comes_from_elsewhere(pages, kind):
    page = Elements(pages[kind])
    addresses = [
        attributes[name]
        for _, attributes, _ in page.found
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
        if attributes.get(name)
    ]
    here = pages[kind].parent
    for address in addresses:
        assert address.startswith(("#", "data:")) or (here / address).exists(), address
    assert not any(attributes.get("src") for _, attributes, _ in page.all("script"))
    assert re.findall(r"@import|url\((?!#)", pages[kind].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_told_with_its_numbers(pages, kind):
    pictures = [
        attributes
        for tag, attributes, inside in Elements(pages[kind]).all("svg")
        if attributes.get("role") == "img" and "svg" not in inside
    ]
    assert len(pictures) > 0
    for picture in pictures:
        words = picture["aria-label"]
        assert len(words) > 40 and re.search(r"\d", words), words


def test_alternative_text_and_values_are_those_of_the_results(pages):
    page, results = (
        pages["compare"].read_text(encoding="utf-8"),
        read_json(pages["compare"].parents[1] / "results.json"),
    )
    section = re.search(r'<section id="accuracy">.*?</section>', page, re.DOTALL)[0]
    told = re.findall(r"<title>(.*?)</title></circle>", section)
    evaluation, labels = results["evaluation"], {"base": "base", "es": "ES", "grpo": "GRPO"}
    expected = [
        f"{labels[model]}, {task}: Test accuracy {100 * row['accuracy']:.1f} % "
        f"({100 * row['low']:.1f} to {100 * row['high']:.1f})"
        for model, rows in evaluation.items()
        for task, row in zip(
            ("Countdown (trained)", "Arithmetic", "Four-choice", "Yes/no"), rows.values(), strict=True
        )
    ]
    assert [
        words if "." in words.split(":")[1].split("%")[0] else words.replace(" % (", ".0 % (") for words in told
    ] == expected
    alternative = re.search(r'aria-label="(Test accuracy[^"]*)"', section)[1]
    assert all(words in alternative for words in told)
    # A band belongs to the curve of its colour, and a curve is told by its ends and extremes.
    learning = re.search(r'<section id="learning">.*?</section>', page, re.DOTALL)[0]
    curve = results["training"]["grpo"]["evaluation"]
    last = f"{100 * curve['accuracy'][-1]:.1f} % ({100 * curve['low'][-1]:.1f} to {100 * curve['high'][-1]:.1f})"
    assert f"GRPO, Completions generated for training 61,440: Validation accuracy {last}" in learning.replace(
        "60 %", "60.0 %"
    )


def test_where_numbers_are_from_is_told_for_every_one(pages):
    page = pages["compare"].read_text(encoding="utf-8")
    blocks = re.findall(r"<table.*?</table>.*?(?=<div class=\"scroll\"|</section>)", page, re.DOTALL)
    told = 0
    for block in blocks:
        sources = re.findall(r'data-source="([^"]*)"', block)
        origin = re.search(r'<details class="origin">.*?</details>', block, re.DOTALL)
        if 'class="settings"' in block or not sources:
            continue
        listed = [one.split("/")[1:] for one in re.findall(r"<li>[^:]*: <code>([^<]*)</code>", origin[0])]
        for source in sources:
            keys = source.split("/")[1:]
            assert any(len(keys) == len(form) and all(map(stands_in, keys, form)) for form in listed), source
            told += 1
    assert told > 150
    assert '<a href="../results.json">results.json</a>' in page


def stands_in(key: str, form: str) -> bool:
    return key == form or (form[0] == "{" and (key in form[1:-1].split(",") or "\N{HORIZONTAL ELLIPSIS}" in form))


def test_places_of_one_form_are_told_together():
    assert patterns([("kl", "es", "x"), ("kl", "grpo", "x"), ("kl", "es", "y")]) == ["/kl/{es,grpo}/x", "/kl/es/y"]
    assert patterns([("runs", "a/b~c", "x")]) == ["/runs/a~1b~0c/x"]
    many = patterns([("runs", str(i), "x") for i in range(9)])
    assert many == ["/runs/{0,1,2,3,4,5,\N{HORIZONTAL ELLIPSIS}}/x"]


def luminance(shade: str) -> float:
    digits = shade[1:] if len(shade) == 7 else "".join(2 * digit for digit in shade[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, of two colours."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_every_text_colour():
    style = (Path(__file__).parents[3] / "analysis/report/templates/style.css").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in re.findall(r":root \{[^}]*\}", style)]
    assert len(themes) == 2
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for number, theme in enumerate(themes):
        for ground in ("paper", "tint"):
            assert min(contrast(theme[ink], theme[ground]) for ink in ("ink", "soft", "link")) >= CONTRAST
        assert (
            contrast(theme["ink"], theme["warn"]) >= CONTRAST and contrast(theme["tip-ink"], theme["tip"]) >= CONTRAST
        )
        for drawn, (on_white, _, in_dark) in PALETTE.items():
            if drawn != "#ffffff":  # Written into coloured cells only.
                assert contrast((on_white, in_dark)[number], theme["paper"]) >= CONTRAST, drawn


TEXT_SIZES = """() => [...document.querySelectorAll('.drawing svg text')].map(
    (text) => parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a)"""
BEYOND = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.browser
@pytest.mark.parametrize("kind", PAGES)
def test_no_error_no_request_and_accessible_at_every_width_and_in_the_dark(pages, kind, open_page):
    visit = open_page(pages[kind], width=1400)
    assert visit.violations() == []
    visit.page.emulate_media(color_scheme="dark")
    assert visit.violations(["color-contrast"]) == []
    assert visit.evaluate(BEYOND) == 0
    visit.page.set_viewport_size({"width": 390, "height": 844})
    assert visit.violations() == []
    assert visit.evaluate(BEYOND) == 0
    sizes = visit.evaluate(TEXT_SIZES)
    assert min(sizes, default=SMALLEST_TEXT) >= SMALLEST_TEXT - 0.01
    assert (len(sizes) > 0) == (kind != "gallery")
    visit.page.emulate_media(color_scheme="light")
    assert visit.violations(["color-contrast"]) == []
    assert visit.console == []
    # The pictures of the gallery are files beside the runs.
    assert [one for one in visit.requests if not (kind == "gallery" and one.endswith(".svg"))] == []


@pytest.mark.browser
def test_tables_sort_numbers_as_numbers_and_what_is_missing_last(pages, open_page):
    page = open_page(pages["compare"]).page
    table = page.locator("table", has=page.locator("caption", has_text="Size of the updates"))
    column = lambda: table.locator("tbody td:nth-child(4)").all_inner_texts()  # noqa: E731
    heading = table.locator("thead th:nth-child(4)")
    assert column() == ["7.16", "n/a"]
    for state, expected in (("ascending", ["7.16", "n/a"]), ("descending", ["7.16", "n/a"]), (None, ["7.16", "n/a"])):
        heading.locator("button").click()
        assert (heading.get_attribute("aria-sort"), column()) == (state, expected)
    lengths = table.locator("tbody td:nth-child(2)")
    button = table.locator("thead th:nth-child(2) button")
    button.focus()
    page.keyboard.press("Enter")
    assert lengths.all_inner_texts() == ["0.438", "7.30"]
    completions = page.locator("table", has=page.locator("caption", has_text="Test accuracy of the finished models"))
    completions.locator("thead th:nth-child(3) button").click()
    shown = [float(words.split()[0]) for words in completions.locator("tbody td:nth-child(3)").all_inner_texts()]
    assert shown == sorted(shown) and len(shown) == 12


@pytest.mark.browser
def test_values_show_under_the_pointer_and_at_the_keyboard(pages, open_page):
    page = open_page(pages["compare"]).page
    places, tip = page.locator("#accuracy .values [tabindex]"), page.locator(".tip")
    assert places.count() == 12 and tip.is_hidden()
    places.nth(5).hover(force=True)
    assert tip.inner_text() == places.nth(5).get_attribute("aria-label") and "ES, Arithmetic" in tip.inner_text()
    page.mouse.move(0, 0)
    assert tip.is_hidden()
    places.nth(0).focus()
    assert "base, Countdown (trained): Test accuracy 27" in tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert "base, Arithmetic" in tip.inner_text()
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 1400
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    # The keyboard stops at each series once.
    assert page.locator("#accuracy .values [tabindex='0']").count() == 3


@pytest.mark.browser
def test_contents_stay_in_sight_and_mark_the_section_that_is_read(pages, open_page):
    page = open_page(pages["compare"]).page
    page.locator(".contents a", has_text="How far the behaviour drifted").click()
    page.wait_for_function("document.querySelector('.contents [aria-current]')?.hash === '#kl'")
    assert page.locator(".contents").bounding_box()["y"] >= 0
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("!document.querySelector('.contents details').open")
    page.locator(".contents summary").click()
    assert page.locator(".contents a").first.is_visible()
    page.emulate_media(media="print")
    assert page.locator(".contents").is_hidden()


@pytest.mark.browser
def test_without_script_all_is_there(pages, open_page):
    page = open_page(pages["compare"], script=False).page
    assert page.locator(".contents a").first.is_visible() and page.locator("th button").count() == 0
    assert page.locator("#accuracy .values title").count() == 12
    gallery = open_page(pages["gallery"], script=False).page
    assert gallery.locator(".filters").is_hidden() and gallery.locator(".run").count() == len(KINDS)


@pytest.mark.browser
def test_the_gallery_is_filtered_and_sorted(pages, open_page):
    page = open_page(pages["gallery"]).page
    names = lambda: page.locator(".run:not([hidden]) h2").all_inner_texts()  # noqa: E731
    assert names() == list(KINDS)
    page.get_by_label("Order").select_option("by result")
    titles = page.locator(".run .title").all_inner_texts()
    assert titles == sorted(titles, key=str.lower) and names() != list(KINDS)
    page.locator("select[name=kind]").select_option("comparison")
    assert names() == ["compare"] and page.locator("output").inner_text() == f"1 of {len(KINDS)}"
    page.locator("select[name=kind]").select_option("")
    page.get_by_label("Order").select_option("")
    page.get_by_label("Words").fill("barrier WEIGHTS")
    assert names() == ["compare"]
    page.get_by_label("Words").fill("nothing like it")
    assert names() == []

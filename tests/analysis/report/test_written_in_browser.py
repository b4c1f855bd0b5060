"""What models wrote, in a real browser: filters, search, keyboard, and texts that stay texts."""

import pytest

from analysis.report import build
from eval.storage import read_json
from tests.analysis.report.planted_texts import HOSTILE, plant
from tests.analysis.report.test_written_page import MODELS, WICKED, about


pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = tmp_path_factory.mktemp("written")
    plant(run, about(), {"countdown": MODELS, "</script>": WICKED})
    return build(run)


def status(section) -> str:
    return section.locator("[role=status]").inner_text()


def titles(section) -> list[str]:
    return section.locator(".live article h3").all_inner_texts()


def shown(page, kind: str) -> int:
    """How many examples of a kind the page has."""
    return read_json(page.parents[1] / "results.json")["written"]["countdown"]["kinds"][kind]["shown"]


def test_filters_and_search(page, open_page):
    visit = open_page(page)
    section = visit.page.locator("#written-1")
    assert status(section) == "Examples 1 to 10 of 200" and len(titles(section)) == 10
    section.get_by_label("only GRPO").check()
    assert status(section) == f"Examples 1 to 10 of {shown(page, 'only|grpo')}"
    assert all(title.endswith(": only GRPO") for title in titles(section))
    section.get_by_label("all examples").check()
    number = int(titles(section)[3].split(":")[0].removeprefix("Problem ")) - 1
    section.get_by_label("Search problems and answers").fill(f"NUMBER {number}?")
    assert status(section) == "Examples 1 to 1 of 1"
    section.get_by_label("Search problems and answers").fill("nowhere")
    assert status(section) == "No example fits" and titles(section) == []
    assert (visit.console, visit.requests) == ([], [])


def test_by_keyboard_alone(page, open_page):
    visit = open_page(page)
    section, keyboard = visit.page.locator("#written-1"), visit.page.keyboard
    section.get_by_label("all examples").focus()
    keyboard.press("ArrowDown")
    right = shown(page, "all")
    assert status(section) == f"Examples 1 to 10 of {right}" and titles(section)[0].endswith(": both right")
    keyboard.press("Tab")
    keyboard.type("so, ")
    assert status(section) == f"Examples 1 to 10 of {right}"
    keyboard.press("Tab")  # Previous cannot be pressed on the first examples
    first = titles(section)
    keyboard.press("Enter")
    assert status(section) == f"Examples 11 to 20 of {right}" and titles(section) != first
    section.get_by_role("button", name="Previous").press("Enter")
    assert titles(section) == first


def test_hostile_texts_stay_texts(page, open_page):
    """No title changes, no element appears, no box is left, and every text is there."""
    visit = open_page(page)
    section = visit.page.locator("#written-2")
    shown = section.locator(".live .answer:nth-child(2) p.said").all_inner_texts()
    section.get_by_role("button", name="Next").click()
    shown += section.locator(".live .answer:nth-child(2) p.said").all_inner_texts()
    assert len(shown) == len(HOSTILE)
    assert shown[:2] == list(HOSTILE[:2]) and shown[3] == HOSTILE[3] and shown[-1] == HOSTILE[-1]
    assert visit.page.title() != "owned" and section.locator("img, b").count() == 0
    assert visit.page.locator("script").count() == 3
    for selector in (".said", "bdi.said"):
        isolated = "all => all.every((box) => getComputedStyle(box).unicodeBidi === 'isolate')"
        assert section.locator(f".live {selector}").evaluate_all(isolated)
    wider = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert visit.evaluate(wider) <= 0
    assert (visit.console, visit.requests) == ([], [])


def test_marks_stay_in_their_box(page, open_page):
    visit = open_page(page)
    box = visit.page.locator("#written-2 .live .answer:nth-child(2) p.said", has_text="more marks").first
    assert box.evaluate("box => getComputedStyle(box).overflowX") == "hidden"
    assert "\u0301" * 9 not in box.inner_text() and "more marks" in box.inner_text()


def test_without_a_script_and_in_print_six_examples_show(page, open_page):
    visit = open_page(page, script=False)
    section = visit.page.locator("#written-1")
    assert not section.locator(".live").is_visible()
    assert [section.locator("article").nth(number).is_visible() for number in range(6)] == [True] * 6
    printed = open_page(page)
    section = printed.page.locator("#written-1")
    assert section.locator(".live").is_visible() and not section.locator(".printed").is_visible()
    printed.page.emulate_media(media="print")
    assert not section.locator(".live").is_visible() and section.locator(".printed article").count() == 6
    assert section.locator(".printed").is_visible()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1400, True)])
def test_everyone_can_use_it(page, open_page, width, dark):
    visit = open_page(page, width=width, dark=dark)
    assert visit.violations() == []

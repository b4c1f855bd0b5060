"""The page on a study of circuits, composed from planted numbers and read back as HTML and Markdown."""

import copy
import re
from html import unescape
from importlib import import_module

import pytest

from analysis.report import html, markdown
from analysis.report.compose import compose
from analysis.report.results import Location, lookup
from analysis.report.studies.circuits import CHAPTER
from analysis.report.studies.circuits.drawings import merged_edges
from analysis.report.studies.circuits.summary import title
from analysis.report.style import Drawing
from tests.analysis.report.studies.planted_circuits import planted_study
from tests.analysis.report.test_report_build import Page, at_pointer, check_number, markdown_tables


# Its pages or models take seconds to make.
pytestmark = pytest.mark.slow


SECTIONS: dict[str, tuple[str, list[Location]]] = {
    "scores-small": ("Which nodes matter in small", [("circuits", "small", "tasks")]),
    "scores-medium": ("Which nodes matter in medium", [("circuits", "medium", "tasks")]),
    "faithfulness": ("How much of a model its circuits keep", [("circuits",)]),
    "transfer-small-medium": ("From small to medium", [("transfer", "small>medium", "presets")]),
    "overlap": (
        "Is it the same circuit after post-training",
        [("change", "tasks", task, "overlap") for task in ("ioi_short", "docstring_short")],
    ),
    "cross-faithfulness": (
        "Does one model's circuit work in another",
        [("change", "tasks", task, "cross_faithfulness") for task in ("ioi_short", "docstring_short")],
    ),
    "transplant": (
        "Which components carry the difference",
        [("change", "tasks", task, "transplant") for task in ("ioi_short", "docstring_short")],
    ),
    "drawing-ioi_short": (
        "IOI: the circuit before and after",
        [("change", "tasks", "ioi_short", "circuits")],
    ),
    "drawing-docstring_short": (
        "Docstring: the circuit before and after",
        [("change", "tasks", "docstring_short", "circuits")],
    ),
    "edge-change": ("Where the edges changed", [("change", "lora")]),
    "migration": ("Where the circuits moved", [("change", "migration")]),
    "intensity": ("How active the models are", [("change", "intensity")]),
}


@pytest.fixture
def results() -> dict:
    return planted_study()


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """What is said and listed does not hang on the drawing, which takes a second a page."""
    monkeypatch.setattr(
        import_module("analysis.report.compose"),
        "draw",
        lambda name, painter: Drawing('<svg viewBox="0 0 1 1"></svg>', b""),
    )


@pytest.fixture(scope="module")
def page() -> tuple[Page, str]:
    """The page of all planted numbers, with its figures, as HTML and as Markdown."""
    document = compose(CHAPTER, planted_study())
    return Page(html.render(document)), markdown.render(document)


def without(results: dict, locations: list[Location]) -> dict:
    results = copy.deepcopy(results)
    for *above, key in locations:
        del lookup(results, *above)[key]
    return results


def test_every_section_is_drawn(page):
    read, report = page
    assert re.findall(r"!\[[^]]*\]\(figures/(.*)\.svg\)", report) == list(SECTIONS)
    headings = re.findall(r"^## (.*)$", report, re.M)
    assert headings[: len(SECTIONS)] == [title for title, _ in SECTIONS.values()]
    assert all(title in read.text for title, _ in SECTIONS.values())
    assert "Missing from results.json" not in read.text and "Missing from results.json" not in report
    assert markdown_tables(report) == [[[words for words, _ in row] for row in table] for table in read.tables]


def test_every_number_in_the_tables_is_the_one_in_results(page, results):
    sources = []
    for heading, *rows in page[0].tables:
        assert all(len(row) == len(heading) for row in rows)
        for words, source in (cell for row in rows for cell in row if cell[1] is not None):
            sources.append(source)
            value = at_pointer(results, source)
            if source.startswith(("/config/", "/environment/")):
                assert words == ("n/a" if value is None else str(value))
            else:
                assert check_number(words, value) is None
    expected = {
        *(
            f"/transfer/small>medium/presets/{name}/tasks/{task}/rows/{row}/{policy}/cpr/mean"
            for name, policy in (("corrected", "always"), ("paper", "ranked"))
            for task, row in (("ioi_short", "zero_shot"), ("docstring_short", "mean_of_masks"))
        ),
        *(f"/circuits/medium/tasks/ioi_short/faithfulness/{key}" for key in ("cpr", "cpr_low", "log_cpr", "cmd")),
        "/change/tasks/ioi_short/overlap/small|grpo/edges/spearman/difference",
        "/change/tasks/docstring_short/cross_faithfulness/es/grpo/cpr_high",
        "/change/tasks/ioi_short/transplant/grpo>small/nodes/6",
        "/change/migration/small>grpo/tasks/ioi_short/gain",
        "/change/intensity/grpo/kurtosis_low",
        "/accuracy/es/docstring_short/solved",
        "/circuits/small/parameters",
    }
    assert expected <= set(sources)


def test_title_and_sentences(page):
    text = page[0].text
    for said in (
        "DFA beats simple transfer, GRPO changed the circuits",
        "From small to medium, a task unseen, DFA reaches a mean CPR of 0.60; the same relative depth, untrained,",
        "The rank correlation of node scores before and after post-training is ES 0.90 (null 0.90) and GRPO 0.75",
        "2 models, 2 tasks: IOI, Docstring",
        "Heads hold from 25 % (IOI) to 75 % (Docstring) of the strength",
        "by at most 4.1 %",
        "small 4 to 4 of 6; medium 4 to 4 of 9",
        "2 seeds. Corrected: direct attribution 0.90, zero-shot DFA 0.60",
        "a useless ranking 0.25; paper: direct attribution 0.85",
        "Node circuits differ by more than that for small and GRPO on IOI.",
        "In ES the circuit of small has a mean CPR of 0.50, its own 0.80; in GRPO",
        "ES on IOI: m1 alone gives 0.30 of 1.0",
        "the 4 strongest edges",
        "the largest share is ES 50 % in layer 1 and GRPO 50 % in layer 1; an even spread would be 33 % each",
        "small to GRPO 0.100 (clear on IOI and Docstring)",
        "ES: no clear difference; GRPO: intensity higher, entropy higher and kurtosis higher",
        "Left out: addition with medium: too few are solved.",
        "By nap-ig-inputs with 5 steps",
        "the two circuits of 0.25 of all nodes or edges",
        "1.50 times",
    ):
        assert said in text, said


def test_title_turns_with_the_numbers(results):
    for preset in results["transfer"]["small>medium"]["presets"].values():
        preset["averages"]["depth_mean"]["always"]["cpr"] = 0.99
    for change in results["change"]["tasks"].values():
        change["overlap"]["small|grpo"]["nodes"]["spearman"]["high"] = 0.0
    assert title(results) == "DFA does not beat simple transfer, no circuit changed beyond chance"
    del results["transfer"]["small>medium"]["presets"]["corrected"], results["change"]
    assert title(results) == "Circuits of language models"


@pytest.mark.parametrize("name", SECTIONS)
def test_a_missing_section_is_named_in_its_place(results, undrawn, name):
    title, locations = SECTIONS[name]
    # Without any circuit the scores of the models are missing as well.
    gone = {"scores-small", "scores-medium", "faithfulness"} if name == "faithfulness" else {name}
    document = compose(CHAPTER, without(results, locations))
    assert {part.name for part in document.parts if part.drawing is None} == gone
    assert [part.name for part in document.parts] == list(SECTIONS)
    listed = ", ".join(".".join(location) for location in locations)
    missing = f"> Missing from results.json: {listed}."
    report = unescape(markdown.render(document))
    section = report[report.index(f"## {title}\n") :]
    assert section.split("\n\n")[1].startswith(missing)
    assert missing.removeprefix("> ") in Page(html.render(document)).text


def test_one_task_that_was_not_measured(results):
    """The others are drawn, and what is missing is named."""
    measures = ("overlap", "cross_faithfulness", "transplant", "circuits")
    locations = [("change", "tasks", "ioi_short", measure) for measure in measures]
    document = compose(CHAPTER, without(results, locations))
    assert [part.name for part in document.parts if part.drawing is None] == ["drawing-ioi_short"]
    assert list(document.missing) == locations


def test_what_was_not_asked_for_is_not_missed(results, undrawn):
    """Circuits alone: neither a transfer nor a change was looked at."""
    document = compose(CHAPTER, without(results, [("transfer",), ("change",)]))
    assert [part.name for part in document.parts] == ["scores-small", "scores-medium", "faithfulness"]
    assert document.headline == "Circuits of small and medium by direct attribution."
    assert document.missing == [] and "Transplant" not in dict(document.definitions)


def test_an_empty_study_names_what_it_lacks(undrawn):
    document = compose(CHAPTER, {"kind": "circuits", "schema_version": 1, "models": ["small"]})
    text = Page(html.render(document)).text
    assert "Circuits of language models" in text
    assert "tasks, accuracy, circuits, command, environment, config" in text
    assert document.budget is not None and document.numbers == []


def test_queries_keys_and_values_of_a_head_are_one_edge():
    edges = [["m0", "a1.h0.q", 0.5], ["m0", "a1.kv0.k", 0.2], ["m0", "a1.kv0.v", -0.4], ["m0", "logits", 0.1]]
    merged = merged_edges(edges, 2)
    assert merged == pytest.approx({("m0", "a1.h0"): 0.4, ("m0", "a1.h1"): -0.1, ("m0", "logits"): 0.1})

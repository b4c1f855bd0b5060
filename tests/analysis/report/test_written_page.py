"""What models wrote, on the page and in the Markdown file: whole, harmless, with the numbers of results.json."""

import json
import random
from html.parser import HTMLParser

import pytest

from analysis.report import build
from analysis.report.provenance import function_of
from analysis.report.results import lookup
from analysis.report.visible import visible
from analysis.report.written import PRINTED, harmless
from eval.errors import UserError
from eval.storage import read_json, write_json
from tests.analysis.report.conftest import synthetic_results
from tests.analysis.report.planted_texts import HOSTILE, plain_answers, plant
from tests.analysis.report.test_report_build import at_pointer, check_number, page_of


def right(share: float, seed: int) -> list[bool]:
    generator = random.Random(seed)
    return [generator.random() < share for _ in range(260)]


MODELS = {
    "base": plain_answers(right(0.3, 0)),
    "es": plain_answers(right(0.5, 1)),
    "grpo": plain_answers(right(0.6, 2)),
}
WICKED = {
    "base": [(text, text, 0.0) for text in HOSTILE],
    "es": [(text, text, 1.0) for text in HOSTILE],
    "grpo": [(text, None, None) for text in HOSTILE],
}


class Elements(HTMLParser):
    """Scripts with their types and contents, and all tags with their attributes, in order."""

    def __init__(self, page: str):
        super().__init__()
        self.scripts: list[tuple[str | None, str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.in_script = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.in_script = tag == "script"
        if self.in_script:
            self.scripts.append((dict(attributes).get("type"), ""))

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        if self.in_script:
            kind, text = self.scripts[-1]
            self.scripts[-1] = kind, text + data


@pytest.fixture(scope="module")
def written_run(tmp_path_factory):
    """A comparison whose results hold nothing else, so that its page has no figures to draw."""
    run = tmp_path_factory.mktemp("written")
    plant(run, about(), {"countdown": MODELS, "</script>": WICKED})
    build(run)
    return run


def about() -> dict:
    results = synthetic_results()
    return {key: results[key] for key in ("task", "methods", "base_model", "command")} | {"kind": "comparison"}


@pytest.fixture(scope="module")
def page(written_run) -> str:
    return (written_run / "report" / "index.html").read_text(encoding="utf-8")


def embedded(page: str) -> list[list[dict]]:
    return [json.loads(text) for kind, text in Elements(page).scripts if kind == "application/json"]


def test_two_hundred_examples_are_embedded_whole(page, written_run):
    section = read_json(written_run / "results.json")["written"]["countdown"]
    examples = embedded(page)[0]
    assert len(examples) == 200 < section["problems"]
    kinds = [example["title"].partition(": ")[2] for example in examples]
    names = {"all": "both right", "only|es": "only ES", "only|grpo": "only GRPO", "none": "all wrong"}
    assert {kind: kinds.count(name) for kind, name in names.items()} == {
        kind: row["shown"] for kind, row in section["kinds"].items()
    }
    for example in examples:
        number = int(example["title"].split(":")[0].removeprefix("Problem ")) - 1
        assert [answer["text"] for answer in example["answers"]] == [MODELS[model][number][0] for model in MODELS]
        assert example["prompt"] == f"Number {number}?"
        assert example["answers"][1]["said"].startswith(f"ES: {'right' if MODELS['es'][number][2] else 'wrong'}, 7")


def test_filters_say_what_they_choose(page, written_run):
    """Everything, the four kinds, and differing texts; an example carries the filters that show it."""
    section = read_json(written_run / "results.json")["written"]["countdown"]
    examples = embedded(page)[0]
    shown = [sum(number in example["filters"] for example in examples) for number in range(6)]
    assert shown == [200, *(row["shown"] for row in section["kinds"].values()), section["differ"]["shown"]]
    text = page_of(written_run).text
    for name, row in (("both right", section["kinds"]["all"]), ("texts differ", section["differ"])):
        assert f"{name} {row['shown']} of {row['problems']}" in text
    assert "200 of 260 held-out problems are shown: as many of each kind as of any other" in text


def test_tiles_and_tables_show_the_numbers_of_results(written_run):
    results, page = read_json(written_run / "results.json"), page_of(written_run)
    pair = results["written"]["countdown"]["pairs"]["es|grpo"]
    share = pair["identical_text"]
    assert f"Identical text{100 * share['share']:.0f} %{share['count']} of 260 texts" in page.text
    cells = [cell for table in page.tables for row in table for cell in row if "/written/" in (cell[1] or "")]
    assert len(cells) > 60
    for words, source in cells:
        value = at_pointer(results, source)
        if value is not None:
            check_number(words, value)
    assert "Computed by analysis.behaviour.written.agreement." in page.text


@pytest.mark.parametrize("kind", ["comparison", "sequential"])
def test_the_page_names_what_computed_them(kind):
    place = ("written", "countdown", "pairs", "es|grpo", "flips", "p_value")
    assert function_of(kind, place) == "analysis.behaviour.written.agreement"
    assert function_of(kind, ("written", "countdown", "kinds", "all", "shown")) == "analysis.behaviour.written.written"


def test_hostile_texts_are_data(page):
    """No element, no attribute and no script comes of them, and each reads back as it was."""
    elements = Elements(page)
    assert [kind for kind, _ in elements.scripts] == ["application/json", "application/json", None]
    assert not {"img", "b", "iframe"} & {tag for tag, _ in elements.tags}
    assert not any(name.startswith("on") for _, attributes in elements.tags for name in attributes)
    for kind, text in elements.scripts:
        if kind == "application/json":
            assert not set("<>&\u2028\u2029") & set(text) and text.isascii()
    examples = embedded(page)[1]
    assert [example["answers"][1]["text"] for example in examples] == [
        visible(text.encode("utf-8", "backslashreplace").decode()) for text in HOSTILE
    ]
    assert all(isolated for isolated in said(elements))


def said(elements: Elements) -> list[bool]:
    """Of each box with a text of a model: whether its direction is its own."""
    boxes = [
        (tag, attributes) for tag, attributes in elements.tags if "said" in (attributes.get("class") or "").split()
    ]
    assert len(boxes) > 50
    return [tag == "bdi" or attributes.get("dir") == "auto" for tag, attributes in boxes]


def test_a_megabyte_stays_small(page):
    [example] = [one for one in embedded(page)[1] if one["answers"][0]["text"].startswith("xxxx")]
    assert example["answers"][0]["note"] == "Cut: 2,000 of 1,000,000 characters"
    assert len(page) < 600_000


def test_json_that_ends_no_script():
    data = ["</script>", "<!--", "&amp;", "\u2028\u2029", "\ud800", "\x00"]
    assert json.loads(harmless(data)) == data
    assert harmless(data).isascii() and not set("<>&") & set(harmless(data))


def test_six_examples_without_a_script(page, written_run):
    """In print, without scripts and in the Markdown file: of all kinds, and apart from tables."""
    report = (written_run / "report" / "report.md").read_text(encoding="utf-8")
    assert report.count("\n### Problem ") == 2 * PRINTED == 12
    assert [tag for tag, _ in Elements(page).tags].count("article") == 12
    first = report[report.index("## What the models wrote: Countdown") :].split("\n## ")[0]
    for kind in ("both right", "only ES", "only GRPO", "all wrong"):
        assert f": {kind}\n" in first
    assert "**GRPO: " in first and "```\nNumber " in first
    assert "# no heading" not in report or "````\n```\n# no heading" in report


def test_the_same_run_gives_the_same_bytes(written_run):
    files = [written_run / "report" / name for name in ("index.html", "report.md")]
    before = [file.read_bytes() for file in files]
    build(written_run)
    assert [file.read_bytes() for file in files] == before


def test_texts_that_are_gone_or_others_are_not_shown(tmp_path):
    plant(tmp_path, about(), {"countdown": {name: rows[:5] for name, rows in MODELS.items()}})
    file = tmp_path / "completions" / "es" / "countdown.parquet"
    content = file.read_bytes()
    file.write_bytes((tmp_path / "completions" / "base" / "countdown.parquet").read_bytes())
    build(tmp_path)
    assert "The texts are not shown: completions/es/countdown.parquet changed after" in page_of(tmp_path).text
    file.unlink()
    build(tmp_path)
    page = page_of(tmp_path)
    assert "The texts are not shown: completions/es/countdown.parquet is not in the run folder." in page.text
    assert "Identical text" in page.text and "article" not in page.tags
    file.write_bytes(content)
    build(tmp_path)
    assert "article" in page_of(tmp_path).tags


def test_no_file_outside_of_the_run_is_read(tmp_path):
    plant(tmp_path / "run", about(), {"countdown": {name: rows[:5] for name, rows in MODELS.items()}})
    outside = tmp_path / "outside.parquet"
    (tmp_path / "run" / "completions" / "es" / "countdown.parquet").rename(outside)
    results = read_json(tmp_path / "run" / "results.json")
    results["written"]["countdown"]["files"]["es"]["file"] = "../outside.parquet"
    write_json(tmp_path / "run" / "results.json", results)
    build(tmp_path / "run")
    assert "../outside.parquet is not in the run folder" in page_of(tmp_path / "run").text


@pytest.mark.parametrize(
    "place", ["", "files", "files/es", "files/es/file", "compared", "kinds", "kinds/all", "pairs", "pairs/es|grpo"]
)
@pytest.mark.parametrize("value", [None, "9" * 5000, "\x00", [1], {"a": 1}, -1])
def test_damaged_results_are_a_page_or_one_line(tmp_path, place, value):
    tasks = {"countdown": {name: rows[:3] for name, rows in MODELS.items()}}
    plant(tmp_path, about(), tasks)
    results = read_json(tmp_path / "results.json")
    *above, last = ["written", "countdown", *filter(None, place.split("/"))]
    lookup(results, *above)[last] = value
    write_json(tmp_path / "results.json", results)
    try:
        assert build(tmp_path).exists()
    except UserError as error:
        assert "results.json does not hold what" in str(error)


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["base", "es"], ["both right", "only base", "only ES", "all wrong"]),
        (["es"], ["right", "wrong"]),
        (["base", "es", "mine <b>", "grpo"], ["right in all", "right in some", "only mine <b>", "wrong in all"]),
    ],
)
def test_any_number_of_models(tmp_path, names, kinds):
    tasks = {"countdown": {name: plain_answers(right(0.5, seed)) for seed, name in enumerate(names)}}
    plant(tmp_path, about(), tasks)
    build(tmp_path)
    page = page_of(tmp_path)
    for kind in kinds:
        assert f" {kind} " in page.text
    assert ("Identical text" in page.text) == (len(names) > 1) and ("texts differ" in page.text) == (len(names) > 1)
    assert lookup(read_json(tmp_path / "results.json"), "written", "countdown", "problems") == 260


def test_names_stay_as_the_user_wrote_them(tmp_path):
    """Of checkpoints trained elsewhere, nobody knows that `es` is an evolution strategy."""
    chosen = {"asked": ["written"], "methods": ["es", "MINE"], "task": "countdown", "kind": "comparison"}
    models = {"base": MODELS["base"], "es": MODELS["es"], "MINE": MODELS["grpo"]}
    plant(tmp_path, chosen, {"countdown": models})
    build(tmp_path)
    page = page_of(tmp_path).text
    assert "What the models wrote: countdown" in page and "only es" in page and "only MINE" in page
    assert "only ES" not in page


def test_a_run_without_texts_has_no_such_section(tmp_path):
    write_json(tmp_path / "results.json", about())
    build(tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "wrote" not in page and "written" not in page and embedded(page) == []

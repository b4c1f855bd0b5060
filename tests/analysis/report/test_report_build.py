"""The report of a finished comparison, read back from the files it wrote."""

import copy
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from analysis.report import build
from analysis.report.results import lookup, method_pairs, methods, pointer, tasks
from eval.errors import UserError
from eval.ownership import MARKER
from eval.storage import read_json, write_json


ROOT = Path(__file__).parents[3]
FIGURES = ["learning", "accuracy", "update-size", "relative-change", "cosine", "kl", "connectivity"]


class Page(HTMLParser):
    """Tables, visible text and outgoing references of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tables: list[list[list[tuple[str, str | None]]]] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self._in_cell = self._in_style = False
        self.feed(page)
        self.text = " ".join("".join(self.words).replace("\xa0", " ").split())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.add(tag)
        self.references += [found[key] for key in ("src", "href", "xlink:href") if found.get(key)]
        self._in_style = tag in ("style", "script")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(("", found.get("data-source")))
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False
        self._in_style = False

    def handle_data(self, data):
        if not self._in_style:
            self.words.append(data)
        if self._in_cell:
            words, source = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (words + data.replace("\xa0", " "), source)


def page_of(run: Path) -> Page:
    return Page((run / "report" / "index.html").read_text(encoding="utf-8"))


def at_pointer(results: dict, source: str):
    """The value at a JSON pointer (RFC 6901)."""
    value = results
    for part in source.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def markdown_tables(report: str) -> list[list[list[str]]]:
    """The tables of a Markdown file as rows of cells, escapes undone, without the rule under the heading."""
    tables: list[list[list[str]]] = []
    inside = False
    for line in report.split("\n"):
        if not line.startswith("| "):
            inside = False
            continue
        if not inside:
            tables.append([])
        inside = True
        cells = [re.sub(r"\\(.)", r"\1", cell) for cell in re.split(r"(?<!\\) \| ", line[2:-2])]
        cells = [cell.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for cell in cells]
        if not all(re.fullmatch("---:?", cell) for cell in cells):
            tables[-1].append(cells)
    return tables


def check_number(shown: str, value: float) -> None:
    """`shown` is `value` rounded to the digits that are shown."""
    match = re.fullmatch(r"(-?[\d,]+(?:\.\d+)?)(e[+-]\d+)?( %| points)?", shown)
    assert match, f"{shown!r} is no number"
    digits, exponent, unit = match.groups()
    written = float(digits.replace(",", "") + (exponent or ""))
    scale = 100 if unit else 1
    decimals = len(digits.partition(".")[2]) - int((exponent or "e0")[1:])
    tolerance = 0.5 * 10**-decimals
    if abs(value) * scale >= 1000 and "." not in digits and not exponent and not float(value).is_integer():
        # Three significant digits of a number above 1,000.
        tolerance = max(tolerance, abs(value) * scale * 0.005)
    assert abs(written - value * scale) <= tolerance * (1 + 1e-9), f"{shown!r} stands for {value}"


@pytest.mark.slow
def test_every_number_in_the_tables_is_the_one_in_results(built, results):
    assert build(built) == built / "report" / "index.html"
    page = page_of(built)
    sources = []
    for table in page.tables:
        heading, *rows = table
        assert all(len(row) == len(heading) for row in rows)
        for words, source in (cell for row in rows for cell in row):
            if source is None:
                continue
            value = at_pointer(results, source) if source != "/random_walk/grpo/predicted_norm" else None
            sources.append(source)
            if value is None:
                assert words == "n/a"
            elif source.startswith(("/config/", "/environment/")):
                assert words == str(value)
            else:
                check_number(words, value)
    assert len(sources) == len(set(sources)), "one number stands in two cells"
    expected = {
        pointer(("evaluation", model, task, key))
        for model in results["evaluation"]
        for task in results["evaluation"][model]
        for key in results["evaluation"][model][task]
    }
    expected |= {
        pointer(("training", m, key))
        for m in methods(results)
        for key in ("steps", "completions", "tokens", "seconds")
    }
    expected |= {
        pointer(("kl", m, task, direction, key))
        for m in methods(results)
        for task in results["kl"][m]
        for direction in ("forward", "reverse")
        for key in ("per_token", "per_token_low", "per_token_high", "per_sequence", "tokens", "sequences")
    }
    expected |= {
        pointer(("geometry", "cosine", pair, key)) for pair in method_pairs(results) for key in ("total", "null_std")
    }
    expected |= {
        pointer(("connectivity", "lines", pair, key))
        for pair in results["connectivity"]["lines"]
        for key in ("reward_barrier", "loss_barrier")
    }
    expected |= {"/random_walk/es/predicted_norm", "/geometry/checkpoints/es/norm", "/geometry/checkpoints/grpo/norm"}
    assert expected <= set(sources)


@pytest.mark.slow
def test_a_changed_number_changes_its_cell(run, results):
    results["evaluation"]["es"]["arithmetic"]["correct"] = 137
    results["geometry"]["checkpoints"]["grpo"]["norm"] = 1.2349
    write_json(run / "results.json", results)
    build(run)
    cells = {source: words for table in page_of(run).tables for row in table for words, source in row if source}
    assert cells["/evaluation/es/arithmetic/correct"] == "137"
    assert cells["/geometry/checkpoints/grpo/norm"] == "1.23"


def test_markdown_holds_the_same_tables_and_existing_figures(built):
    report = (built / "report" / "report.md").read_text(encoding="utf-8")
    page = page_of(built)
    assert markdown_tables(report) == [[[words for words, _ in row] for row in table] for table in page.tables]
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", report)
    assert links == [f"figures/{name}.svg" for name in FIGURES]
    assert all((built / "report" / link).is_file() for link in links)


def test_headline_and_sentences(built):
    text = page_of(built).text
    assert "Similar accuracy, different weights, a barrier between them" in text
    assert (
        "ES and GRPO both lift Countdown from 27 % to 55 % and 60 %, at the same budget of 61,440 completions. ES "
        "moved the weights 17 times as far as GRPO, the two updates are nearly orthogonal (cosine 0.013) and a reward "
        "barrier of 15.1 points lies on the straight line between them."
    ) in text
    assert "Trained on Countdown from models/tiny-llama-small (546,688 parameters)" in text
    assert "ES loses on Arithmetic (41 % to 27 %); GRPO changes none of the other tasks clearly." in text
    assert "ES's length of 7.30 is what a random walk of the same steps predicts (7.16)." in text
    assert "the largest on a task nobody trained on is 0.36 for ES (Yes/no) and 0.044 for GRPO (Yes/no)" in text
    assert "A barrier stands on ES\N{EN DASH}GRPO;" in text
    assert "Missing from results.json" not in text
    assert "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/compare.py" in text


@pytest.mark.slow
def test_headline_turns_with_the_numbers(run, results):
    """The same page on a comparison that came out the other way."""
    results["evaluation"]["grpo"]["countdown"] = results["evaluation"]["base"]["countdown"]
    results["geometry"]["checkpoints"]["grpo"]["norm"] = 7.25
    results["geometry"]["cosine"]["es|grpo"]["total"] = 0.96
    results["training"]["grpo"]["completions"] = 30720
    results["connectivity"]["lines"]["es|grpo"] = results["connectivity"]["lines"]["base|es"]
    write_json(run / "results.json", results)
    build(run)
    text = page_of(run).text
    assert "ES lifts Countdown, GRPO does not, nearly the same weights, no barrier between them" in text
    assert (
        "ES lifts Countdown from 27 % to 55 %, while GRPO does not clearly change Countdown (27 % to 27 %, the "
        "intervals overlap), at different budgets (ES 61,440 and GRPO 30,720 completions). ES and GRPO moved the "
        "weights about equally far (by 7.30 and 7.25), the two updates point almost the same way (cosine 0.960) and "
        "no reward barrier lies on the straight line between them (largest gap 0.6 points)."
    ) in text
    assert "orthogonal (" not in text


def test_page_is_self_contained(built):
    page = page_of(built)
    # results.json is a link that a reader may follow.
    assert {one for one in page.references if not one.startswith(("#", "data:"))} == {"../results.json"}
    assert not page.tags & {"img", "iframe", "object"}
    assert "@import" not in (built / "report" / "index.html").read_text()
    assert re.findall(r"url\((?!#)", (built / "report" / "index.html").read_text()) == []


def test_identifiers_are_unique_and_their_references_exist(built):
    """Seven figures in one page: a clip path of one must not be taken for that of another."""
    page = (built / "report" / "index.html").read_text(encoding="utf-8")
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))
    wanted = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page))
    assert {first or second for first, second in wanted} <= set(identifiers)
    assert len(wanted) > 20


def test_figures_name_what_they_show(built):

    def words(name: str) -> str:
        svg = (built / "report" / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        return " ".join(Page(svg).text.split())

    assert {path.name for path in (built / "report" / "figures").iterdir()} == {
        f"{name}.{ending}" for name in FIGURES for ending in ("svg", "png")
    }
    for word in ("Completions generated", "Validation accuracy (%)", "ES", "GRPO", "500 validation problems"):
        assert word in words("learning")
    for word in (
        "base",
        "ES",
        "GRPO",
        "Countdown",
        "(trained)",
        "Arithmetic",
        "Four-choice",
        "Yes/no",
        "27",
        "55",
        "60",
    ):
        assert word in words("accuracy")
    for word in ("7.30", "0.438", "random walk: 7.16", "log scale"):
        assert word in words("update-size")
    for word in ("ES", "GRPO", "q_proj", "embed_tokens", "Layer", "none", "log scale"):
        assert word in words("relative-change")
    for word in ("ES\N{EN DASH}GRPO", "q_proj", "Cosine in standard deviations of chance"):
        assert word in words("cosine")
    for word in ("KL(base || model)", "KL(model || base)", "nats per token", "Countdown", "Yes/no", "0.36", "0.044"):
        assert word in words("kl")
    for word in ("base\N{EN DASH}ES", "base\N{EN DASH}GRPO", "ES\N{EN DASH}GRPO", "Reward", "Loss (nats per token)"):
        assert word in words("connectivity")


def test_every_png_is_its_svg_at_150_dots_per_inch(built):
    for name in FIGURES:
        svg = (built / "report" / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        width, height = (
            float(points) for points in re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups()
        )
        with Image.open(built / "report" / "figures" / f"{name}.png") as image:
            # SVG counts in points, 72 to the inch; half a pixel may be cut off at an edge.
            assert image.size == pytest.approx((width * 150 / 72, height * 150 / 72), abs=1), name
            assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
            # Nothing about when, or with which version, it was drawn.
            assert image.text == {}
            assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 100


@pytest.mark.slow
def test_another_process_and_folder_give_the_same_bytes(built, run):
    environment = os.environ | {"PYTHONHASHSEED": "1234"}
    command = f"from analysis.report import build; build({str(run)!r})"
    subprocess.run([sys.executable, "-c", command], check=True, env=environment, cwd=ROOT)
    first, again = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in (folder / "report").rglob("*")
            if path.is_file() and path.name != MARKER
        }
        for folder in (built, run)
    )
    assert len(first) == 2 + 2 * len(FIGURES)
    assert first == again


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        ["base_model", "environment", "training"],
        ["task", "command", "evaluation", "kl"],
        ["config", "geometry", "random_walk", "connectivity"],
    ],
)
def test_missing_sections_are_named(run, results, sections):
    for section in sections:
        del results[section]
    write_json(run / "results.json", results)
    build(run)
    text = page_of(run).text
    # The command goes on where it stopped only if it is known, and what it was given.
    resumable = not {"command", "config"} & set(sections)
    opening = "Missing from results.json" if resumable else "Not measured"
    listed = re.search(rf"{opening}: (.*?)\.", text)
    assert listed and listed[1] == ", ".join(sections)
    report = (run / "report" / "report.md").read_text()
    assert f"> {opening}: {listed[1]}." in report
    remedy = "The same command, started again, computes what was not reached."
    assert (remedy in text) == (remedy in report) == resumable
    figures = {"training": "learning", "evaluation": "accuracy", "connectivity": "connectivity", "geometry": "cosine"}
    for section, figure in figures.items():
        for ending in ("svg", "png"):
            assert (run / "report" / "figures" / f"{figure}.{ending}").exists() == (section not in sections)
        assert (f"figures/{figure}.svg" in report) == (section not in sections)


@pytest.mark.slow
def test_missing_parts_of_sections_are_named(run, results):
    del results["kl"]["grpo"]
    results["training"]["es"]["evaluation"] = None
    del results["evaluation"]["grpo"]["yes_no"]
    results["connectivity"]["lines"]["es|grpo"] = None
    write_json(run / "results.json", results)
    build(run)
    text = page_of(run).text
    assert (
        "Missing from results.json: training.es.evaluation, evaluation.grpo.yes_no, kl.grpo, "
        "connectivity.lines.es|grpo."
    ) in text
    assert "On 500 validation problems of Countdown GRPO goes from 27 % to 60 % in 61,440 completions." in text
    assert "Similar accuracy, different weights" in text
    assert "barrier between them" not in text


@pytest.mark.slow
def test_almost_nothing_is_still_a_page_and_replaces_an_older_report(run):
    build(run)
    assert (run / "report" / "figures" / "connectivity.svg").exists()
    write_json(run / "results.json", {})
    build(run)
    text = page_of(run).text
    assert "The numbers that answer the question are not in results.json yet." in text
    assert (
        "Not measured: task, methods, base_model, command, environment, config, training, evaluation, "
        "geometry, kl, connectivity."
    ) in text
    assert list((run / "report" / "figures").iterdir()) == []


def nulled(value, keep=("direction", "sampled_from", "estimator", "ts", "completions")):
    """`value` with every number replaced by null, except those that say where a point stands."""
    if isinstance(value, dict):
        return {key: entry if key in keep else nulled(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [nulled(entry) for entry in value]
    return None


@pytest.mark.slow
@pytest.mark.parametrize("sections", [["training", "geometry", "kl"], ["evaluation", "random_walk", "connectivity"]])
def test_null_numbers_are_written_as_not_available(run, results, sections):
    for section in sections:
        results[section] = nulled(results[section])
    write_json(run / "results.json", results)
    build(run)
    cells = {source: words for table in page_of(run).tables for row in table for words, source in row if source}
    for section in sections:
        shown = {words for source, words in cells.items() if source.startswith(f"/{section}/")}
        # The completions at which something was measured are left as they are.
        assert shown - {"61,440"} == {"n/a"}


@pytest.mark.slow
def test_nothing_moved_and_nothing_right(run, results):
    """Zeros where a logarithm or a ratio would need something else."""
    for task in results["evaluation"]["es"].values():
        task.update(accuracy=0.0, low=0.0, high=0.008, correct=0)
    checkpoint = results["geometry"]["checkpoints"]["es"]
    checkpoint.update(norm=0.0, relative_norm=0.0)
    for row in checkpoint["per_layer_kind"].values():
        for entry in row.values():
            entry.update(norm=0.0, relative_norm=0.0)
    results["geometry"]["cosine"]["es|grpo"].update(total=None, null_std=None)
    for directions in results["kl"]["es"].values():
        for entry in directions.values():
            entry.update(per_token=0.0, per_token_low=0.0, per_token_high=0.0)
    write_json(run / "results.json", results)
    build(run)
    text = page_of(run).text
    assert "GRPO lifts Countdown from 27 % to 60 %, while ES lowers Countdown from 27 % to 0 %" in text
    assert "GRPO moved the weights by 0.438 and ES not at all" in text
    assert "the cosine between the two updates is undefined" in text
    assert "ES changes nothing" in text


@pytest.mark.slow
def test_everything_from_results_is_escaped(run, results):
    hostile = "<script>alert('x')</script>&\"|`*[a](javascript:b)"
    results["task"] = hostile
    results["base_model"] = results["command"] = hostile
    results["methods"] = ["es", "x<b>y"]
    for section in ("training", "kl"):
        results[section]["x<b>y"] = results[section].pop("grpo")
    results["evaluation"]["x<b>y"] = results["evaluation"].pop("grpo")
    results["geometry"]["checkpoints"]["x<b>y"] = results["geometry"]["checkpoints"].pop("grpo")
    cosine = results["geometry"]["cosine"].pop("es|grpo")
    cosine["per_layer_kind"]["0"]["<i>kind</i>"] = 0.02
    results["geometry"]["cosine"]["es|x<b>y"] = cosine
    lines = results["connectivity"]["lines"]
    results["connectivity"]["lines"] = {key.replace("grpo", "x<b>y"): line for key, line in lines.items()}
    for model in results["evaluation"].values():
        model[hostile] = model.pop("countdown")
    for method in results["kl"].values():
        method[hostile] = method.pop("countdown")
        for directions in method.values():
            directions["forward"]["direction"] = "KL(<u>base</u> || model)"
    results["environment"] = {hostile: hostile}
    results["config"] = {"a|b": "c|d\ne"}
    write_json(run / "results.json", results)
    build(run)
    raw = (run / "report" / "index.html").read_text(encoding="utf-8")
    page = page_of(run)
    assert not page.tags & {"b", "i", "u"}
    assert hostile in page.text
    # The page's own script, and no other.
    assert raw.count("<script") == 1
    report = (run / "report" / "report.md").read_text(encoding="utf-8")
    outside_code = re.sub(r"(?ms)^````*\n.*?^````*$", "", report)
    assert "<script" not in outside_code and "<b>" not in outside_code
    assert "[a](" not in outside_code.replace("\\[a\\](", "")
    # The bar in a name must not open another column. Markdown folds the line break, the page keeps it.
    config = [["Name", "Value"], ["a|b", "c|d e"]]
    assert config in markdown_tables(report)
    assert [["Name", "Value"], [hostile, hostile]] in markdown_tables(report)


@pytest.mark.slow
def test_other_methods_and_more_of_them(run, results):
    """Three methods, two of them without a fixed colour, and many layers."""
    results["methods"] = ["es", "pgpe", "snes"]
    for section in ("training", "kl", "evaluation"):
        entry = results[section].pop("grpo")
        results[section] |= {"pgpe": entry, "snes": copy.deepcopy(entry)}
    checkpoints = results["geometry"]["checkpoints"]
    cells = {str(layer): {"q_proj": {"norm": 1.0, "relative_norm": 0.01 * (layer + 1)}} for layer in range(28)}
    for method in results["methods"]:
        checkpoints[method] = checkpoints.get(method, checkpoints["es"]) | {"per_layer_kind": cells}
    cosines = {str(layer): {"q_proj": 0.01 * layer} for layer in range(28)}
    results["geometry"]["cosine"] = {
        pair: {"total": 0.2, "null_std": 0.001, "per_layer_kind": cosines} for pair in method_pairs(results)
    }
    line = results["connectivity"]["lines"]["base|es"]
    pairs = ["base|es", "base|pgpe", "base|snes", *method_pairs(results)]
    results["connectivity"]["lines"] = dict.fromkeys(pairs, line)
    write_json(run / "results.json", results)
    build(run)
    text = page_of(run).text
    assert "ES, pgpe and snes all lift Countdown from 27 % to 55 %, 60 % and 60 %" in text
    assert "cosines between the updates are 0.200 (ES\N{EN DASH}pgpe), 0.200 (ES\N{EN DASH}snes)" in text
    assert "Missing from results.json" not in text
    figure = (run / "report" / "figures" / "accuracy.svg").read_text()
    assert "#009e73" in figure and "#cc79a7" in figure
    lines = Page((run / "report" / "figures" / "connectivity.svg").read_text()).text
    assert all(f"{a}\N{EN DASH}{b}" in lines for a, b in (("base", "snes"), ("ES", "pgpe"), ("pgpe", "snes")))


def test_a_folder_without_results_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"no results\.json.*recipes/compare\.py") as error:
        build(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report").exists()


def test_damaged_results_are_a_user_error(tmp_path):
    for content in ('{"task": ', "[1, 2]"):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(UserError, match="results.json"):
            build(tmp_path)


def test_results_are_only_read(built, results):
    assert read_json(built / "results.json") == results
    assert tasks(results)[0] == "countdown"


@pytest.mark.parametrize(
    ("location", "value"),
    [("kl/es", 1e-300), ("methods", 5), ("geometry/checkpoints", "text"), ("kind", ["comparison"])],
)
def test_what_is_damaged_is_named_in_one_line(tmp_path, results, location, value):
    *above, key = location.split("/")
    entry = lookup(results, *above) if above else results
    entry[key] = value
    write_json(tmp_path / "results.json", results)
    with pytest.raises(UserError, match=r"results\.json (does not hold what|names no kind)") as error:
        build(tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "report").exists()


@pytest.mark.slow
def test_names_that_no_page_can_show_are_replaced_and_are_no_formulas(tmp_path, results):
    for model in ("$x_2$", "half \ud800 of a pair", "bell \x07", r"$\frac{"):
        results["task"] = results["base_model"] = model
        write_json(tmp_path / "results.json", results)
        page = build(tmp_path).read_text(encoding="utf-8")
        assert not set(page) & {"\ud800", "\x07"}
    assert r"$\frac{" in page

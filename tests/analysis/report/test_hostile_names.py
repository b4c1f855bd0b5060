"""Names that a file, a figure or a table could take for something else: they come out as they are, or as an escape."""

import json
from xml.etree import ElementTree

import pytest

from analysis.report import build, build_gallery
from analysis.report.runs_table import as_csv, as_markdown, runs_table
from analysis.report.style import canvas
from eval.errors import UserError
from tests.analysis.report.conftest import synthetic_results


NAMES = [
    "$x_2$",
    "$\\frac",
    "a\nb",
    "\ud800",
    "\x00\x1b[31m",
    "<script>alert(1)</script>",
    "a/b",
    "`*[x](y)",
    "_hidden",
]


def renamed(value, name):
    """The results with the method "es" called otherwise, everywhere."""
    if isinstance(value, str):
        return "|".join(name if part == "es" else part for part in value.split("|"))
    if isinstance(value, list):
        return [renamed(entry, name) for entry in value]
    if isinstance(value, dict):
        return {renamed(key, name): renamed(entry, name) for key, entry in value.items()}
    return value


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:constrained_layout", "ignore:Glyph")
def test_page_gallery_and_table_take_any_name(name, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.json").write_text(json.dumps(renamed(synthetic_results(), name)))
    build(run)
    build_gallery(tmp_path)
    for drawing in (run / "report" / "figures").glob("*.svg"):
        ElementTree.parse(drawing)
    for page in (run / "report" / "index.html", tmp_path / "gallery.html"):
        # The page's own script, and no other.
        assert page.read_text(encoding="utf-8").count("<script") == 1
    columns, rows = runs_table(tmp_path)
    as_csv(columns, rows).encode()
    table = as_markdown(columns, rows).split("\n")
    assert "<script" not in "".join(table)
    assert [line.startswith("|") for line in table[:4]] == [True, True, True, False]


def test_dollar_signs_stand_in_a_figure_as_they_are(tmp_path):
    from analysis.report.style import canvas, draw

    def painter():
        figure, axes = canvas(2)
        axes.set_title("$x_2$ and $\\frac")
        return figure

    assert "$x_2$ and $\\frac" in draw("name", painter).svg


def test_figure_with_a_panel_for_each_letter_of_a_damaged_entry_is_refused():
    with pytest.raises(UserError, match="5,000 by 4 panels"):
        canvas(2, 5000, 4)

"""One HTML page over a folder of runs: the first figures of each report, and the table of all numbers."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from analysis.report.html import fill
from analysis.report.results import Results, names_of, printable
from analysis.report.runs_table import TABLE_NOTE, cell_text, is_interval_end, measured_sections, runs_table
from analysis.report.section import Chapter, Tile
from eval.results_file import kind_of


FIGURES_PER_RUN = 2


@dataclass(frozen=True)
class Card:
    """A run with a page. thumbnails: (what it shows, address) of figures; addresses are relative to the gallery."""

    name: str
    kind: str
    title: str
    tiles: Sequence[Tile]
    link: str
    thumbnails: Sequence[tuple[str, str]]


def render_gallery(folder: Path, reported: Sequence[tuple[Path, Chapter, Results]]) -> str:
    """The page over the runs in `folder`. reported: those that have a page, with their chapters and results."""
    columns, rows = runs_table(folder)
    compared = {printable(str(run.relative_to(folder))) for run, _, results in reported if measured_sections(results)}
    paged = {printable(str(run.relative_to(folder))) for run, *_ in reported}
    numbers = [row for row in rows if row["run"] in compared]
    shown = [name for name in columns if not is_interval_end(name, columns) and any(name in row for row in numbers)]
    return fill(
        "gallery.html.j2",
        ["style.css", "gallery.css"],
        ["tables.js", "gallery.js"],
        name=printable(folder.resolve().name),
        cards=[card_of(folder, *one) for one in reported],
        columns=shown,
        rows=[[cell_text(row, column) for column in shown] for row in numbers],
        note=" ".join(TABLE_NOTE.split()),
        others=[row for row in rows if row["run"] not in paged],
    )


def card_of(folder: Path, run: Path, chapter: Chapter, results: Results) -> Card:
    name = str(run.relative_to(folder))
    figures = [figure for figure in chapter.thumbnails if (run / "report" / "figures" / f"{figure}.svg").is_file()]
    with names_of(results):
        titles = {section.name: section.title for section in chapter.sections(results)}
        title, tiles = chapter.title(results), chapter.tiles(results)
    return Card(
        name=printable(folder.resolve().name if name == "." else name),
        kind=kind_of(results),
        title=title,
        tiles=tiles,
        link=quote(os.fsencode(f"{name}/report/index.html")),
        thumbnails=[
            (titles[one], quote(os.fsencode(f"{name}/report/figures/{one}.svg"))) for one in figures[:FIGURES_PER_RUN]
        ],
    )

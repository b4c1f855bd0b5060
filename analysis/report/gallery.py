"""One HTML page over a folder of runs: the first figures of each report, and the table of all numbers."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from analysis.report.document import title
from analysis.report.html import STYLE, text
from analysis.report.results import Results, read_results
from analysis.report.runs_table import SECTIONS, TABLE_NOTE, cell_text, is_interval_end, runs_table
from analysis.report.studies.sequential import story as continual_story


# The figures of a report that are shown, in this order, as far as it has them.
SHOWN = (
    "claims",
    "learning",
    "update-size",
    "connectivity",
    "trajectory",
    "theory-walk",
    "spectra",
    "kl",
    "matrices",
    "drift",
)
FIGURES_PER_RUN = 2
GALLERY_STYLE = """
main { max-width: 78rem; }
.runs { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1rem; }
.run { border: 1px solid var(--rule); border-radius: .5rem; padding: .9rem 1rem; }
.run h3 { margin: 0 0 .3rem; overflow-wrap: anywhere; }
.run p { font-size: .92rem; margin: 0 0 .6rem; }
.thumbnails { display: flex; gap: .5rem; align-items: flex-start; }
.thumbnails img { width: 100%; min-width: 0; flex: 1 1 0; background: #fff; max-height: 12rem; object-fit: contain; }
.numbers th { min-width: 5.5rem; }
"""


def render_gallery(folder: Path, reported: Sequence[Path]) -> str:
    """The page over the runs in `folder`. reported: those that have a report; links are relative to `folder`."""
    columns, rows = runs_table(folder)
    measured = tuple(f"finished: {name}" for name in SECTIONS if name != "claims")
    compared = [row for row in rows if row["status"].startswith(measured)]
    others = [row for row in rows if row not in compared and row["status"] != "finished: claims"]
    shown = [name for name in columns if not is_interval_end(name, columns) and any(name in row for row in compared)]
    body = [
        f"<header><h1>{len(reported)} reports in {text(folder.resolve().name)}</h1></header>",
        '<section class="runs">',
        *(_card(folder, run) for run in reported),
        "</section>",
        *(_table(shown, compared) if compared else []),
        *(_others(others) if others else []),
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Runs in {escape(folder.resolve().name)}</title>\n<style>{STYLE}{GALLERY_STYLE}</style>\n</head>",
            "<body>\n<main>",
            *body,
            "</main>\n</body>\n</html>\n",
        ]
    )


def has_report(results: Results) -> bool:
    """Whether a run holds a measurement of a comparison, or is a sequential run."""
    return results.get("study") == "sequential" or bool(results.keys() & set(SECTIONS))


def _card(folder: Path, run: Path) -> str:
    name, results = str(run.relative_to(folder)), read_results(run)
    link = quote(f"{name}/report/index.html")
    figures = [figure for figure in SHOWN if (run / "report" / "figures" / f"{figure}.svg").is_file()]
    images = "".join(
        f'<img loading="lazy" alt="{escape(figure)}" src="{quote(f"{name}/report/figures/{figure}.svg")}">'
        for figure in figures[:FIGURES_PER_RUN]
    )
    shown = folder.resolve().name if name == "." else name
    return (
        f'<article class="run"><h3><a href="{link}">{text(shown)}</a></h3><p>{text(_title(results))}</p>'
        f'<a class="thumbnails" href="{link}">{images}</a></article>'
    )


def _title(results: Results) -> str:
    return continual_story.title(results) if results.get("study") == "sequential" else title(results)


def _table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{text(cell_text(row, column))}</td>" for column in columns) + "</tr>" for row in rows
    )
    return [
        "<section><h2>The numbers of all comparisons</h2>",
        f'<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead>',
        f"<tbody>{body}</tbody></table></div>",
        f'<p class="small">{text(" ".join(TABLE_NOTE.split()))}</p></section>',
    ]


def _others(rows: Sequence[dict[str, Any]]) -> list[str]:
    listed = "".join(f"<li>{text(row['run'])}: {text(row['status'])}</li>" for row in rows)
    return [f"<details><summary>{len(rows)} further runs without a comparison</summary><ul>{listed}</ul></details>"]

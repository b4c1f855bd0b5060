"""The page a person reads: `results.json` of a comparison or a study, as HTML, Markdown and figures.

Needs neither a model nor a GPU, and every number it shows stands in `results.json`. What kind of results they are
decides which chapter of `studies/` they make.
"""

from dataclasses import replace
from pathlib import Path

from analysis.report import html, markdown
from analysis.report.compose import compose
from analysis.report.gallery import render_gallery
from analysis.report.results import Results, names_of, printable, read_results, reading
from analysis.report.runs_table import measured_sections
from analysis.report.section import Chapter
from analysis.report.studies.circuits import CHAPTER as CIRCUITS
from analysis.report.studies.claims import CHAPTER as CLAIMS
from analysis.report.studies.clocks import CHAPTER as CLOCKS
from analysis.report.studies.comparison import CHAPTER as COMPARISON
from analysis.report.studies.sequential import CHAPTER as SEQUENTIAL
from analysis.report.studies.training import CHAPTER as TRAINING
from analysis.report.written import written_of
from eval.errors import UserError
from eval.ownership import claim_files
from eval.results_file import kind_of
from eval.storage import new_folder, write_text


# The kinds of results that have a page. A study of rounding has none.
CHAPTERS: dict[str, Chapter] = {
    "comparison": COMPARISON,
    "claims": CLAIMS,
    "sequential": SEQUENTIAL,
    "circuits": CIRCUITS,
    "clocks": CLOCKS,
    "training": TRAINING,
}


def build(run: Path) -> Path:
    """Write `<run>/report/` anew from `<run>/results.json` and return the path of its `index.html`.

    The folder holds `index.html` (one self-contained file), `report.md` and each figure as `figures/*.svg` and
    `figures/*.png`. The same `results.json` gives the same bytes. An existing folder is replaced as a whole when the
    new one is complete, unless it holds a file that is not of a report.

    Raises UserError if `run` has no readable `results.json`, its kind has no page, or `report/` holds other files. A
    section that it lacks is named in the report.
    """
    run = Path(run)
    results = read_results(run)
    kind = kind_of(results)
    if kind not in CHAPTERS or (kind == "training" and not has_page(results)):
        raise UserError(f"{run} holds results of kind {kind}, which has no page; {', '.join(CHAPTERS)} have one")
    with reading("what the models wrote"), names_of(results):
        written = written_of(run, results)
    document = replace(compose(CHAPTERS[kind], results), written=written)
    with reading("the page"):
        page, text = html.render(document), markdown.render(document)
        figures = {part.name: part.drawing for part in document.parts if part.drawing is not None}
    with new_folder(run / "report") as folder:
        (folder / "figures").mkdir()
        for name, drawing in figures.items():
            write_text(folder / "figures" / f"{name}.svg", drawing.svg)
            (folder / "figures" / f"{name}.png").write_bytes(drawing.png)
        write_text(folder / "report.md", text)
        write_text(folder / "index.html", page)
    return run / "report" / "index.html"


def build_gallery(folder: Path) -> Path:
    """Write `<folder>/gallery.html` over all runs in `folder`, at any depth, and return its path.

    Every run whose results.json holds something that can be reported gets a report if it has none that is newer.
    Raises UserError if no run is there, or the results.json of one cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a folder with runs in it")
    runs = {run: printable(read_results(run)) for run in sorted(path.parent for path in folder.rglob("results.json"))}
    reported = [(run, CHAPTERS[kind_of(results)], results) for run, results in runs.items() if has_page(results)]
    if not reported:
        raise UserError(f"there is nothing to report in {folder}: no results.json below it holds a measurement")
    for run, *_ in reported:
        page = run / "report" / "index.html"
        if not page.exists() or page.stat().st_mtime_ns < (run / "results.json").stat().st_mtime_ns:
            build(run)
    claim_files(folder, ["gallery.html"], in_run=True)
    write_text(folder / "gallery.html", render_gallery(folder, reported))
    return folder / "gallery.html"


def has_page(results: Results) -> bool:
    """Whether results are of a kind with a page, and hold what it shows if they are of a comparison or a training."""
    kind = kind_of(results)
    if kind == "training":
        return bool(results.get("training"))
    return kind in CHAPTERS and (kind != "comparison" or bool(measured_sections(results)))

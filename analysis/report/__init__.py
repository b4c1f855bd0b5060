"""The page a person reads: `results.json` of a comparison or a study, as HTML, Markdown and figures.

Needs neither a model nor a GPU, and every number it shows stands in `results.json`.
"""

from pathlib import Path

from analysis.report import html, markdown
from analysis.report.document import compose as compose_comparison
from analysis.report.gallery import has_report, render_gallery
from analysis.report.results import read_results
from analysis.report.studies.circuits.document import compose_circuits
from analysis.report.studies.sequential.document import compose_continual
from eval.errors import UserError
from eval.storage import new_folder, write_text


# What composes the report of a study; everything else is a comparison.
STUDIES = {"circuits": compose_circuits, "sequential": compose_continual}


def build(run: Path) -> Path:
    """Write `<run>/report/` anew from `<run>/results.json` and return the path of its `index.html`.

    The folder holds `index.html` (one self-contained file), `report.md` and each figure as `figures/*.svg` and
    `figures/*.png`. The same `results.json` gives the same bytes. An existing folder is replaced as a whole when the
    new one is complete.

    Raises UserError if `run` has no readable `results.json`. A section that it lacks is named in the report.
    """
    run = Path(run)
    results = read_results(run)
    document = STUDIES.get(results.get("study"), compose_comparison)(results)
    with new_folder(run / "report") as folder:
        (folder / "figures").mkdir()
        for part in document.parts:
            if part.drawing is not None:
                write_text(folder / "figures" / f"{part.name}.svg", part.drawing.svg)
                (folder / "figures" / f"{part.name}.png").write_bytes(part.drawing.png)
        write_text(folder / "report.md", markdown.render(document))
        write_text(folder / "index.html", html.render(document))
    return run / "report" / "index.html"


def build_gallery(folder: Path) -> Path:
    """Write `<folder>/gallery.html` over all runs in `folder`, at any depth, and return its path.

    Every run whose results.json holds a section that can be reported gets a report if it has none that is newer.
    Raises UserError if no run is there, or the results.json of one cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a folder with runs in it")
    runs = sorted(path.parent for path in folder.rglob("results.json"))
    reported = [run for run in runs if has_report(read_results(run))]
    if not reported:
        raise UserError(f"there is nothing to report in {folder}: no results.json below it holds a measurement")
    for run in reported:
        page = run / "report" / "index.html"
        if not page.exists() or page.stat().st_mtime_ns < (run / "results.json").stat().st_mtime_ns:
            build(run)
    write_text(folder / "gallery.html", render_gallery(folder, reported))
    return folder / "gallery.html"

"""The page a person reads: `results.json` of a comparison or a study of circuits as HTML, Markdown and figures.

Needs neither a model nor a GPU, and every number it shows stands in `results.json`.
"""

from pathlib import Path

from analysis.report import html, markdown
from analysis.report.circuit_document import compose_circuits
from analysis.report.document import compose
from analysis.report.results import read_results
from eval.storage import new_folder, write_text


def build(run: Path) -> Path:
    """Write `<run>/report/` anew from `<run>/results.json` and return the path of its `index.html`.

    The folder holds `index.html` (one self-contained file), `report.md` and each figure as `figures/*.svg` and
    `figures/*.png`. The same `results.json` gives the same bytes. An existing folder is replaced as a whole when the
    new one is complete.

    Raises UserError if `run` has no readable `results.json`. A section that it lacks is named in the report.
    """
    run = Path(run)
    results = read_results(run)
    document = compose_circuits(results) if results.get("study") == "circuits" else compose(results)
    with new_folder(run / "report") as folder:
        (folder / "figures").mkdir()
        for part in document.parts:
            if part.drawing is not None:
                write_text(folder / "figures" / f"{part.name}.svg", part.drawing.svg)
                (folder / "figures" / f"{part.name}.png").write_bytes(part.drawing.png)
        write_text(folder / "report.md", markdown.render(document))
        write_text(folder / "index.html", html.render(document))
    return run / "report" / "index.html"

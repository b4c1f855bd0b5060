"""What a page says, in order, before it becomes HTML or Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.report.results import Location
from analysis.report.section import Tile
from analysis.report.style import Drawing
from analysis.report.tables import Table
from analysis.report.written import Written


@dataclass(frozen=True)
class Part:
    """One figure.

    drawing: None when all numbers are missing. sentence: what it shows. missing: what is not there. table: stands
    under the figure instead of among the numbers at the end. sources: where what is drawn stands in `results.json`.
    computed_by: full names of the functions that computed it.
    """

    name: str
    title: str
    drawing: Drawing | None
    sentence: str
    missing: Sequence[Location]
    table: Table | None = None
    sources: Sequence[Location] = ()
    computed_by: Sequence[str] = ()


@dataclass(frozen=True)
class Document:
    """The whole page.

    title, headline: the answer, in a few words and in a sentence or two. context: what was trained on what.
    missing: everything that `results.json` lacks. budget: None where nothing was spent. measured: digests of models,
    data and options. resumable: whether the
    command that wrote the results goes on where it stopped when it is started again. written: what the models wrote on
    each task.
    """

    title: str
    headline: str
    context: str
    tiles: Sequence[Tile]
    missing: Sequence[Location]
    parts: Sequence[Part]
    numbers: Sequence[Table]
    budget: Table | None
    measured: Table
    definitions: Sequence[tuple[str, str]]
    environment: Table
    config: Table
    command: str | None
    resumable: bool = False
    written: Sequence[Written] = ()


def missing_words(document: Document) -> tuple[str, str]:
    """What stands before and after a list of what is missing."""
    if document.resumable:
        return "Missing from results.json:", " The same command, started again, computes what was not reached."
    return "Not measured:", ""

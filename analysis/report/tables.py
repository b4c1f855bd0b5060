"""What a table of a page is made of. Every number in one is one value of `results.json`, and says which."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from analysis.report.numbers import NOT_AVAILABLE
from analysis.report.results import Location, Results, lookup


# Of a digest, so many hexadecimal digits are shown.
DIGITS = 16


@dataclass(frozen=True)
class Cell:
    """text: as shown. location: where the number stands in `results.json`; None for words."""

    text: str
    location: Location | None = None


@dataclass(frozen=True)
class Table:
    """title: what it holds. columns: headings. rows: as many cells each as there are columns. note: a line below.

    computed_by: full names of the functions that computed its numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    computed_by: Sequence[str] = ()


# The heading of a column of numbers, where below a row's location they stand ("base_overlap.left.share"), and how they
# are written.
Column = tuple[str, str, Callable[..., str]]


def value(results: Results, location: Location, write: Callable[..., str]) -> Cell:
    """The number at `location` as `write` writes it."""
    return Cell(write(lookup(results, *location)), location)


def row_cells(results: Results, words: Sequence[str], at: Location, columns: Sequence[Column]) -> list[Cell]:
    """A row: words, then the numbers that stand below `at`."""
    return [*map(Cell, words), *(value(results, (*at, *keys.split(".")), write) for _, keys, write in columns)]


def number_table(
    results: Results,
    title: str,
    words: Sequence[str],
    columns: Sequence[Column],
    rows: Iterable[tuple[Sequence[str], Location]],
    note: str = "",
) -> Table:
    """A table whose rows begin with words and go on with the numbers that stand below one location.

    words: headings of the words. rows: (words, location of the row).
    """
    cells = [row_cells(results, told, at, columns) for told, at in rows]
    return Table(title, [*words, *(heading for heading, *_ in columns)], cells, note)


def settings(results: Results, section: str, title: str) -> Table:
    """A flat section of words and numbers, as it stands."""
    rows = [
        [Cell(key), Cell(NOT_AVAILABLE if entry is None else str(entry), (section, key))]
        for key, entry in (lookup(results, section) or {}).items()
    ]
    return Table(title, ["Name", "Value"], rows)


def digests(results: Results) -> Table:
    """What was measured: the beginning of the SHA-256 of every model, data set, configuration and file."""
    kinds = {"models": "model", "data": "data", "config": "options", "configs": "options", "files": "file"}
    rows = []
    for section, kind in kinds.items():
        named = lookup(results, "digests", section) or {}
        entries = named if isinstance(named, dict) else {"config.yaml": named}
        at = ("digests", section)
        for name, digest in entries.items():
            location = (*at, name) if isinstance(named, dict) else at
            rows.append([Cell(kind), Cell(name), Cell(digest[:DIGITS], location)])
    note = "The first 16 of 64 digits; results.json has them all, eval/digests.py says of what." if rows else ""
    return Table("What was measured", ["Kind", "Name", "SHA-256"], rows, note)

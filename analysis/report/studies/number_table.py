"""Tables whose rows are a few words and then the numbers of one place in `results.json`."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from analysis.report.numbers import fixed
from analysis.report.results import Location, Results
from analysis.report.tables import Cell, Table, value


Writer = Callable[[float | None], str]
# Heading, location below that of the row, and how the number is written.
Column = tuple[str, Location, Writer]

two_decimals: Writer = partial(fixed, decimals=2)


def number_table(
    results: Results,
    title: str,
    headings: Sequence[str],
    columns: Sequence[Column],
    rows: Iterable[tuple[Sequence[str], Location]],
    note: str = "",
) -> Table:
    """rows: (words, location): one word for each of `headings`, and where the numbers of `columns` stand."""
    names = [*headings, *(heading for heading, _, _ in columns)]
    return Table(title, names, [row_cells(results, words, at, columns) for words, at in rows], note)


def row_cells(results: Results, words: Sequence[str], at: Location, columns: Sequence[Column]) -> list[Cell]:
    return [*map(Cell, words), *(value(results, (*at, *below), write) for _, below, write in columns)]


def with_ends(heading: str, write: Writer, *at: str) -> list[Column]:
    """An estimate at `at` that is an object with its interval: {value, low, high}."""
    return [(name, (*at, end), write) for name, end in ((heading, "value"), ("Low", "low"), ("High", "high"))]


def with_suffixed_ends(heading: str, write: Writer, *at: str) -> list[Column]:
    """An estimate at `at` whose interval stands beside it, under the same name with _low and _high."""
    *above, name = at
    return [(text, (*above, name + end), write) for text, end in ((heading, ""), ("Low", "_low"), ("High", "_high"))]

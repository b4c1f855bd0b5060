"""Tables whose rows are a few words and then the numbers of one place in `results.json`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from analysis.report.numbers import fixed
from analysis.report.results import Location, Results
from analysis.report.tables import Cell, Table, value


Writer = Callable[[float | None], str]
# The heading, where below a row's location the numbers stand ("faithfulness.cpr"), and how they are written.
Column = tuple[str, str, Writer]

two_decimals: Writer = partial(fixed, decimals=2)


def number_table(
    results: Results,
    title: str,
    words: Sequence[str],
    columns: Sequence[Column],
    rows: Iterable[tuple[Sequence[str], Location]],
    note: str = "",
) -> Table:
    """words: headings of the words. rows: (words, location of the row)."""
    headings = [*words, *(heading for heading, _, _ in columns)]
    return Table(title, headings, [row_cells(results, told, at, columns) for told, at in rows], note)


def row_cells(results: Results, words: Sequence[str], at: Location, columns: Sequence[Column]) -> list[Cell]:
    return [*map(Cell, words), *(value(results, (*at, *keys.split(".")), write) for _, keys, write in columns)]


def columns_of(write: Writer, keys: Mapping[str, str]) -> list[Column]:
    """keys: {heading: where the numbers stand}."""
    return [(heading, at, write) for heading, at in keys.items()]


def with_ends(heading: str, write: Writer, at: str = "") -> list[Column]:
    """An estimate that is an object with its interval: {value, low, high}."""
    above = f"{at}." if at else ""
    return [(heading, f"{above}value", write), ("Low", f"{above}low", write), ("High", f"{above}high", write)]


def with_suffixed_ends(heading: str, write: Writer, at: str) -> list[Column]:
    """An estimate whose interval stands beside it, under the same name with _low and _high."""
    return [(heading, at, write), ("Low", f"{at}_low", write), ("High", f"{at}_high", write)]

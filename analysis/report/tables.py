"""What a table of a page is made of. Every number in one is one value of `results.json`, and says which."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from analysis.report.numbers import NOT_AVAILABLE, significant
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


@dataclass(frozen=True)
class Shown:
    """What an analysis returned, as a table in a notebook; printed elsewhere. rows: as many words as `columns`."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in self.columns)
        body = "".join("<tr>" + "".join(f"<td>{escape(word)}</td>" for word in row) + "</tr>" for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (self.columns, *self.rows))
        return "\n".join(lines)


def show(results: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Shown:
    """A table of anything that `analysis` returns: a row for each entry, a column for each number or word in it.

    A mapping of mappings has a row for each key, a list of mappings for each place; a flat mapping has its keys and
    values. Numbers deeper inside are named by their path, such as total.low; lists are left out.
    """
    entries = results.items() if isinstance(results, Mapping) else ((str(at), row) for at, row in enumerate(results))
    flat = {name: dict(_leaves(entry)) for name, entry in entries}
    flat = {name: leaves for name, leaves in flat.items() if leaves}
    columns = list(dict.fromkeys(path for leaves in flat.values() for path in leaves))
    rows = [[name, *(_as_word(leaves.get(path)) for path in columns)] for name, leaves in flat.items()]
    return Shown(["", *(path or "value" for path in columns)], rows)


def _leaves(entry: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(entry, Mapping):
        for key, inner in entry.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif not isinstance(entry, list | tuple):
        yield path, entry


def _as_word(leaf: Any) -> str:
    if leaf is None:
        return NOT_AVAILABLE
    return significant(leaf) if isinstance(leaf, float) and math.isfinite(leaf) else str(leaf)

"""Columns of numbers, for `tables.number_table`."""

from collections.abc import Callable, Mapping
from functools import partial

from analysis.report.numbers import fixed
from analysis.report.tables import Column


Writer = Callable[[float | None], str]

two_decimals: Writer = partial(fixed, decimals=2)


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

"""How a difference of accuracies is said with its 95 % interval."""

from collections.abc import Mapping
from typing import Any

from analysis.report.numbers import points


ENDS = ("value", "low", "high")
Interval = Mapping[str, Any]


def span(interval: Interval) -> str:
    """ "8.1 points (5.0 to 11.2)"."""
    low, high = (points(interval[end]).split()[0] for end in ("low", "high"))
    return f"{points(interval['value'])} ({low} to {high})"


def more_than(interval: Interval, other: str) -> str:
    """ "8.1 points more than ES (5.0 to 11.2)"."""
    return span(interval).replace(" (", f" more than {other} (", 1)


def turned(interval: Interval) -> Interval:
    """Of a difference, the same of the first minus the second."""
    return {"value": -interval["value"], "low": -interval["high"], "high": -interval["low"]}

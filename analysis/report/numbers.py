"""How a number is written in the report. A value that is null in `results.json` is written as `NOT_AVAILABLE`."""

import math


NOT_AVAILABLE = "n/a"


def percent(share: float | None, decimals: int = 1) -> str:
    """A share of 1 as a percentage: 0.548 -> "54.8 %"."""
    return NOT_AVAILABLE if share is None else f"{100 * share:.{decimals}f} %"


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points: 0.021 -> "2.1 points"."""
    return NOT_AVAILABLE if difference is None else f"{_no_minus_zero(f'{100 * difference:.1f}')} points"


def count(value: float | None) -> str:
    """A whole number with thousands separated: 61440 -> "61,440"."""
    return NOT_AVAILABLE if value is None else f"{value:,.0f}"


def significant(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits, in scientific notation below 0.0001 and from a million on: 0.01234 -> "0.0123"."""
    if value is None:
        return NOT_AVAILABLE
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    if not 1e-4 <= abs(rounded) < 1e6:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}"


def fixed(value: float | None, decimals: int = 3) -> str:
    """A fixed number of decimals, for quantities of order 1: -0.0123 -> "-0.012"."""
    return NOT_AVAILABLE if value is None else _no_minus_zero(f"{value:.{decimals}f}")


def times(ratio: float) -> str:
    """A ratio of at least 1, as precise as a sentence needs: 9.13 -> "9.1", 38.2 -> "38"."""
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:,.0f}"


def _no_minus_zero(text: str) -> str:
    return text.removeprefix("-") if float(text) == 0 else text

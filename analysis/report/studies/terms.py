"""The terms of a section."""

from collections.abc import Callable, Mapping

from analysis.report.results import Results
from analysis.report.section import Terms


def explained(meanings: Mapping[str, str]) -> Callable[[Results], Terms]:
    """Terms that mean the same in all results. meanings: {term: meaning}."""
    return lambda results: list(meanings.items())

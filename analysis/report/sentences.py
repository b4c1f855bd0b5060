"""What every sentence of a page needs: lists in words, and a capital at the start."""

from collections.abc import Sequence

from analysis.report.numbers import count
from analysis.report.results import begins_with_a_chosen_name


def join(words: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def several(number: int, what: str) -> str:
    """(1, "seed") -> "1 seed"; (5, "seed") -> "5 seeds"."""
    return f"{count(number)} {what}" + ("" if number == 1 else "s")


def capital(text: str) -> str:
    """With a capital at the start, unless a name stands there that the user chose."""
    return text if begins_with_a_chosen_name(text) else text[:1].upper() + text[1:]


def sentence(clauses: Sequence[str], otherwise: str = "") -> str:
    """["a", "b"] -> "A; b."; `otherwise` where there are no clauses."""
    return capital("; ".join(clauses) or otherwise) + "."

"""Reading `results.json`: where a number stands, what is not there, and what its models and tasks are called."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import combinations
from pathlib import Path
from typing import Any

from eval.errors import UserError
from eval.results_file import Results, read_results_file


Location = tuple[str, ...]

# How code that trusts its numbers stumbles over one that is missing, of another type or out of its range.
DAMAGE = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError)

# What neither UTF-8 nor XML can hold: half a surrogate pair, control characters.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

BASE = "base"
LABELS = {
    "base": "base",
    "es": "ES",
    "grpo": "GRPO",
    "sft": "SFT",
    "countdown": "Countdown",
    "arithmetic": "Arithmetic",
    "four_choice": "Four-choice",
    "yes_no": "Yes/no",
}
# Key of the matrices that belong to no layer (embeddings, last norm).
OUTSIDE_LAYERS = "-"


def read_results(run: Path) -> Results:
    """The content of `<run>/results.json`; a `UserError` when there is none or it cannot be read."""
    path = Path(run) / "results.json"
    if not path.is_file():
        raise UserError(
            f"{run} has no results.json, so there is nothing to report; finish the comparison first "
            "(accelerate launch recipes/compare.py --config <yaml>) and give its run folder"
        )
    return read_results_file(path)


@contextmanager
def reading(part: str) -> Iterator[None]:
    """Inside the block results.json is read for `part`. Raises UserError where it is not as it should be."""
    try:
        yield
    except DAMAGE as error:
        raise UserError(
            f"results.json does not hold what {part} needs ({type(error).__name__}: {error}); it is damaged, or of "
            "another version: start the command that wrote it again, or take the damaged part out, and the page "
            "then names it as missing"
        ) from error


def lookup(results: Results, *location: str) -> Any:
    """The value at `location`, a path of keys and list indices; None when a part of it is absent or null."""
    value: Any = results
    for key in location:
        if isinstance(value, list):
            value = value[int(key)] if int(key) < len(value) else None
        elif value is not None:
            value = value.get(key)
    return value


def printable(value: Any) -> Any:
    """The same with a replacement character for each that a page cannot show, in all texts and keys."""
    if isinstance(value, dict):
        return {printable(key): printable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [printable(entry) for entry in value]
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value


def pointer(location: Location) -> str:
    """`location` as a JSON pointer (RFC 6901), the form in which the report says where a number stands."""
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in location)


def label(name: str) -> str:
    """How a method, a model or a task is called in text and figures."""
    return LABELS.get(name, name) if _CHOSEN.get() is None else name


@contextmanager
def names_of(results: Results) -> Iterator[None]:
    """Inside the block every name stays as the user wrote it, if the user chose those in `results`."""
    token = _CHOSEN.set(None if asked(results) is None else [*methods(results), *tasks(results)])
    try:
        yield
    finally:
        _CHOSEN.reset(token)


_CHOSEN: ContextVar[list[str] | None] = ContextVar("chosen", default=None)


def begins_with_a_chosen_name(text: str) -> bool:
    return text.startswith(tuple(_CHOSEN.get() or ()))


def model_heading(results: Results) -> str:
    """The heading of a column with `methods`: of models trained elsewhere, nobody says by which method."""
    return "Method" if asked(results) is None else "Model"


def asked(results: Results) -> list[str] | None:
    """The sections that `posttrain-lab analyse` was asked for, of models trained elsewhere; None for other results."""
    return lookup(results, "asked")


def methods(results: Results) -> list[str]:
    return lookup(results, "methods") or []


def models(results: Results) -> list[str]:
    """The base model, then what each method made of it."""
    return [BASE, *methods(results)]


def method_pairs(results: Results) -> list[str]:
    """Keys of the pairs of methods: "es|grpo"."""
    return ["|".join(pair) for pair in combinations(methods(results), 2)]


def model_pairs(results: Results) -> list[str]:
    """Keys of the pairs of models, those with the base model first: "base|es", "base|grpo", "es|grpo"."""
    return ["|".join(pair) for pair in combinations(models(results), 2)]


def pair_label(pair: str) -> str:
    """ "es|grpo" -> "ES\N{EN DASH}GRPO"."""
    return "\N{EN DASH}".join(label(name) for name in pair.split("|"))


def tasks(results: Results) -> list[str]:
    """Every evaluated or measured task, the trained one first."""
    trained = lookup(results, "task")
    names = {} if trained is None else {trained: None}
    for section in ("evaluation", "kl"):
        for model in models(results):
            names |= dict.fromkeys(lookup(results, section, model) or {})
    return list(names)


def in_order(layers: Iterable[str]) -> list[str]:
    """Layer numbers in ascending order, what lies outside the layers last."""
    return sorted(layers, key=lambda layer: (not layer.isdecimal(), int(layer) if layer.isdecimal() else 0, layer))


def absent(results: Results, locations: Iterable[Location]) -> list[Location]:
    """The shortest part of each location that is already absent, null or empty; each once, in order."""
    missing: dict[Location, None] = {}
    for location in locations:
        for length in range(1, len(location) + 1):
            if lookup(results, *location[:length]) in (None, {}, [], ""):
                missing[location[:length]] = None
                break
    return list(missing)

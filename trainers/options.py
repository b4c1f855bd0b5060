"""Options of a run as dataclass fields: declared in one line, with the bounds that their types name."""

from copy import copy
from dataclasses import dataclass, field
from typing import Annotated, Any, get_type_hints

from trainers.arguments import (
    MOST,
    check_all_finite,
    check_at_least,
    check_at_most,
    check_between,
    check_count,
    check_positive,
    check_seed,
)


# Problems, strings and samples lie in memory, a problem with about 1 kB.
MOST_ROWS = 10_000_000
# Processes and threads of one machine.
MOST_PROCESSES = 1024


def check_not_negative(name: str, value: float) -> None:
    """Raise `UserError` unless `value` is finite and at least 0."""
    check_at_least(name, value, 0)


def _check_number_or_none(name: str, value: int) -> None:
    check_at_least(name, value, 0)
    check_at_most(name, value, MOST, "nothing in a run is counted that far")


def check_rows(name: str, value: int) -> None:
    """Raise `UserError` unless `value` is from 1 to `MOST_ROWS`."""
    check_positive(name, value)
    check_at_most(name, value, MOST_ROWS, "they lie in memory, all of them")


def check_processes(name: str, value: int) -> None:
    """Raise `UserError` unless `value` is from 1 to `MOST_PROCESSES`."""
    check_positive(name, value)
    check_at_most(name, value, MOST_PROCESSES, "no machine runs as many at a time")


def check_share(name: str, value: float) -> None:
    """Raise `UserError` unless `value` is from 0 to 1."""
    check_between(name, value, 0.0, 1.0)


# The parser sees int and float; `check_bounds` sees the rest.
PositiveInt = Annotated[int, check_count]
PositiveFloat = Annotated[float, check_positive]
NonNegativeInt = Annotated[int, _check_number_or_none]
Rows = Annotated[int, check_rows]
Processes = Annotated[int, check_processes]
Seed = Annotated[int, check_seed]
NonNegativeFloat = Annotated[float, check_not_negative]
Share = Annotated[float, check_share]


def option(default: Any, help: str) -> Any:
    """A field of a dataclass of options: its default, and what `--help` says of it."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class StartOptions:
    """Options of one start, which are none of the run: no config.yaml holds them."""

    dry_run: bool = option(
        False, "check all options, load the data, say what would be run, and stop; nothing is trained or written"
    )


def check_held_out(options: Any) -> None:
    """Raise `UserError` for a size or the seed of `analysis.behaviour.held_out.HeldOut` outside its bounds."""
    check_seed("data_seed", options.data_seed)
    check_count("max_new_tokens", options.max_new_tokens)
    for name in ("test_size", "kl_prompts", "batch_size"):
        check_rows(name, getattr(options, name))


def check_bounds(options: Any) -> None:
    """Raise `UserError` for an option of the dataclass instance `options` outside the bounds of its type.

    No option takes NaN or infinity.
    """
    check_all_finite(options)
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        for check in getattr(hint, "__metadata__", ()):
            check(name, getattr(options, name))

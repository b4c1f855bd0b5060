"""Options of a run as dataclass fields: declared in one line, with the bounds that their types name."""

from copy import copy
from dataclasses import field
from typing import Annotated, Any, get_type_hints

from trainers.arguments import check_at_least, check_between, check_positive


def _check_not_negative(name: str, value: float) -> None:
    check_at_least(name, value, 0)


def _check_share(name: str, value: float) -> None:
    check_between(name, value, 0.0, 1.0)


# The parser sees int and float; `check_bounds` sees the rest.
PositiveInt = Annotated[int, check_positive]
PositiveFloat = Annotated[float, check_positive]
NonNegativeInt = Annotated[int, _check_not_negative]
NonNegativeFloat = Annotated[float, _check_not_negative]
Share = Annotated[float, _check_share]


def option(default: Any, help: str) -> Any:
    """A field of a dataclass of options: its default, and what `--help` says of it."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def check_bounds(options: Any) -> None:
    """Raise `UserError` for an option of the dataclass instance `options` outside the bounds of its type."""
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        for check in getattr(hint, "__metadata__", ()):
            check(name, getattr(options, name))

"""Commands with one module each, such as `python -m eval score`; and the parser that all of them use.

A command's module has `add_options(parser)` and `run(arguments)`; its docstring is what --help says, the first line of
it what the list of commands says. It imports at its top only what is quick to import: neither a misspelt option nor
--help should wait for torch.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any, NoReturn

from eval.errors import UserError
from eval.paths import expand_words


class OneLineParser(argparse.ArgumentParser):
    """Reports a mistake as a UserError; argparse would print the usage and then the error. `~` is the home folder."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        return super().parse_args(expand_words(sys.argv[1:] if args is None else args), namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Every word must be known; argparse would hand a command's unknown ones up to where nobody knows its options.

        Dashes and underscores in the name of an option are the same.
        """
        flags = [flag for action in self._actions for flag in action.option_strings]
        spelt = {flag.replace("_", "-"): flag for flag in flags}
        words = [_respelt(word, spelt) for word in args]
        namespace, unknown = super().parse_known_args(words, namespace)
        if unknown:
            close = get_close_matches(unknown[0].partition("=")[0], flags, n=1)
            hint = f"; did you mean {close[0]}" if close else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return namespace, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            close = get_close_matches(str(value), choices, n=1)
            hint = f"did you mean {close[0]!r}" if close else f"choose from {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; {hint}")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` explains every option")


def _respelt(word: str, spelt: dict[str, str]) -> str:
    """The word, with the name of an option as it was declared. spelt: {name with dashes: as declared}."""
    name, equals, value = word.partition("=")
    return spelt.get(name.replace("_", "-"), name) + equals + value if word.startswith("--") else word


def command_parser(
    prog: str, description: str | None, commands: Iterable[ModuleType], allow_abbrev: bool
) -> OneLineParser:
    """`PROG COMMAND [options]`; the parsed arguments have `run`, which takes them."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(prog=prog, description=description, formatter_class=layout, allow_abbrev=allow_abbrev)
    modules = {command_name(module): module for module in commands}
    choices = parser.add_subparsers(required=True, metavar="|".join(modules))
    for name, module in modules.items():
        command = choices.add_parser(
            name,
            help=summary(module).replace("%", "%%"),
            description=module.__doc__,
            formatter_class=layout,
            allow_abbrev=allow_abbrev,
        )
        module.add_options(command)
        command.set_defaults(run=module.run)
    return parser


def command_name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def summary(module: ModuleType) -> str:
    """The first line of its docstring, as it stands in a list of commands."""
    assert module.__doc__ is not None
    return module.__doc__.partition("\n")[0].rstrip(".")


def finite_number(text: str) -> float:
    """The type of an option that takes a number, which is neither NaN nor infinite."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


# No command counts further than this; a larger number is a slip of the finger.
MOST = 99_999_999
LARGEST_SEED = 2**32 - 1


def at_least(minimum: int, maximum: int = MOST) -> Callable[[str], int]:
    """The type of an option that takes a whole number from `minimum` to `maximum`."""

    def whole_number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or (len(text) < 20 and int(text) < minimum):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {minimum}")
        if len(text) > len(str(maximum)) + 10 or int(text) > maximum:
            raise argparse.ArgumentTypeError(f"{text[:30]!r} is above {maximum:,}, further than anything is counted")
        return int(text)

    return whole_number


# A seed that torch and numpy take alike.
seed = at_least(0, LARGEST_SEED)


def share(text: str) -> float:
    """The type of an option that takes a number above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give a number above 0, at most 1")
    return value


def device(text: str) -> str:
    """The type of an option that takes the name of a device, as torch writes it."""
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no device; write cpu, cuda or cuda:1")
    return text

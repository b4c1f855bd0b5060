"""Command line and flat YAML to validated dataclasses, in TRL's dialect; a mistake costs the user one line.

    script.py --config file.yaml --steps 20 --no_antithetic

The file holds one `key: value` per field of the dataclasses; the command line goes before the file, the file before
the defaults. What TRL's `TrlParser` lets pass or answers with a traceback is refused here before a model loads:
unknown keys and flags, abbreviated flags, a key given twice, a value of the wrong type, `null` where a value is
needed.
"""

import difflib
import math
from collections.abc import Collection, Iterable
from dataclasses import MISSING, Field, fields
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import TrainingArguments
from trl import TrlParser

from eval.errors import UserError


def parse(*dataclass_types: type, arguments: list[str] | None = None) -> tuple:
    """One instance of each dataclass, in order, from `arguments` (default: the command line of this process).

    Raises `UserError` for every mistake in the file or on the command line, also for those that a `__post_init__`
    reports as `UserError` or `ValueError`. `--help` prints every field with its `metadata={"help": ...}`.
    """
    parser = _Parser(dataclass_types, allow_abbrev=False)
    _add_config_option(parser)
    config_only = _Parser(add_help=False, allow_abbrev=False)
    _add_config_option(config_only)
    config_files = config_only.parse_known_args(arguments)[0].config or []
    if len(config_files) > 1:
        raise UserError(f"--config is given {len(config_files)} times; give one file")
    for path in config_files:
        values = read_flat_yaml(Path(path))
        parser.set_defaults_with_config(**_checked(values, dataclass_types, path))
    try:
        *instances, _, unknown = parser.parse_args_into_dataclasses(
            arguments, return_remaining_strings=True, look_for_args_file=False
        )
    except ValueError as error:
        # How transformers and TRL report impossible combinations of their own options.
        raise UserError(" ".join(str(error).split())) from error
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UserError(f"unknown argument {unknown[0]}{did_you_mean(unknown[0].split('=')[0], flags)}")
    return tuple(instances)


def as_flat_dict(*configs: Any) -> dict[str, Any]:
    """The inverse of `parse`: every option of the dataclasses by name, as values that YAML can hold.

    Of transformers' and TRL's arguments two kinds are left out: tokens, which are secrets, and the
    `generation_batch_size` that GRPO derives from `steps_per_generation` and then refuses to read beside it.
    """
    flat = {}
    for config in configs:
        if isinstance(config, TrainingArguments):
            values = config.to_dict()
            left_out = {key for key in values if key.endswith("_token")} | {"generation_batch_size"}
            flat |= {key: value for key, value in values.items() if key not in left_out}
        else:
            flat |= {field.name: _plain(getattr(config, field.name)) for field in fields(config) if field.init}
    return flat


def read_flat_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `UserError` if there is none, or if a key stands there twice."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        document = yaml.compose(text)
    except FileNotFoundError:
        raise UserError(f"there is no config file {path}; give the path of a YAML file after --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the config file {path}: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no `key: value` lines; write one line per option")
    keys = [key.value for key, _ in document.value]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"{path}: {key} stands there {keys.count(key)} times; keep one line")
    return values


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the closest known name, or an empty string if nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise `UserError` unless `value` is one of `choices`."""
    if value not in choices:
        raise UserError(
            f"{name} is {value!r}, not one of {', '.join(sorted(choices))}{did_you_mean(str(value), choices)}"
        )


def check_positive(name: str, value: float) -> None:
    """Raise `UserError` unless `value` is finite and greater than 0."""
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name} is {value}; give a positive number")


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise `UserError` unless `value` is finite and at least `minimum`."""
    if not (math.isfinite(value) and value >= minimum):
        raise UserError(f"{name} is {value}; give at least {minimum}")


def check_between(name: str, value: float, minimum: float, maximum: float) -> None:
    """Raise `UserError` unless minimum <= value <= maximum."""
    if not minimum <= value <= maximum:
        raise UserError(f"{name} is {value}; give a number from {minimum} to {maximum}")


class _Parser(TrlParser):
    """`TrlParser` that raises instead of printing the usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help explains every option")


def _add_config_option(parser: _Parser) -> None:
    parser.add_argument(
        "--config", action="append", metavar="FILE.yaml", help="YAML file with one `key: value` per option below"
    )


def _checked(values: dict[str, Any], dataclass_types: tuple[type, ...], path: str) -> dict[str, Any]:
    """`values` converted to the types of their fields."""
    known = {field.name: field for type_ in dataclass_types for field in fields(type_) if field.init}
    hints = {name: hint for type_ in dataclass_types for name, hint in get_type_hints(type_).items()}
    checked = {}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}{did_you_mean(str(key), known)}")
        if value is None and _defaults_to_none(known[key]):
            checked[key] = None
            continue
        try:
            checked[key] = _convert(value, hints[key])
        except _WrongType:
            raise UserError(
                f"{path}: {key} is {_as_yaml(value)}, but it takes {_describe(hints[key])}"
                + ("; put quotes around it" if _admits_text(hints[key]) and not isinstance(value, str) else "")
            ) from None
    return checked


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _defaults_to_none(field: Field) -> bool:
    return field.default is None or (field.default_factory is not MISSING and field.default_factory() is None)


class _WrongType(Exception):
    pass


def _convert(value: Any, hint: Any) -> Any:
    """`value` as the type `hint`; raises `_WrongType` if YAML's value is of another type.

    A string is taken for a number when it reads as one, because YAML reads 1e-6 (no dot) as a string.
    """
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _convert_to_first(value, get_args(hint))
    if origin is Literal:
        # `type`, because True == 1 and False == 0.
        if not any(type(value) is type(choice) and value == choice for choice in get_args(hint)):
            raise _WrongType
        return value
    if origin is list or hint is list:
        if not isinstance(value, list):
            raise _WrongType
        item_hint = (get_args(hint) or (Any,))[0]
        return [_convert(item, item_hint) for item in value]
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise _WrongType
        return value
    if isinstance(hint, type) and issubclass(hint, Enum):
        if value not in [choice.value for choice in hint]:
            raise _WrongType
        return hint(value)
    if hint is float and type(value) in (int, float, str):
        return _number(value, float)
    if hint is int and type(value) is str:
        return _number(value, int)
    if hint is Path and type(value) is str:
        return Path(value)
    if type(value) is not hint:
        raise _WrongType
    return value


def _convert_to_first(value: Any, hints: tuple) -> Any:
    """`value` as it is if one of `hints` is its own type, else as the first that takes it."""
    for hint in sorted(hints, key=lambda hint: (get_origin(hint) or hint) is not type(value)):
        try:
            return _convert(value, hint)
        except _WrongType:
            pass
    raise _WrongType


def _number(value: int | float | str, type_: type) -> int | float:
    try:
        return type_(value)
    except ValueError:
        raise _WrongType from None


def _admits_text(hint: Any) -> bool:
    return hint is str or str in get_args(hint)


def _describe(hint: Any) -> str:
    """What a field takes, in words."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_describe(option) for option in get_args(hint)))
    if origin is Literal:
        return "one of " + ", ".join(_as_yaml(choice) for choice in get_args(hint))
    if origin is list or hint is list:
        return f"a list of {_describe((get_args(hint) or (Any,))[0])}"
    if origin is dict or hint is dict:
        return "a mapping"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(str(choice.value) for choice in hint)
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        Path: "a path",
        NoneType: "null",
        Any: "a value",
    }
    return words.get(hint, str(hint))


def _as_yaml(value: Any) -> str:
    """`value` on one line, as YAML writes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("\n...\n").strip()

"""Command line and YAML to validated dataclasses, in TRL's dialect; a mistake costs the user one line.

    script.py --config file.yaml --steps 20 --no_antithetic --arms '[{name: es, config: es.yaml}]'

The file holds one `key: value` per field of the dataclasses; the command line goes before the file, the file before
its `base: OTHER.yaml`, the last base before the defaults. A field of several things, `list[SomeDataclass]`, is a list
of mappings, on the command line as inline YAML; `EXAMPLE` of that dataclass is what a refusal shows. What TRL's
`TrlParser` lets pass or answers with a traceback is refused here before a model loads: unknown keys and flags,
abbreviated flags, a key given twice, a value of the wrong type, `null` where a value is needed.
"""

import argparse
import difflib
import math
import sys
from collections.abc import Collection, Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import TrainingArguments
from trl import TrlParser

from eval.errors import UserCodeError, UserError
from eval.folders import check_writable
from eval.paths import expand_home, expand_words, require_path
from eval.secrets import without_secrets
from eval.tasks import OwnSpec


# A file of options has some hundreds of values at most; more, in a small file, are aliases of aliases.
MOST_VALUES = 100_000
# Of steps, members, tokens, units of a layer: no run has as many, and a number beyond it is a slip of the finger.
MOST = 99_999_999
# numpy's; torch takes more.
LARGEST_SEED = 2**32 - 1


def parse(*dataclass_types: type, arguments: list[str] | None = None) -> tuple:
    """One instance of each dataclass, in order, from `arguments` (default: the command line of this process).

    Raises `UserError` for every mistake in the file or on the command line, also for those that a `__post_init__`
    reports as `UserError` or `ValueError`, and for an `output_dir` where no folder can be. `--help` prints every field
    with its `metadata={"help": ...}`.
    """
    arguments = expand_words(sys.argv[1:] if arguments is None else arguments)
    parser = option_parser(*dataclass_types)
    config_only = _Parser(add_help=False, allow_abbrev=False)
    _add_config_option(config_only)
    config_files = config_only.parse_known_args(arguments)[0].config or []
    if len(config_files) > 1:
        raise UserError(f"--config is given {len(config_files)} times; give one file")
    for path in config_files:
        parser.set_defaults_with_config(**_checked_file(Path(path), dataclass_types))
    try:
        *instances, _, unknown = parser.parse_args_into_dataclasses(
            arguments, return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, OverflowError) as error:
        # How transformers and TRL report impossible combinations of their own options.
        raise UserError(_one_line(error)) from error
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UserError(f"unknown argument {unknown[0]}{did_you_mean(unknown[0].split('=')[0], flags)}")
    _require_output_dirs(*instances)
    for instance in instances:
        check_all_finite(instance)
        if isinstance(folder := getattr(instance, "output_dir", None), str):
            check_writable(folder, "output_dir")
    return tuple(instances)


def option_parser(*dataclass_types: type) -> "_Parser":
    """The parser of `parse`: one option per field, and --config."""
    parser = _Parser(dataclass_types, allow_abbrev=False)
    _add_config_option(parser)
    return parser


def from_yaml(path: str | Path, dataclass_types: tuple[type, ...], overrides: dict[str, Any]) -> tuple:
    """One instance of each dataclass from a YAML file; `overrides`, values by the names of fields, go before its own.

    Raises `UserError` as `parse` does.
    """
    values = _checked_file(Path(expand_home(str(path))), dataclass_types)
    values |= _checked(expand_home(overrides), dataclass_types, f"the options for {path}")
    instances = tuple(_build(type_, values, f"{path}: ") for type_ in dataclass_types)
    _require_output_dirs(*instances)
    return instances


def as_flat_dict(*configs: Any) -> dict[str, Any]:
    """The inverse of `parse`: every option of the dataclasses by name, as values that YAML can hold.

    Secrets are left out (see `eval.secrets`), and of transformers' and TRL's arguments all tokens, which they hide
    too, and the `generation_batch_size` that GRPO derives from `steps_per_generation` and refuses to read beside it.
    """
    flat = {}
    for config in configs:
        if isinstance(config, TrainingArguments):
            values = config.to_dict()
            left_out = {key for key in values if key.endswith("_token")} | {"generation_batch_size"}
            flat |= {key: value for key, value in values.items() if key not in left_out}
        else:
            # FOLDED: what a config has put into another of its options.
            folded = getattr(config, "FOLDED", ())
            kept = [field.name for field in fields(config) if field.init and field.name not in folded]
            flat |= {name: _plain(getattr(config, name)) for name in kept}
    return without_secrets(flat)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The options in a YAML file, those of its own before those of its `base`, unchecked.

    Raises `UserError` if there are none, if a key stands twice in one mapping, or if a base leads back to itself.
    """
    path = Path(expand_home(str(path)))
    return {key: value for _, values in _layers(path) for key, value in values.items()}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the closest known name, or an empty string if nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def check_finite(name: str, value: Any) -> None:
    """Raise `UserError` if `value`, or a number in it (of dicts and lists), is NaN or infinite."""
    if not _is_finite(value):
        raise UserError(f"{name} is {value}; give finite numbers")


def check_all_finite(options: Any) -> None:
    """Raise `UserError` if an option of the dataclass instance `options` is, or holds, NaN or infinity."""
    for declared in fields(options):
        check_finite(declared.name, getattr(options, declared.name, None))


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


def check_count(name: str, value: int) -> None:
    """Raise `UserError` unless `value` is from 1 to `MOST`."""
    check_positive(name, value)
    check_at_most(name, value, MOST, "nothing in a run is counted that far")


def check_at_most(name: str, value: float, maximum: float, reason: str) -> None:
    """Raise `UserError`, with the reason, if `value` is above `maximum`."""
    if not value <= maximum:
        raise UserError(f"{name} is {value}, above {maximum:,}: {reason}; give less")


def check_seed(name: str, value: int) -> None:
    """Raise `UserError` unless `value` is a seed that torch, numpy and transformers take alike."""
    if not 0 <= value <= LARGEST_SEED:
        raise UserError(f"{name} is {value}, and seeds go from 0 to {LARGEST_SEED}; give one of them")


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise `UserError` unless `value` is finite and at least `minimum`."""
    if not (math.isfinite(value) and value >= minimum):
        raise UserError(f"{name} is {value}; give at least {minimum}")


def check_between(name: str, value: float, minimum: float, maximum: float) -> None:
    """Raise `UserError` unless minimum <= value <= maximum."""
    if not minimum <= value <= maximum:
        raise UserError(f"{name} is {value}; give a number from {minimum} to {maximum}")


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


class _GivenAgain(argparse.Action):
    """A list whose flag may come several times: `--reward a.py:f --reward b.py:g` are both."""

    def __call__(self, parser, namespace, values, option_string=None):
        self.given = [*getattr(self, "given", []), *(values or [])]
        setattr(namespace, self.dest, self.given)


class _Parser(TrlParser):
    """`TrlParser` that raises instead of printing the usage and leaving, and reads mappings as inline YAML."""

    def __init__(self, *types: Any, **options: Any):
        super().__init__(*types, **options)
        defaults = {field.name: field.default for type_ in self.dataclass_types for field in fields(type_)}
        hints = {name: hint for type_ in self.dataclass_types for name, hint in get_type_hints(type_).items()}
        texts_or_mappings = {name for name, hint in hints.items() if _takes_text_or_mapping(hint)}
        for action in self._actions:
            flag = action.option_strings[0]
            if action.type is str and action.default is None and defaults.get(action.dest, MISSING) is not MISSING:
                # transformers loses the default of a list that may also be text, such as report_to.
                action.default = defaults[action.dest]
            if isinstance(action.type, type) and is_dataclass(action.type):
                action.nargs, action.metavar = None, "YAML"
                action.type = partial(_inline_list, flag, action.type)
            elif action.dest in texts_or_mappings:
                # Lists lose a default that is no list here, as above.
                # Of `str | list`, the text may have commas: its reader splits it.
                only_list = action.nargs == "+" and str not in get_args(hints[action.dest])
                action.type = partial(_text_or_mapping, flag, only_list)
                if action.nargs == "+":
                    action.__class__ = _GivenAgain
                default = defaults[action.dest]
                action.default = action.default if action.default is not None or default is MISSING else default
            elif (get_origin(action.type) or action.type) is dict:
                action.type, action.metavar = partial(_inline_yaml, flag), "YAML"
            elif action.nargs == "+" and action.type is str:
                action.type = partial(_word, flag)

    @staticmethod
    def _parse_dataclass_field(parser: Any, field: Field) -> None:
        """To argparse, a list of texts or mappings is a list of texts; `_text_or_mapping` reads them."""
        options = get_args(field.type) if get_origin(field.type) in (Union, UnionType) else (field.type,)
        if _takes_text_or_mapping(field.type) and any(get_origin(option) is list for option in options):
            field.type = list[str]
        TrlParser._parse_dataclass_field(parser, field)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help explains every option")


def _add_config_option(parser: _Parser) -> None:
    parser.add_argument(
        "--config", action="append", metavar="FILE.yaml", help="YAML file with one `key: value` per option below"
    )


def _require_output_dirs(*instances: Any) -> None:
    for instance in instances:
        if getattr(instance, "output_dir", None) is not None:
            require_path(str(instance.output_dir), "output_dir")


def _word(flag: str, text: str) -> str:
    """One entry of a list of names."""
    if "," in text:
        names = " ".join(name.strip() for name in text.split(","))
        raise UserError(f"{flag} has {text!r}; write {flag} {names}")
    return text


def _takes_text_or_mapping(hint: Any) -> bool:
    """Whether an option is `str | dict[str, Any]`, such as a task, or a list of them, with or without plain text."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    inner = [get_args(option)[0] if get_origin(option) is list else option for option in options]
    flat = [each for one in inner for each in (get_args(one) if get_origin(one) in (Union, UnionType) else (one,))]
    return str in flat and any(get_origin(one) is dict for one in flat)


def _text_or_mapping(flag: str, in_list: bool, text: str) -> Any:
    """A name, or a mapping as inline YAML."""
    if text.lstrip().startswith("{"):
        return _inline_yaml(flag, text)
    return _word(flag, text) if in_list else text


def _inline_yaml(flag: str, text: str) -> Any:
    values, _ = _read_yaml(text, f"{flag} {text!r}")
    return expand_home(values)


def _inline_list(flag: str, type_: type, text: str) -> list:
    return _checked_list(_inline_yaml(flag, text), type_, flag)


def _layers(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """(file, its own options) of a YAML file and its bases, the last base first. above: the files it is a base of."""
    try:
        returns = path.resolve() in [file.resolve() for file in above]
    except (OSError, ValueError, RuntimeError) as error:  # a null byte; a link that leads back to itself
        raise UserError(f"cannot read the config file {str(path)!r}: {_one_line(error)}") from error
    if returns:
        raise UserError(
            f"{above[-1]}: base: {path} leads back to itself; remove one base of {', '.join(map(str, above))}"
        )
    values = _read_mapping(path, f", the base of {above[-1]}" if above else "")
    base = values.pop("base", None)
    if base is None:
        return [(path, values)]
    if not isinstance(base, str):
        raise UserError(f"{path}: base is {_as_yaml(base)}, but it takes the path of a YAML file, from this file on")
    return [*_layers(path.parent / base, (*above, path)), (path, values)]


def _read_mapping(path: Path, role: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no config file {path}{role}; give the path of a YAML file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the config file {str(path)!r}{role}: {_one_line(error)}") from error
    values, document = _read_yaml(text, str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no `key: value` lines; write one line per option")
    _refuse_keys_given_twice(document, path)
    return expand_home(values)


def _read_yaml(text: str, what: str) -> tuple[Any, yaml.Node | None]:
    """The value in a YAML text, and the nodes that it is made of. Raises `UserError`, beginning with `what`."""
    try:
        document = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_too_much(document, what)
        return yaml.safe_load(text), document
    except RecursionError as error:
        raise UserError(f"{what} is nested too deeply for a file of options; write it with fewer brackets") from error
    # What PyYAML's constructors let through: an impossible date, `!!int abc`, a key that is a list.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise UserError(f"{what} is not valid YAML: {_one_line(error)}") from error


def _refuse_too_much(document: yaml.Node | None, what: str) -> None:
    """Raise `UserError` for what a few aliases blow up: written out, the longest recipe has a few hundred values.

    An alias is the same node at several places, so that a node's size is counted once and added up.
    """
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in above:
            raise UserError(f"{what} has an alias that leads back to itself; write the value out")
        if id(node) not in sizes:
            above.add(id(node))
            inner = node.value if isinstance(node, yaml.CollectionNode) else ()
            parts = (part for child in inner for part in (child if isinstance(child, tuple) else (child,)))
            sizes[id(node)] = 1 + sum(map(size, parts))
            above.remove(id(node))
        return sizes[id(node)]

    if document is not None and size(document) > MOST_VALUES:
        raise UserError(f"{what} holds more than {MOST_VALUES:,} values, aliases written out; give it fewer")


def _refuse_keys_given_twice(node: yaml.Node | None, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{path}: {key} stands there {keys.count(key)} times; keep one line")
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            _refuse_keys_given_twice(child[1] if isinstance(child, tuple) else child, path)


def _checked_file(path: Path, dataclass_types: tuple[type, ...]) -> dict[str, Any]:
    """The options in a YAML file and its bases, each checked where it stands."""
    return {
        key: value
        for file, values in _layers(path)
        for key, value in _checked(values, dataclass_types, str(file)).items()
    }


def _checked(values: dict[str, Any], dataclass_types: tuple[type, ...], place: str) -> dict[str, Any]:
    """`values` converted to the types of their fields. place: where they stand, for messages."""
    known = {field.name: field for type_ in dataclass_types for field in fields(type_) if field.init}
    hints = {name: hint for type_ in dataclass_types for name, hint in get_type_hints(type_).items()}
    checked = {}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{place}: unknown key {key!r}{did_you_mean(str(key), known)}")
        if value is None and _defaults_to_none(known[key]):
            checked[key] = None
            continue
        if (item_type := _dataclass_of_list(hints[key])) is not None:
            checked[key] = _checked_list(value, item_type, f"{place}: {key}")
            continue
        try:
            checked[key] = _convert(value, hints[key])
        except _WrongType:
            takes = _describe(hints[key]) + _advice(value, hints[key])
            raise UserError(f"{place}: {key} is {_as_yaml(value)}, but it takes {takes}") from None
    return checked


def _checked_list(value: Any, type_: type, place: str) -> list:
    """Instances of the dataclass `type_` from a list of mappings; instances are left as they are."""
    if not isinstance(value, list):
        raise UserError(f"{place} is {_as_yaml(value)}, but it takes a list of mappings; write [{type_.EXAMPLE}]")
    items = []
    for number, item in enumerate(value):
        where = f"{place}[{number}]"
        if isinstance(item, dict):
            item = _build(type_, _checked(item, (type_,), where), f"{where}: ")
        elif not isinstance(item, type_):
            raise UserError(f"{where} is the text {str(item)!r}; write it as a mapping, such as {type_.EXAMPLE}")
        items.append(item)
    return items


def _build(type_: type, values: dict[str, Any], place: str) -> Any:
    """An instance from those of `values` that it has a field for."""
    own = [field for field in fields(type_) if field.init]
    required = [field.name for field in own if field.default is MISSING and field.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{place}{' and '.join(missing)} missing; give a value")
    try:
        instance = type_(**{field.name: values[field.name] for field in own if field.name in values})
        check_all_finite(instance)
    except UserCodeError:
        raise
    except (UserError, ValueError, OverflowError) as error:
        raise UserError(f"{place}{_one_line(error)}") from error
    return instance


def _dataclass_of_list(hint: Any) -> type | None:
    """The dataclass T of `list[T]`; None for other types."""
    [item] = get_args(hint) if get_origin(hint) is list else [None]
    return item if isinstance(item, type) and is_dataclass(item) else None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, OwnSpec):
        return _plain(value.mapping)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if is_dataclass(value):
        return as_flat_dict(value)
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
        if str in (item_hint, *get_args(item_hint)) and any(isinstance(item, str) and "," in item for item in value):
            raise _WrongType
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
    if hint is str and isinstance(value, Path):
        return str(value)
    if hint is str and isinstance(value, str):
        return value  # eval.tasks.OwnSpec too
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
    except (ValueError, OverflowError):
        raise _WrongType from None


def _advice(value: Any, hint: Any) -> str:
    """What to write in place of a value of the wrong type, where that can be told."""
    entries = [value] if isinstance(value, str) else value
    inner = get_args(hint)[0] if get_origin(hint) is list else None
    if (
        str in (inner, *get_args(inner))
        and isinstance(entries, list)
        and all(isinstance(entry, str) for entry in entries)
    ):
        names = [name.strip() for entry in entries for name in entry.split(",")]
        return f"; write [{', '.join(names)}]"
    if get_origin(hint) is Literal and isinstance(value, str):
        return did_you_mean(value, map(str, get_args(hint)))
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    if str in options and not isinstance(value, str):
        return "; put quotes around it"
    return ""


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

"""The options of the recipes, without importing a library: from recipes/listing.json and the libraries' source.

`python -m recipes listing` writes the file. It holds the lab's options whole, and of TRL's and transformers' what they
are called and take; what those do is read from the installed source, which is parsed and not run.
"""

import ast
import json
from difflib import get_close_matches
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from cli.places import ROOT, first_line, recipes
from eval.command_line import OneLineParser
from eval.errors import UserError


@cache
def listing() -> dict[str, Any]:
    return json.loads((ROOT / "recipes" / "listing.json").read_text(encoding="utf-8"))


def is_current() -> bool:
    """Whether the installed libraries are those that the listing was made with."""
    try:
        return all(metadata.version(name) == version for name, version in listing()["versions"].items())
    except metadata.PackageNotFoundError:
        return False


def recipe_parser(recipe: str) -> OneLineParser:
    """A parser that explains the recipe's options; it is not for parsing."""
    parser = OneLineParser(
        prog=f"posttrain-lab {recipe}",
        usage=f"posttrain-lab {recipe} --config FILE.yaml [--option value ...] [--launcher NAME]",
        description=first_line(recipes()[recipe]) + ".",
        epilog="Dashes and underscores in names are the same. Flags go before the file.",
        allow_abbrev=False,
    )
    parser.add_argument("--launcher", metavar="NAME", help="of accelerate_configs/; default: what fits the machine")
    groups: dict[str, Any] = {}
    for option in listing()["recipes"][recipe]:
        owner = option.get("source", "the lab").partition("/")[0]
        group = groups.get(owner) or groups.setdefault(owner, parser.add_argument_group(f"options of {owner}"))
        add_option(group, option)
    return parser


def add_option(group: Any, option: dict[str, Any]) -> None:
    name = option["name"]
    does = option.get("help") or help_texts(option["source"]).get(name, "")
    if option.get("required"):
        does += " (needed, here or in the file)"
    elif "default" in option:
        does += f" (default: {option['default']})"
    takes = option.get("takes") or "{" + ",".join(option["choices"]) + "}"
    group.add_argument(f"--{name}", metavar=takes, help=does.replace("%", "%%"))


def flags(recipe: str) -> list[str]:
    """Every option of the recipe, as it is written with underscores."""
    names = []
    for option in listing()["recipes"][recipe]:
        names += [f"--{option['name']}", *[f"--no_{option['name']}"] * bool(option.get("negatable"))]
    return [*names, "--launcher", "--help"]


def check_flags(recipe: str, words: list[str]) -> None:
    """Raise `UserError` for an option that the recipe does not have."""
    known = flags(recipe)
    for word in words:
        flag = word.partition("=")[0].replace("-", "_").replace("__", "--", 1)
        if word.startswith("--") and flag not in known:
            close = get_close_matches(flag, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            advice = f"`posttrain-lab {recipe} --help` explains every option"
            raise UserError(f"unknown argument {word}{hint or ';'} {advice}")


@cache
def help_texts(source: str) -> dict[str, str]:
    """{field: what it does} of the dataclasses in a file such as trl/trainer/grpo_config.py; {} if it is not there."""
    package, _, inside = source.partition("/")
    found = util.find_spec(package)
    if found is None or found.origin is None:
        return {}
    tree = ast.parse((Path(found.origin).parent / inside).read_text(encoding="utf-8"))
    fields = (node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call))
    return {
        field.target.id: " ".join(text.split())
        for field in fields
        if isinstance(field.target, ast.Name) and (text := _help_of(field.value))
    }


def _help_of(call: Any) -> str | None:
    """The text of field(metadata={"help": ...}), where it is written out."""
    for keyword in call.keywords:
        if keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
            for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "help" and isinstance(value, ast.Constant):
                    return str(value.value)
    return None

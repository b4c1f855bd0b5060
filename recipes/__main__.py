"""What `posttrain-lab` shows without importing a library: every option of every recipe, every task, every command.

    python -m recipes listing                 write recipes/listing.json anew, after a change of options or tasks
    python -m recipes validate es FILE.yaml   whether recipes/es.py takes this file: nothing is loaded, run or written

GRPO's and SFT's options are mostly TRL's and transformers', whose dataclasses take seconds to import. So the listing
says with which versions it was made; with others `posttrain-lab grpo --help` asks the recipe itself. What their
options do is read from the libraries' own source (see `cli.options`).
"""

import argparse
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis.__main__ import COMMANDS as ANALYSIS
from eval.__main__ import COMMANDS as EVAL
from eval.command_line import command_name
from eval.errors import UserError, exit_with_one_line
from eval.storage import write_text
from eval.tasks import BUILT_IN
from trainers.arguments import option_parser, parse


FOLDER = Path(__file__).resolve().parent
LISTING = FOLDER / "listing.json"
LIBRARIES = ("transformers", "trl")


def recipe_names() -> list[str]:
    return [path.stem for path in sorted(FOLDER.glob("[!_]*.py"))]


def config_types(recipe: str) -> tuple[type, ...]:
    return importlib.import_module(f"recipes.{recipe}").CONFIG_TYPES


def listing() -> dict[str, Any]:
    """The content of listing.json."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "recipes": {name: recipe_options(config_types(name)) for name in recipe_names()},
        "commands": {command_name(module): flags(module) for module in (*ANALYSIS, *EVAL)},
        "tasks": {name: first_line(task) for name, task in BUILT_IN.items()},
    }


def first_line(task: Any) -> str:
    return (type(task).__doc__ or "").partition("\n")[0]


def flags(command: Any) -> list[str]:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]


def recipe_options(types: tuple[type, ...]) -> list[dict[str, Any]]:
    """Of every option its name and help, the lab's before those of TRL and transformers.

    takes, choices: its value. default, required, negatable: whether --no_NAME is an option too. source: in place of
    help, the file of another library that declares it.
    """
    actions = {action.dest: action for action in option_parser(*types)._actions if action.dest != "help"}
    fields = {name: declaring for type_ in types for name, declaring in declared_in(type_).items()}
    options = []
    for name, action in actions.items():
        if name.removeprefix("no_") in fields and name.startswith("no_"):
            continue
        option: dict[str, Any] = {"name": name}
        if action.choices is not None:
            option["choices"] = [str(getattr(choice, "value", choice)) for choice in action.choices]
        else:
            option["takes"] = action.metavar or _metavar(action)
        if action.default not in (None, "", [], argparse.SUPPRESS):
            option["default"] = _as_typed(action.default)
        option |= {"required": True} if action.required else {}
        option |= {"negatable": True} if f"--no_{name}" in option_strings(actions.values()) else {}
        foreign = fields.get(name, "").startswith(LIBRARIES)
        options.append(
            option | ({"source": fields[name]} if foreign else {"help": " ".join((action.help or "").split())})
        )
    return sorted(options, key=lambda option: "source" in option)


def option_strings(actions: Iterable[argparse.Action]) -> set[str]:
    return {flag for action in actions for flag in action.option_strings}


def _as_typed(default: Any) -> str:
    default = getattr(default, "value", default)
    return " ".join(map(str, default)) if isinstance(default, list) else str(default)


def _metavar(action: argparse.Action) -> str:
    kinds: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}
    return kinds.get(action.type, "VALUE") + (" ..." if action.nargs == "+" else "")


def declared_in(type_: type) -> dict[str, str]:
    """{field: file of the class whose declaration holds}, such as trl/trainer/grpo_config.py."""
    declared = {}
    for base in type_.__mro__:
        for name in base.__dict__.get("__annotations__", {}):
            declared.setdefault(name, base.__module__.replace(".", "/") + ".py")
    return declared


def as_text(content: dict[str, Any]) -> str:
    """JSON with an option a line."""
    lines = []
    for key, value in content.items():
        if key == "recipes":
            recipes = (
                f" {json.dumps(name)}: [\n"
                + ",\n".join("  " + json.dumps(option, ensure_ascii=False) for option in options)
                + "\n ]"
                for name, options in value.items()
            )
            lines.append('"recipes": {\n' + ",\n".join(recipes) + "\n}")
        else:
            entries = ",\n".join(f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
            lines.append(f"{json.dumps(key)}: {{\n{entries}\n}}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    words = sys.argv[1:]
    if words == ["listing"]:
        write_text(LISTING, as_text(listing()))
        print(f"wrote {LISTING}")
    elif len(words) >= 3 and words[0] == "validate" and words[1] in recipe_names():
        parse(*config_types(words[1]), arguments=["--config", *words[2:]])
        print(f"{words[2]}: recipes/{words[1]}.py takes it")
    else:
        raise UserError("write `python -m recipes listing`, or `python -m recipes validate RECIPE FILE`")


if __name__ == "__main__":
    exit_with_one_line(main)

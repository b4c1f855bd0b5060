"""The recipes' YAML files: list them, copy one to the current folder, or validate one of your own."""

import argparse
import os
import re
import sys
from difflib import get_close_matches
from pathlib import Path

from cli.options import listing
from cli.places import ROOT, configs, recipes
from eval.errors import UserError
from eval.storage import read_yaml_mapping, write_text


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=("list", "copy", "validate"), default="list", help="what to do (default: list)"
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="copy: a name of the list, such as tiny/es; validate: a YAML file"
    )
    parser.add_argument(
        "--recipe", choices=tuple(recipes()), help="validate: who takes the file (default: whom it names, or fits)"
    )


def run(arguments: argparse.Namespace) -> None:
    if arguments.action == "list":
        for name, path in configs().items():
            print(f"{name:32} {path.read_text(encoding='utf-8').partition(chr(10))[0].lstrip('# ')}")
    elif arguments.name is None:
        raise UserError(f"{arguments.action} needs a name; `posttrain-lab configs` lists them")
    elif arguments.action == "copy":
        copy(arguments.name)
    else:
        recipe = arguments.recipe or recipe_of(Path(arguments.name))
        # In place of this process, so that the exit status is its own. -P: as for a recipe.
        command = [sys.executable, "-P", "-m", "recipes", "validate", recipe, arguments.name]
        os.execv(command[0], command)


def copy(name: str) -> None:
    """Write the file to the current folder."""
    files = configs()
    if name not in files:
        close = get_close_matches(name, files, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"no configuration {name!r}{hint}; `posttrain-lab configs` lists them")
    target = Path(files[name].name)
    if target.exists():
        raise UserError(f"{target} is here already; move it away, or go to another folder")
    write_text(target, with_absolute_paths(files[name].read_text(encoding="utf-8")))
    print(f"wrote {target}")


def recipe_of(file: Path) -> str:
    """The recipe that the comments at the top of a YAML file name; else the one whose options its keys are.

    Raises `UserError` if that leaves none or several.
    """
    keys = read_yaml_mapping(file).keys() - {"base"}
    comments = [line for line in file.read_text(encoding="utf-8").split("\n") if line.startswith("#")]
    named = re.search(r"recipes/(\w+)\.py", "\n".join(comments))
    if named and named[1] in recipes():
        return named[1]
    options = {name: {option["name"] for option in listing()["recipes"][name]} for name in recipes()}
    fitting = [name for name, known in options.items() if keys <= known]
    if len(fitting) != 1:
        found = f"{', '.join(fitting)} take its keys" if fitting else "no recipe has all of its keys"
        raise UserError(f"whose file {file} is cannot be told: {found}; add --recipe NAME")
    return fitting[0]


def with_absolute_paths(text: str) -> str:
    """The YAML with the repository's own files named so that they are found from any folder."""

    def absolute(match: re.Match) -> str:
        return str(ROOT / match[0]) if (ROOT / match[0]).exists() else match[0]

    return re.sub(r"(?<![\w/.-])(?:recipes|accelerate_configs)/[\w./-]+", absolute, text)

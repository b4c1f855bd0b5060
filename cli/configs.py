"""The recipes' YAML files: list them, or copy one to the current folder."""

import argparse
import re
from pathlib import Path

from cli.places import ROOT
from eval.errors import UserError
from eval.storage import write_text


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=("list", "copy"), default="list", help="what to do (default: list)"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="copy: a name of the list, such as tiny/es")


def run(arguments: argparse.Namespace) -> None:
    files = {
        str(path.relative_to(ROOT / "recipes").with_suffix("")): path
        for path in sorted(ROOT.glob("recipes/**/*.yaml"))
    }
    if arguments.action == "list":
        for name, path in files.items():
            print(f"{name:32} {path.read_text(encoding='utf-8').partition(chr(10))[0].lstrip('# ')}")
        return
    if arguments.name not in files:
        raise UserError(f"no configuration {arguments.name!r}; `posttrain-lab configs` lists them")
    copy = Path(files[arguments.name].name)
    if copy.exists():
        raise UserError(f"{copy} is here already; move it away, or go to another folder")
    write_text(copy, with_absolute_paths(files[arguments.name].read_text(encoding="utf-8")))
    print(f"wrote {copy}")


def with_absolute_paths(text: str) -> str:
    """The YAML with the repository's own files named so that they are found from any folder."""

    def absolute(match: re.Match) -> str:
        return str(ROOT / match[0]) if (ROOT / match[0]).exists() else match[0]

    return re.sub(r"(?<![\w/.-])(?:recipes|accelerate_configs)/[\w./-]+", absolute, text)

"""Where the recipes and the commands are: beside this package, wherever the command is typed."""

import ast
import re
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]


def recipes() -> dict[str, Path]:
    """{name: script} of every recipe."""
    return {path.stem: path for path in sorted((ROOT / "recipes").glob("[!_]*.py"))}


def commands(room: str) -> dict[str, Path]:
    """{name: module} of the commands of `python -m analysis` or `python -m eval` that are no recipes.

    The modules of ROOM/commands that define `run`; read, because an import may take seconds.
    """
    modules = sorted((ROOT / room / "commands").glob("[!_]*.py"))
    runs = [path for path in modules if re.search(r"^def run\(", path.read_text(encoding="utf-8"), re.MULTILINE)]
    return {path.stem: path for path in runs if path.stem not in recipes()}


def configs() -> dict[str, Path]:
    """{name: file} of every YAML of the recipes, such as tiny/es."""
    folder = ROOT / "recipes"
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.glob("**/*.yaml"))}


def launchers() -> dict[str, Path]:
    return {path.stem: path for path in sorted((ROOT / "accelerate_configs").glob("*.yaml"))}


def first_line(path: Path) -> str:
    """The first line of a module's docstring; read, because an import may take seconds."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")

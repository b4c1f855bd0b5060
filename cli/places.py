"""Where the recipes are: beside this package, wherever the command is typed."""

import ast
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]


def recipes() -> dict[str, Path]:
    """{name: script} of every recipe."""
    return {path.stem: path for path in sorted((ROOT / "recipes").glob("[!_]*.py"))}


def first_line(path: Path) -> str:
    """The first line of a module's docstring; read, because an import may take seconds."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")

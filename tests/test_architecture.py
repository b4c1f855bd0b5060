"""Imports go one way, and no tracked file names the machine it was written on."""

import ast
import re
import subprocess

import pytest

from tests.recipe_files import ROOT


# Room -> rooms it may not import.
FORBIDDEN = {
    "eval": {"trainers", "analysis", "recipes", "tests"},
    "trainers": {"analysis", "recipes", "tests"},
    "analysis": {"trainers", "recipes", "tests"},
    "recipes": {"tests"},
}
MACHINE_PATHS = re.compile(r"""(?<![\w.$}/])/(?:work|root|home|Users|tmp)/\w""")


def imported_names(source: str) -> set[str]:
    """What a file imports, also inside its functions and by `importlib.import_module("...")`: "a.b.c" for c of a.b."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import by the full name, not relative to the file"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names |= {word.value for word in node.args if isinstance(word, ast.Constant)}
    return names


def imported_rooms(source: str) -> set[str]:
    """The top-level names among `imported_names`."""
    return {name.split(".")[0] for name in imported_names(source)}


def imported_folders(room: str) -> dict[str, set[str]]:
    """For each folder of a room the other folders of it that its files import."""
    folders = {path.parent.name: path.parent for path in (ROOT / room).glob("*/__init__.py")}
    return {
        folder: {
            parts[1]
            for path in sorted(place.rglob("*.py"))
            for name in imported_names(path.read_text(encoding="utf-8"))
            if (parts := name.split("."))[0] == room and len(parts) > 1 and parts[1] in folders
        }
        - {folder}
        for folder, place in folders.items()
    }


def test_imported_rooms_sees_every_form():
    source = (
        "import eval.tasks as t, os\nfrom trainers.es import loop\n"
        "def f():\n    import analysis\n    importlib.import_module('recipes.es')\n"
    )
    assert imported_rooms(source) == {"eval", "os", "trainers", "analysis", "recipes"}
    with pytest.raises(AssertionError, match="full name"):
        imported_rooms("from . import storage")


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_go_one_way(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"no files in {room}/"
    wrong = {
        str(path.relative_to(ROOT)): sorted(imported_rooms(path.read_text(encoding="utf-8")) & FORBIDDEN[room])
        for path in files
    }
    assert {path: rooms for path, rooms in wrong.items() if rooms} == {}


def test_questions_of_the_analysis_do_not_lean_on_each_other():
    imports = imported_folders("analysis")
    assert {"geometry", "behaviour", "circuits", "clocks", "report"} <= set(imports)
    assert "geometry" in imports["behaviour"]
    both_ways = [(a, b) for a, others in imports.items() for b in others if a < b and a in imports[b]]
    assert both_ways == []
    assert [folder for folder, others in imports.items() if "report" in others] == []


def test_no_file_names_a_machine_path():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout, so which files belong to the repository is not known")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.exists() and path != ROOT / "tests" / "test_architecture.py":
            text = path.read_bytes().decode("utf-8", errors="ignore")
            found += [f"{name}: {line.strip()[:100]}" for line in text.split("\n") if MACHINE_PATHS.search(line)]
    assert found == []

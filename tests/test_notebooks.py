"""The notebooks of examples/ run to their end, are committed without outputs, and show tables."""

import json
import resource

import nbformat
import pytest
from nbclient import NotebookClient

from tests.recipe_files import ROOT


NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
# Of processor time, of each; where nothing else runs they take about 15.
SECONDS = 60


def test_there_are_three_without_outputs():
    assert [path.stem for path in NOTEBOOKS] == ["circuits", "compare_checkpoints", "own_task"]
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code), path
        assert path.stat().st_size < 20_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end_and_shows_tables(path, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = [output.data["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert [table for table in tables if table.startswith("<table>") and "<td>" in table]
    assert list((tmp_path / "runs" / "notebooks").rglob("results.json"))
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS

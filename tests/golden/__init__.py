"""Golden files: the numbers of the smallest runs, so that a change that should move none is seen to move none.

NAME.yaml here is a run of recipes/NAME.py on one thread, NAME.json the numbers of its results.json at 7 digits. After
a change that should move numbers they are made anew, and its commit says which moved and why:

    python -m tests.golden [NAME ...]
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.storage import read_json, write_text
from tests.recipe_files import ROOT


FOLDER = Path(__file__).parent
RUNS = ("compare", "circuits", "rules")
# What describes the run and its machine.
DESCRIPTION = {"command", "config", "environment", "inputs", "kind", "schema_version"}
Number = float | bool | None


def run(name: str, output: Path) -> dict[str, Any]:
    """Run recipes/NAME.py with NAME.yaml into `output`; `numbers` of its results."""
    launch = [str(Path(sys.executable).with_name("accelerate")), "launch", "--quiet"]
    launch += ["--config_file", "accelerate_configs/cpu.yaml", f"recipes/{name}.py"]
    command = [*launch, "--config", f"tests/golden/{name}.yaml", "--output_dir", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"recipes/{name}.py failed:\n{finished.stderr[-3000:]}")
    return numbers(read_json(output / "results.json"))


def numbers(results: Any) -> Any:
    """`results` without texts, durations and what describes the run; numbers at 7 digits."""
    if isinstance(results, dict):
        left = {key: value for key, value in results.items() if key not in DESCRIPTION and "seconds" not in key}
        return {key: numbers(value) for key, value in left.items() if not isinstance(value, str)}
    if isinstance(results, list):
        return [numbers(value) for value in results if not isinstance(value, str)]
    return float(f"{results:.7g}") if isinstance(results, float) else results


def by_place(tree: Any, place: str = "") -> Iterator[tuple[str, Number]]:
    """("geometry/cosine/es|grpo/all", 0.01) for every number of `numbers`."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from by_place(value, f"{place}/{key}".lstrip("/"))
    else:
        yield place, tree


def write(name: str, tree: dict[str, Any]) -> None:
    """NAME.json, one line for each section."""
    sections = [f"{json.dumps(section)}: {json.dumps(value, allow_nan=False)}" for section, value in tree.items()]
    write_text(FOLDER / f"{name}.json", "{\n" + ",\n".join(sections) + "\n}\n")

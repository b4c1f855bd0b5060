"""Every benchmark starts as its docstring says."""

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from recipes.grpo import main as recipe_grpo
from tests.benchmarks.estrainer import PLAIN_GRPO, differences, outcome
from tests.recipe_files import ROOT


BENCHMARKS = sorted(path.stem for path in (ROOT / "tests" / "benchmarks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_command_of_the_docstring_explains_its_options(name):
    if name == "es_engines" and find_spec("vllm") is None:
        pytest.skip("it compares with vLLM, which is not installed")
    source = (ROOT / "tests" / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    typed = re.search(r"^    python (-m \S+)(.*)$", ast.get_docstring(ast.parse(source)), flags=re.MULTILINE)
    assert typed[1] == f"-m tests.benchmarks.{name}"
    # As a reader types it: nothing but the current folder leads to the checkout.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, *typed[1].split(), "--help"]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    options = re.findall(r"--[a-z_]+", typed[2])
    assert [option for option in options if option not in finished.stdout] == []


@pytest.mark.slow
def test_the_recipe_and_plain_trl_draw_the_same_tokens_and_get_the_same_rewards(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = ["--config=recipes/tiny/grpo.yaml", "--eval_every=0", "--max_steps=2", "--save_steps=1000"]
    options += ["--per_device_train_batch_size=32", "--max_completion_length=16"]
    steps = {}
    for name, run in (("plain", lambda: exec(PLAIN_GRPO, {"__name__": "plain"})), ("recipe", recipe_grpo)):
        monkeypatch.setattr(sys, "argv", ["grpo", *options, f"--output_dir={tmp_path / name}"])
        run()
        _, steps[name] = outcome(tmp_path / name)
    assert {"reward", "loss", "entropy", "num_tokens"} < steps["plain"][0].keys() & steps["recipe"][0].keys()
    assert differences(steps["recipe"], steps["plain"]) == []
    other = [{**step, "num_tokens": 0} for step in steps["recipe"]]
    assert len(differences(other, steps["plain"])) == 2

"""Every benchmark starts as its docstring says."""

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from eval.storage import append_jsonl
from recipes.grpo import main as recipe_grpo
from tests.benchmarks.drivers.shared import Job
from tests.benchmarks.estrainer import PLAIN_GRPO, differences, outcome
from tests.benchmarks.peers import drive, reached
from tests.benchmarks.scaling import fitted
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


def test_an_exponent_is_the_slope_of_the_logarithms():
    sizes = [1.0, 10.0, 100.0, 1000.0]
    exact = fitted(sizes, [3 * size**1.5 for size in sizes])
    assert exact.slope == pytest.approx(1.5) and exact.low == pytest.approx(exact.high)
    bent = fitted(sizes, [5 + size for size in sizes])
    assert bent.low < bent.slope < bent.high and bent.slope < 1
    assert str(fitted([1, 10], [1, 10])) == "1.00"  # two points have no scatter


def test_what_was_spent_until_an_accuracy(tmp_path):
    for step, accuracy in ((0, 0.2), (2, 0.5), (4, 0.9)):
        row = {"step": step, "completions": 64 * step, "accuracy": accuracy, "low": 0.0, "high": 1.0}
        append_jsonl(tmp_path / "evaluations.jsonl", row)
    for step in range(1, 5):
        append_jsonl(tmp_path / "metrics.jsonl", {"step": step, "tokens": 1000 * step, "seconds": 0.5 * step})
    spent = reached(tmp_path, 0.5)
    assert (spent["completions"], spent["before"], spent["tokens"], spent["seconds"]) == (128, 0, 2000, 1.0)
    assert reached(tmp_path, 0.6)["before"] == 128 and reached(tmp_path, 0.95) is None
    assert reached(tmp_path, 0.1)["tokens"] == 0


def test_a_driver_that_fails_is_left_out_with_its_last_line():
    job = Job("model", [[1]], 1, 2, 1, 1, 0.1, 0.1)
    with pytest.raises(RuntimeError, match="it ended with 1: ModuleNotFoundError: No module named 'no_such_peer'"):
        drive([sys.executable, "-c", "import no_such_peer"], job)
    assert drive([sys.executable, "-c", "print('noise'); print('{\"seconds\": [1]}')"], job) == {"seconds": [1]}

"""The README's chapter "Your own model and data", typed word for word in a new folder outside of the repository."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.__main__ import main
from eval.errors import exit_with_one_line
from eval.storage import read_json
from recipes import es, grpo, sft
from tests.recipe_files import ROOT


MODEL = ROOT / "recipes" / "tiny" / "models" / "llama-small"
# The smallest settings that go through everything; behind the README's own words.
SMALLEST = {
    "es": "--steps 2 --population 4 --max_new_tokens 6",
    "grpo": "--max_steps 2 --save_steps 2 --max_completion_length 6",
    "sft": "--num_train_epochs 1 --max_completion_length 8",
    "compare": "--completions 1024 --max_new_tokens 6 --test_tasks countdown --test_size 6 --kl_prompts 4 "
    "--line_points 3 --line_size 4",
    "evaluate": "--max_new_tokens 6",
}


def chapter():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"^## Your own model and data$(.*?)^## ", text, re.DOTALL | re.MULTILINE)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """50 rows and the README's reward, beside packages with the names of the lab's that nothing may import."""
    folder = tmp_path_factory.mktemp("mine")
    rows = [{"question": f"{number}+45", "answer": str(number + 45)} for number in range(50)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward, _ = re.findall(r"^```python\n(.*?)^```", chapter(), re.DOTALL | re.MULTILINE)
    (folder / "reward.py").write_text(reward)
    for name in ("analysis", "eval", "cli", "recipes", "trainers"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('the current folder was imported')\n")
    return folder


def run(folder, *command):
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def words_of(line):
    """The words behind `posttrain-lab`, for the model that is here, with the smallest settings."""
    name, *words = line.replace(" DIR ", f" {MODEL} ").split()[1:]
    return [name, *words, *SMALLEST.get(name, "").split()]


def here(monkeypatch, name, *words):
    """The command in this process: what a second start of Python would load is loaded."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    recipes = {"grpo": grpo.main, "sft": sft.main, "es": es.main}
    exit_with_one_line(recipes[name] if name in recipes else lambda: posttrain_lab([name, *map(str, words)]))


def posttrain_lab(words):
    sys.argv = ["posttrain-lab", *words]
    main()


@pytest.mark.slow
def test_the_chapter_works_as_it_is_written(folder, monkeypatch):
    monkeypatch.chdir(folder)
    lines = [line for line in chapter().splitlines() if line.startswith("posttrain-lab") and "--data" in line]
    assert [line.split()[1] for line in lines] == ["es", "grpo", "sft", "compare", "evaluate"]
    for name in ("es", "grpo", "sft", "compare"):
        here(monkeypatch, "configs", "copy", f"tiny/{name}")
    commands = {line.split()[1]: words_of(line) for line in lines}

    # One by `accelerate launch`, one by `posttrain-lab`: neither imports what lies in the folder.
    launch = Path(sys.executable).with_name("accelerate"), "launch", "--quiet", "--config_file"
    run(folder, *launch, ROOT / "accelerate_configs" / "cpu.yaml", ROOT / "recipes" / "es.py", *commands["es"][1:])
    run(folder, sys.executable, "-P", "-m", "cli", *commands["compare"])
    for name in ("grpo", "sft", "evaluate"):
        here(monkeypatch, *commands[name])

    for name in ("es", "grpo", "sft"):
        results = read_json(folder / "runs" / name / "results.json")
        assert results["task"] == "rows" and sum(results["own_data"]["rows"]["rows"].values()) == 50
        assert (folder / "runs" / name / "model" / "model.safetensors").exists()
    assert results["kept"] == results["own_data"]["rows"]["rows"]["train"]
    compared = read_json(folder / "runs" / "compare" / "results.json")
    assert set(compared["evaluation"]["es"]) == {"rows", "countdown"} and compared["connectivity"]["task"] == "rows"
    assert len(compared["own_data"]["rows"]["sha256"]) == 64
    page = (folder / "runs" / "compare" / "report" / "index.html").read_text(encoding="utf-8")
    assert "rows" in page and "What the models wrote" in page and "+45" in page
    evaluated = read_json(folder / "runs" / "es-evaluated" / "results.json")
    assert evaluated["tasks"]["rows"]["total"] == evaluated["own_data"]["rows"]["rows"]["test"]


@pytest.mark.slow
def test_a_reward_that_raises_ends_the_command_with_the_users_traceback(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    Path("raising.py").write_text("def score(completions, **columns):\n    return [1 / 0 for _ in completions]\n")
    own = ["--data", "rows.jsonl", "--prompt_column", "question", "--reward", "raising.py:score", "--eval_every", "0"]
    config = ["--config", ROOT / "recipes" / "tiny" / "es.yaml", "--model", MODEL, "--output_dir", "raised"]
    with pytest.raises(SystemExit) as ended:
        here(monkeypatch, "es", *config, *own, *SMALLEST["es"].split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.strip().splitlines()[-1].startswith("error: reward raising.py:score raised ZeroDivisionError")
    for part in ('raising.py", line 2, in score', "row: {'question'", "completion: "):
        assert part in said
    assert "own_reward.py" not in said and "recipes/es.py" not in said

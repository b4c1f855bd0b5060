"""The study of circuits from end to end on random models: complete, resumable, and refused early when it is wrong."""

import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from analysis.circuits.study import near_tasks
from analysis.report import build
from analysis.report.results import lookup
from eval.errors import UserError
from eval.storage import read_json
from tests.recipe_files import load_script
from tests.tiny import random_checkpoint
from trainers.grpo import read_lora_patterns


pytestmark = pytest.mark.slow

# More digits, more reward: something that a random model can learn.
REWARD = "tests.trainers.test_grpo:DIGITS"
TASKS = ("ioi_short", "docstring_short")
PRETRAIN = {
    "hidden_size": 32,
    "layers": 2,
    "heads": 4,
    "key_value_heads": 2,
    "intermediate_size": 48,
    "steps": 2,
    "batch_size": 8,
    "evaluate_size": 8,
    "warmup_steps": 1,
    "threads": 1,
    "tasks": list(TASKS),
    "output_dir": "unused",
}
ES = {
    "population": 4,
    "prompts_per_step": 8,
    "train_size": 64,
    "sigma": 0.02,
    "engine_dtype": "float32",
    "alpha": 0.01,
    "eval_every": 1,
    "eval_size": 10,
    "save_every": 1,
    "model": "unused",
    "task": "countdown",
    "output_dir": "unused",
}
GRPO = {
    "per_device_train_batch_size": 32,
    "num_generations": 4,
    "save_steps": 1,
    "save_total_limit": 2,
    "logging_steps": 1,
    "report_to": "none",
    "eval_every": 1,
    "eval_size": 10,
    "learning_rate": 3e-3,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "model": "unused",
    "task": "countdown",
    "output_dir": "unused",
    "max_steps": 1,
}


def options(folder: Path, **changes) -> dict:
    """The options of a small study in `folder`, where the three YAML files that it trains from are written."""
    for name, content in (("pretrain", PRETRAIN), ("es", ES), ("grpo", GRPO)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    defaults = {
        "output_dir": str(folder / "run"),
        "models": [source("small", folder / "small"), source("large", folder / "pretrain.yaml")],
        "tasks": list(TASKS),
        "transfers": [{"small": "small", "large": "large"}],
        "alignment_seeds": 1,
        "change_base": "large",
        "post_trained": [
            {"name": method, "method": method, "config": str(folder / f"{method}.yaml")} for method in ("es", "grpo")
        ],
        "reward_task": REWARD,
        "completions": 64,
        "examples": 6,
        "test_examples": 6,
        "train_examples": 6,
        "smallest_share": 0.0,
        "resamples": 20,
        "critical_layers": 1,
    }
    return defaults | changes


def source(name: str, path: Path | str) -> dict[str, str]:
    return {"name": name, "source": str(path)}


def run(chosen: dict) -> None:
    """The recipe's own `main` in this process, with these options in a YAML file."""
    path = Path(chosen["output_dir"]).parent / "circuits.yaml"
    path.write_text(yaml.safe_dump(chosen))
    before, sys.argv = sys.argv, ["recipes/circuits.py", "--config", str(path)]
    try:
        load_script("recipes/circuits.py").main()
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("circuits")
    random_checkpoint(folder / "small")
    run(options(folder))
    return folder / "run"


@pytest.fixture(scope="module")
def results(finished) -> dict:
    return read_json(finished / "results.json")


def test_every_section_is_there(results):
    assert results["kind"] == "circuits" and results["left_out"] == {}
    assert set(results["accuracy"]) == {"small", "large", "es", "grpo"}
    assert all(set(tasks) == set(TASKS) for tasks in results["accuracy"].values())
    for model in ("small", "large"):
        found = results["circuits"][model]
        assert found["nodes"][:6] == ["input", "a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0"]
        for task in TASKS:
            assert len(found["tasks"][task]["scores"]) == len(found["nodes"]) == 11
            assert found["tasks"][task]["faithfulness"]["f"][-1] == pytest.approx(1.0)
            assert found["tasks"][task]["examples"]["solved"][model] > 0
    assert set(results["transfer"]["small>large"]["presets"]) == {"paper", "corrected"}
    change = results["change"]
    assert change["models"] == ["large", "es", "grpo"] and set(change["tasks"]) == set(TASKS)
    assert set(change["tasks"]["ioi_short"]["overlap"]) == {"large|es", "large|grpo", "es|grpo"}
    assert set(change["migration"]) == {
        "large>large",
        "large>es",
        "large>grpo",
        "es>large",
        "es>grpo",
        "grpo>large",
        "grpo>es",
    }
    assert set(change["intensity"]) == {"large", "es", "grpo"}


def test_both_trainings_have_the_budget(results):
    assert {name: training["completions"] for name, training in results["training"].items()} == {"es": 64, "grpo": 64}
    assert all(len(training["evaluation"]) == 3 for training in results["training"].values())


def test_the_lora_files_are_options_of_grpo_and_the_control_is_another_layer(results):
    for entry in results["change"]["lora"].values():
        patterns = {kind: read_lora_patterns(entry[f"{kind}_file"]) for kind in ("critical", "random")}
        assert len(entry["critical"]) == len(entry["random"]) == 1 and entry["critical"] != entry["random"]
        assert patterns["critical"]["rank_pattern"] == {rf"layers\.({entry['critical'][0]})\..*": 32}
        assert patterns["critical"] != patterns["random"]
        assert sum(entry["change"]) == pytest.approx(1.0)


def test_every_number_of_the_tables_stands_in_the_results(finished, results):
    page = (finished / "report" / "index.html").read_text()
    sources = re.findall(r'data-source="/([^"]*)"', page)
    assert len(sources) > 300
    for source in sources:
        location = [part.replace("~1", "/").replace("~0", "~").replace("&gt;", ">") for part in source.split("/")]
        # Where a row does not exist for a task (a paired task, say) the table says so.
        if location[0] in ("config", "environment"):
            continue
        allowed = ("smallest", "recovery_mean", "compute_ratio", "mean")
        assert lookup(results, *location) is not None or location[-1] in allowed, source
    assert "Missing from results.json" not in page and page.count("<svg") >= 11


def test_the_report_is_built_from_the_results_alone(finished, tmp_path):
    (tmp_path / "results.json").write_bytes((finished / "results.json").read_bytes())
    assert build(tmp_path).read_text() == (finished / "report" / "index.html").read_text()


def test_a_finished_study_is_not_computed_again_and_a_missing_stage_is(finished, capsys):
    stages = sorted(finished.glob("[!.]*-*.json"))
    assert len(stages) == 9
    before = [os.stat(path).st_mtime_ns for path in stages]
    again = options(finished.parent)
    run(again)
    stages_said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stage ")]
    assert [line.endswith("finished already") for line in stages_said] == [True, True, True, False, False]
    assert stages_said[-1].endswith(": report")
    assert [os.stat(path).st_mtime_ns for path in stages] == before
    numbers = read_json(finished / "circuits-small.json")
    (finished / "circuits-small.json").unlink()
    run(again)
    said = [line for line in capsys.readouterr().out.splitlines() if "stage" in line]
    assert said == [*stages_said[:-1], "stage circuits-small", stages_said[-1]]
    assert read_json(finished / "circuits-small.json") == numbers


def test_a_task_that_a_model_does_not_solve_is_left_out_and_named(finished, tmp_path, capsys):
    chosen = options(
        tmp_path,
        models=[source("small", finished.parent / "small")],
        transfers=[],
        change_base=None,
        post_trained=[],
        reward_task=None,
        smallest_share=1.0,
    )
    with pytest.raises(UserError, match="small solve none of the tasks often enough"):
        run(chosen)
    assert "left out: ioi_short, because small solves" in capsys.readouterr().out


MISTAKES = {
    "unknown circuit task 'iio'": {"tasks": ["iio"]},
    r"models\[0\] is the text 'small=x'; write it as a mapping, such as {name: small": {"models": ["small=x"]},
    "post_trained have 'a'; give each its own name": {"models": [source("a", "x"), source("a", "y")]},
    "post_trained have 'a>b'; give each its own name, without": {"models": [source("a>b", "x")]},
    "a model of transfers is 'lage', not one of large, small; did you mean large": {
        "transfers": [{"small": "small", "large": "lage"}]
    },
    r"transfers\[0\] is the text 'small>large'; write it as a mapping": {"transfers": ["small>large"]},
    "post_trained and change_base belong together": {"change_base": None},
    "change_base is 'big'": {"change_base": "big"},
    "method is ppo, but it takes one of es, grpo": {
        "post_trained": [{"name": "ppo", "method": "ppo", "config": "x.yaml"}]
    },
    "es needs method and config, or a source alone": {"post_trained": [{"name": "es", "method": "es"}]},
    "task_files names arc_easy, which is none of the tasks": {"task_files": {"arc_easy": "questions.jsonl"}},
    "reward_task is needed": {"reward_task": None},
    "a preset is 'corect'.* did you mean correct": {"presets": ["corect"]},
    "method is 'nap-ig'": {"method": "nap-ig"},
    "the budget of 100 completions is not a whole number of steps of 32": {"completions": 100},
    "test_examples is 0": {"test_examples": 0},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line_before_any_work(tmp_path, message):
    with pytest.raises(UserError, match=message) as raised:
        run(options(tmp_path, **MISTAKES[message]))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_near_tasks_are_pairs_of_what_is_there():
    assert near_tasks(["ioi", "addition", "arc_easy=questions.jsonl", "arc_challenge"]) == {
        "arc_easy=questions.jsonl": "arc_challenge",
        "arc_challenge": "arc_easy=questions.jsonl",
    }

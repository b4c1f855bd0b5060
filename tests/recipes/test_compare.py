"""The comparison from end to end on a small budget: complete, resumable, and refused early when it cannot fit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from analysis.__main__ import main as analysis
from eval.completions import read_completions
from eval.digests import file_digest
from eval.errors import UserError
from eval.storage import read_json, read_jsonl
from tests.recipe_files import ROOT, load_script


pytestmark = pytest.mark.slow

MODEL = "recipes/tiny/models/llama-small"
BUDGET = 96
ES = {
    "population": 4,
    "prompts_per_step": 8,
    "temperature": 1.0,
    "train_size": 64,
    "sigma": 0.02,
    "engine_dtype": "float32",
    "alpha": 0.01,
    "eval_every": 1,
    "eval_size": 10,
    "save_every": 1,
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
    "keep_evaluated": True,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "constant",
    "train_size": 24,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


def command(folder: Path, **options) -> list[str]:
    """The compare command with its two files in `folder` and small stages after training."""
    defaults = {
        "output_dir": folder / "run",
        "model": MODEL,
        "task": "countdown",
        "test_size": 12,
        "kl_prompts": 6,
        "line_points": 3,
        "line_size": 12,
        "max_new_tokens": 50,
        "completions": BUDGET,
    }
    for name, content in (("es", ES), ("grpo", GRPO)):
        placeholders = {"model": MODEL, "output_dir": str(folder / name), "task": "countdown"}
        if name == "grpo":
            placeholders["max_steps"] = 1
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content | placeholders))
        defaults[f"{name}_config"] = folder / f"{name}.yaml"
    return [sys.executable, "recipes/compare.py", *words(defaults | options)]


def words(options: dict) -> list[str]:
    """Options as they stand on a command line; of a list each entry is a word."""
    return [
        str(word)
        for key, value in options.items()
        for word in (f"--{key}", *(value if isinstance(value, list) else [value]))
    ]


def run(words: list[str]) -> None:
    """The recipe's own `main` in this process; the words are those of a command line."""
    before, sys.argv = sys.argv, words[1:]
    try:
        load_script("recipes/compare.py").main()
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    run(command(folder))
    return folder / "run"


def test_the_budget_is_the_same(finished):
    results = read_json(finished / "results.json")
    assert [results["training"][method]["completions"] for method in ("es", "grpo")] == [BUDGET, BUDGET]
    assert all(results["training"][method]["seconds"] > 0 for method in ("es", "grpo"))
    assert results["training"]["es"]["evaluation"]["completions"] == [0, 32, 64, 96]
    assert results["training"]["grpo"]["evaluation"]["completions"] == [0, 32, 64, 96]
    assert (
        results["training"]["es"]["evaluation"]["accuracy"][0]
        == results["training"]["grpo"]["evaluation"]["accuracy"][0]
    ), "both begin with the same model on the same problems"


def test_every_section_is_there(finished):
    results = read_json(finished / "results.json")
    assert set(results["evaluation"]) == {"base", "es", "grpo"}
    assert all(len(tasks) == 4 for tasks in results["evaluation"].values())
    assert set(results["connectivity"]["lines"]) == {"base|es", "base|grpo", "es|grpo"}
    assert set(results["kl"]) == {"es", "grpo"} and len(results["kl"]["es"]) == 4
    walk = results["random_walk"]["es"]
    assert walk["steps"] == 3 and walk["measured_norm"] == results["geometry"]["checkpoints"]["es"]["norm"]
    records = read_completions(finished / "completions" / "es" / "countdown.parquet")
    assert len(records) == 12
    assert sum(record["value"] == 1.0 for record in records) == results["evaluation"]["es"]["countdown"]["correct"]
    assert results["written"]["countdown"]["problems"] == 12
    file = {"file": "completions/es/yes_no.parquet", "sha256": file_digest(finished / "completions/es/yes_no.parquet")}
    assert len(results["written"]) == 4 and results["written"]["yes_no"]["files"]["es"] == file
    page = (finished / "report" / "index.html").read_text()
    assert "<svg" in page and (finished / "report" / "report.md").exists()


def test_both_stopping_points_and_the_way_there_are_measured(finished):
    results = read_json(finished / "results.json")
    matched = results["matched"]
    assert list(matched["pair"]) == ["es", "grpo"] and isinstance(matched["found"], bool)
    assert set(matched["at"]) >= {"evaluation", "geometry", "kl", "connectivity", "controls"}
    # The length of ES's replayed checkpoints is what the run itself measured, and the last one's that of its model.
    walked = {row["step"]: row["distance_from_base"] for row in read_jsonl(finished / "es" / "metrics.jsonl")}
    kept = matched["kept"]["es"]
    assert kept["step"] == [1, 2, 3] and kept["norm"] == pytest.approx([walked[step] for step in kept["step"]])
    norms = {method: results["geometry"]["checkpoints"][method]["norm"] for method in ("es", "grpo")}
    kept_norms = {method: matched["kept"][method]["norm"][-1] for method in norms}
    assert kept_norms == pytest.approx(norms, rel=1e-12)
    assert matched["stops"]["matched budget"]["norm"]["es"] == pytest.approx(norms["es"], rel=1e-12)
    for method, at in matched["pair"].items():
        index = matched["kept"][method]["step"].index(at["step"])
        kept_norm = matched["kept"][method]["norm"][index]
        assert matched["at"]["geometry"]["checkpoints"][method]["norm"] == pytest.approx(kept_norm, rel=1e-12)
    spent = matched["curves"]["grpo"]
    assert spent["completions"] == [0, 32, 64, 96] and spent["tokens"][-1] == results["training"]["grpo"]["tokens"]
    assert spent["flops"][-1] == 8 * results["geometry"]["parameters"] * spent["tokens"][-1]


def test_the_line_between_the_methods_has_its_controls(finished):
    results = read_json(finished / "results.json")
    controls = results["controls"]["lines"]["es|grpo"]
    assert set(controls["lines"]) == {"random", "mirrored", "permuted", "untrained"}
    assert {controls[quantity]["verdict"] for quantity in ("reward", "loss")}
    base = load_file(ROOT / MODEL / "model.safetensors")
    permuted = load_file(finished / "controls" / "permuted" / "model.safetensors")
    squared = sum(float((permuted[name].double() - base[name].double()).pow(2).sum()) for name in base)
    assert results["controls"]["update"]["norm"] == pytest.approx(squared**0.5, rel=1e-9)
    # Shuffled fitness makes steps of the same length, in other directions.
    assert squared**0.5 == pytest.approx(results["geometry"]["checkpoints"]["es"]["norm"], rel=0.02)


def test_the_measured_norm_is_the_distance_of_the_checkpoints(finished):
    base = load_file(ROOT / MODEL / "model.safetensors")
    for method in ("es", "grpo"):
        model = load_file(finished / method / "model" / "model.safetensors")
        squared = sum(float((model[name].double() - base[name].double()).pow(2).sum()) for name in base)
        norm = read_json(finished / "geometry.json")["result"]["checkpoints"][method]["norm"]
        assert norm == pytest.approx(squared**0.5, rel=1e-9)


def test_killed_anywhere_it_ends_with_the_same_models_and_numbers(finished, tmp_path):
    kills = 0
    # In the middle of GRPO, and of the stages after training; ES alone has a test of its own.
    for sign in ("run/grpo/checkpoint-1", "run/geometry.json"):
        process = subprocess.Popen(command(tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / sign).exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2, "every process should have been killed while it worked"
    done = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"report: {tmp_path / 'run' / 'report' / 'index.html'}"
    for method in ("es", "grpo"):
        ours = load_file(tmp_path / "run" / method / "model" / "model.safetensors")
        theirs = load_file(finished / method / "model" / "model.safetensors")
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for stage in ("evaluation", "geometry", "kl", "connectivity"):
        assert read_json(tmp_path / "run" / f"{stage}.json") == read_json(finished / f"{stage}.json")


def test_analyse_gives_the_numbers_of_the_comparison(finished, tmp_path):
    base, es, grpo = ROOT / MODEL, f"es={finished / 'es'}", f"grpo={finished / 'grpo' / 'model'}"
    sizes = ["--size", "12", "--kl-prompts", "6", "--line-size", "12", "--points", "3", "--max-new-tokens", "50"]
    shared = ["--task", "countdown", "--batch-size", "500", "--device", "cpu", "--output", str(tmp_path / "out")]
    parts = ["--parts", "geometry", "evaluation", "kl", "lines"]
    analysis(["analyse", "--base", str(base), "--checkpoints", es, grpo, *sizes, *shared, *parts])
    ours, theirs = read_json(tmp_path / "out" / "results.json"), read_json(finished / "results.json")
    assert ours["geometry"] == theirs["geometry"] and ours["connectivity"] == theirs["connectivity"]
    for method in ("es", "grpo"):
        assert ours["kl"][method] == {"countdown": theirs["kl"][method]["countdown"]}
        assert ours["evaluation"][method]["countdown"] == theirs["evaluation"][method]["countdown"]


def test_a_comparison_that_is_given_more_completions_is_one_of_that_length(finished, tmp_path):
    run(command(tmp_path, completions=64))
    config = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(UserError, match="completions was 64, now 32, but a comparison is made longer"):
        run(command(tmp_path, completions=32))
    assert (tmp_path / "run" / "config.yaml").read_bytes() == config
    run(command(tmp_path))
    ours, theirs = (read_json(folder / "results.json") for folder in (tmp_path / "run", finished))
    for section in ("geometry", "kl", "connectivity"):
        assert ours[section] == theirs[section], section
    for method in ("es", "grpo"):
        assert ours["training"][method]["curve"] == theirs["training"][method]["curve"]
        assert ours["training"][method]["evaluation"] == theirs["training"][method]["evaluation"]


def test_a_finished_comparison_is_not_computed_again(finished, capsys):
    stages = [finished / f"{stage}.json" for stage in ("evaluation", "geometry", "kl", "connectivity")]
    before = [os.stat(path).st_mtime_ns for path in stages]
    run(command(finished.parent))
    stages_said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stage ")]
    assert [line.endswith("finished already") for line in stages_said] == [True] * (len(stages_said) - 1) + [False]
    assert stages_said[-1].endswith(": report")
    assert [os.stat(path).st_mtime_ns for path in stages] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"completions": 100}, "the budget of 100 completions is not a whole number of steps of 32"),
        ({"task": "contdown"}, "unknown task 'contdown'; did you mean 'countdown'"),
        ({"test_tasks": ["countdown", "yesno"]}, "unknown task 'yesno'"),
        ({"line_points": 2}, "line_points is 2"),
        ({"model": "./nowhere"}, "there is no checkpoint folder ./nowhere"),
    ],
)
def test_mistakes_are_one_line_before_any_work(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(command(tmp_path, **options))
    assert not (tmp_path / "run" / "es" / "metrics.jsonl").exists()


def test_a_typo_in_a_method_file_is_found_before_the_other_method_trains(tmp_path):
    started = command(tmp_path)
    (tmp_path / "grpo.yaml").write_text((tmp_path / "grpo.yaml").read_text() + "learnign_rate: 0.1\n")
    done = subprocess.run(started, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].endswith("unknown key 'learnign_rate'; did you mean learning_rate?")
    assert not (tmp_path / "run").exists()


def test_results_are_plain_json(finished):
    json.loads((finished / "results.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

"""Sweeps: what an entry stands for, and that a started sweep is finished by starting it again."""

import signal
import subprocess
import sys
import time

import pytest
import yaml

from eval.errors import UserError
from eval.storage import read_json, read_jsonl
from tests.recipe_files import ROOT
from trainers.arguments import parse
from trainers.sweep import Runs, SweepConfig


RECIPE = """
output_dir: unused
rule: parity
length: 12
group: 3
train_size: 20
held_out_size: 20
model: mlp
width: 32
depth: 1
sampler_steps: 3
steps: 6
batch_size: 8
evaluate_from: 3
evaluate_samples: 16
evaluate_samples_min: 16
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return str(path)


def test_an_entry_is_every_combination(recipe):
    configs = Runs(recipe, {"group": [2, 3], "seed": [0, 1], "train_size": 16}).expand("runs/here")
    assert [(config.group, config.seed) for config in configs] == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert configs[1].output_dir == "runs/here/small/group=2,seed=1,train_size=16"
    assert {(config.steps, config.train_size) for config in configs} == {(6, 16)}
    assert [config.output_dir for config in Runs(recipe).expand("runs/here")] == ["runs/here/small/run"]
    # null takes an option of the file away, and names nothing.
    (other,) = Runs(recipe, {"rule": "sudoku", "length": None, "group": None, "held_out_size": 16}).expand("here")
    assert other.make_rule().describe() == "sudoku()"
    assert other.output_dir == "here/small/rule=sudoku,held_out_size=16"


def test_mistakes_are_found_before_the_first_run(recipe):
    def sweep(*runs, **options):
        return SweepConfig(output_dir="unused", runs=list(runs), **options)

    with pytest.raises(UserError, match="group is 5, which does not divide"):
        sweep(Runs(recipe, {"group": 3}), Runs(recipe, {"group": [2, 5]}))
    with pytest.raises(UserError, match="unknown key 'gruop'; did you mean group?"):
        sweep(Runs(recipe, {"gruop": 3}))
    with pytest.raises(UserError, match="group has no values"):
        Runs(recipe, {"group": []})
    with pytest.raises(UserError, match="two runs of the sweep have the folder unused/small/seed=1"):
        sweep(Runs(recipe, {"seed": 1}), Runs(recipe, {"seed": [0, 1]}))
    with pytest.raises(UserError, match="there is no config file missing.yaml"):
        sweep(Runs("missing.yaml"))
    with pytest.raises(UserError, match="runs is empty"):
        sweep()
    with pytest.raises(UserError, match="workers is 0"):
        sweep(Runs(recipe), workers=0)


def test_the_old_form_is_refused_with_the_new_one(tmp_path, recipe):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"output_dir": "unused", "runs": [f"{recipe} group=2,3 seed=0"]}))
    with pytest.raises(UserError, match=r"runs\[0\] is the text .*; write it as a mapping, such as {config: recipes/"):
        parse(SweepConfig, arguments=["--config", str(path)])


@pytest.mark.slow
def test_a_sweep_runs_several_models_and_a_second_start_finishes_what_is_left(recipe, tmp_path):
    sweep = tmp_path / "sweep.yaml"
    out = tmp_path / "out"
    sweep.write_text(
        yaml.safe_dump(
            {
                "output_dir": str(out),
                "runs": [{"config": recipe, "options": {"group": [2, 3], "seed": 0}}],
                "workers": 2,
            }
        )
    )
    command = [sys.executable, "recipes/rules_sweep.py", "--config", str(sweep)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{out}: 2 runs" in first.stdout
    folders = [out / "small" / f"group={group},seed=0" for group in (2, 3)]
    assert [read_json(folder / "results.json")["complexity"] for folder in folders] == [2, 3]
    before = (folders[0] / "evaluations.jsonl").stat().st_mtime_ns
    (folders[1] / "results.json").unlink()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert read_json(folders[1] / "results.json")["steps"] == 6
    assert (folders[0] / "evaluations.jsonl").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_failed_run_is_reported_and_the_others_end(recipe, tmp_path):
    out = tmp_path / "out"
    # A file where the first run's folder should be.
    (out / "small").mkdir(parents=True)
    (out / "small" / "seed=0").write_text("in the way")
    command = [sys.executable, "recipes/rules_sweep.py", "--output_dir", str(out), "--runs"]
    command.append(f"[{{config: {recipe}, options: {{seed: [0, 1]}}}}]")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "seed=0" in done.stderr
    assert (out / "small" / "seed=1" / "results.json").exists()


@pytest.mark.slow
def test_workers_end_with_a_killed_sweep(recipe, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "recipes/rules_sweep.py", "--output_dir", str(out), "--workers", "1", "--runs"]
    options = "{steps: 1000000, evaluate_from: 1000000, save_every: 1000000, log_every: 1}"
    entry = f"[{{config: {recipe}, options: {options}}}]"
    metrics = out / "small" / "steps=1000000,evaluate_from=1000000,save_every=1000000,log_every=1" / "metrics.jsonl"
    process = subprocess.Popen([*command, entry], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not read_jsonl(metrics):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the sweep should have been killed while it trained"
    # The worker may be in the middle of a step, and this machine busy: wait until the file no longer grows.
    deadline = time.monotonic() + 60
    size = -1
    while size != metrics.stat().st_size:
        assert time.monotonic() < deadline, "the worker goes on without its sweep"
        size = metrics.stat().st_size
        time.sleep(1.5)

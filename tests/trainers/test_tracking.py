"""trainers/tracking.py: the same curves of both methods on one axis."""

import contextlib
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys

import pytest

from eval.errors import UserError
from eval.storage import read_json, read_jsonl
from tests.recipe_files import ROOT
from tests.tiny import random_checkpoint
from trainers.arguments import parse
from trainers.es.config import ESConfig
from trainers.es.train import train_es
from trainers.grpo import GRPOArguments, GRPOConfig, train_grpo
from trainers.tracking import LOGGED, PACKAGES, tracker_names


def needs(package):
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} of the extra `track` is not installed"
    )


ES_OPTIONS = {
    "task": "tests.trainers.es.test_train:VARIETY",
    "steps": 3,
    "population": 4,
    "prompts_per_step": 3,
    "train_size": 12,
    "max_new_tokens": 8,
    "engine_dtype": "float32",
    "eval_every": 2,
    "eval_size": 4,
}
GRPO_OPTIONS = {
    "task": "tests.trainers.test_grpo:DIGITS",
    "max_steps": 3,
    "save_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "logging_steps": 1,
    "eval_every": 2,
    "eval_size": 8,
}


def words(options):
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def train_both(folder, tracker):
    """An ES and a GRPO run below `folder`."""
    base = random_checkpoint(folder / "base")
    train_es(ESConfig(str(base), str(folder / "es"), **ES_OPTIONS, report_to=tracker))
    options = GRPO_OPTIONS | {"model": base, "output_dir": folder / "grpo", "report_to": tracker}
    train_grpo(*parse(GRPOArguments, GRPOConfig, arguments=words(options)))


def expected(run):
    """{name: [(completions, value)]} as the run's own files have them."""
    rows = read_jsonl(run / "metrics.jsonl") + read_jsonl(run / "evaluations.jsonl")
    return {name: [(row["completions"], row[name]) for row in rows if name in row] for name in LOGGED}


@pytest.mark.slow
@needs("tensorboard")
def test_tensorboard_shows_both_methods_on_the_axis_of_completions(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_both(tmp_path, "tensorboard")
    for method in ("es", "grpo"):
        accumulator = EventAccumulator(str(tmp_path / method / "tensorboard"))
        accumulator.Reload()
        assert {*LOGGED, "length/mean", "unfinished"} <= set(accumulator.Tags()["scalars"])
        assert ("entropy" in accumulator.Tags()["scalars"]) == (method == "grpo")
        for name, points in expected(tmp_path / method).items():
            found = [(event.step, event.value) for event in accumulator.Scalars(name)]
            assert [step for step, _ in found] == sorted(step for step, _ in points)
            assert dict(found) == pytest.approx(dict(points), rel=1e-6)
        results = read_json(tmp_path / method / "results.json")
        final = {name: results[name] for name in ("completions", "tokens", "seconds")}
        final["accuracy"] = results["last_evaluation"]["accuracy"]
        for name, value in final.items():
            (event,) = accumulator.Scalars(f"final/{name}")
            assert event.step == results["completions"] and event.value == pytest.approx(value, rel=1e-6)


ONE_ROW = """
import sys
from pathlib import Path
from accelerate import PartialState
from trainers.tracking import Tracking
PartialState(cpu=True)
tracking = Tracking([sys.argv[1]], Path("study/run"))
tracking.log({"step": 1, "completions": 8, "reward": 0.25, "tokens": 30, "seconds": 0.5, "entropy": 1.0})
tracking.log_completions([{"prompt": "1+1=", "completion": "two \\ud800", "value": None}], 8)
tracking.summary({"final/accuracy": 0.5}, 8)
tracking.close()
"""


def log_one_row(tracker, **environment):
    """In a process of its own: where a tracker writes is read from the environment when it is imported."""
    return subprocess.run(
        [sys.executable, "-c", ONE_ROW, tracker],
        check=True,
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@needs("trackio")
def test_trackio_gets_the_same_rows(tmp_path):
    log_one_row("trackio", TRACKIO_DIR=str(tmp_path))
    (database,) = tmp_path.glob("posttrain-lab*.db")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics").fetchall()
    one, table, final = (json.loads(values) for _, _, values in rows)
    assert [row[:2] for row in rows] == [("study-run", 8)] * 3
    assert one == {"reward": 0.25, "tokens": 30, "seconds": 0.5, "entropy": 1.0} and final == {"final/accuracy": 0.5}
    assert table["completions"]["_type"] == "trackio.table", table


@needs("wandb")
def test_wandb_runs_offline(tmp_path):
    done = log_one_row("wandb", WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert all(word in log.read_bytes() for word in (b"posttrain-lab", b"study-run", b"reward", b"0.25"))
    assert b"entropy" in log.read_bytes()
    assert "reward 0.25" in done.stderr


def test_none_and_lists():
    assert tracker_names("none") == tracker_names(["none"]) == tracker_names([]) == tracker_names(None) == []


@pytest.mark.parametrize("name", PACKAGES)
def test_a_tracker_whose_package_is_missing_is_one_line(name, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    options = GRPO_OPTIONS | {"model": "none", "output_dir": tmp_path, "report_to": name}
    with pytest.raises(UserError, match=f"{name} needs the package {name}; install it") as raised:
        parse(GRPOArguments, GRPOConfig, arguments=words(options))
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=f"{name} needs the package {name}; install it"):
        parse(ESConfig, arguments=words(ES_OPTIONS | {"model": "none", "output_dir": tmp_path, "report_to": name}))


def test_an_unknown_tracker_is_one_line():
    with pytest.raises(UserError, match="report_to is 'wndb'.* did you mean wandb"):
        tracker_names(["wndb"])
    with pytest.raises(UserError, match="give none alone"):
        tracker_names(["none", "none"])

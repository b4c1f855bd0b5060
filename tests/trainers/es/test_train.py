"""Whole ES runs on a random model: reproducible, resumable, the same on two processes."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from eval.errors import UserError
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.storage import read_json, read_jsonl
from eval.tasks import Score
from tests.tiny import random_checkpoint
from trainers.es.config import ESConfig, schedule
from trainers.es.rollout import prompt_indices
from trainers.es.train import train_es
from trainers.es.update import read_seed_log, replay


class Variety:
    """Any model has some reward here: how many different characters its answer begins with."""

    name = "variety"
    system_prompt = "Write."

    def load(self, split, size, seed):
        return datasets.Dataset.from_list(
            [{"prompt": [{"role": "user", "content": f"{split} {seed} {index}"}]} for index in range(size)]
        )

    def score(self, completion, row):
        return Score(len(set(completion[:12])) / 12, completion[:1] or None)


class Unscorable(Variety):
    """Long answers cannot be scored."""

    def score(self, completion, row):
        return Score(math.nan, None) if "5" in row["prompt"][0]["content"] else super().score(completion, row)


class Constant(Variety):
    def score(self, completion, row):
        return Score(1.0, None)


VARIETY, UNSCORABLE, CONSTANT = Variety(), Unscorable(), Constant()
TASK = "tests.trainers.es.test_train:VARIETY"
OPTIONS = {
    "steps": 6,
    "population": 4,
    "prompts_per_step": 3,
    "train_size": 12,
    "max_new_tokens": 12,
    "engine_dtype": "float32",
    "sigma": 0.02,
    "alpha": 0.02,
    "eval_every": 3,
    "eval_size": 4,
    "save_every": 2,
    "task": TASK,
    "log_completions_every": 3,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("base"))


def config(base: Path, run: Path, **options) -> ESConfig:
    return ESConfig(model=str(base), output_dir=str(run), **(OPTIONS | options))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rewards(run: Path) -> list[float]:
    return [row["reward"] for row in read_jsonl(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Path:
    """An undisturbed run."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train_es(config(base, run))
    return run


def test_a_run_folder_holds_everything(whole, base):
    results = read_json(whole / "results.json")
    assert results["completions"] == 6 * 4 * 3 and results["updates"] == 6
    assert (results["steps"], results["ended_by"]) == (6, "steps")
    metrics = read_jsonl(whole / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, 7))
    assert metrics[-1]["completions"] == 72 and metrics[-1]["tokens"] == results["tokens"]
    assert all(row["update_norm"] > 0 for row in metrics)
    assert [row["step"] for row in read_jsonl(whole / "evaluations.jsonl")] == [0, 3, 6]
    assert [row["completions"] for row in read_jsonl(whole / "evaluations.jsonl")] == [0, 36, 72]
    table = pq.read_table(whole / "completions" / "completions_00001.parquet").to_pylist()
    assert len(table) == 4 * 3 and set(table[0]) == {"step", "prompt", "completion", "variety", "member"}
    before = load_file(base / "model.safetensors")
    moved = math.sqrt(sum(float((weights(whole)[name] - before[name]).double().pow(2).sum()) for name in before))
    assert moved == pytest.approx(metrics[-1]["distance_from_base"], rel=1e-6)


def test_the_finished_model_opens_and_is_not_the_base(whole, base):
    engine = HFEngine.from_pretrained(whole / "model")
    prompt = [[{"role": "user", "content": "1 2 3 -> 6"}]]
    assert engine.generate(prompt, Sampling(4))[0][0][0].text is not None
    assert not same(weights(whole), load_file(base / "model.safetensors"))


def test_the_same_seed_gives_the_same_bits_and_another_does_not(whole, base, tmp_path):
    train_es(config(base, tmp_path / "again"))
    train_es(config(base, tmp_path / "other", seed=1))
    assert same(weights(tmp_path / "again"), weights(whole)) and rewards(tmp_path / "again") == rewards(whole)
    assert not same(weights(tmp_path / "other"), weights(whole))


def test_replaying_the_seed_log_gives_the_same_bits(whole, base):
    start = {name: weight.float() for name, weight in load_file(base / "model.safetensors").items()}
    log = read_seed_log(whole / "seeds.jsonl")
    assert same(replay(start, log), weights(whole))
    checkpoint = load_file(whole / "checkpoints" / "step_4" / "model.safetensors")
    assert same(replay(start, log[:4]), checkpoint)


@pytest.mark.slow
def test_the_replay_command(whole, base, tmp_path):
    command = [
        sys.executable,
        "-m",
        "trainers.es.replay",
        "--base",
        str(base),
        "--seeds",
        str(whole / "seeds.jsonl"),
        "--output",
        str(tmp_path / "model"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert same(load_file(tmp_path / "model" / "model.safetensors"), weights(whole))


@pytest.mark.slow
def test_sampling_and_options_are_reproducible_too(base, tmp_path):
    options = {
        "temperature": 1.0,
        "samples": 2,
        "antithetic": True,
        "fitness_shaping": "centered_rank",
        "anchor": 1.0,
        "prompt_baseline": "zscore",
        "alpha_schedule": "cosine",
        "sigma_schedule": "linear",
        "shared_noise": True,
        "engine_dtype": "bfloat16",
    }
    train_es(config(base, tmp_path / "a", **options))
    train_es(config(base, tmp_path / "b", **options, population_gb=1e-9))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert weights(tmp_path / "a")["model.norm.weight"].dtype == torch.float32


def test_a_finished_run_returns_at_once(whole, base):
    before = (whole / "model" / "model.safetensors").stat().st_mtime_ns
    assert train_es(config(base, whole)) == read_json(whole / "results.json")
    assert (whole / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_other_options_in_the_same_folder_are_refused(whole, base):
    with pytest.raises(UserError, match="sigma was 0.02, now 0.03"):
        train_es(config(base, whole, sigma=0.03))


def launch(run: Path, base: Path, **options) -> list[str]:
    flags = OPTIONS | {"model": str(base), "output_dir": str(run)} | options
    return [sys.executable, "recipes/es.py", *(f"--{key}={value}" for key, value in flags.items())]


ENVIRONMENT = os.environ | {"PYTHONPATH": "."}


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bits(base, tmp_path):
    options = {"steps": 40, "save_every": 3, "eval_every": 0, "log_completions_every": 0}
    train_es(config(base, tmp_path / "whole", **options))
    kills = 0
    for steps_seen in (4, 20):
        process = subprocess.Popen(
            launch(tmp_path / "killed", base, **options),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and len(read_jsonl(tmp_path / "killed" / "metrics.jsonl")) < steps_seen:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2, "every process should have been killed while it trained"
    subprocess.run(launch(tmp_path / "killed", base, **options), check=True, env=ENVIRONMENT, capture_output=True)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert rewards(tmp_path / "killed") == rewards(tmp_path / "whole")
    assert len(read_jsonl(tmp_path / "killed" / "seeds.jsonl")) == 40


@pytest.mark.slow
def test_two_processes_give_the_same_rewards_and_bits(whole, base, tmp_path):
    flags = launch(tmp_path / "two", base, population=4)[1:]
    command = [
        str(Path(sys.executable).with_name("accelerate")),
        "launch",
        "--config_file",
        "accelerate_configs/cpu_2proc.yaml",
        *flags,
    ]
    subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True)
    assert read_json(tmp_path / "two" / "environment.json")["processes"] == 2
    assert rewards(tmp_path / "two") == rewards(whole)
    assert same(weights(tmp_path / "two"), weights(whole))
    ours, theirs = (read_jsonl(run / "evaluations.jsonl") for run in (whole, tmp_path / "two"))
    assert ours == theirs
    tables = [
        pq.read_table(run / "completions" / "completions_00004.parquet").to_pylist()
        for run in (whole, tmp_path / "two")
    ]
    assert sorted(map(str, tables[0])) == sorted(map(str, tables[1]))


@pytest.mark.slow
def test_a_full_disk_costs_one_line_and_no_checkpoint(base, tmp_path):
    """A limit on the size of files stands for the full disk: the write fails in the same place."""
    run = tmp_path / "full"
    # The checkpoint of the random model is larger than its logs, and the second is the first to meet the limit.
    size = (base / "model.safetensors").stat().st_size
    full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))}
    done = subprocess.run(launch(run, base), env=ENVIRONMENT, capture_output=True, text=True, **full)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: no room left to write")
    assert not list((run / "checkpoints").glob("step_*"))
    subprocess.run(launch(run, base), env=ENVIRONMENT, check=True, capture_output=True)
    assert (run / "results.json").exists()


def test_too_little_free_space_is_refused_before_work(base, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match="needs .* MB but only 0 MB are free"):
        train_es(config(base, tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("options", [{}, {"algorithm": "snes"}], ids=["es", "snes"])
def test_a_budget_of_tokens_ends_the_run_and_is_exact_under_resume(base, tmp_path, options):
    train_es(config(base, tmp_path / "long", **options))
    rows = read_jsonl(tmp_path / "long" / "metrics.jsonl")
    options |= {"stop_at_tokens": rows[2]["tokens"] + 1, "steps": 50}
    run = config(base, tmp_path / "run", **options)
    results = train_es(run)
    assert (results["ended_by"], results["steps"], results["tokens"]) == ("tokens", 4, rows[3]["tokens"])
    assert results["completions"] == rows[3]["completions"]
    assert rewards(tmp_path / "run") == rewards(tmp_path / "long")[:4]
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "evaluations.jsonl")] == [0, 3, 4]
    before = weights(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    (tmp_path / "run" / "results.json").unlink()
    again = train_es(run)  # from the checkpoint of step 2
    # The logs hold times.
    assert again["digests"].pop("files").keys() == results["digests"].pop("files").keys()
    assert again | {"seconds": 0} == results | {"seconds": 0}
    assert same(weights(tmp_path / "run"), before)


def test_killed_before_its_first_checkpoint_it_evaluates_the_start_once(whole, base, tmp_path):
    run = config(base, tmp_path / "run")
    train_es(run)
    for folder in ("checkpoints", "model"):
        shutil.rmtree(tmp_path / "run" / folder)
    (tmp_path / "run" / "results.json").unlink()
    train_es(run)
    assert same(weights(tmp_path / "run"), weights(whole))
    evaluations = (tmp_path / "run" / "evaluations.jsonl").read_text()
    assert evaluations == (whole / "evaluations.jsonl").read_text() and '"step": 0' in evaluations


def test_ending_early_gives_the_weights_of_a_run_of_as_many_steps(base, tmp_path):
    for name, options in (("es", {}), ("snes", {"algorithm": "snes"})):
        train_es(config(base, tmp_path / name, **options, steps=1))
        ended = train_es(config(base, tmp_path / f"{name}-ended", **options, stop_at_tokens=1))
        assert ended["steps"] == 1
        assert same(weights(tmp_path / name), weights(tmp_path / f"{name}-ended"))


def test_a_budget_of_seconds_ends_the_run(base, tmp_path):
    results = train_es(config(base, tmp_path, steps=10000, stop_at_seconds=0.1, eval_every=0))
    seconds = [row["seconds"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert results["ended_by"] == "seconds" and results["steps"] == len(seconds) < 10000
    assert all(value < 0.1 for value in seconds[:-1]) and seconds[-1] == results["seconds"] >= 0.1


def test_unscorable_completions_are_left_out_and_counted(base, tmp_path):
    train_es(config(base, tmp_path / "run", task="tests.trainers.es.test_train:UNSCORABLE", steps=4))
    metrics = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert all(math.isfinite(row["reward"]) for row in metrics)


def test_tied_members_change_nothing(base, tmp_path):
    results = train_es(config(base, tmp_path / "run", task="tests.trainers.es.test_train:CONSTANT", steps=2))
    assert results["updates"] == 0
    assert [row["members_tied"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [True, True]
    assert same(weights(tmp_path / "run"), load_file(base / "model.safetensors"))


def test_an_epoch_uses_every_prompt_once():
    steps = [prompt_indices(12, 4, seed=0, step=step) for step in range(6)]
    assert sorted(sum(steps[:3], [])) == sorted(sum(steps[3:], [])) == list(range(12))
    assert steps[:3] != steps[3:]
    assert len(set(prompt_indices(13, 4, seed=0, step=2))) == 4


def test_schedules():
    assert [schedule("constant", step, 5, 0.1) for step in range(5)] == [1.0] * 5
    np.testing.assert_allclose([schedule("linear", step, 5, 0.2) for step in range(5)], [1, 0.8, 0.6, 0.4, 0.2])
    np.testing.assert_allclose([schedule("cosine", step, 5, 0.0) for step in (0, 2, 4)], [1, 0.5, 0], atol=1e-12)
    assert schedule("cosine", 0, 1, 0.1) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 1}, "population"),
        ({"population": 5, "antithetic": True}, "give an even number"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"task": "contdown"}, "unknown task 'contdown'"),
        ({"fitness_shaping": "rank"}, "fitness_shaping is 'rank'"),
        ({"prompts_per_step": 50}, "train_size"),
        ({"anchor": 1000.0}, "anchor"),
        ({"engine_dtype": "float16"}, "engine_dtype"),
        ({"stop_at_tokens": -1}, "stop_at_tokens is -1"),
        ({"stop_at_tokens": 9, "stop_at_seconds": 9.0}, "keep one"),
    ],
)
def test_mistakes_are_found_before_a_model_loads(options, message):
    with pytest.raises(UserError, match=message):
        ESConfig(model="no/model", output_dir="unused", **(OPTIONS | options))


@pytest.mark.slow
def test_a_checkpoint_without_weights_is_one_line(base, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text((base / "config.json").read_text())
    done = subprocess.run(
        launch(tmp_path / "run", tmp_path / "empty"), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "holds no weights" in done.stderr and "Traceback" not in done.stderr


def test_the_log_is_json_without_nan(whole):
    for line in (whole / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


DIVERGING = {
    "members too far away": {"sigma": 3e38},
    "a step too large": {"alpha": 3e38, "sigma": 1e-3},
    "a distribution too wide": {
        "algorithm": "snes",
        "alpha": OPTIONS["alpha"],
        "optimizer": "sgd",
        "center_learning_rate": 1e38,
        "stdev_learning_rate": 1e30,
    },
}


@pytest.mark.parametrize("options", DIVERGING.values(), ids=DIVERGING.keys())
def test_a_training_that_diverges_ends_before_a_checkpoint_says_it_is_complete(base, tmp_path, options):
    with pytest.raises(UserError, match="not finite|NaN or infinite"):
        train_es(config(base, tmp_path, save_every=1, **options))
    assert not (tmp_path / "results.json").exists() and not (tmp_path / "model").exists()
    for checkpoint in tmp_path.glob("checkpoints/step_*/model.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(checkpoint).values())


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_no_option_takes_what_is_not_finite(base, tmp_path, number):
    numbers = [
        declared.name for declared in fields(ESConfig) if "float" in str(get_type_hints(ESConfig)[declared.name])
    ]
    assert {"sigma", "alpha", "temperature", "stdev_learning_rate"} <= {*numbers}
    for name in numbers:
        with pytest.raises(UserError, match=f"{name} is {number}"):
            config(base, tmp_path, **{name: number})


def test_constraints_of_a_generation_config_reach_no_completion(base, whole, tmp_path):
    other = tmp_path / "hostile"
    shutil.copytree(base, other)
    stated = json.loads((other / "generation_config.json").read_text())
    constraints = {"suppress_tokens": [*range(5, 60)], "min_new_tokens": 50, "no_repeat_ngram_size": 1, "top_k": 1}
    (other / "generation_config.json").write_text(json.dumps(stated | constraints))
    run = tmp_path / "run"
    train_es(config(other, run))
    assert same(weights(run), weights(whole)) and rewards(run) == rewards(whole)
    kept = json.loads((run / "model" / "generation_config.json").read_text())
    assert kept == kept | constraints

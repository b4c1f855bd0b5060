"""trainers/grpo.py: real runs of TRL's trainer on a random two-layer model."""

import importlib.util
import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
import yaml
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerState

from eval import hardware
from eval.digests import file_digest, folder_digest
from eval.errors import UserError
from eval.ownership import remove_made
from eval.storage import read_json, read_jsonl, write_json
from eval.tasks.base import Score
from tests.tiny import random_checkpoint, random_model
from trainers.arguments import from_yaml, parse
from trainers.grpo import CHOICES, GRPOArguments, GRPOConfig, problems_of_run, train_grpo
from trainers.trl_run import MARKER, RunRecorder


ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Digits:
    """The more digits, the better: a task on which a random model has something to learn."""

    name: str = "digits"
    system_prompt: str = "Write digits."

    def load(self, split, size, seed):
        return Dataset.from_list(
            [{"prompt": [{"role": "user", "content": f"{split} {seed}"}], "number": i} for i in range(size)]
        )

    def score(self, completion, row):
        return Score(sum(character.isdigit() for character in completion) / (len(completion) + 1), completion)


@dataclass(frozen=True)
class WithSystem(Digits):
    """The same with a message of the system."""

    def load(self, split, size, seed):
        system = {"role": "system", "content": self.system_prompt}
        rows = super().load(split, size, seed).to_list()
        return Dataset.from_list([row | {"prompt": [system, *row["prompt"]]} for row in rows])


DIGITS, WITH_SYSTEM = Digits(), WithSystem()
OPTIONS = {
    "task": "tests.trainers.test_grpo:DIGITS",
    "max_steps": 4,
    "save_steps": 2,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 0.01,
    "eval_size": 8,
    "seed": 0,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("model"))


def command_line(folder, **options):
    options = OPTIONS | {"output_dir": folder} | options
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def train(folder, **options):
    return train_grpo(*parse(GRPOArguments, GRPOConfig, arguments=command_line(folder, **options)))


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder, model=model)
    return folder


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def metrics(folder):
    """The rows of metrics.jsonl without the times."""
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{name: row[name] for name in row if name not in ("seconds", "step_time")} for row in rows]


class Stopped(Exception):
    pass


def train_and_stop(monkeypatch, after, folder, **options):
    """Train for `after` steps, then stop as a crash would."""
    begin = RunRecorder.on_step_begin

    def begin_or_stop(self, args, state, control, **kwargs):
        if state.global_step == after:
            raise Stopped
        begin(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_step_begin", begin_or_stop)
        with pytest.raises(Stopped):
            train(folder, **options)


def test_full_fine_tuning_changes_every_parameter(model, undisturbed):
    before, after = load_file(model / "model.safetensors"), weights(undisturbed)
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    assert AutoModelForCausalLM.from_pretrained(undisturbed / "model").config.use_cache


@pytest.mark.slow
def test_same_seed_same_weights_and_another_seed_others(model, undisturbed, tmp_path):
    train(tmp_path / "again", model=model)
    train(tmp_path / "other", model=model, seed=1)
    assert same_bits(weights(tmp_path / "again"), weights(undisturbed))
    assert metrics(tmp_path / "again") == metrics(undisturbed)
    assert not same_bits(weights(tmp_path / "other"), weights(undisturbed))


def test_an_accelerator_made_before_does_not_decide_the_precision(model, undisturbed, tmp_path):
    options = parse(GRPOArguments, GRPOConfig, arguments=command_line(tmp_path, model=model))
    assert Accelerator(mixed_precision="bf16").mixed_precision == "bf16"
    train_grpo(*options)
    assert same_bits(weights(tmp_path), weights(undisturbed))


def test_metrics_count_every_completion_and_token(undisturbed):
    rows = read_jsonl(undisturbed / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["completions"] for row in rows] == [8, 16, 24, 32]
    tokens = 0
    for row in rows:
        tokens += round(8 * row["completions/mean_length"])
        assert row["tokens"] == tokens
        assert row["reward"] == row["rewards/digits/mean"] > 0
        assert row["grad_norm"] > 0 and row["entropy"] > 0
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
    seconds = [row["seconds"] for row in rows]
    assert 0 < seconds[0] and seconds == sorted(seconds)
    results = read_json(undisturbed / "results.json")
    digests = results.pop("digests")
    assert digests["models"]["model"] == folder_digest(undisturbed / "model")
    assert digests["files"] == {"metrics.jsonl": file_digest(undisturbed / "metrics.jsonl")}
    assert results == {
        "kind": "training",
        "schema_version": 1,
        "method": "grpo",
        "task": OPTIONS["task"],
        "parameters": sum(weight.numel() for weight in weights(undisturbed).values()),
        "lora_rank": 0,
        "steps": 4,
        "completions": 32,
        "tokens": tokens,
        "seconds": seconds[-1],
        "processes": 1,
        "ended_by": "steps",
        "first_evaluation": None,
        "last_evaluation": None,
    }


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"lora_rank": 4, "lora_dropout": 0.1}], ids=["full", "lora"])
def test_evaluation_does_not_disturb_training(model, tmp_path, options):
    # Gradient checkpointing turns the key/value cache off, which greedy decoding turns on.
    options = options | {"model": model, "gradient_checkpointing": True}
    train(tmp_path / "silent", **options)
    results = train(tmp_path / "evaluated", eval_every=1, **options)
    assert same_bits(weights(tmp_path / "silent"), weights(tmp_path / "evaluated"))
    assert metrics(tmp_path / "silent") == metrics(tmp_path / "evaluated")
    rows = read_jsonl(tmp_path / "evaluated" / "evaluations.jsonl")
    assert [(row["step"], row["completions"]) for row in rows] == [(0, 0), (1, 8), (2, 16), (3, 24), (4, 32)]
    assert all(row["total"] == 8 and row["low"] <= row["accuracy"] <= row["high"] for row in rows)
    assert (results["first_evaluation"], results["last_evaluation"]) == (rows[0], rows[-1])
    assert not (tmp_path / "silent" / "evaluations.jsonl").exists()


@pytest.mark.slow
def test_there_is_an_evaluation_after_the_last_step(model, tmp_path):
    train(tmp_path, model=model, eval_every=3)
    assert [row["step"] for row in read_jsonl(tmp_path / "evaluations.jsonl")] == [0, 3, 4]


def test_lora_changes_its_layers_only_and_the_merged_model_is_base_plus_adapter(model, tmp_path):
    train(tmp_path, model=model, lora_rank=4, lora_alpha=8, lora_target_modules="q_proj")
    before, after = load_file(model / "model.safetensors"), weights(tmp_path)
    assert before.keys() == after.keys()
    layers = [f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]
    assert [name for name in before if not torch.equal(before[name], after[name])] == [f"{n}.weight" for n in layers]
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name in layers:
        down = adapter[f"base_model.model.{name}.lora_A.weight"]
        up = adapter[f"base_model.model.{name}.lora_B.weight"]
        assert down.shape == (4, 32)
        torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] + 8 / 4 * up @ down)


def lora_pattern_file(folder, rank_pattern, alpha_pattern):
    path = folder / "patterns.json"
    path.write_text(json.dumps({"rank_pattern": rank_pattern, "alpha_pattern": alpha_pattern}))
    return str(path)


def test_lora_patterns_give_the_layers_they_fit_another_rank_and_alpha(model, tmp_path):
    patterns = lora_pattern_file(tmp_path, {r"layers\.(1)\..*": 6}, {r"layers\.(1)\..*": 24})
    train(tmp_path / "run", model=model, lora_rank=2, lora_alpha=4, lora_patterns=patterns, max_steps=2, save_steps=1)
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    ranks = {(name.split(".")[4], weight.shape[0]) for name, weight in adapter.items() if "lora_A" in name}
    assert ranks == {("0", 2), ("1", 6)}
    before, after = load_file(model / "model.safetensors"), weights(tmp_path / "run")
    for layer, scale in ((0, 4 / 2), (1, 24 / 6)):
        name = f"model.layers.{layer}.mlp.up_proj"
        down, up = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
        assert torch.allclose(after[f"{name}.weight"], before[f"{name}.weight"] + scale * up @ down, atol=1e-6)


def test_wrong_lora_patterns_are_one_line(model, tmp_path):
    path = lora_pattern_file(tmp_path, {r"layers\.(7)\..*": 6}, {})
    with pytest.raises(UserError, match=r"fits no linear layer of this model"):
        train(tmp_path / "run", model=model, lora_rank=2, lora_patterns=path)
    assert not (tmp_path / "run").exists()
    for content, message in (
        ("{", "JSONDecodeError"),
        ('{"rank_pattern": {}}', "KeyError"),
        ('{"rank_pattern": {"(": 1}, "alpha_pattern": {}}', "missing"),
        ('{"rank_pattern": {"a": 0}, "alpha_pattern": {}}', "give at least 1"),
    ):
        (tmp_path / "patterns.json").write_text(content)
        with pytest.raises(UserError, match=message):
            config_of(model, lora_rank=2, lora_patterns=path)


RESUMED = {
    "several passes over the problems, reference model": {"train_size": 3, "beta": 0.1},
    "generation for two steps of two micro-steps": {
        "steps_per_generation": 4,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
    },
    "each completion used twice": {"num_iterations": 2},
    "lora": {"lora_rank": 4, "lora_dropout": 0.1},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED.keys())
def test_resumed_run_ends_with_the_same_bits(model, tmp_path, monkeypatch, options):
    train(tmp_path / "undisturbed", model=model, **options)
    train_and_stop(monkeypatch, 3, tmp_path / "resumed", model=model, **options)
    assert not (tmp_path / "resumed" / "model").exists()
    train(tmp_path / "resumed", model=model, **options)
    assert same_bits(weights(tmp_path / "resumed"), weights(tmp_path / "undisturbed"))
    assert metrics(tmp_path / "resumed") == metrics(tmp_path / "undisturbed")


BOUNDARIES = {
    "every step": ({}, 6),
    "generation for two steps": ({"steps_per_generation": 2}, 8),
    "each completion used twice": ({"num_iterations": 2}, 8),
}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "step"), BOUNDARIES.values(), ids=BOUNDARIES.keys())
def test_a_budget_of_tokens_ends_the_run_where_its_completions_are_used(model, tmp_path, monkeypatch, options, step):
    options = options | {"model": model, "max_steps": 12, "save_steps": 4, "lr_scheduler_type": "constant"}
    train(tmp_path / "long", **options)
    rows = read_jsonl(tmp_path / "long" / "metrics.jsonl")
    budget = rows[4]["tokens"] + 1  # reached by the generation after that of step 5
    options |= {"stop_at_tokens": budget, "eval_every": 5}
    results = train(tmp_path / "undisturbed", **options)
    assert (results["ended_by"], results["steps"], results["tokens"]) == ("tokens", step, rows[step - 1]["tokens"])
    logged = metrics(tmp_path / "undisturbed")
    assert logged == metrics(tmp_path / "long")[:step]
    assert results["last_evaluation"]["step"] == step
    # The final model is that of the last step, and no earlier or later checkpoint's.
    reached = load_file(tmp_path / "undisturbed" / f"checkpoint-{step}" / "model.safetensors")
    assert torch.equal(weights(tmp_path / "undisturbed")["model.norm.weight"], reached["model.norm.weight"])

    train_and_stop(monkeypatch, 5, tmp_path / "resumed", **options)
    assert train(tmp_path / "resumed", **options)["ended_by"] == "tokens"
    assert same_bits(weights(tmp_path / "resumed"), weights(tmp_path / "undisturbed"))
    assert metrics(tmp_path / "resumed") == logged


def test_a_run_killed_after_the_step_that_ended_it_is_only_finished(model, tmp_path):
    options = {"model": model, "stop_at_tokens": 1, "max_steps": 4}
    results = train(tmp_path, **options)
    assert (results["ended_by"], results["steps"]) == ("tokens", 1)
    before = weights(tmp_path)
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "results.json").unlink()
    assert train(tmp_path, **options) == results
    assert same_bits(weights(tmp_path), before)


@pytest.mark.slow
def test_a_budget_of_seconds_ends_the_run(model, tmp_path):
    results = train(tmp_path, model=model, max_steps=1000, stop_at_seconds=0.2, save_steps=1000)
    seconds = [row["seconds"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert results["ended_by"] == "seconds" and results["steps"] == len(seconds) < 1000
    assert all(value < 0.2 for value in seconds[:-1]) and seconds[-1] == results["seconds"] >= 0.2


@pytest.mark.slow
def test_the_optimizer_can_start_with_the_state_of_an_earlier_run(model, undisturbed, tmp_path, monkeypatch):
    options = {"model": undisturbed / "model", "optimizer_from": undisturbed, "max_steps": 2, "save_steps": 1}
    train(tmp_path / "kept", **options, learning_rate=0.002)
    before = torch.load(undisturbed / "checkpoint-4" / "optimizer.pt")
    after = torch.load(tmp_path / "kept" / "checkpoint-1" / "optimizer.pt")
    # Adam counts on, with this run's own learning rate (of a linear schedule, after the first of two steps).
    assert {int(moments["step"]) for moments in before["state"].values()} == {4}
    assert {int(moments["step"]) for moments in after["state"].values()} == {5}
    assert {group["lr"] for group in after["param_groups"]} == {0.001}
    first = load_file(tmp_path / "kept" / "checkpoint-1" / "model.safetensors")

    # Equation by equation: one step of AdamW from the earlier moments.
    gradient_share = {}
    start = weights(undisturbed)
    for number, (name, old) in enumerate(
        sorted(start.items(), key=lambda item: [*grouped_names(undisturbed)].index(item[0]))
    ):
        moments, earlier = after["state"][number], before["state"][number]
        corrected = moments["exp_avg"] / (1 - 0.9**5)
        size = (moments["exp_avg_sq"] / (1 - 0.999**5)).sqrt() + 1e-8
        torch.testing.assert_close(first[name], old - 0.002 * corrected / size, rtol=1e-5, atol=1e-6)
        gradient_share[name] = (moments["exp_avg"] - 0.9 * earlier["exp_avg"]).abs().sum()
    assert all(share > 0 for share in gradient_share.values())

    train(tmp_path / "reset", **options | {"optimizer_from": ""}, learning_rate=0.002)
    assert not same_bits(weights(tmp_path / "kept"), weights(tmp_path / "reset"))
    # A resumed run goes on with its own state.
    train_and_stop(monkeypatch, 1, tmp_path / "resumed", **options, learning_rate=0.002)
    train(tmp_path / "resumed", **options, learning_rate=0.002)
    assert same_bits(weights(tmp_path / "resumed"), weights(tmp_path / "kept"))


def grouped_names(run):
    """Parameter names in the optimizer's order: those with weight decay first."""
    names = [name for name, _ in AutoModelForCausalLM.from_pretrained(run / "model").named_parameters()]
    return [name for name in names if "norm" not in name] + [name for name in names if "norm" in name]


def test_an_optimizer_state_that_does_not_fit_is_one_line(model, undisturbed, tmp_path):
    with pytest.raises(UserError, match="belongs to other parameters; take a run of the same model"):
        train(tmp_path / "lora", model=model, lora_rank=2, optimizer_from=undisturbed)
    with pytest.raises(UserError, match="nowhere is no finished GRPO run"):
        train(tmp_path / "none", model=model, optimizer_from="nowhere")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_half_written_checkpoint_is_never_picked_up(model, undisturbed, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train_and_stop(monkeypatch, 2, run, model=model)
    half = run / "checkpoint-3"
    shutil.copytree(run / "checkpoint-2", half)
    (half / MARKER).unlink()
    content = (half / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(content[: len(content) // 2])
    # What the killed process had logged after the last complete checkpoint, its last line half-written.
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "completions": 999}\n{"step": 4, "comp')
    train(run, model=model)
    assert same_bits(weights(run), weights(undisturbed))
    assert metrics(run) == metrics(undisturbed)


def test_another_number_of_processes_is_refused(model, tmp_path, monkeypatch):
    train_and_stop(monkeypatch, 2, tmp_path, model=model)
    marker = tmp_path / "checkpoint-2" / MARKER
    write_json(marker, read_json(marker) | {"processes": 2})
    with pytest.raises(UserError, match="runs on 2 processes, not 1"):
        train(tmp_path, model=model)


def test_run_that_was_killed_after_its_last_step_is_only_finished(model, undisturbed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    shutil.rmtree(run / "model")
    (run / "results.json").unlink()
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(undisturbed), str(run)))
    log = (run / "metrics.jsonl").read_bytes()
    train(run, model=model)
    assert same_bits(weights(run), weights(undisturbed))
    assert (run / "metrics.jsonl").read_bytes() == log
    results, expected = (read_json(folder / "results.json") for folder in (run, undisturbed))
    # config.yaml names the folder.
    assert results["digests"].pop("config") != expected["digests"].pop("config")
    assert results == expected


@pytest.mark.slow
def test_an_empty_checkpoint_that_a_kill_left_is_filled(model, undisturbed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    shutil.rmtree(run / "model")
    (run / "results.json").unlink()
    newest = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    shutil.rmtree(newest)
    newest.mkdir()
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(undisturbed), str(run)))
    train(run, model=model)
    assert same_bits(weights(run), weights(undisturbed))
    assert (newest / MARKER).exists()


def test_complete_run_returns_at_once_but_not_with_other_options(model, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(model, base)
    results = train(tmp_path / "run", model=base)
    shutil.rmtree(base)  # nothing is loaded any more
    assert train(tmp_path / "run", model=base) == results
    with pytest.raises(UserError, match="learning_rate was 0.01, now 0.02"):
        train(tmp_path / "run", model=base, learning_rate=0.02)


@pytest.mark.slow
def test_old_checkpoints_are_removed(model, tmp_path):
    train(tmp_path, model=model, save_steps=1, save_total_limit=2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


@pytest.mark.slow
def test_kill_between_the_last_checkpoint_and_the_removal_of_an_old_one_leaves_none_behind(
    model, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def killed_at_the_end(folder):
        if folder.name == "checkpoint-2":
            raise Killed
        return remove_made(folder)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("trainers.trl_run.remove_made", killed_at_the_end)
        train(tmp_path, model=model, save_steps=1, save_total_limit=2)
    assert len(list(tmp_path.glob("checkpoint-*/complete.json"))) == 3
    train(tmp_path, model=model, save_steps=1, save_total_limit=2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


@pytest.mark.slow
def test_killed_process_started_again_ends_with_the_same_bits(model, tmp_path):
    options = {"model": model, "max_steps": 8, "save_steps": 1, "per_device_train_batch_size": 32, "eval_every": 1}
    # In a process of its own too: what earlier tests did in this one must not count.
    undisturbed = [sys.executable, ROOT / "recipes" / "grpo.py", *command_line(tmp_path / "undisturbed", **options)]
    subprocess.run(undisturbed, check=True, cwd=tmp_path, capture_output=True)
    run = tmp_path / "killed"
    command = [sys.executable, ROOT / "recipes" / "grpo.py", *command_line(run, **options)]
    rows, seconds = random.randint(1, 5), random.uniform(0, 0.1)
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    while len(read_jsonl(run / "metrics.jsonl")) < rows:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    assert process.wait() == -9, "the run was complete before it could be killed"
    at_death = sorted(path.name for path in run.glob("checkpoint-*/complete.json"))

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    killed = f"killed {seconds:.3f} s after row {rows} with {len(at_death)} complete checkpoints"
    assert again.returncode == 0, f"{killed}: {again.stderr}"
    assert "8 steps, 256 completions" in again.stdout
    assert same_bits(weights(run), weights(tmp_path / "undisturbed")), killed
    assert metrics(run) == metrics(tmp_path / "undisturbed"), killed
    evaluations = (run / "evaluations.jsonl").read_text()
    assert evaluations == (tmp_path / "undisturbed" / "evaluations.jsonl").read_text(), killed


MISTAKES = {
    "max_steps is -1": {"max_steps": -1},
    "num_generations is null": {"num_generations": None},
    "save_steps is 1, where completions are still in use .* give a multiple of 2": {
        "save_steps": 1,
        "steps_per_generation": 2,
    },
    "save_steps is 3, .* = 6 is not a multiple of .* = 4.* give a multiple of 2": {
        "save_steps": 3,
        "gradient_accumulation_steps": 2,
        "num_iterations": 2,
    },
    "save_total_limit: 1 leaves moments without a complete checkpoint": {"save_total_limit": 1},
    "logging_steps has to be 1": {"logging_steps": 10},
    "save_strategy has to be steps": {"save_strategy": "no"},
    "sync_ref_model has to be false": {"sync_ref_model": True, "beta": 0.1},
    "resume_from_checkpoint has to be null": {"resume_from_checkpoint": "runs/x/checkpoint-3"},
    "loss_type is 'grop'.* did you mean grpo": {"loss_type": "grop"},
    "vllm_mode is 'sever'.* did you mean server": {"vllm_mode": "sever"},
    "scale_rewards is 'groups'.* did you mean group": {"scale_rewards": "groups"},
    "importance_sampling_level is 'tokens'": {"importance_sampling_level": "tokens"},
    "multi_objective_aggregation is 'sum'": {"multi_objective_aggregation": "sum"},
    "eval_size is 1": {"eval_size": 1},
    "lora_rank is -1": {"lora_rank": -1},
    "lora_patterns changes the ranks of LoRA, but lora_rank is 0": {"lora_patterns": "patterns.json"},
    "there is no file nowhere.json": {"lora_rank": 4, "lora_patterns": "nowhere.json"},
    "train_size is 0": {"train_size": 0},
    "stop_at_tokens and stop_at_seconds are both given": {"stop_at_tokens": 5, "stop_at_seconds": 5.0},
    "stop_at_tokens is -1": {"stop_at_tokens": -1},
    "output_dir is not set": {"output_dir": None},
    "must be divisible by num_generations": {"num_generations": 3},  # TRL's own message
    "unknown key 'learnign_rate'.* did you mean learning_rate": {"learnign_rate": 0.1},
    "temperature is 0.0; give a positive number": {"temperature": 0.0},
    "temperature is -1.0; give a positive number": {"temperature": -1.0},
    "learning_rate is -0.1; give at least 0": {"learning_rate": -0.1},
    "top_p is 1.5": {"top_p": 1.5},
    "logging_nan_inf_filter has to be false": {"logging_nan_inf_filter": True},
    "generation_kwargs has 'supress_tokens', unknown; did you mean suppress_tokens": {
        "generation_kwargs": {"supress_tokens": [1]}
    },
    "generation_kwargs has num_return_sequences; leave it out": {"generation_kwargs": {"num_return_sequences": 2}},
}


NUMBERS = [
    declared.name
    for declared in fields(GRPOConfig)
    if declared.init and "float" in str(get_type_hints(GRPOConfig)[declared.name])
]


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_no_option_takes_what_is_not_finite(tmp_path, number):
    assert {"epsilon", "delta", "max_grad_norm", "learning_rate", "temperature", "beta", "reward_weights"} <= {
        *NUMBERS
    }
    for name in NUMBERS:
        with pytest.raises(UserError, match=f"{name} is .*finite"):
            parse(GRPOArguments, GRPOConfig, arguments=command_line(tmp_path, model="none", **{name: number}))
        value = [float(number)] if name == "reward_weights" else float(number)
        with pytest.raises(UserError, match=name):
            from_yaml(yaml_file(tmp_path, **{name: value}), (GRPOArguments, GRPOConfig), {})
    with pytest.raises(UserError, match="generation_kwargs is .*finite"):
        kwargs = {"length_penalty": float(number)}
        from_yaml(yaml_file(tmp_path, generation_kwargs=kwargs), (GRPOArguments, GRPOConfig), {})
    for name in ("epsilon", "delta", "max_grad_norm", "beta", "adam_epsilon"):
        with pytest.raises(UserError, match=f"{name} is {number}"):
            GRPOConfig(output_dir=str(tmp_path), **{name: float(number)})


def yaml_file(folder, **options):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(OPTIONS | {"model": "none", "output_dir": str(folder / "run")} | options))
    return path


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_found_when_the_options_are_read(tmp_path, message):
    options = OPTIONS | {"model": "none", "output_dir": str(tmp_path / "run")} | MISTAKES[message]
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(options))  # JSON is YAML
    with pytest.raises(UserError, match=message) as raised:
        parse(GRPOArguments, GRPOConfig, arguments=["--config", str(path)])
    assert "\n" not in str(raised.value)


RUN_MISTAKES = {
    "unknown task 'countdwn'": {"task": "countdwn"},
    "there is no checkpoint folder ./nowhere": {"model": "./nowhere"},
    "write bf16: false": {"bf16": True},
    "no linear layer 'q_prj' below its head; did you mean q_proj": {"lora_rank": 4, "lora_target_modules": "q_prj"},
    "no linear layer 'lm_head' below its head": {"lora_rank": 4, "lora_target_modules": "lm_head"},
    "cannot pass chat_template_kwargs on": {"eval_every": 1, "chat_template_kwargs": '{"enable_thinking": false}'},
}


@pytest.mark.parametrize("message", RUN_MISTAKES)
def test_mistakes_are_found_before_the_run_folder_is_made(model, tmp_path, message, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_flags", set)  # of a processor without bfloat16
    with pytest.raises(UserError, match=message) as raised:
        train(tmp_path / "run", **{"model": model} | RUN_MISTAKES[message])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_model_folder_without_weights_or_chat_template_is_refused(model, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(model, base)
    (base / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        train(tmp_path / "run", model=base)
    (base / "model.safetensors").unlink()
    with pytest.raises(UserError, match="weights"):
        train(tmp_path / "run", model=base)
    assert not (tmp_path / "run").exists()


def test_too_full_a_disk_is_refused_before_the_first_step(model, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=30e6))
    with pytest.raises(UserError, match="this run needs 51 MB but only 30 MB are free"):
        train(tmp_path, model=model)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("loss_type", CHOICES["loss_type"])
def test_every_loss_trains(model, tmp_path, loss_type):
    train(tmp_path, model=model, loss_type=loss_type, max_steps=2, save_steps=2)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows) and len(rows) == 2
    before, after = load_file(model / "model.safetensors"), weights(tmp_path)
    assert all(torch.isfinite(after[name]).all() for name in before) and not same_bits(before, after)


def divergence(model, base):
    """KL(model || base) of the next token, nats, exact and averaged over the positions of some text."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer("Write digits. train 0 1+2=3 7*8 boxed", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        p, q = (AutoModelForCausalLM.from_pretrained(path)(ids).logits.log_softmax(-1) for path in (model, base))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.slow
def test_the_kl_penalty_keeps_the_policy_near_the_base(model, tmp_path):
    options = {
        "model": model,
        "max_steps": 12,
        "save_steps": 12,
        "per_device_train_batch_size": 32,
        "learning_rate": 0.003,
        "lr_scheduler_type": "constant",
    }
    train(tmp_path / "free", **options)
    train(tmp_path / "held", **options, beta=1.0)
    free, held = (divergence(tmp_path / name / "model", model) for name in ("free", "held"))
    assert 0 < held < free / 2
    logged = [row["kl"] for row in read_jsonl(tmp_path / "held" / "metrics.jsonl")]
    assert abs(logged[0]) < 1e-5 < logged[-1]


VLLM_OPTIONS = {"use_vllm": True, "vllm_max_model_length": 64}


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_it_is_refused_in_one_line(model, tmp_path):
    with pytest.raises(UserError, match="use_vllm: true needs vLLM; install the vllm extra"):
        train(tmp_path / "run", model=model, **VLLM_OPTIONS)
    assert not (tmp_path / "run").exists()


def run_command(folder, **options):
    """The recipe as a command, with room for a small cache of vLLM's CPU build."""
    return subprocess.run(
        [sys.executable, ROOT / "recipes" / "grpo.py", *command_line(folder, **options)],
        capture_output=True,
        text=True,
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"},
        cwd=folder.parent,
    )


@pytest.fixture(scope="module")
def model_for_vllm(tmp_path_factory):
    """vLLM's CPU build has no attention for heads as small as those of the other tests."""
    folder = tmp_path_factory.mktemp("model_for_vllm")
    for part in random_model(hidden_size=64, num_attention_heads=2, num_key_value_heads=1):
        part.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(torch.accelerator.is_available(), reason="vLLM here is not its CPU build")
@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}], ids=["full", "lora"])
def test_vllm_beside_the_trainer_generates_with_the_weights_of_each_step(model_for_vllm, tmp_path, options):
    # Steps so long that completions of stale weights would be as unlikely as they can be.
    options = options | {"model": model_for_vllm, "learning_rate": 0.1, "max_steps": 6, **VLLM_OPTIONS}
    options |= {"log_prob_gap_every": 1}
    done = run_command(tmp_path / "run", **options)
    assert done.returncode == 0, done.stderr
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["completions"] for row in rows] == [8, 16, 24, 32, 40, 48]
    # vLLM computes in bfloat16, the trainer in float32.
    assert all(row["sampling/sampling_logp_difference/mean"] < 0.2 for row in rows)
    # The 8 completions of a step are all that there are to compare: TRL's own numbers.
    for part in ("mean", "max"):
        theirs = [row[f"sampling/sampling_logp_difference/{part}"] for row in rows]
        assert [row[f"log_prob_gap/{part}"] for row in rows] == pytest.approx(theirs, rel=0.01)
    assert not same_bits(load_file(model_for_vllm / "model.safetensors"), weights(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.vllm
def test_a_vllm_server_that_does_not_answer_is_one_line(model_for_vllm, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"vllm_mode": "server", "vllm_server_host": "127.0.0.1", "vllm_server_port": port}
    done = run_command(tmp_path / "run", model=model_for_vllm, **VLLM_OPTIONS, **options, vllm_server_timeout=0.5)
    assert done.returncode == 2
    assert f"no vLLM server answers at 127.0.0.1:{port} within 0.5 s" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


SHARDED = {
    "zero2": ("deepspeed_config", {"zero_stage": 2, "zero3_init_flag": False}),
    "zero3": ("deepspeed_config", {"zero_stage": 3, "zero3_init_flag": True, "zero3_save_16bit_model": True}),
    "fsdp2": ("fsdp_config", {"fsdp_version": 2, "fsdp_state_dict_type": "FULL_STATE_DICT"}),
}


@pytest.mark.parametrize("name", SHARDED)
def test_the_configs_that_shard_say_so_and_leave_the_precision_to_the_recipe(name):
    config = yaml.safe_load((ROOT / "accelerate_configs" / f"{name}.yaml").read_text())
    section, expected = SHARDED[name]
    assert config[section] | expected == config[section]
    assert config["mixed_precision"] == "no" and config["num_processes"] == 8
    # What saves the final model gathers it whole: these are not the options that offload it.
    assert "offload" not in " ".join(str(value) for value in config[section].values())


def config_of(model, **options):
    return parse(GRPOArguments, GRPOConfig, arguments=command_line("runs/unused", model=model, **options))


def test_problems_come_once_by_default(model):
    arguments, config = config_of(model)
    # 4 steps of 8 completions, 4 to a problem.
    assert sorted(problems_of_run(DIGITS, arguments, config)["number"]) == list(range(8))
    arguments, config = config_of(model, num_iterations=2)
    assert sorted(problems_of_run(DIGITS, arguments, config)["number"]) == list(range(4))


def test_each_pass_over_the_problems_has_its_own_order(model):
    arguments, config = config_of(model, train_size=6, max_steps=9)
    numbers = problems_of_run(DIGITS, arguments, config)["number"]
    passes = [numbers[start : start + 6] for start in (0, 6, 12)]
    assert all(sorted(order) == list(range(6)) for order in passes)
    assert passes[0] != passes[1] != passes[2]
    arguments, config = config_of(model, train_size=6, max_steps=9, shuffle_dataset=False)
    assert list(problems_of_run(DIGITS, arguments, config)["number"]) == list(range(6)) * 3


def test_data_seed_chooses_the_problems_and_seed_is_its_default(model):
    def question(**options):
        arguments, config = config_of(model, **options)
        return problems_of_run(DIGITS, arguments, config)[0]["prompt"][0]["content"]

    assert question(seed=3) == "train 3"
    assert question(seed=3, data_seed=5) == "train 5"


@pytest.mark.parametrize("learning_rate", [1e20, 1e39])
def test_a_training_that_diverges_ends_before_a_checkpoint_says_it_is_complete(model, tmp_path, learning_rate):
    options = {"learning_rate": learning_rate, "save_steps": 1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    with pytest.raises(UserError, match="not finite"):
        train(tmp_path, model=model, **options)
    assert not (tmp_path / "results.json").exists() and not (tmp_path / "model").exists()
    for checkpoint in tmp_path.glob(f"checkpoint-*/{MARKER}"):
        assert all(weight.isfinite().all() for weight in load_file(checkpoint.parent / "model.safetensors").values())


def test_a_loss_that_is_not_finite_ends_the_run_and_a_reward_that_is_none_does_not(model, tmp_path):
    recorder = RunRecorder(
        tmp_path,
        Counted(),
        dict,
        0,
        (0, 0.0),
        None,
        [],
        generation=AutoModelForCausalLM.from_pretrained(model).generation_config,
    )
    state, options = TrainerState(global_step=3, max_steps=4), GRPOConfig(**of_trainer(tmp_path))
    recorder.on_log(options, state, None, logs={"loss": 0.5, "grad_norm": 1.0, "reward": math.nan})
    assert read_jsonl(tmp_path / "metrics.jsonl")[0]["reward"] is None
    for logs in ({"loss": math.nan}, {"loss": 0.1, "grad_norm": math.inf}, {"loss": 0.1, "kl": math.nan}):
        with pytest.raises(UserError, match="of step 3 is (nan|inf), which is not finite"):
            recorder.on_log(options, state, None, logs=logs)
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 1


@dataclass
class Counted:
    completions: int = 0
    tokens: int = 0


def of_trainer(folder):
    """OPTIONS that are TRL's own."""
    own = {declared.name for declared in fields(GRPOConfig)}
    return {name: value for name, value in OPTIONS.items() if name in own} | {"output_dir": str(folder)}


def hostile(model, folder):
    """The model with constraints in its generation configuration under which none of its answers could stay."""
    shutil.copytree(model, folder)
    stated = json.loads((folder / "generation_config.json").read_text())
    constraints = {
        "suppress_tokens": AutoTokenizer.from_pretrained(model).convert_tokens_to_ids(list("0123456789")),
        "min_new_tokens": 50,
        "no_repeat_ngram_size": 1,
        "repetition_penalty": 3.0,
        "bad_words_ids": [[20]],
        "forced_eos_token_id": 9,
        "temperature": 0.1,
        "top_k": 1,
        "top_p": 0.5,
    }
    (folder / "generation_config.json").write_text(json.dumps(stated | constraints))
    return folder, constraints


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}], ids=["full", "lora"])
def test_constraints_of_a_generation_config_reach_no_completion_and_stay_in_the_model(model, tmp_path, options):
    other, constraints = hostile(model, tmp_path / "hostile")
    options = {"max_steps": 2, "eval_every": 1, "log_completions": True} | options
    train(tmp_path / "a", model=model, **options)
    train(tmp_path / "b", model=other, **options)
    assert same_bits(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    for log in ("evaluations.jsonl",):
        assert (tmp_path / "a" / log).read_text() == (tmp_path / "b" / log).read_text()
    kept = json.loads((tmp_path / "b" / "model" / "generation_config.json").read_text())
    assert kept == kept | constraints


@pytest.mark.slow
def test_special_tokens_stay_in_the_text_that_is_rewarded(model, tmp_path, monkeypatch):
    special = tmp_path / "special"
    shutil.copytree(model, special)
    tokenizer = AutoTokenizer.from_pretrained(special)
    tokenizer.add_special_tokens({"additional_special_tokens": list("0123456789")})
    tokenizer.save_pretrained(special)
    train(tmp_path / "a", model=model, max_steps=2)
    train(tmp_path / "b", model=special, max_steps=2)
    rewarded = [[row["reward"] for row in metrics(tmp_path / name)] for name in "ab"]
    assert rewarded[0] == rewarded[1] and max(rewarded[0]) > 0


def test_a_template_that_refuses_the_system_role_trains(model, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    template = other / "chat_template.jinja"
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    task = "tests.trainers.test_grpo:WITH_SYSTEM"
    train(tmp_path / "run", model=other, task=task, max_steps=1, save_steps=1, eval_every=1)
    assert len(metrics(tmp_path / "run")) == 1


def test_padding_outside_the_embedding_and_no_end_token(model, tmp_path):
    padded = tmp_path / "padded"
    shutil.copytree(model, padded)
    tokenizer = AutoTokenizer.from_pretrained(padded)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(padded)
    train(tmp_path / "run", model=padded, max_steps=1, save_steps=1)
    endless = tmp_path / "endless"
    shutil.copytree(model, endless)
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        stated = json.loads((endless / name).read_text())
        stated = {key: value for key, value in stated.items() if key not in ("eos_token", "eos_token_id")}
        (endless / name).write_text(json.dumps(stated))
    with pytest.raises(UserError, match="end token"):
        train(tmp_path / "none", model=endless)

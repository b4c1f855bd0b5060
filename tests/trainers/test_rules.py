"""Training on rules: a pure function of the config, whatever interrupts it and however many processes share it."""

import importlib.util
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from eval.errors import UserError
from eval.generative.checkpoint import build_model, load_run, steps_of
from eval.rules import rule_of
from eval.storage import read_json, read_jsonl
from tests.recipe_files import ROOT
from trainers.arguments import as_flat_dict
from trainers.rules import (
    RulesConfig,
    batch,
    evaluation_steps,
    sample_count,
    stop_reached,
    train_rules,
)


# Two blocks of width 32 on 2^8 valid strings.
SMALL = {
    "rule": "parity",
    "length": 12,
    "group": 3,
    "train_size": 40,
    "held_out_size": 40,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "mlp_ratio": 2.0,
    "sampler_steps": 4,
    "batch_size": 16,
    "steps": 30,
    "evaluate_from": 5,
    "evaluations_per_decade": 3,
    "evaluate_samples": 32,
    "evaluate_samples_min": 16,
    "save_every": 7,
    "log_every": 1,
}
KINDS = ["mlp", "dit", "masked_dit", "gpt2", "llama"]
EVALUATED = [5, 11, 23, 30]


def config(folder: Path, **options) -> RulesConfig:
    return RulesConfig(output_dir=str(folder), **(SMALL | options))


def weights(run: Path, step: int = 30, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step_{step}" / f"{name}.safetensors")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_times(rows):
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("model", KINDS)
def test_the_same_config_gives_the_same_bits_and_another_seed_does_not(tmp_path, model):
    train_rules(config(tmp_path / "a", model=model), progress=False)
    train_rules(config(tmp_path / "b", model=model), progress=False)
    train_rules(config(tmp_path / "c", model=model, seed=1), progress=False)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    rows = [read_jsonl(tmp_path / name / "evaluations.jsonl") for name in "ab"]
    assert without_times(rows[0]) == without_times(rows[1])


@pytest.mark.parametrize("model", ["mlp", "gpt2"])
def test_what_a_run_folder_holds(tmp_path, model):
    options = config(tmp_path / "run", model=model, ema_decay=0.9)
    results = train_rules(options, progress=False)
    run = tmp_path / "run"
    assert results == read_json(run / "results.json")
    assert results["steps"] == 30 and results["stopped_early"] is False and results["log2_valid_strings"] == 8.0
    metrics = read_jsonl(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, 31))
    assert {key for row in metrics for key in row} == {"step", "loss", "seconds"}
    rows = read_jsonl(run / "evaluations.jsonl")
    assert [row["step"] for row in rows] == EVALUATED == steps_of(run)
    assert rows[-1] == results["evaluation"]
    assert set(rows[0]) == {
        "step",
        "seconds",
        "evaluation_seconds",
        "samples",
        "valid",
        "group_valid",
        "copies",
        "control",
        "novel_valid",
        "unique",
        "gap_ratio_copies",
        "loss_train",
        "loss_held_out",
    }
    assert all((row["gap_ratio_copies"] is None) == (model == "gpt2") for row in rows)
    # The three sets, and samples that the rows were measured on.
    data = load_arrays(run / "data.safetensors")
    assert {name: strings.shape for name, strings in data.items()} == dict.fromkeys(
        ("train", "control", "held_out"), (40, 12)
    )
    rule = options.make_rule()
    for row in rows:
        samples = load_arrays(run / "samples" / f"step_{row['step']}.safetensors")["samples"]
        assert samples.dtype == np.int8 and samples.shape == (row["samples"], 12)
        assert rule.valid(samples).mean() == row["valid"]
    # The trainer's state lies in the newest checkpoint only.
    assert [step for step in EVALUATED if (run / f"checkpoints/step_{step}/optimizer.safetensors").exists()] == [30]
    raw, found = load_run(run)
    averaged, _ = load_run(run, step=11, ema=True)
    assert found == as_flat_dict(options) and not raw.training
    assert not same(raw.state_dict(), averaged.state_dict())
    if model == "gpt2":
        opened = AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "step_30")
        assert torch.equal(opened.transformer.wte.weight, raw.network.transformer.wte.weight)
    with pytest.raises(UserError, match="has no checkpoint of step 12; it has 5, 11, 23, 30"):
        load_run(run, step=12)


def test_a_run_without_moving_average_has_none(tmp_path):
    train_rules(config(tmp_path / "run", steps=5), progress=False)
    with pytest.raises(UserError, match="the run kept no moving average"):
        load_run(tmp_path / "run", ema=True)


def test_the_moving_average_is_the_recursion_over_the_raw_weights(tmp_path):
    # Checkpoints of every step: the average starts as the first weights.
    train_rules(config(tmp_path / "run", steps=6, evaluate_from=1, evaluations_per_decade=50, ema_decay=0.8), False)
    average = {name: weight.double() for name, weight in weights(tmp_path / "run", 1).items()}
    for step in range(2, 7):
        for name, weight in weights(tmp_path / "run", step).items():
            average[name] = 0.8 * average[name] + 0.2 * weight.double()
        for name, weight in weights(tmp_path / "run", step, "ema").items():
            torch.testing.assert_close(weight.double(), average[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("model", KINDS)
def test_continued_from_a_checkpoint_it_ends_with_the_same_bits(tmp_path, model):
    whole = config(tmp_path / "whole", model=model, ema_decay=0.9)
    train_rules(whole, progress=False)
    train_rules(replace(whole, output_dir=str(tmp_path / "parts"), steps=14), progress=False)
    train_rules(replace(whole, output_dir=str(tmp_path / "parts")), progress=False)
    for name in ("model", "ema"):
        assert same(weights(tmp_path / "parts", 30, name), weights(tmp_path / "whole", 30, name))
    assert len(read_json(tmp_path / "parts" / "environment.json")["earlier_starts"]) == 1


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path):
    options = SMALL | {"model": "dit", "steps": 60, "ema_decay": 0.9}
    train_rules(RulesConfig(output_dir=str(tmp_path / "whole"), **options), progress=False)
    command = [sys.executable, "recipes/rules.py", "--output_dir", str(tmp_path / "killed")]
    command += [f"--{key}={value}" for key, value in options.items()]
    kills = 0
    for steps_seen in (9, 33):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(read_jsonl(tmp_path / "killed" / "metrics.jsonl")) < steps_seen:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2, "every process should have been killed while it trained"
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in ("model", "ema"):
        assert same(weights(tmp_path / "killed", 60, name), weights(tmp_path / "whole", 60, name))
    rows = {name: read_jsonl(tmp_path / name / "evaluations.jsonl") for name in ("killed", "whole")}
    assert without_times(rows["killed"]) == without_times(rows["whole"])
    assert steps_of(tmp_path / "killed") == steps_of(tmp_path / "whole") == [row["step"] for row in rows["whole"]]
    assert [row["step"] for row in read_jsonl(tmp_path / "killed" / "metrics.jsonl")] == list(range(1, 61))
    assert list((tmp_path / "killed").rglob(".unfinished*")) == []


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(tmp_path):
    options = SMALL | {"model": "dit", "steps": 20}
    train_rules(RulesConfig(output_dir=str(tmp_path / "one"), **options), progress=False)
    command = [Path(sys.executable).with_name("accelerate"), "launch", "--quiet"]
    command += ["--config_file", "accelerate_configs/cpu_2proc.yaml", "--main_process_port", "0", "recipes/rules.py"]
    command += ["--output_dir", tmp_path / "two", *(f"--{key}={value}" for key, value in options.items())]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    # The gradients' sums run in another order: equal up to rounding, not bit for bit.
    one, two = weights(tmp_path / "one", 20), weights(tmp_path / "two", 20)
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=1e-3)
    losses = [[row["loss"] for row in read_jsonl(tmp_path / name / "metrics.jsonl")] for name in ("one", "two")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert read_json(tmp_path / "two" / "environment.json")["processes"] == 2


def test_the_shares_of_a_step_make_up_the_step(tmp_path):
    options = config(tmp_path)
    model = build_model(as_flat_dict(options), options.make_rule())
    rows, (sigma, noise) = batch(model, options, 3)
    parts = [batch(model, options, 3, process, 2) for process in range(2)]
    for process, (part_rows, (part_sigma, part_noise)) in enumerate(parts):
        assert torch.equal(part_rows, rows[process::2])
        assert torch.equal(part_sigma, sigma[process::2]) and torch.equal(part_noise, noise[process::2])
    assert not torch.equal(batch(model, options, 4)[0], rows)


@pytest.mark.slow
def test_a_small_rule_is_learned_and_a_small_set_is_copied(tmp_path):
    learned = config(
        tmp_path / "rule",
        model="mlp",
        length=12,
        group=2,
        train_size=20,
        held_out_size=10,
        steps=1500,
        batch_size=64,
        width=64,
        learning_rate=3e-3,
        sampler_steps=18,
        evaluate_from=50,
        evaluate_samples=200,
        evaluate_samples_min=200,
        stop="memory",
        stop_copies=0.5,
        log_every=50,
        save_every=500,
    )
    results = train_rules(learned, progress=False)
    rows = read_jsonl(tmp_path / "rule" / "evaluations.jsonl")
    assert results["stopped_early"] and results["steps"] == rows[-1]["step"] < 1500
    assert all(row["copies"] - row["control"] >= 0.5 for row in rows[-2:])
    assert rows[0]["valid"] < 0.8 < 0.9 < rows[-1]["valid"]
    assert rows[-1]["loss_held_out"] > rows[-1]["loss_train"]
    # It is finished: a second start returns at once. Asked for more, it goes on.
    assert train_rules(learned, progress=False) == results
    longer = train_rules(replace(learned, stop="never", steps=results["steps"] + 3), progress=False)
    assert longer["steps"] == results["steps"] + 3 and not longer["stopped_early"]


@pytest.mark.slow
def test_bf16_keeps_float32_weights_and_trains(tmp_path):
    # Its own process: one process cannot change its mixed precision.
    command = [sys.executable, "recipes/rules.py", "--output_dir", str(tmp_path / "bf16"), "--mixed_precision", "bf16"]
    command += [f"--{key}={value}" for key, value in (SMALL | {"model": "dit", "learning_rate": 1e-2}).items()]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    train_rules(config(tmp_path / "no", model="dit", learning_rate=1e-2), progress=False)
    half, full = weights(tmp_path / "bf16"), weights(tmp_path / "no")
    assert {weight.dtype for weight in half.values()} == {torch.float32}
    assert not same(half, full)
    losses = [read_jsonl(tmp_path / name / "metrics.jsonl")[-1]["loss"] for name in ("bf16", "no")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_evaluated_steps_lie_on_a_logarithmic_grid():
    assert evaluation_steps(10, 4, 200) == [10, 18, 32, 56, 100, 178, 200]
    assert evaluation_steps(1, 10, 5) == [1, 2, 3, 4, 5]
    assert evaluation_steps(32, 8, 20) == [20]


def test_samples_cost_their_share_of_training(tmp_path):
    options = config(tmp_path, evaluation_share=0.1, evaluate_samples=500, evaluate_samples_min=8)
    denoiser = build_model(as_flat_dict(options), options.make_rule())
    assert denoiser.rows_per_sample == 7
    # 100 steps of 16 strings, forward and backward: 4800; a tenth of it, 7 passes per sample.
    assert sample_count(options, denoiser, 200, [100, 200]) == 480 // 7
    assert sample_count(options, denoiser, 1, [1, 2]) == 8
    assert sample_count(options, denoiser, 10_000, [100, 10_000]) == 500
    gpt = build_model(as_flat_dict(replace(options, model="gpt2")), options.make_rule())
    assert sample_count(options, gpt, 200, [100, 200]) == 480


def test_what_ends_a_run():
    def rows(*pairs):
        return [{"samples": 100, "valid": valid, "copies": copies, "control": 0.05} for valid, copies in pairs]

    once, apart = rows((0.2, 0.0), (0.95, 0.0)), rows((0.9, 0.2), (0.5, 0.0), (0.9, 0.2))
    learned, copied = rows((0.9, 0.0), (1.0, 0.0)), rows((0.3, 0.2), (0.3, 0.16))
    for stop in ("rule", "memory", "clocks"):
        assert not stop_reached([], stop, 0.1)
        assert not stop_reached(once, stop, 0.1) and not stop_reached(apart, stop, 0.1)
    assert stop_reached(learned, "rule", 0.1) and not stop_reached(learned, "memory", 0.1)
    assert stop_reached(copied, "memory", 0.1) and not stop_reached(copied, "memory", 0.12)
    assert not stop_reached(copied, "clocks", 0.1) and stop_reached(learned + copied, "clocks", 0.1)
    assert not stop_reached(learned + copied, "never", 0.1)


def test_copies_that_meet_the_limit_exactly_end_a_run():
    # 0.15 - 0.05 is 0.09999999999999999.
    rows = [{"samples": 100, "valid": 0.0, "copies": 0.15, "control": 0.05}] * 2
    assert stop_reached(rows, "memory", 0.1) and not stop_reached(rows, "memory", 0.11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "party"}, "rule is 'party'.*did you mean parity"),
        ({"group": 5}, "group is 5, which does not divide the 12 bits"),
        (
            {"train_size": 200},
            r"train_size is 200 .*440\), but parity\(length=12, group=3\) has only 256 valid strings",
        ),
        ({"side": 4}, "rule parity takes no side"),
        ({"model": "gtp2"}, "model is 'gtp2'.*did you mean gpt2"),
        ({"model": "dit", "heads": 5}, "width is 32, no multiple of 2 \\* heads"),
        ({"positions": "rotary"}, "positions is 'rotary'"),
        ({"mixed_precision": "fp16"}, "mixed_precision is 'fp16'"),
        ({"stop": "now"}, "stop is 'now'"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"sigma_min": 100.0}, "sigma_max is 80.0, not above sigma_min"),
        ({"evaluate_samples": 8}, "evaluate_samples is 8, less than evaluate_samples_min"),
        ({"steps": 0}, "steps is 0; give a positive number"),
        ({"churn": -1.0}, "churn is -1.0"),
    ],
)
def test_mistakes_are_one_line(tmp_path, options, message):
    with pytest.raises(UserError, match=message) as error:
        config(tmp_path, **options)
    assert "\n" not in str(error.value)


def test_another_config_in_the_same_folder_is_refused(tmp_path):
    train_rules(config(tmp_path / "run", steps=2), progress=False)
    with pytest.raises(UserError, match="holds a run with other options: group was 3, now 4"):
        train_rules(config(tmp_path / "run", steps=2, group=4), progress=False)


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="the loss of step .* lower learning_rate"):
        train_rules(config(tmp_path / "run", learning_rate=1e30), progress=False)
    assert steps_of(tmp_path / "run") == []


@pytest.mark.slow
def test_the_recipe_reports_a_mistake_in_one_line(tmp_path):
    command = [
        sys.executable,
        "recipes/rules.py",
        "--output_dir",
        str(tmp_path / "run"),
        "--length",
        "16",
        "--group",
        "3",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1] == (
        "error: parity: group is 3, which does not divide the 16 bits; choose a divisor"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("diffusers") is None,
    reason="diffusers, an optional dependency, is not installed: pip install -e '.[generative]'",
)
def test_the_diffusers_transformer_plugs_into_the_same_trainer(tmp_path):
    options = SMALL | {"model": "diffusers_dit", "rule": "parity_grid", "length": None, "side": 4, "group": 2}
    train_rules(RulesConfig(output_dir=str(tmp_path / "run"), **options), progress=False)
    model, found = load_run(tmp_path / "run")
    assert rule_of(found).shape == (4, 4)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["parameters"] == sum(
        weight.numel() for weight in model.parameters()
    )


@pytest.mark.parametrize("evaluate_from", [1, 5])
def test_a_training_that_diverges_ends_before_a_checkpoint_says_it_is_complete(tmp_path, evaluate_from):
    options = {"learning_rate": 1e20, "evaluate_from": evaluate_from, "save_every": 1, "log_every": 7}
    with pytest.raises(UserError, match=r"of step [12] is (nan|inf), which is not finite"):
        train_rules(config(tmp_path, **options), progress=False)
    assert not (tmp_path / "results.json").exists()
    assert steps_of(tmp_path) in ([], [1])


def test_weights_of_a_run_that_are_not_finite_are_refused_by_name(tmp_path):
    train_rules(config(tmp_path, steps=5), progress=False)
    file = tmp_path / "checkpoints" / "step_5" / "model.safetensors"
    broken = load_file(file)
    name = next(iter(broken))
    broken[name].view(-1)[0] = math.nan
    save_file(broken, file)
    with pytest.raises(UserError, match=f"not finite .* in {name}"):
        load_run(tmp_path)


@pytest.mark.parametrize(("options", "multiple"), [({"rule": "parity_grid", "length": None, "side": 4}, 4), ({}, 2)])
def test_sincos_positions_say_which_widths_they_take(tmp_path, options, multiple):
    options = {
        "model": "dit",
        "positions": "sincos",
        "heads": 1,
        "group": 2,
        "train_size": 4,
        "held_out_size": 4,
    } | options
    config(tmp_path, **options, width=8 * multiple)
    width = 8 * multiple + multiple // 2
    with pytest.raises(UserError, match=f"width is {width}, no multiple of {multiple}"):
        config(tmp_path, **options, width=width)

"""Pre-training: a pure function of its config, whatever interrupts it."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eval.errors import UserError
from eval.storage import read_jsonl
from eval.tasks import TASKS
from trainers.pretrain import PretrainConfig, collate, conversations, new_model, pretrain, schedule
from trainers.tiny_tokenizer import character_tokenizer


SHAPE = {"hidden_size": 32, "layers": 1, "heads": 2, "key_value_heads": 1, "intermediate_size": 32}
SMALL = SHAPE | {
    "batch_size": 40,
    "steps": 8,
    "evaluate_every": 4,
    "evaluate_size": 4,
    "save_every": 2,
    "warmup_steps": 2,
    "threads": 1,
}


def config(folder: Path, **options) -> PretrainConfig:
    return PretrainConfig(output_dir=str(folder), **(SMALL | options))


def model_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_the_same_config_gives_the_same_bits_and_another_seed_does_not(tmp_path):
    results = pretrain(config(tmp_path / "a"))
    pretrain(config(tmp_path / "b"))
    pretrain(config(tmp_path / "c", seed=1))
    assert same(model_weights(tmp_path / "a"), model_weights(tmp_path / "b"))
    assert not same(model_weights(tmp_path / "a"), model_weights(tmp_path / "c"))
    rows = read_jsonl(tmp_path / "a" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert rows[-1]["loss"] < rows[0]["loss"]
    curve = read_jsonl(tmp_path / "a" / "validation.jsonl")
    assert [row["step"] for row in curve] == [4, 8]
    assert set(curve[0]["accuracy"]) == set(TASKS) and curve[-1] == results["validation"]


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path):
    pretrain(config(tmp_path / "whole", steps=30))
    options = SMALL | {"steps": 30, "output_dir": str(tmp_path / "killed")}
    command = [sys.executable, "recipes/pretrain.py", *(f"--{key}={value}" for key, value in options.items())]
    kills = 0
    for steps_seen in (5, 20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(read_jsonl(tmp_path / "killed" / "metrics.jsonl")) < steps_seen:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2, "every process should have been killed while it trained"
    subprocess.run(command, check=True, capture_output=True)
    assert same(model_weights(tmp_path / "killed"), model_weights(tmp_path / "whole"))
    assert [row["step"] for row in read_jsonl(tmp_path / "killed" / "metrics.jsonl")] == list(range(1, 31))


@pytest.mark.slow
def test_an_older_checkpoint_that_a_kill_left_is_removed_by_the_next_start(tmp_path):
    run = tmp_path / "run"
    pretrain(config(run, steps=20, save_every=10))
    (run / "results.json").unlink()
    (left,) = (run / "checkpoints").iterdir()
    older = run / "checkpoints" / "step_5"
    shutil.copytree(left, older)
    pretrain(config(run, steps=20, save_every=10))
    assert [path.name for path in (run / "checkpoints").iterdir()] == [left.name]


def test_the_shares_of_a_step_make_up_the_step():
    tasks = list(TASKS.values())
    shape = PretrainConfig(output_dir="unused", **SMALL)
    whole = conversations(tasks, "train", shape, step=3)
    parts = [conversations(tasks, "train", shape, 3, process, 2) for process in range(2)]
    assert [pair for pairs in zip(*parts, strict=True) for pair in pairs] == whole
    assert conversations(tasks, "train", shape, step=4) != whole


def test_the_careless_share():
    shape = PretrainConfig(output_dir="unused", **(SMALL | {"batch_size": 2000}))
    answers = [answer for _, answer in conversations(list(TASKS.values()), "train", shape, step=0)]
    careless = sum(answer.startswith("\\boxed{") for answer in answers) / len(answers)
    assert careless == pytest.approx(0.65, abs=4 * math.sqrt(0.65 * 0.35 / 2000))


def test_only_the_answer_and_its_end_are_learned():
    tokenizer = character_tokenizer()
    pairs = [([{"role": "user", "content": "1+2"}], "\\boxed{3}"), ([{"role": "user", "content": "1"}], "1")]
    input_ids, labels = collate(tokenizer, pairs)
    assert tokenizer.decode(input_ids[0]) == "<|user|>1+2<|assistant|>\\boxed{3}<|end|>"
    assert tokenizer.decode(labels[0][labels[0] != -100]) == "\\boxed{3}<|end|>"
    assert tokenizer.decode(labels[1][labels[1] != -100]) == "1<|end|>"
    assert input_ids[1].tolist()[5:] == [tokenizer.pad_token_id] * 4


def test_schedule():
    assert [schedule(step, 100, 4) for step in (0, 3)] == [0.25, 1.0]
    assert schedule(4, 100, 4) == 1.0
    assert schedule(52, 100, 4) == pytest.approx(0.55)
    assert schedule(100, 100, 4) == pytest.approx(0.1)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_shapes(architecture):
    tokenizer = character_tokenizer()
    small = new_model(PretrainConfig(output_dir="unused", architecture=architecture), tokenizer)
    assert 0.5e6 < small.num_parameters() < 0.6e6
    assert small.config.model_type == architecture
    assert small.lm_head.weight is small.model.embed_tokens.weight
    assert small.config.num_key_value_heads < small.config.num_attention_heads


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="architecture is 'lama'.*did you mean llama"):
        PretrainConfig(output_dir="unused", architecture="lama")
    with pytest.raises(UserError, match="careless_share"):
        PretrainConfig(output_dir="unused", careless_share=1.5)
    with pytest.raises(UserError, match="unknown task 'contdown'"):
        PretrainConfig(output_dir="unused", tasks=["countdown", "contdown"])


@pytest.mark.slow
def test_the_recipe_reports_a_mistake_in_one_line(tmp_path):
    config_file = tmp_path / "config.yaml"
    config_file.write_text("output_dir: runs/x\nlearnign_rate: 0.1\n")
    command = [sys.executable, "recipes/pretrain.py", "--config", str(config_file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and "learnign_rate" in done.stderr
    assert "Traceback" not in done.stderr


def test_results_are_plain_json(tmp_path):
    pretrain(config(tmp_path / "run", steps=2, evaluate_every=2))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["steps"] == 2 and results["parameters"] == sum(
        w.numel() for w in model_weights(tmp_path / "run").values()
    )


def test_a_training_that_diverges_ends_before_a_checkpoint_says_it_is_complete(tmp_path):
    with pytest.raises(UserError, match=r"of step \d is (nan|inf), which is not finite"):
        pretrain(config(tmp_path, learning_rate=1e30, warmup_steps=0))
    assert not (tmp_path / "results.json").exists()

"""ES runs with low-rank noise, on the Hugging Face engine and, where it is installed, on vLLM."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eval.errors import UserError
from eval.storage import read_json, read_jsonl
from tests.tiny import random_model
from trainers.es.config import ESConfig
from trainers.es.train import train_es
from trainers.es.update import read_seed_log, replay


OPTIONS = {
    "task": "tests.trainers.es.test_train:VARIETY",
    "steps": 4,
    "population": 6,
    "prompts_per_step": 3,
    "train_size": 12,
    "max_new_tokens": 12,
    "engine_dtype": "float32",
    "sigma": 0.05,
    "alpha": 0.05,
    "eval_every": 2,
    "eval_size": 4,
    "save_every": 2,
    "noise": "low_rank",
    "rank": 1,
    "rest": "frozen",
    "population_gb": 0.1,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    # Heads of width 32, the smallest that vLLM's CPU attention takes.
    model, tokenizer = random_model(head_dim=32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(base: Path, run: Path, **options) -> Path:
    train_es(ESConfig(model=str(base), output_dir=str(run), **(OPTIONS | options)))
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Path:
    return train(base, tmp_path_factory.mktemp("runs") / "whole")


def test_matrices_move_and_the_rest_stays(whole, base):
    before, after = load_file(base / "model.safetensors"), weights(whole)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.endswith("_proj.weight")}
    assert read_json(whole / "results.json")["updates"] == 4


def test_the_rest_moves_too_where_it_is_dense(base, tmp_path):
    before, after = load_file(base / "model.safetensors"), weights(train(base, tmp_path / "run", rest="dense"))
    assert not any(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("options", [{}, {"rank": 3, "rest": "dense", "antithetic": True, "anchor": 1.0}])
def test_replaying_the_seed_log_gives_the_same_bits(base, tmp_path, options):
    run = train(base, tmp_path / "run", **options)
    start = {name: weight.float() for name, weight in load_file(base / "model.safetensors").items()}
    assert same(replay(start, read_seed_log(run / "seeds.jsonl")), weights(run))


def test_groups_of_any_size_give_the_same_bits(base, whole, tmp_path):
    assert same(weights(train(base, tmp_path / "run", population_gb=1e-9)), weights(whole))


def test_vllm_takes_no_dense_rest_beside_adapters():
    with pytest.raises(UserError, match="set rest: frozen, or engine: hf"):
        ESConfig(model="no/model", output_dir="unused", **(OPTIONS | {"engine": "vllm", "rest": "dense"}))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_engine_is_refused_in_one_line(base, tmp_path):
    with pytest.raises(UserError, match="engine vllm cannot be used here"):
        train(base, tmp_path / "run", engine="vllm")


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("options", [{}, {"noise": "full"}, {"temperature": 1.0, "samples": 2, "member_noise": True}])
def test_both_engines_give_the_same_rewards_and_bits(base, tmp_path, options):
    hf = train(base, tmp_path / "hf", **options)
    vllm = train(base, tmp_path / "vllm", engine="vllm", **options)
    ours, theirs = (read_jsonl(run / "metrics.jsonl") for run in (hf, vllm))
    assert [row["reward"] for row in ours] == [row["reward"] for row in theirs]
    assert [row["tokens"] for row in ours] == [row["tokens"] for row in theirs]
    assert same(weights(hf), weights(vllm))
    assert read_jsonl(hf / "evaluations.jsonl") == read_jsonl(vllm / "evaluations.jsonl")


@pytest.mark.vllm
def test_too_little_memory_for_keys_and_values_is_one_line(base, tmp_path):
    with pytest.raises(UserError, match="vLLM cannot run this model here"):
        train(base, tmp_path / "run", engine="vllm", population_gb=1e-6)


@pytest.mark.slow
@pytest.mark.vllm
def test_two_processes_with_vllm_give_the_same_bits(whole, base, tmp_path):
    flags = OPTIONS | {"model": str(base), "output_dir": str(tmp_path / "two"), "engine": "vllm"}
    command = [
        str(Path(sys.executable).with_name("accelerate")),
        "launch",
        "--config_file",
        "accelerate_configs/cpu_2proc.yaml",
        "recipes/es.py",
        *(f"--{key}={value}" for key, value in flags.items()),
    ]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": "."}, capture_output=True)
    assert read_json(tmp_path / "two" / "environment.json")["processes"] == 2
    assert same(weights(tmp_path / "two"), weights(whole))

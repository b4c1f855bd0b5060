"""What docs/determinism.md promises of the same command given twice, also to two processes; see its table."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eval.storage import read_jsonl
from tests.recipe_files import ROOT
from tests.tiny import random_model
from tests.trainers import test_pretrain, test_rules, test_sft
from tests.trainers.test_grpo import OPTIONS as GRPO_OPTIONS
from tests.trainers.test_grpo import VLLM_OPTIONS


WITH_START = ("es", "grpo", "grpo-vllm", "sft")
OPTIONS = {
    "es": {
        "task": "tests.trainers.es.test_train:VARIETY",
        "steps": 4,
        "population": 4,
        "prompts_per_step": 3,
        "train_size": 12,
        "max_new_tokens": 12,
        "sigma": 0.02,
        "alpha": 0.02,
        "eval_every": 0,
    },
    "grpo": GRPO_OPTIONS,
    "grpo-vllm": GRPO_OPTIONS | VLLM_OPTIONS,
    "sft": test_sft.OPTIONS,
    "pretrain": test_pretrain.SMALL,
    "rules": test_rules.SMALL | {"model": "dit"},
}
VLLM = pytest.param("grpo-vllm", marks=pytest.mark.vllm)


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """Large enough for vLLM's CPU build."""
    folder = tmp_path_factory.mktemp("start")
    for part in random_model(hidden_size=64, num_attention_heads=2, num_key_value_heads=1):
        part.save_pretrained(folder)
    return folder


def train(name: str, folder: Path, start: Path, launcher: str) -> dict[str, torch.Tensor]:
    """The weights that one launch of the recipe ends with."""
    options = OPTIONS[name] | {"output_dir": folder} | ({"model": start} if name in WITH_START else {})
    command = [Path(sys.executable).with_name("accelerate"), "launch", "--quiet"]
    command += ["--config_file", f"accelerate_configs/{launcher}.yaml", "--main_process_port", "0"]
    command += [f"recipes/{name.split('-')[0]}.py", *(f"--{key}={value}" for key, value in options.items())]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    newest = (
        max((folder / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:])) if name == "rules" else None
    )
    return load_file((newest or folder / "model") / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", VLLM, "sft"])
def test_two_launches_of_one_process_give_the_same_bits(name, start, tmp_path):
    first, second = (train(name, tmp_path / again, start, "cpu") for again in "ab")
    assert same(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["es", "grpo", "sft", "pretrain", "rules"])
def test_two_launches_of_two_processes_give_the_same_bits(name, start, tmp_path):
    first, second = (train(name, tmp_path / again, start, "cpu_2proc") for again in "ab")
    assert same(first, second)


@pytest.mark.slow
def test_pretraining_on_two_processes_takes_the_same_steps_as_on_one(start, tmp_path):
    """The gradients' sums run in another order: equal up to rounding, not bit for bit."""
    for launcher in ("cpu", "cpu_2proc"):
        train("pretrain", tmp_path / launcher, start, launcher)
    rows = [read_jsonl(tmp_path / launcher / "metrics.jsonl") for launcher in ("cpu", "cpu_2proc")]
    for name in ("loss", "grad_norm"):
        one, two = ([row[name] for row in run] for run in rows)
        np.testing.assert_allclose(two[0], one[0], rtol=1e-5)
        np.testing.assert_allclose(two, one, rtol=1e-3)


def test_every_test_that_the_page_names_exists():
    page = (ROOT / "docs" / "determinism.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 10
    lacking = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text()]
    assert lacking == []

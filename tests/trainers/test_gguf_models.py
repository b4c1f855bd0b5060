"""A GGUF file in place of a checkpoint folder: trained from, evaluated, measured; the runs keep its name."""

import json

import pytest
import yaml

from analysis.__main__ import main as analysis
from eval.__main__ import main as evaluation
from eval.digests import folder_digest
from eval.rollout.gguf import CACHE, local_model_name
from tests.tiny_gguf import write_gguf
from trainers.arguments import parse
from trainers.chains import local_model
from trainers.es.config import ESConfig
from trainers.es.memory import model_shape
from trainers.es.train import train_es
from trainers.grpo import GRPOArguments, GRPOConfig, train_grpo
from trainers.verify import verify


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf")
    return str(tmp_path / "tiny.gguf")


def test_es_and_measures_take_the_file_and_keep_its_name(file, tmp_path):
    run = tmp_path / "es"
    config = ESConfig(
        task="tests.trainers.es.test_train:VARIETY",
        model=file,
        output_dir=str(run),
        steps=2,
        population=4,
        prompts_per_step=2,
        train_size=4,
        eval_size=2,
        max_new_tokens=12,
        sigma=0.1,
        alpha=0.1,
        eval_every=2,
    )
    train_es(config)
    assert yaml.safe_load((run / "config.yaml").read_text())["model"] == file
    digests = json.loads((run / "results.json").read_text())["digests"]["models"]
    folder = local_model_name(file)
    assert digests["start"] == folder_digest(folder)
    assert {why for _, why in verify(run, 1)} == {None}
    assert model_shape(file) == model_shape(str(folder))
    assert local_model(file, run / "base") == folder

    out = ["--output", str(tmp_path / "measured")]
    common = ["--base", file, "--checkpoints", f"es={run / 'model'}", *out]
    analysis(["geometry", *common])
    analysis(["kl", *common, "--tasks", "yes_no", "--prompts", "2", "--max-new-tokens", "2", "--device", "cpu"])
    results = json.loads((tmp_path / "measured/results.json").read_text())
    assert results["geometry"]["checkpoints"]["es"]["norm"] > 0
    assert results["inputs"]["geometry"]["folders"]["base"] == file
    assert results["inputs"]["geometry"]["checkpoints"]["base"] == folder_digest(folder)

    evaluation(
        ["evaluate", "--model", file, "--tasks", "yes_no", "--size", "2", "--max_new_tokens", "2"]
        + ["--dtype", "bfloat16", "--output", str(tmp_path / "evaluated")]
    )
    evaluated = json.loads((tmp_path / "evaluated/results.json").read_text())
    assert (evaluated["model"], evaluated["dtype"]) == (file, "bfloat16")
    assert evaluated["digests"]["models"]["model"] == folder_digest(folder)


def test_grpo_takes_the_file_and_keeps_its_name(file, tmp_path):
    options = {
        "task": "yes_no",
        "model": file,
        "output_dir": tmp_path / "grpo",
        "max_steps": 1,
        "train_size": 4,
        "num_generations": 2,
        "per_device_train_batch_size": 4,
        "max_completion_length": 4,
        "save_steps": 1,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    results = train_grpo(*parse(GRPOArguments, GRPOConfig, arguments=words))
    assert results["digests"]["models"]["start"] == folder_digest(local_model_name(file))
    assert yaml.safe_load((tmp_path / "grpo/config.yaml").read_text())["model"] == file

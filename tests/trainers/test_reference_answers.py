"""GSM8K rows from a local folder: learnt from their own solutions, and optimised by ES and GRPO, two steps of each."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from eval.errors import UserError
from eval.rollout.hf import HFEngine
from eval.storage import read_json, read_jsonl
from eval.tasks import get_task
from eval.tasks.base import reference_answer
from tests.tiny import random_checkpoint
from trainers.arguments import parse
from trainers.es.config import ESConfig
from trainers.es.train import train_es
from trainers.grpo import GRPOArguments, GRPOConfig, train_grpo
from trainers.sft import SFTArguments, SFTConfig, reference_answers, train_sft


TRL = {
    "task": "gsm8k_small",
    "max_completion_length": 6,
    "save_steps": 2,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "learning_rate": 0.001,
    "eval_every": 2,
    "eval_size": 2,
    "seed": 0,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """Rows in the set's own format."""
    folder = tmp_path / "data" / "gsm8k"
    folder.mkdir(parents=True)
    for split, size in (("train", 40), ("test", 4)):
        rows = [
            {
                "question": f"Tom has {i} bags of 3 nuts ({split}). How many nuts?",
                "answer": f"He has {i}*3=<<{i}*3={3 * i}>>{3 * i} nuts.\n#### {3 * i}",
            }
            for i in range(2, 2 + size)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("POSTTRAIN_LAB_DATA", str(tmp_path / "data"))


def words(options):
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def test_sft_learns_from_the_reference_solutions(model, tmp_path):
    options = TRL | {
        "model": model,
        "output_dir": tmp_path / "sft",
        "answers": "reference",
        "problems": 8,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
    }
    results = train_sft(*parse(SFTArguments, SFTConfig, arguments=words(options)))
    # Nothing was generated, and so nothing is counted.
    assert (results["completions"], results["tokens"], results["correct"], results["kept"]) == (0, 0, 0, 8)
    assert results["steps"] == 2 and not (tmp_path / "sft/samples.jsonl").exists()
    task = get_task("gsm8k_small")
    before, after = (HFEngine.from_pretrained(path, "cpu") for path in (model, tmp_path / "sft/model"))
    kept = reference_answers(task, before.model, before.tokenizer, task.load("train", 8, 0)).kept

    def loss(engine):
        losses = []
        for prompt, completion in kept:
            with torch.no_grad():
                rows = engine.model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
            losses += [-rows[len(prompt) - 1 + i, token].item() for i, token in enumerate(completion)]
        return sum(losses) / len(losses)

    assert loss(after) < loss(before)


def test_targets_are_the_answer_and_the_end_after_the_prompt(model):
    task, tokenizer = get_task("gsm8k_small"), AutoTokenizer.from_pretrained(model)
    engine = HFEngine.from_pretrained(model, "cpu")
    rows = task.load("train", 3, 0)
    found = reference_answers(task, engine.model, tokenizer, rows)
    assert (found.completions, found.tokens, found.seconds, found.correct) == (0, 0, 0.0, 0)
    for row, (prompt, completion) in zip(rows, found.kept, strict=True):
        assert prompt == engine.encode([row["prompt"]])[0]
        assert completion[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(completion[:-1]) == reference_answer(task, row)


def test_es_and_grpo_take_two_steps(model, tmp_path):
    config = ESConfig(
        task="gsm8k_small",
        model=str(model),
        output_dir=str(tmp_path / "es"),
        steps=2,
        population=2,
        prompts_per_step=2,
        train_size=8,
        eval_size=2,
        max_new_tokens=6,
        eval_every=2,
    )
    train_es(config)
    options = TRL | {
        "model": model,
        "output_dir": tmp_path / "grpo",
        "max_steps": 2,
        "train_size": 8,
        "num_generations": 2,
        "per_device_train_batch_size": 4,
    }
    train_grpo(*parse(GRPOArguments, GRPOConfig, arguments=words(options)))
    for run in ("es", "grpo"):
        assert len(read_jsonl(tmp_path / run / "metrics.jsonl")) == 2
        assert [row["total"] for row in read_jsonl(tmp_path / run / "evaluations.jsonl")] == [2, 2]
    assert any("gsm8k_small/exact" in name for name in read_jsonl(tmp_path / "grpo/metrics.jsonl")[0])
    assert read_json(tmp_path / "es/results.json")["task"] == "gsm8k_small"


def test_tasks_without_reference_answers_are_refused(model, tmp_path):
    options = TRL | {"task": "yes_no", "model": model, "output_dir": tmp_path / "sft", "answers": "reference"}
    with pytest.raises(UserError, match="task yes_no has no reference answers"):
        train_sft(*parse(SFTArguments, SFTConfig, arguments=words(options)))
    with pytest.raises(UserError, match="answers is 'others', not one of column, reference, sampled"):
        parse(SFTArguments, SFTConfig, arguments=words(options | {"answers": "others"}))

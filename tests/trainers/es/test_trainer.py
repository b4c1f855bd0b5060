"""ESTrainer as TRL's GRPOTrainer: the same scripts run with both, and nothing but the two names changes."""

import asyncio
import re

import datasets
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from tests.tiny import random_checkpoint, random_model
from trainers.es import ESConfig, ESTrainer


BOTH = pytest.mark.parametrize(("Trainer", "Config"), [(GRPOTrainer, GRPOConfig), (ESTrainer, ESConfig)])
# What any GRPO script for a CPU says.
SMALL = {
    "max_steps": 2,
    "per_device_train_batch_size": 32,
    "num_generations": 8,
    "max_completion_length": 32,
    "temperature": 1.0,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Weights as small as those of a real model, so that members of the usual sigma answer differently."""
    folder = random_checkpoint(tmp_path_factory.mktemp("base"))
    weights = load_file(folder / "model.safetensors")
    small = {name: weight * (0.05 if weight.ndim == 2 else 1.0) for name, weight in weights.items()}
    save_file(small, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def texts(count):
    return datasets.Dataset.from_list([{"prompt": f"{index} + 1 ="} for index in range(count)])


def chats(count):
    return datasets.Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"{index} + 1 = ?"}], "solution": str(index + 1)}
            for index in range(count)
        ]
    )


def near_length(completions, **kwargs):
    """The closer to five different characters, the better."""
    return [-abs(5.0 - len(set(completion))) for completion in completions]


def in_tags(completions, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(r"<.*>$", content) else 0.25 * len(set(content)) for content in contents]


def has_solution(completions, solution, **kwargs):
    return [float(right in answer[0]["content"]) for answer, right in zip(completions, solution, strict=True)]


async def few_tokens(completion_ids, **kwargs):
    await asyncio.sleep(0)
    return [-0.1 * len(set(ids)) if ids else None for ids in completion_ids]


def check_run(trainer, output, names):
    assert output.global_step == trainer.state.global_step == 2
    logged = [row for row in trainer.state.log_history if "reward" in row]
    assert [row["step"] for row in logged] == [1, 2]
    assert all(isinstance(row["reward"], float) for row in logged)
    for name in names:
        assert any(key.startswith(f"rewards/{name}") for key in logged[0]), logged[0]


@BOTH
def test_plain_texts_and_a_reward_of_length(base, tmp_path, Trainer, Config):
    args = Config(output_dir=str(tmp_path), **SMALL)
    trainer = Trainer(model=base, reward_funcs=near_length, args=args, train_dataset=texts(6))
    check_run(trainer, trainer.train(), ["near_length"])
    trainer.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert not torch.equal(saved["model.norm.weight"], load_file(f"{base}/model.safetensors")["model.norm.weight"])
    assert torch.equal(saved["model.norm.weight"], trainer.model.model.norm.weight)


@BOTH
def test_chats_and_two_weighed_rewards_of_format_and_of_a_column(base, tmp_path, Trainer, Config):
    model, tokenizer = random_model()
    args = Config(output_dir=str(tmp_path), reward_weights=[0.5, 2.0], eval_strategy="steps", eval_steps=1, **SMALL)
    trainer = Trainer(
        model=model,
        reward_funcs=[in_tags, has_solution],
        args=args,
        train_dataset=chats(6),
        eval_dataset=chats(4),
        processing_class=tokenizer,
    )
    check_run(trainer, trainer.train(), ["in_tags", "has_solution"])
    evaluations = [row for row in trainer.state.log_history if "eval_reward" in row]
    assert [row["step"] for row in evaluations][-2:] == [1, 2]
    assert isinstance(trainer.evaluate()["eval_reward"], float)


@BOTH
def test_an_adapter_and_a_reward_that_waits(base, tmp_path, Trainer, Config):
    model = AutoModelForCausalLM.from_pretrained(base)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = Trainer(
        model=model,
        reward_funcs=few_tokens,
        args=Config(output_dir=str(tmp_path), **SMALL),
        train_dataset=chats(6),
        peft_config=LoraConfig(r=2, lora_alpha=256, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    check_run(trainer, trainer.train(), ["few_tokens"])
    trainer.save_model(str(tmp_path / "saved"))
    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "saved")
    adapter = {name: weight for name, weight in opened.named_parameters() if "lora_" in name}
    assert any(weight.any() for name, weight in adapter.items() if "lora_B" in name)
    for name, weight in opened.get_base_model().state_dict().items():
        if "lora_" not in name:
            assert torch.equal(weight, before[name.replace(".base_layer", "")])

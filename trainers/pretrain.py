"""Pre-training of the tiny models on generated answers, part of them careless, part worked out.

A real base model has seen both careful and careless text, and post-training mostly changes which of the two it writes.
The tiny models are made the same way: with probability `careless_share` an answer is a careless one (another style,
mostly wrong), otherwise it is worked out step by step.

Models whose circuits are studied learn circuit tasks instead: plain text, every answer right.
"""

import math
import random
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from eval.circuit_tasks import CIRCUIT_TASKS, CircuitTask, get_circuit_task
from eval.circuit_tasks.accuracy import pair_accuracy
from eval.errors import UserError
from eval.harness import evaluate_task
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.rollout.loading import save_model
from eval.storage import (
    append_jsonl,
    new_folder,
    read_json,
    read_jsonl,
    require_free_space,
    truncate_jsonl,
    write_json,
)
from eval.tasks import get_task
from eval.tasks.base import GeneratedTask
from eval.tasks.generate import conversation, hash64, problems
from trainers.arguments import check_at_least, check_between, check_choice, check_positive
from trainers.launch import make_accelerator
from trainers.run_folder import checkpoint_folder, last_complete_step, save_checkpoint, start_run
from trainers.tiny_tokenizer import CHAT_TEMPLATE, PLAIN_TEMPLATE, character_tokenizer


# Conversations per forward pass.
PART = 64


@dataclass
class PretrainConfig:
    """A tiny language model, from nothing."""

    output_dir: str = field(metadata={"help": "run folder; the finished model is in its folder model/"})
    architecture: str = field(default="llama", metadata={"help": "llama or qwen2"})
    hidden_size: int = field(default=128, metadata={"help": "width of the residual stream"})
    layers: int = field(default=3, metadata={"help": "transformer blocks"})
    heads: int = field(default=4, metadata={"help": "query heads"})
    key_value_heads: int = field(default=2, metadata={"help": "key-value heads (grouped-query attention)"})
    intermediate_size: int = field(default=352, metadata={"help": "width of the gated MLP"})
    tasks: str = field(
        default="countdown,arithmetic,four_choice,yes_no",
        metadata={"help": "tasks, or circuit tasks, comma-separated"},
    )
    careless_share: float = field(
        default=0.65, metadata={"help": "share of careless answers, 0 to 1; circuit tasks have none"}
    )
    steps: int = field(default=1500, metadata={"help": "optimiser steps"})
    batch_size: int = field(default=128, metadata={"help": "conversations per step, over all processes"})
    learning_rate: float = field(default=3e-3, metadata={"help": "peak of AdamW's learning rate, cosine to a tenth"})
    warmup_steps: int = field(default=50, metadata={"help": "linear warm-up of the learning rate"})
    weight_decay: float = field(default=0.1, metadata={"help": "AdamW's weight decay on matrices"})
    seed: int = field(default=0, metadata={"help": "fixes the initial weights and every conversation"})
    evaluate_every: int = field(default=250, metadata={"help": "steps between validation points"})
    evaluate_size: int = field(default=200, metadata={"help": "validation problems per task"})
    save_every: int = field(default=250, metadata={"help": "steps between checkpoints; the newest is kept"})
    threads: int = field(default=2, metadata={"help": "CPU threads; part of what makes a run bit-reproducible"})

    def __post_init__(self):
        check_choice("architecture", self.architecture, ("llama", "qwen2"))
        for name in (
            "hidden_size",
            "layers",
            "heads",
            "key_value_heads",
            "intermediate_size",
            "steps",
            "batch_size",
            "learning_rate",
            "evaluate_every",
            "evaluate_size",
            "save_every",
            "threads",
        ):
            check_positive(name, getattr(self, name))
        check_at_least("warmup_steps", self.warmup_steps, 0)
        check_between("careless_share", self.careless_share, 0.0, 1.0)
        circuit_tasks = [name for name in self.task_names() if name in CIRCUIT_TASKS]
        if circuit_tasks and circuit_tasks != self.task_names():
            raise UserError(f"tasks mixes circuit tasks ({', '.join(circuit_tasks)}) with others; give one kind")
        self.chosen_tasks()

    def task_names(self) -> list[str]:
        return [name.strip() for name in self.tasks.split(",")]

    def chosen_tasks(self) -> list[GeneratedTask] | list[CircuitTask]:
        return [get_circuit_task(name) if name in CIRCUIT_TASKS else get_task(name) for name in self.task_names()]


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Train, or finish training, the model of `config`; returns what is written to `results.json`.

    Files in `output_dir`: config.yaml, environment.json, metrics.jsonl (loss), validation.jsonl (the validation
    curve), checkpoints/step_N/, model/ (the finished checkpoint, in bfloat16), results.json. An interrupted run
    continues from its newest checkpoint and ends with the same weights.
    """
    torch.set_num_threads(config.threads)
    run = Path(config.output_dir)
    accelerator = make_accelerator()
    start_run(run, config)
    tasks = config.chosen_tasks()
    tokenizer = character_tokenizer(PLAIN_TEMPLATE if isinstance(tasks[0], CircuitTask) else CHAT_TEMPLATE)
    model = new_model(config, tokenizer)
    require_free_space(run, 4 * 4 * model.num_parameters(), "the checkpoints and the model of this run")

    # Norm weights and biases are not decayed.
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    prepared, optimizer = accelerator.prepare(model, optimizer)

    start, seconds = 0, 0.0
    if (step := last_complete_step(run)) is not None:
        seconds = _load(checkpoint_folder(run, step), model, optimizer)
        start = step
    if accelerator.is_main_process:
        truncate_jsonl(run / "metrics.jsonl", start)
        truncate_jsonl(run / "validation.jsonl", start)

    began = time.perf_counter() - seconds
    for step in tqdm(
        range(start, config.steps),
        initial=start,
        total=config.steps,
        desc="pretrain",
        disable=not accelerator.is_main_process,
    ):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config.steps, config.warmup_steps)
        batch = conversations(tasks, "train", config, step, accelerator.process_index, accelerator.num_processes)
        # Careless answers are short: batches of about equal length waste little on padding.
        batch.sort(key=lambda pair: len(pair[0][-1]["content"]) + len(pair[1]))
        parts = [collate(tokenizer, batch[i : i + PART]) for i in range(0, len(batch), PART)]
        labelled = sum(int((labels != -100).sum()) for _, labels in parts)
        optimizer.zero_grad()
        loss = 0.0
        for input_ids, labels in parts:
            # No attention mask: the padding is on the right, where causal attention cannot see it.
            part_loss = prepared(
                input_ids=input_ids.to(accelerator.device),
                labels=labels.to(accelerator.device),
                num_items_in_batch=labelled,
            ).loss
            accelerator.backward(part_loss)
            loss += part_loss.item()
        norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        done = step + 1
        seconds = time.perf_counter() - began
        if accelerator.is_main_process:
            row = {"step": done, "loss": loss, "grad_norm": float(norm), "seconds": round(seconds, 3)}
            append_jsonl(run / "metrics.jsonl", row)
            if done % config.evaluate_every == 0 or done == config.steps:
                append_jsonl(run / "validation.jsonl", {"step": done, **validate(model, tokenizer, tasks, config)})
            if done % config.save_every == 0 and done < config.steps:
                save_checkpoint(run, done, partial(_save, model, tokenizer, optimizer, seconds), keep=1)
        accelerator.wait_for_everyone()

    results = {"parameters": model.num_parameters(), "steps": config.steps, "seconds": round(seconds, 1)}
    if accelerator.is_main_process:
        with new_folder(run / "model") as folder:
            # Rounded like the checkpoints that real models are released as.
            save_model(folder, model, tokenizer, dict(model.named_parameters()), torch.bfloat16)
        results["validation"] = read_jsonl(run / "validation.jsonl")[-1]
        write_json(run / "results.json", results)
    accelerator.wait_for_everyone()
    return results


def new_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A model of the given shape in float32, with initial weights from `config.seed`."""
    torch.manual_seed(config.seed)
    shape = AutoConfig.for_model(
        config.architecture,
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_value_heads,
        head_dim=config.hidden_size // config.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return AutoModelForCausalLM.from_config(shape, dtype=torch.float32)


def schedule(step: int, steps: int, warmup_steps: int) -> float:
    """Linear warm-up to 1, then a cosine to 0.1."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def conversations(
    tasks: list[GeneratedTask] | list[CircuitTask],
    split: str,
    config: PretrainConfig,
    step: int,
    process: int = 0,
    processes: int = 1,
) -> list[tuple[list[dict[str, str]], str]]:
    """This process's share of the (prompt, answer) pairs of one step; a pure function of its arguments."""
    pairs = []
    for row in range(process, config.batch_size, processes):
        seed = hash64("pretrain", config.seed, step, row)
        generator = random.Random(seed)
        task = generator.choice(tasks)
        (problem,) = problems(task.name, task.draw, task.identity, split, 1, seed)
        if isinstance(task, CircuitTask):
            text, answer = task.document(problem, generator)
            pairs.append(([{"role": "user", "content": text}], answer))
            continue
        careless = generator.random() < config.careless_share
        answer = (task.careless_answer if careless else task.worked_answer)(problem, generator)
        pairs.append((conversation(task.system_prompt, task.question(problem)), answer))
    return pairs


def collate(
    tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[list[dict[str, str]], str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, int64 [rows, longest]; only the answer and its end token have labels, the rest is -100."""
    prompts = tokenizer.apply_chat_template([p for p, _ in pairs], add_generation_prompt=True, return_dict=True)
    answers = tokenizer([answer for _, answer in pairs], add_special_tokens=False)
    rows, labels = [], []
    for prompt, answer in zip(prompts["input_ids"], answers["input_ids"], strict=True):
        answer = [*answer, tokenizer.eos_token_id]
        rows.append(prompt + answer)
        labels.append([-100] * len(prompt) + answer)
    longest = max(map(len, rows))
    pad = tokenizer.pad_token_id
    return (
        torch.tensor([row + [pad] * (longest - len(row)) for row in rows]),
        torch.tensor([row + [-100] * (longest - len(row)) for row in labels]),
    )


@torch.no_grad()
def validate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[GeneratedTask] | list[CircuitTask],
    config: PretrainConfig,
) -> dict[str, Any]:
    """Loss on validation problems and accuracy on each task: greedy, or right before wrong on a circuit task."""
    model.eval()
    input_ids, labels = collate(tokenizer, conversations(tasks, "validation", config, step=0))
    loss = model(input_ids=input_ids.to(model.device), labels=labels.to(model.device)).loss.item()
    engine = HFEngine(model, tokenizer)
    accuracy = {}
    for task in tasks:
        asked = (task, "validation", config.evaluate_size, config.seed)
        if isinstance(task, CircuitTask):
            result = pair_accuracy(model, tokenizer, *asked)
        else:
            result = evaluate_task(engine, *asked, Sampling(max_new_tokens=80), batch_size=512)
        accuracy[task.name] = result["accuracy"]
    model.train()
    return {"loss": loss, "accuracy": accuracy}


def _save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    seconds: float,
    folder: Path,
) -> None:
    save_model(folder, model, tokenizer, dict(model.named_parameters()))
    moments = {}
    for index, state in optimizer.state_dict()["state"].items():
        moments |= {f"{index}.{name}": value for name, value in state.items()}
    save_file(moments, folder / "optimizer.safetensors")
    write_json(folder / "progress.json", {"seconds": seconds})


def _load(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> float:
    """Load model and optimiser in place; returns the seconds trained so far."""
    weights = load_file(folder / "model.safetensors")
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    state = optimizer.state_dict()
    state["state"] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)
    return read_json(folder / "progress.json")["seconds"]

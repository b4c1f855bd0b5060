"""Pre-training of the tiny models on generated answers, part of them careless, part worked out.

A real base model has seen both careful and careless text, and post-training mostly changes which of the two it writes.
The tiny models are made the same way: with probability `careless_share` an answer is a careless one (another style,
mostly wrong), otherwise it is worked out step by step.

Models whose circuits are studied learn circuit tasks instead: plain text, every answer right.
"""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from eval.circuit_tasks import CIRCUIT_TASKS, CircuitTask, get_circuit_task
from eval.circuit_tasks.accuracy import pair_accuracy
from eval.digests import run_digests
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
from trainers.arguments import check_at_most, check_choice
from trainers.ending import diverged
from trainers.finish import finish_training
from trainers.hub import HUB_OPTIONS, HubOptions, check_hub
from trainers.launch import make_accelerator
from trainers.machine import require_training_memory
from trainers.optimizer_state import load_optimizer, save_optimizer
from trainers.options import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Processes,
    Rows,
    Seed,
    Share,
    check_bounds,
    option,
)
from trainers.run_folder import checkpoint_folder, end_run, keep_newest, last_complete_step, save_checkpoint, start_run
from trainers.step_line import step_line
from trainers.tiny_tokenizer import CHAT_TEMPLATE, PLAIN_TEMPLATE, character_tokenizer
from trainers.tracking import Tracking, tracker_names


# Conversations per forward pass.
PART = 64
Tasks = Sequence[GeneratedTask | CircuitTask]

# What may differ between two starts of a run: who is told of it.
MAY_CHANGE = ("report_to", *HUB_OPTIONS)


@dataclass
class PretrainConfig(HubOptions):
    """A tiny language model, from nothing."""

    output_dir: str = field(metadata={"help": "run folder; the finished model is in its folder model/"})
    architecture: str = option("llama", "llama or qwen2")
    hidden_size: PositiveInt = option(128, "width of the residual stream")
    layers: PositiveInt = option(3, "transformer blocks")
    heads: PositiveInt = option(4, "query heads")
    key_value_heads: PositiveInt = option(2, "key-value heads (grouped-query attention)")
    intermediate_size: PositiveInt = option(352, "width of the gated MLP")
    tasks: list[str] = option(["countdown", "arithmetic", "four_choice", "yes_no"], "tasks, or circuit tasks")
    careless_share: Share = option(0.65, "share of careless answers, 0 to 1; circuit tasks have none")
    steps: PositiveInt = option(1500, "optimiser steps")
    batch_size: Rows = option(128, "conversations per step, over all processes")
    learning_rate: PositiveFloat = option(3e-3, "peak of AdamW's learning rate, cosine to a tenth")
    warmup_steps: NonNegativeInt = option(50, "linear warm-up of the learning rate")
    weight_decay: NonNegativeFloat = option(0.1, "AdamW's weight decay on matrices")
    seed: Seed = option(0, "fixes the initial weights and every conversation")
    evaluate_every: PositiveInt = option(250, "steps between validation points")
    evaluate_size: Rows = option(200, "validation problems per task")
    save_every: PositiveInt = option(250, "steps between checkpoints; the newest is kept")
    report_to: str | list[str] = option("none", "tensorboard, trackio, wandb, several of them, or none")
    threads: Processes = option(2, "CPU threads; part of what makes a run bit-reproducible")

    def __post_init__(self):
        tracker_names(self.report_to)
        check_choice("architecture", self.architecture, ("llama", "qwen2"))
        check_bounds(self)
        check_at_most("layers", self.layers, 1000, "no model has as many")
        if self.hidden_size % (2 * self.heads):
            raise UserError(
                f"hidden_size is {self.hidden_size}, no multiple of 2 * heads ({2 * self.heads}); every head needs an "
                "even width"
            )
        if self.heads % self.key_value_heads:
            raise UserError(
                f"heads is {self.heads}, no multiple of key_value_heads ({self.key_value_heads}), which are shared "
                "evenly; change either"
            )
        if not self.tasks:
            raise UserError("tasks is empty; give one at least")
        circuit_tasks = [name for name in self.tasks if name in CIRCUIT_TASKS]
        if circuit_tasks and circuit_tasks != self.tasks:
            raise UserError(f"tasks mixes circuit tasks ({', '.join(circuit_tasks)}) with others; give one kind")
        for task in self.chosen_tasks():
            if not hasattr(task, "draw"):
                raise UserError(f"task {task.name} has no generator of problems to learn from; give a generated task")

    def chosen_tasks(self) -> Tasks:
        return [
            get_circuit_task(name) if name in CIRCUIT_TASKS else cast(GeneratedTask, get_task(name))
            for name in self.tasks
        ]


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Train, or finish training, the model of `config`; returns what is written to `results.json`.

    Files in `output_dir`: config.yaml, environment.json, metrics.jsonl (loss), validation.jsonl (the validation
    curve), checkpoints/step_N/, model/ (the finished checkpoint, in bfloat16), results.json. An interrupted run
    continues from its newest checkpoint and ends with the same weights.
    """
    torch.set_num_threads(config.threads)
    run = Path(config.output_dir)
    accelerator = make_accelerator()
    block = 3 * config.hidden_size * config.intermediate_size + 2 * config.hidden_size**2
    require_training_memory(config.layers * block, "hidden_size, intermediate_size or layers")
    check_hub(config)
    start_run(run, config, may_change=MAY_CHANGE)
    training = _Pretraining(config, accelerator)
    parameters = training.model.num_parameters()
    require_free_space(run, 4 * 4 * parameters, "the checkpoints and the model of this run")
    start, seconds = training.resume(run)

    tracking = Tracking(tracker_names(config.report_to) if accelerator.is_main_process else [], run)
    began = time.perf_counter() - seconds
    steps = range(start, config.steps)
    hidden = not accelerator.is_main_process
    for step in tqdm(steps, initial=start, total=config.steps, desc="pretrain", disable=hidden):
        loss, norm = training.step(step)
        done = step + 1
        seconds = time.perf_counter() - began
        if accelerator.is_main_process:
            row = {"step": done, "loss": loss, "grad_norm": norm, "seconds": round(seconds, 3)}
            append_jsonl(run / "metrics.jsonl", row)
            tracking.log(row)
            if done % config.evaluate_every == 0 or done == config.steps:
                validation = training.validate()
                append_jsonl(run / "validation.jsonl", {"step": done, **validation})
                tracking.log({"step": done, "accuracy": validation["accuracy"]})
                line = step_line(
                    "pretrain",
                    done,
                    config.steps,
                    seconds=seconds,
                    done=done * config.batch_size,
                    unit="rows",
                    loss=loss,
                    accuracy=fmean(validation["accuracy"].values()),
                )
                tqdm.write(line)
            if done % config.save_every == 0 and done < config.steps:
                save_checkpoint(run, done, partial(training.save, seconds), keep=1)
        accelerator.wait_for_everyone()

    tracking.close()
    results = {"parameters": parameters, "steps": config.steps, "seconds": round(seconds, 1)}
    if accelerator.is_main_process:
        with new_folder(run / "model") as folder:
            # Rounded like the checkpoints that real models are released as.
            training.save_weights(folder, torch.bfloat16)
        results["validation"] = read_jsonl(run / "validation.jsonl")[-1]
        # The problems of every step are drawn from the seed and its number: config.yaml stands for the data.
        results["digests"] = run_digests(run, {"model": run / "model"}, {})
        finish_training(run, config, results)
        results = read_json(run / "results.json")
    [results] = broadcast_object_list([results])
    end_run(run)
    return results


class _Pretraining:
    """Model, optimiser and data of a run, on every process."""

    def __init__(self, config: PretrainConfig, accelerator: Accelerator):
        self.config, self.accelerator = config, accelerator
        self.tasks = config.chosen_tasks()
        plain = isinstance(self.tasks[0], CircuitTask)
        self.tokenizer = character_tokenizer(PLAIN_TEMPLATE if plain else CHAT_TEMPLATE)
        self.model = new_model(config, self.tokenizer)
        # Norm weights and biases are not decayed.
        matrices = [parameter for parameter in self.model.parameters() if parameter.ndim == 2]
        vectors = [parameter for parameter in self.model.parameters() if parameter.ndim < 2]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
        )
        self.prepared, self.optimizer = accelerator.prepare(self.model, optimizer)

    def step(self, step: int) -> tuple[float, float]:
        """One step of the optimiser; returns the loss and the norm of its gradient.

        Raises `UserError` if one of them is not finite.
        """
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config.steps, config.warmup_steps)
        batch = conversations(self.tasks, "train", config, step, accelerator.process_index, accelerator.num_processes)
        # Careless answers are short: batches of about equal length waste little on padding.
        batch.sort(key=lambda pair: len(pair[0][-1]["content"]) + len(pair[1]))
        parts = [collate(self.tokenizer, batch[i : i + PART]) for i in range(0, len(batch), PART)]
        # The processes' gradients are averaged: with the mean of their counts each token of the batch weighs the same.
        labelled = self._mean(sum(int((labels != -100).sum()) for _, labels in parts))
        self.optimizer.zero_grad()
        loss = 0.0
        for input_ids, labels in parts:
            # No attention mask: the padding is on the right, where causal attention cannot see it.
            part_loss = self.prepared(
                input_ids=input_ids.to(accelerator.device),
                labels=labels.to(accelerator.device),
                num_items_in_batch=labelled,
            ).loss
            accelerator.backward(part_loss)
            loss += part_loss.item()
        norm = torch.as_tensor(accelerator.clip_grad_norm_(self.model.parameters(), 1.0)).item()
        loss = self._mean(loss)
        # Both are the same on every process, so that all of them end.
        for name, value in (("norm of the gradient", norm), ("loss", loss)):
            if not math.isfinite(value):
                raise diverged(f"the {name} of step {step + 1} is {value}", "lower learning_rate")
        self.optimizer.step()
        return loss, norm

    def _mean(self, value: float) -> float:
        """Over the processes; of one process the number as it is."""
        if self.accelerator.num_processes == 1:
            return value
        local = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return torch.as_tensor(self.accelerator.reduce(local, "mean")).item()

    def validate(self) -> dict[str, Any]:
        return validate(self.model, self.tokenizer, self.tasks, self.config)

    def save_weights(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        save_model(folder, self.model, self.tokenizer, dict(self.model.named_parameters()), dtype)

    def save(self, seconds: float, folder: Path) -> None:
        self.save_weights(folder)
        save_optimizer(self.optimizer, folder)
        write_json(folder / "progress.json", {"seconds": seconds})

    def resume(self, run: Path) -> tuple[int, float]:
        """Steps and seconds of the newest checkpoint, to which all is set back, the logs too; 0 without any."""
        step, seconds = last_complete_step(run) or 0, 0.0
        if step:
            if self.accelerator.is_main_process:
                keep_newest(run, 1)
            folder = checkpoint_folder(run, step)
            weights = load_file(folder / "model.safetensors")
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    parameter.copy_(weights[name])
            load_optimizer(self.optimizer, folder)
            seconds = read_json(folder / "progress.json")["seconds"]
        if self.accelerator.is_main_process:
            truncate_jsonl(run / "metrics.jsonl", step)
            truncate_jsonl(run / "validation.jsonl", step)
        return step, seconds


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
    tasks: Tasks, split: str, config: PretrainConfig, step: int, process: int = 0, processes: int = 1
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
    chats = [prompt for prompt, _ in pairs]
    prompts = cast(BatchEncoding, tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True))
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
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Tasks, config: PretrainConfig
) -> dict[str, Any]:
    """Loss on validation problems and accuracy on each task: greedy, or right before wrong on a circuit task."""
    model.eval()
    input_ids, labels = collate(tokenizer, conversations(tasks, "validation", config, step=0))
    loss = model(input_ids=input_ids.to(model.device), labels=labels.to(model.device)).loss.item()
    engine = HFEngine(model, tokenizer)
    accuracy = {}
    for task in tasks:
        asked = ("validation", config.evaluate_size, config.seed)
        if isinstance(task, CircuitTask):
            result = pair_accuracy(model, tokenizer, task, *asked)
        else:
            result = evaluate_task(engine, task, *asked, Sampling(max_new_tokens=80), batch_size=512)
        accuracy[task.name] = result["accuracy"]
    model.train()
    return {"loss": loss, "accuracy": accuracy}

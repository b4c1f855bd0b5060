"""Supervised fine-tuning on a model's own correct answers, a baseline between sampling and reinforcement learning.

The model to start from answers every training problem several times; the answers that the task calls right become
the data of TRL's `SFTTrainer`, with the loss on their tokens alone. Known as rejection sampling fine-tuning (Yuan et
al. 2023, arXiv 2308.01825) and, with one round, as expert iteration (ReST-EM: Singh et al. 2023, arXiv 2312.06585).
Every right answer is kept, as often as it was sampled, so that the first step's gradient is REINFORCE's for a reward
of 0 or 1 without a baseline. What is generated counts as in `trainers.grpo`, right or wrong.

The run folder is that of `trainers.grpo`, and samples.jsonl: one row per batch of prompts, with what was kept of it.
"""

import copy
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import trl
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, ProgressCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import SFTTrainer

from eval.adapters import score_completion
from eval.errors import UserError
from eval.harness import evaluate_task
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.rollout.loading import load_model
from eval.storage import append_jsonl, new_folder, read_json, read_jsonl, truncate_jsonl, write_json
from eval.tasks import Task, get_task
from trainers.arguments import check_at_least, check_positive
from trainers.ending import check_budgets
from trainers.grpo import (
    FIXED,
    MARKER,
    MAY_CHANGE,
    NAMES_IN_YAML,
    OptimizerStart,
    RunRecorder,
    last_complete_checkpoint,
    optimizer_file,
)
from trainers.launch import is_main_process
from trainers.run_folder import start_run
from trainers.tracking import Tracking, tracker_names


@dataclass
class SFTArguments:
    """What the lab adds to TRL's `SFTConfig`; both are read from the same flat YAML."""

    task: str = field(metadata={"help": "Name of the task to train on, or package.module:attribute."})
    model: str = field(metadata={"help": "Checkpoint folder or hub name of the model to start from."})
    problems: int = field(default=1920, metadata={"help": "Training problems that the model answers."})
    samples: int = field(default=8, metadata={"help": "Answers to each of them."})
    temperature: float = field(default=1.0, metadata={"help": "At which they are sampled."})
    max_completion_length: int = field(default=256, metadata={"help": "Longest answer, in tokens."})
    prompts_per_batch: int = field(
        default=64, metadata={"help": "Problems that are answered at a time, over all processes."}
    )
    stop_at_tokens: int = field(
        default=0, metadata={"help": "End sampling after the first batch that reaches so many tokens; 0: no limit."}
    )
    stop_at_seconds: float = field(
        default=0.0,
        metadata={
            "help": "End sampling after the first batch that reaches half of it, and training after the first step "
            "that reaches it; 0: no limit."
        },
    )
    eval_every: int = field(
        default=0,
        metadata={
            "help": "Optimiser steps between greedy evaluations on validation problems; there is also one before the "
            "first step and one after the last. 0: no evaluation at all."
        },
    )
    eval_size: int = field(default=200, metadata={"help": "Validation problems of each evaluation."})
    optimizer_from: str = field(
        default="",
        metadata={
            "help": "Run folder of an earlier run: the optimizer starts with the state it had at that run's end."
        },
    )

    def __post_init__(self):
        for name in ("problems", "samples", "temperature", "max_completion_length", "prompts_per_batch"):
            check_positive(name, getattr(self, name))
        check_budgets(self.stop_at_tokens, self.stop_at_seconds)
        check_at_least("eval_every", self.eval_every, 0)
        check_at_least("eval_size", self.eval_size, 2)


# Options of SFTTrainer that only make sense with one value here, and why; the first come from `trainers.grpo`.
FIXED_HERE = {
    **{
        name: FIXED[name]
        for name in (
            "logging_strategy",
            "logging_steps",
            "eval_strategy",
            "save_strategy",
            "save_only_model",
            "load_best_model_at_end",
            "ignore_data_skip",
            "resume_from_checkpoint",
            "model_init_kwargs",
        )
    },
    "max_steps": (-1, "the length of the run is num_train_epochs passes over the answers that are kept"),
    "max_length": (None, "max_completion_length limits the answers, and none is to be cut afterwards"),
    "packing": (False, "each answer is an example of its own"),
    "assistant_only_loss": (False, "the loss is on the tokens of the answer in any case"),
}


@dataclass
class SFTConfig(trl.SFTConfig):
    """TRL's `SFTConfig`, which refuses with a `UserError` what would go wrong later."""

    max_length: int | None = field(default=None, metadata={"help": "Has to be null; see max_completion_length."})

    def __post_init__(self):
        super().__post_init__()
        if self.output_dir == "trainer_output":  # transformers' default
            raise UserError("output_dir is not set; give the folder of this run, such as output_dir: runs/tiny/sft")
        for name, (value, reason) in FIXED_HERE.items():
            if getattr(self, name) != value:
                raise UserError(f"{name} has to be {NAMES_IN_YAML.get(value, value)}, because {reason}")
        if self.num_train_epochs != int(self.num_train_epochs) or self.num_train_epochs < 1:
            raise UserError(f"num_train_epochs is {self.num_train_epochs}; give a whole number of passes, at least 1")
        if self.save_total_limit == 1:
            # transformers removes the last complete checkpoint before the new one is marked as complete.
            raise UserError("save_total_limit: 1 leaves moments without a complete checkpoint; give 2 or more")
        if self.save_steps != int(self.save_steps) or self.save_steps < 1:
            raise UserError(f"save_steps is {self.save_steps}; give a whole number of optimiser steps, at least 1")
        tracker_names(self.report_to)

    @property
    def generate_every(self) -> int:
        """As in `trainers.grpo`: any micro-step may be the last, because all completions were made before."""
        return 1

    @property
    def seed_of_problems(self) -> int:
        return self.seed if self.data_seed is None else self.data_seed


@dataclass
class Sampled:
    """What was generated for this run, and the answers that are kept, as token ids (prompt, completion)."""

    completions: int
    tokens: int
    seconds: float
    correct: int
    kept: list[tuple[list[int], list[int]]]


def train_sft(arguments: SFTArguments, config: SFTConfig) -> dict[str, Any]:
    """Sample and train in `config.output_dir`, or go on where a killed run was; returns what stands in results.json.

    A run that is complete returns at once. A run that was killed goes on from its last batch of samples or its last
    complete checkpoint and ends with the weights of an undisturbed run, bit for bit. Raises `UserError` for mistakes
    in the options, for a model that answers nothing right, and for a full disk.
    """
    if config.device.type == "cpu" and (config.bf16 or config.fp16):
        raise UserError("training on the CPU would run in half precision; write bf16: false (and no fp16)")
    if arguments.optimizer_from:
        optimizer_file(arguments.optimizer_from)
    task = get_task(arguments.task)
    folder = Path(config.output_dir)
    if (folder / "results.json").exists():
        start_run(folder, arguments, config, may_change=MAY_CHANGE)
        return read_json(folder / "results.json")

    # Loaded before the folder is touched: a wrong name leaves nothing behind.
    model, tokenizer = load_model(arguments.model, torch.float32)
    if tokenizer.chat_template is None:
        raise UserError(f"{arguments.model} has no chat template, and the prompts are chats; take an instruct model")
    problems = task.load("train", arguments.problems, config.seed_of_problems)
    start_run(folder, arguments, config, may_change=MAY_CHANGE)
    sampled = sample(folder, arguments, config, task, HFEngine(model.to(config.device), tokenizer), problems)
    if not sampled.kept:
        raise UserError(
            f"none of the {sampled.completions} answers of {arguments.model} on {arguments.task} is right and "
            "finished, so there is nothing to train on; raise samples or problems, or take another model"
        )
    checkpoint = last_complete_checkpoint(folder)
    if checkpoint is None or read_json(checkpoint / MARKER)["ended_by"] is None:
        _train(arguments, config, task, model, tokenizer, sampled, checkpoint)
    if is_main_process():
        _finish(folder, arguments, sampled)
    PartialState().wait_for_everyone()
    return read_json(folder / "results.json")


def sample(
    folder: Path, arguments: SFTArguments, config: SFTConfig, task: Task, engine: HFEngine, problems: datasets.Dataset
) -> Sampled:
    """Answers to the problems, batch after batch; what an earlier start has sampled is read from samples.jsonl."""
    path = folder / "samples.jsonl"
    state = PartialState()
    if is_main_process():
        truncate_jsonl(path, len(problems))  # for the half line of a killed run
    batches = broadcast_object_list([read_jsonl(path)])[0]
    starts = range(0, len(problems), arguments.prompts_per_batch)
    while len(batches) < len(starts) and not _enough(arguments, batches):
        began = time.perf_counter()
        step, start = len(batches), starts[len(batches)]
        rows = problems.select(range(start, min(start + arguments.prompts_per_batch, len(problems)))).to_list()
        mine = rows[state.process_index :: state.num_processes]
        answers = _answers(arguments, config, task, engine, mine, step) if mine else []
        if state.num_processes > 1:
            answers = gather_object(answers)
        batch = {
            "step": step,
            "completions": len(answers),
            "tokens": sum(len(answer["completion_ids"]) for answer in answers),
            "seconds": time.perf_counter() - began,
            "correct": sum(answer["value"] == 1.0 for answer in answers),
            # A right answer that was cut would teach the model not to end.
            "kept": [answer for answer in answers if answer["value"] == 1.0 and answer["finished"]],
        }
        batch = broadcast_object_list([batch])[0]  # the clocks of the processes differ
        batches.append(batch)
        if is_main_process():
            append_jsonl(path, batch)
            print(
                f"sft batch {step + 1}/{len(starts)}  {batch['correct']} of {batch['completions']} answers right  "
                f"{batch['seconds']:.2f} s",
                flush=True,
            )
    return Sampled(
        *(sum(batch[key] for batch in batches) for key in ("completions", "tokens", "seconds", "correct")),
        [(answer["prompt_ids"], answer["completion_ids"]) for batch in batches for answer in batch["kept"]],
    )


def _enough(arguments: SFTArguments, batches: list[dict[str, Any]]) -> bool:
    tokens, seconds = (sum(batch[key] for batch in batches) for key in ("tokens", "seconds"))
    return bool(
        (arguments.stop_at_tokens and tokens >= arguments.stop_at_tokens)
        or (arguments.stop_at_seconds and seconds >= arguments.stop_at_seconds / 2)
    )


def _answers(
    arguments: SFTArguments, config: SFTConfig, task: Task, engine: HFEngine, rows: list[dict[str, Any]], step: int
) -> list[dict[str, Any]]:
    """Every answer to `rows` with its score; all but `value` and `finished` is what the training needs."""
    sampling = Sampling(arguments.max_completion_length, arguments.temperature, arguments.samples, config.seed, step)
    prompts = [row["prompt"] for row in rows]
    [answers] = engine.generate(prompts, sampling)
    return [
        {
            "completion": completion.text,
            "value": score_completion(task, completion.text, row).value,
            "finished": completion.finished,
            "prompt_ids": prompt_ids,
            "completion_ids": completion.token_ids,
        }
        for row, prompt_ids, completions in zip(rows, engine.encode(prompts), answers, strict=True)
        for completion in completions
    ]


def examples(kept: list[tuple[list[int], list[int]]], epochs: int, seed: int) -> datasets.Dataset:
    """The examples in the order in which the whole run takes them, shuffled anew for each pass.

    The trainer sees a single epoch, as in `trainers.grpo.problems_of_run`. Labels of -100 have no loss.
    """
    order = np.random.default_rng(seed)
    chosen = [kept[index] for _ in range(epochs) for index in order.permutation(len(kept))]
    return datasets.Dataset.from_dict(
        {
            "input_ids": [prompt + completion for prompt, completion in chosen],
            "labels": [[-100] * len(prompt) + completion for prompt, completion in chosen],
        }
    )


class SFTRecorder(RunRecorder):
    """`RunRecorder` without TRL's count of the tokens trained on, which starts again at 0 when a run is resumed."""

    def on_log(self, args, state, control, logs, **kwargs):
        kept = {name: value for name, value in logs.items() if name != "num_tokens"}
        super().on_log(args, state, control, kept, **kwargs)


def _train(
    arguments: SFTArguments,
    config: SFTConfig,
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampled: Sampled,
    checkpoint: Path | None,
) -> None:
    """Run TRL's trainer from `checkpoint` (None: from the beginning) to its end, where it leaves a checkpoint."""
    if checkpoint is not None:
        before = read_json(checkpoint / MARKER)["processes"]
        if before != config.world_size:
            raise UserError(f"this run runs on {before} processes, not {config.world_size}; start it so")
    data = examples(sampled.kept, int(config.num_train_epochs), config.seed)
    config = copy.copy(config)
    config.num_train_epochs = 1  # `examples` has them all
    config.train_sampling_strategy = "sequential"
    tracking = Tracking(tracker_names(config.report_to) if is_main_process() else [], Path(config.output_dir))
    config.report_to = []  # transformers would log on an axis of steps
    if config.device.type == "cpu":
        # accelerate numbers the CPUs of several processes (cpu:1), and torch.load knows only "cpu".
        config._setup_devices = torch.device("cpu")
    # An accelerator that this process made before would hold this run to its own precision.
    AcceleratorState._reset_state()
    trainer = SFTTrainer(model, args=config, train_dataset=data, processing_class=tokenizer)
    if arguments.eval_every and (trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()):
        raise UserError(
            "greedy evaluation needs whole weight matrices, but FSDP and ZeRO-3 shard them; "
            "set eval_every: 0 and evaluate the final model"
        )

    def evaluate() -> dict[str, Any]:
        return evaluate_task(
            HFEngine(trainer.model, tokenizer),
            task,
            "validation",
            arguments.eval_size,
            config.seed_of_problems,
            Sampling(max_new_tokens=arguments.max_completion_length),
            config.per_device_eval_batch_size,
        )

    # Its tokens were spent before the first step.
    recorded = replace(arguments, stop_at_tokens=0)
    recorder = SFTRecorder(Path(config.output_dir), sampled, evaluate, recorded, checkpoint, tracking)
    if checkpoint is None:
        recorder.seconds = sampled.seconds
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(recorder)
    if arguments.optimizer_from and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise UserError("optimizer_from reads a whole optimizer state, but FSDP and ZeRO shard it; leave it out")
    if arguments.optimizer_from and checkpoint is None:
        trainer.add_callback(OptimizerStart(optimizer_file(arguments.optimizer_from)))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    tracking.close()


def _finish(folder: Path, arguments: SFTArguments, sampled: Sampled) -> None:
    """Write model/ and results.json from the last checkpoint."""
    checkpoint = last_complete_checkpoint(folder)
    model, tokenizer = load_model(checkpoint, torch.float32)
    model.config.use_cache = True  # the trainer turned it off
    with new_folder(folder / "model") as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    reached = read_json(checkpoint / MARKER)
    reached["steps"] = reached.pop("step")
    if arguments.stop_at_tokens and sampled.tokens >= arguments.stop_at_tokens:
        reached["ended_by"] = "tokens"
    evaluations = read_jsonl(folder / "evaluations.jsonl")
    results = {
        "method": "sft",
        "task": arguments.task,
        "parameters": model.num_parameters(),
        "correct": sampled.correct,
        "kept": len(sampled.kept),
        **reached,
        "first_evaluation": evaluations[0] if evaluations else None,
        "last_evaluation": evaluations[-1] if evaluations else None,
    }
    write_json(folder / "results.json", results)

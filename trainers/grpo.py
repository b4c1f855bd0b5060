"""GRPO through TRL's own `GRPOTrainer`: tasks as rewards, a run folder that survives a kill, resume bit for bit.

GRPO: Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), equations 3 and 4. The trainer is TRL's, unchanged; this
file is what surrounds it. The run folder, `output_dir`:

    config.yaml, environment.json   what was asked for, and on what it ran
    metrics.jsonl                   one row per optimiser step: what was generated so far, and all that TRL logs
    evaluations.jsonl               greedy accuracy on validation problems, in the precision of training
    checkpoint-N/                   TRL's own trainer state; complete when it holds complete.json
    completions/*.parquet           with `log_completions: true`
    model/, adapter/                the final model as a Hugging Face folder; with LoRA merged, the adapter beside it
    results.json                    written last: a run that has it is complete
"""

import copy
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import requests
import torch
import trl
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, reduce
from peft import LoraConfig, PeftModel
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerState,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.import_utils import is_vllm_available

from eval.adapters import TaskReward
from eval.errors import UserError
from eval.harness import evaluate_task
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.rollout.loading import load_model
from eval.storage import (
    append_jsonl,
    new_folder,
    read_json,
    read_jsonl,
    require_free_space,
    truncate_jsonl,
    write_json,
)
from eval.tasks import Task, get_task
from trainers.arguments import check_at_least, check_between, check_choice, did_you_mean
from trainers.ending import check_budgets, ended_by
from trainers.launch import is_main_process
from trainers.replay import MixedTask, Replay, check_replay, replay_names, replayed_prompts
from trainers.run_folder import start_run
from trainers.tracking import Tracking, tracker_names


@dataclass
class GRPOArguments:
    """What the lab adds to TRL's `GRPOConfig`; both are read from the same flat YAML.

    TRL's own options keep their names and meanings. `data_seed` chooses the problems (unset: `seed` does), `seed`
    their order and the sampling, `max_steps` the length of the run, `output_dir` the run folder, and
    `per_device_eval_batch_size` the problems that a greedy evaluation generates for at a time.
    """

    task: str = field(metadata={"help": "Name of the task to train on, or package.module:attribute."})
    model: str = field(metadata={"help": "Checkpoint folder or hub name of the model to start from."})
    train_size: int | None = field(
        default=None,
        metadata={"help": "Training problems. Default: as many as the run asks for, so that none comes twice."},
    )
    stop_at_tokens: int = field(
        default=0,
        metadata={
            "help": "End after the first step that reaches so many generated tokens and has used all completions "
            "generated. max_steps stays the upper bound, and what the learning rate's schedule goes by. 0: no limit."
        },
    )
    stop_at_seconds: float = field(
        default=0.0, metadata={"help": "The same for seconds of training, without evaluation and saving."}
    )
    eval_every: int = field(
        default=0,
        metadata={
            "help": "Optimiser steps between greedy evaluations on validation problems; there is also one before the "
            "first step and one after the last. 0: no evaluation at all."
        },
    )
    eval_size: int = field(default=200, metadata={"help": "Validation problems of each evaluation."})
    replay: str = field(
        default="", metadata={"help": "Earlier tasks whose training problems are mixed in, with commas."}
    )
    replay_share: float = field(
        default=0.0, metadata={"help": "Share of the problems of every generation of completions that is theirs."}
    )
    optimizer_from: str = field(
        default="",
        metadata={
            "help": "Run folder of an earlier GRPO run: the optimizer starts with the state it had at that run's end. "
            "Its options, the learning rate among them, are this run's own."
        },
    )
    lora_rank: int = field(default=0, metadata={"help": "Rank of the LoRA adapter; 0 trains all parameters."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA scales its update by lora_alpha / lora_rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of the LoRA matrices."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of the modules that get LoRA. Default: all linear layers but the head."}
    )
    lora_patterns: str | None = field(
        default=None,
        metadata={
            "help": "JSON file with peft's rank_pattern and alpha_pattern: modules whose rank and alpha are others "
            "than "
            "lora_rank and lora_alpha. recipes/circuits.py writes such files."
        },
    )

    def __post_init__(self):
        if self.train_size is not None:
            check_at_least("train_size", self.train_size, 1)
        check_budgets(self.stop_at_tokens, self.stop_at_seconds)
        check_replay(self.task, self.replay, self.replay_share)
        check_at_least("eval_every", self.eval_every, 0)
        check_at_least("eval_size", self.eval_size, 2)
        check_at_least("lora_rank", self.lora_rank, 0)
        check_at_least("lora_alpha", self.lora_alpha, 1)
        check_between("lora_dropout", self.lora_dropout, 0.0, 1.0)
        if self.lora_patterns is not None:
            if not self.lora_rank:
                raise UserError("lora_patterns changes the ranks of LoRA, but lora_rank is 0; give lora_rank")
            read_lora_patterns(self.lora_patterns)


def read_lora_patterns(path: str) -> dict[str, dict[str, int]]:
    """{"rank_pattern": {regular expression: rank}, "alpha_pattern": {regular expression: alpha}} of a JSON file.

    Raises UserError if there is no such file, or it holds something else.
    """
    if not Path(path).is_file():
        raise UserError(f"lora_patterns: there is no file {path}; recipes/circuits.py writes such files")
    try:
        patterns = read_json(path)
        for name in ("rank_pattern", "alpha_pattern"):
            for pattern, value in patterns[name].items():
                re.compile(pattern)
                check_at_least(f"{path}: {name} of {pattern!r}", value, 1)
    except (ValueError, TypeError, KeyError, AttributeError, re.error) as error:
        raise UserError(
            f'lora_patterns: {path} is not {{"rank_pattern": {{regular expression: rank}}, "alpha_pattern": ...}} '
            f"({type(error).__name__}: {error})"
        ) from error
    return {name: patterns[name] for name in ("rank_pattern", "alpha_pattern")}


# Options that only make sense with one value here, and why.
FIXED = {
    "logging_strategy": ("steps", "metrics.jsonl has a row for each optimiser step"),
    "logging_steps": (1, "metrics.jsonl has a row for each optimiser step"),
    "eval_strategy": ("no", "eval_every of the lab evaluates"),
    "save_strategy": ("steps", "the final model comes from the last checkpoint"),
    "save_only_model": (False, "a killed run could not go on without the optimiser's state"),
    "load_best_model_at_end": (False, "the final model is the last one"),
    "ignore_data_skip": (False, "a resumed run would see other problems"),
    "sync_ref_model": (False, "checkpoints do not hold the moving reference, so a resumed run would have another one"),
    "remove_unused_columns": (False, "the reward reads the columns of the task"),
    "resume_from_checkpoint": (None, "starting the same command again resumes from the last complete checkpoint"),
    "model_init_kwargs": (None, "the model is loaded in float32 as it is"),
}
NAMES_IN_YAML = {None: "null", False: "false"}
# TRL 1.16 takes any string for these, and finds out late or never.
CHOICES = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("colocate", "server"),
    "vllm_model_impl": ("vllm", "transformers"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}
# What may change between a killed run and its continuation: how much is kept, not what is computed.
MAY_CHANGE = ("save_total_limit", "report_to")
MARKER = "complete.json"
# Room for the tokenizer and other small files of a checkpoint, in bytes.
BESIDE_WEIGHTS = 16 * 1024**2


@dataclass
class GRPOConfig(trl.GRPOConfig):
    """TRL's `GRPOConfig`, which refuses with a `UserError` what TRL lets pass and what would go wrong later."""

    def __post_init__(self):
        for name in ("num_generations", "max_completion_length"):
            if getattr(self, name) is None:
                raise UserError(f"{name} is null; give a number")
        super().__post_init__()
        if self.output_dir == "trainer_output":  # transformers' default
            raise UserError("output_dir is not set; give the folder of this run, such as output_dir: runs/tiny/grpo")
        check_at_least("max_steps", self.max_steps, 1)
        for name, (value, reason) in FIXED.items():
            if getattr(self, name) != value:
                raise UserError(f"{name} has to be {NAMES_IN_YAML.get(value, value)}, because {reason}")
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if self.save_total_limit == 1:
            # transformers removes the last complete checkpoint before the new one is marked as complete.
            raise UserError("save_total_limit: 1 leaves moments without a complete checkpoint; give 2 or more")
        if self.save_steps != int(self.save_steps) or self.save_steps < 1:
            raise UserError(f"save_steps is {self.save_steps}; give a whole number of optimiser steps, at least 1")
        tracker_names(self.report_to)
        self._check_generation_boundary()

    @property
    def problems_per_generation(self) -> int:
        return self.generation_batch_size // self.num_generations

    @property
    def generate_every(self) -> int:
        """Micro-steps (forward and backward passes) from one generation to the next.

        A generation lasts for `steps_per_generation` micro-steps, and is gone through `num_iterations` times.
        """
        return self.steps_per_generation * self.num_iterations

    @property
    def seed_of_problems(self) -> int:
        return self.seed if self.data_seed is None else self.data_seed

    def _check_generation_boundary(self) -> None:
        """Checkpoints must fall where new completions are generated: TRL does not save the ones in use."""
        micro_steps = self.save_steps * self.gradient_accumulation_steps
        if micro_steps % self.generate_every:
            suitable = self.generate_every // math.gcd(self.generate_every, self.gradient_accumulation_steps)
            raise UserError(
                f"save_steps is {self.save_steps:.0f}, where completions are still in use (save_steps * "
                f"gradient_accumulation_steps = {micro_steps:.0f} is not a multiple of steps_per_generation * "
                f"num_iterations = {self.generate_every}), so that a resumed run would diverge; "
                f"give a multiple of {suitable}"
            )


def _check_run(arguments: GRPOArguments, config: GRPOConfig) -> None:
    """Raise `UserError` for options that do not fit each other or this machine, before a model loads."""
    if config.device.type == "cpu" and (config.bf16 or config.fp16):
        # TRL turns bf16 on wherever it is not turned off, on the CPU as well.
        raise UserError("training on the CPU would run in half precision; write bf16: false (and no fp16)")
    if config.use_vllm and not is_vllm_available():
        raise UserError("use_vllm: true needs vLLM; install the vllm extra, or write use_vllm: false")
    if config.chat_template_kwargs and arguments.eval_every:
        raise UserError("greedy evaluation cannot pass chat_template_kwargs on to the prompts; set eval_every: 0")
    if arguments.optimizer_from:
        optimizer_file(arguments.optimizer_from)
    replayed_prompts(config.problems_per_generation, arguments.replay_share)


def problems_of_run(task: Task, arguments: GRPOArguments, config: GRPOConfig) -> datasets.Dataset:
    """The problems in the order in which the whole run takes them, shuffled anew for each pass over `train_size`.

    TRL sees a single epoch: it would go through later epochs in another order after a resume, because no checkpoint
    holds the state of its sampler. With `replay`, those of earlier tasks end each generation, and the columns are
    those of `trainers.replay.MixedTask`.
    """
    generations = math.ceil(config.max_steps * config.gradient_accumulation_steps / config.generate_every)
    replayed = replayed_prompts(config.problems_per_generation, arguments.replay_share)
    new = config.problems_per_generation - replayed
    needed = generations * new
    problems = task.load("train", arguments.train_size or needed, config.seed_of_problems)
    order = np.random.default_rng(config.seed)
    passes = [
        order.permutation(len(problems)) if config.shuffle_dataset else np.arange(len(problems))
        for _ in range(math.ceil(needed / len(problems)))
    ]
    problems = problems.select(np.concatenate(passes)[:needed])
    if not replayed:
        return problems
    replay = Replay.load(
        arguments.task,
        arguments.replay,
        replayed,
        arguments.train_size or math.ceil(generations * replayed / len(replay_names(arguments.replay))),
        config.seed_of_problems,
        config.seed,
    )
    rows = [replay.task.row(arguments.task, row) for row in problems.to_list()]
    return datasets.Dataset.from_list(
        [
            row
            for generation in range(generations)
            for row in rows[generation * new : (generation + 1) * new] + replay.of_step(generation)
        ]
    )


class CountedReward:
    """A task as TRL's reward function, which also counts what was generated, over all processes."""

    def __init__(self, task: Task):
        self.reward = TaskReward(task)
        self.__name__ = self.reward.__name__
        self.completions = 0
        self.tokens = 0

    def __call__(self, completions: list, completion_ids: list[list[int]], **columns: Any) -> list[float | None]:
        counts = torch.tensor([len(completions), sum(map(len, completion_ids))], device=PartialState().device)
        completions_everywhere, tokens_everywhere = reduce(counts, "sum").tolist()
        self.completions += completions_everywhere
        self.tokens += tokens_everywhere
        return self.reward(completions=completions, completion_ids=completion_ids, **columns)


class RunRecorder(TrainerCallback):
    """Writes metrics.jsonl and evaluations.jsonl, and marks the checkpoints that are complete.

    Ends the run where a budget of tokens or seconds is reached, with a checkpoint there.

    evaluate: the greedy accuracy of the model as it is now, as `evaluate_task` returns it.
    checkpoint: where the run goes on from, None at its beginning. tracking: has no trackers but on the main process.
    """

    def __init__(
        self,
        folder: Path,
        reward: CountedReward,
        evaluate: Callable[[], dict[str, Any]],
        arguments: GRPOArguments,
        checkpoint: Path | None,
        tracking: Tracking,
    ):
        self.folder, self.reward, self.evaluate, self.arguments = folder, reward, evaluate, arguments
        self.seconds = 0.0
        self.tracking = tracking
        self.ended_by: str | None = None
        last_step = -1
        if checkpoint is not None:
            reached = read_json(checkpoint / MARKER)
            last_step, self.seconds = reached["step"], reached["seconds"]
            reward.completions, reward.tokens = reached["completions"], reached["tokens"]
        if is_main_process():
            truncate_jsonl(folder / "metrics.jsonl", last_step)
            truncate_jsonl(folder / "evaluations.jsonl", last_step)

    def on_train_begin(self, args, state, control, model, **kwargs):
        checkpoints = math.ceil((state.max_steps - state.global_step) / state.save_steps)
        needed = min(checkpoints, args.save_total_limit or checkpoints) * _checkpoint_bytes(model)
        require_free_space(self.folder, needed + _model_bytes(model), "this run")
        if state.global_step == 0 and self.arguments.eval_every:
            self._evaluate(state)

    def on_step_begin(self, args, state, control, **kwargs):
        self.step_began = time.perf_counter()

    def on_step_end(self, args, state, control, model, **kwargs):
        self.seconds += time.perf_counter() - self.step_began
        self.ended_by = self._ended_by(args, state)
        if self.ended_by is not None:
            control.should_save = control.should_training_stop = True
        every = self.arguments.eval_every
        if every and (state.global_step % every == 0 or self.ended_by is not None):
            self._evaluate(state)
        if control.should_save:
            require_free_space(self.folder, _checkpoint_bytes(model), f"the checkpoint of step {state.global_step}")

    def on_log(self, args, state, control, logs, **kwargs):
        # The last call of a run sums it up, without a loss; it belongs to no step.
        if not state.is_world_process_zero or "loss" not in logs:
            return
        # NaN (the reward of a step without a scorable completion, say) is not JSON.
        logged = {name: None if value is None or math.isnan(value) else value for name, value in logs.items()}
        row = {**self._reached(state), **logged}
        append_jsonl(self.folder / "metrics.jsonl", row)
        self.tracking.log(row)
        # Steps that go on with older completions have no reward of their own.
        reward = f"reward {logged['reward']:.3f}  " if logged.get("reward") is not None else ""
        print(
            f"step {state.global_step}/{state.max_steps}  {reward}"
            f"completions {self.reward.completions}  tokens {self.reward.tokens}  {self.seconds:.0f} s",
            flush=True,
        )

    def on_save(self, args, state, control, **kwargs):
        # Every process writes its own random state.
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = self.folder / f"checkpoint-{state.global_step}"
            for path in checkpoint.rglob("*"):
                if path.is_file():
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            marker = {**self._reached(state), "processes": args.world_size, "ended_by": self.ended_by}
            write_json(checkpoint / MARKER, marker)

    def _ended_by(self, args: GRPOConfig, state: TrainerState) -> str | None:
        """See `trainers.ending`. A budget waits until all completions that it has paid for are used."""
        step, budgets = state.global_step, (self.arguments.stop_at_tokens, self.arguments.stop_at_seconds)
        if step * args.gradient_accumulation_steps % args.generate_every:
            budgets = (0, 0.0)
        ended = ended_by(step, state.max_steps, self._reached(state), *budgets)
        # The clocks of the processes differ.
        return broadcast_object_list([ended])[0]

    def _evaluate(self, state: TrainerState) -> None:
        if state.is_world_process_zero:
            evaluation = self.evaluate()
            if evaluation["accuracy"] is None:
                raise UserError("none of the task's validation problems could be scored; set eval_every: 0")
            kept = {key: evaluation[key] for key in ("correct", "total", "accuracy", "low", "high")}
            row = {"step": state.global_step, "completions": self.reward.completions, **kept}
            append_jsonl(self.folder / "evaluations.jsonl", row)
            self.tracking.log(row)
            print(f"step {state.global_step}/{state.max_steps}  greedy accuracy {row['accuracy']:.3f}", flush=True)
        PartialState().wait_for_everyone()

    def _reached(self, state: TrainerState) -> dict[str, Any]:
        return {
            "step": state.global_step,
            "completions": self.reward.completions,
            "tokens": self.reward.tokens,
            "seconds": self.seconds,
        }


class OptimizerStart(TrainerCallback):
    """Gives the optimizer the state in `file` before the first step, but leaves it the options of its own run.

    The state is of parameters by their number. Raises `UserError` if the shapes are others.
    """

    def __init__(self, file: Path):
        self.file = file

    def on_train_begin(self, args, state, control, optimizer, **kwargs):
        kept = torch.load(self.file, map_location="cpu", weights_only=True)["state"]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if kept.keys() != set(range(len(parameters))) or any(
            moment.shape != parameter.shape
            for number, parameter in enumerate(parameters)
            for moment in kept[number].values()
            if moment.ndim
        ):
            raise UserError(
                f"optimizer_from: {self.file} belongs to other parameters; take a run of the same model and LoRA rank"
            )
        optimizer.load_state_dict(optimizer.state_dict() | {"state": kept})


def optimizer_file(run: str) -> Path:
    """The optimizer state at the end of the GRPO run in folder `run`. Raises `UserError` if that is not complete."""
    complete = Path(run).glob(f"checkpoint-*/{MARKER}")
    ended = [path.parent for path in complete if read_json(path)["ended_by"] is not None]
    if not ended or not (ended[0] / "optimizer.pt").exists():
        raise UserError(f"optimizer_from: {run} is no finished GRPO run with an unsharded optimizer state")
    return ended[0] / "optimizer.pt"


def train_grpo(arguments: GRPOArguments, config: GRPOConfig) -> dict[str, Any]:
    """Train by GRPO in `config.output_dir`, or go on where a killed run was; returns what stands in results.json.

    A run that is complete returns at once. A run that was killed continues from its last complete checkpoint and ends
    with the weights of an undisturbed run, bit for bit, when transformers generates the completions (vLLM's sampling
    depends on a state of its own). Raises `UserError` for mistakes in the options and for a full disk.
    """
    _check_run(arguments, config)
    task = get_task(arguments.task)
    folder = Path(config.output_dir)
    if (folder / "results.json").exists():
        start_run(folder, arguments, config, may_change=MAY_CHANGE)
        return read_json(folder / "results.json")

    # Loaded before the folder is touched: a wrong name leaves nothing behind.
    model, tokenizer = load_model(arguments.model, torch.float32)
    if tokenizer.chat_template is None:
        raise UserError(f"{arguments.model} has no chat template, and the prompts are chats; take an instruct model")
    _check_lora_targets(model, arguments.lora_target_modules or [])
    if arguments.lora_patterns is not None:
        _check_lora_patterns(model, arguments.lora_patterns)
    problems = problems_of_run(task, arguments, config)
    start_run(folder, arguments, config, may_change=MAY_CHANGE)
    checkpoint = last_complete_checkpoint(folder)
    if checkpoint is None or read_json(checkpoint / MARKER)["ended_by"] is None:
        _train(arguments, config, task, model, tokenizer, problems, checkpoint)
        checkpoint = last_complete_checkpoint(folder)
    if is_main_process():
        _finish(folder, arguments, checkpoint)
    PartialState().wait_for_everyone()
    return read_json(folder / "results.json")


def _train(
    arguments: GRPOArguments,
    config: GRPOConfig,
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: datasets.Dataset,
    checkpoint: Path | None,
) -> None:
    """Run TRL's trainer from `checkpoint` (None: from the beginning) to its end, where it leaves a checkpoint."""
    if checkpoint is not None:
        before = read_json(checkpoint / MARKER)["processes"]
        if before != config.world_size:
            raise UserError(f"this run runs on {before} processes, not {config.world_size}; start it so")
    reward = CountedReward(MixedTask.of(arguments.task, arguments.replay) if arguments.replay else task)
    tracking = Tracking(tracker_names(config.report_to) if is_main_process() else [], Path(config.output_dir))
    config = copy.copy(config)
    config.shuffle_dataset = False  # `problems_of_run` has shuffled
    config.report_to = []  # transformers would log on an axis of steps
    if config.device.type == "cpu":
        # accelerate numbers the CPUs of several processes (cpu:1), and torch.load knows only "cpu".
        config._setup_devices = torch.device("cpu")
    # An accelerator that this process made before would hold this run to its own precision.
    AcceleratorState._reset_state()
    with _generation_engine(config):
        trainer = GRPOTrainer(
            model,
            reward,
            args=config,
            train_dataset=problems,
            processing_class=tokenizer,
            peft_config=_lora_config(arguments) if arguments.lora_rank else None,
        )
    if config.use_vllm and config.vllm_mode == "colocate" and config.device.type == "cpu":
        _repack_after_sync(trainer.vllm_generation)
    if arguments.eval_every and (trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()):
        raise UserError(
            "greedy evaluation needs whole weight matrices, but FSDP and ZeRO-3 shard them; "
            "set eval_every: 0 and evaluate the final model"
        )

    def evaluate() -> dict[str, Any]:
        policy = trainer.model.get_base_model() if arguments.lora_rank else trainer.model
        return evaluate_task(
            HFEngine(policy, tokenizer),
            task,
            "validation",
            arguments.eval_size,
            config.seed_of_problems,
            Sampling(max_new_tokens=config.max_completion_length, temperature=0.0),
            config.per_device_eval_batch_size,
        )

    # One line per step, written by the recorder, takes the place of transformers' table of numbers.
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(RunRecorder(Path(config.output_dir), reward, evaluate, arguments, checkpoint, tracking))
    if arguments.optimizer_from and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise UserError("optimizer_from reads a whole optimizer state, but FSDP and ZeRO shard it; leave it out")
    if arguments.optimizer_from and checkpoint is None:
        trainer.add_callback(OptimizerStart(optimizer_file(arguments.optimizer_from)))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    tracking.close()


@contextmanager
def _generation_engine(config: GRPOConfig) -> Iterator[None]:
    """Where TRL builds vLLM's engine, or looks for its server: what goes wrong there becomes one line."""
    if not config.use_vllm:
        yield
    elif config.vllm_mode == "server":
        try:
            yield
        except (ConnectionError, requests.ConnectionError) as error:
            where = config.vllm_server_base_url or f"{config.vllm_server_host}:{config.vllm_server_port}"
            raise UserError(
                f"vllm_mode: server, but no vLLM server answers at {where} within {config.vllm_server_timeout:g} s; "
                "start one as the header of recipes/qwen2.5-3b/grpo.yaml says, or write vllm_mode: colocate"
            ) from error
    elif config.device.type == "cpu":
        from eval.rollout.vllm_cpu import editable_cpu_engine  # here, because vLLM is an extra

        with editable_cpu_engine():
            yield
    else:
        yield


def _repack_after_sync(generation: VLLMGeneration) -> None:
    """Let vLLM's CPU backend see the weights that TRL writes into it before each generation.

    It computes with packed copies of the linear weights, which loading does not touch.
    """
    from eval.rollout.vllm_cpu import repack

    sync = generation.sync_weights
    engine_model = generation.llm.llm_engine.model_executor.driver_worker.model_runner.model

    def sync_and_repack() -> None:
        sync()
        repack(engine_model)

    generation.sync_weights = sync_and_repack


def _lora_config(arguments: GRPOArguments) -> LoraConfig:
    return LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_target_modules or "all-linear",
        task_type="CAUSAL_LM",
        **({} if arguments.lora_patterns is None else read_lora_patterns(arguments.lora_patterns)),
    )


def _check_lora_targets(model: PreTrainedModel, targets: list[str]) -> None:
    """Raise `UserError` for a name that no linear layer below the head has; PEFT only does if no name fits."""
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    below_head = [name for name in linear if model.get_submodule(name) is not model.get_output_embeddings()]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in below_head):
            names = {name.split(".")[-1] for name in below_head}
            raise UserError(
                f"lora_target_modules: the model has no linear layer {target!r} below its head"
                f"{did_you_mean(target, names)}; its layers are {', '.join(sorted(names))}"
            )


def _check_lora_patterns(model: PreTrainedModel, path: str) -> None:
    """Raise `UserError` for a pattern that fits no linear layer of the model; PEFT would pass over it."""
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for name, patterns in read_lora_patterns(path).items():
        for pattern in patterns:
            # As PEFT matches them: the end of a module's name, from a dot on.
            if not any(re.fullmatch(rf"(.*\.)?({pattern})", module) for module in linear):
                raise UserError(
                    f"lora_patterns: {name} {pattern!r} of {path} fits no linear layer of this model; "
                    "take the file that belongs to it"
                )


def _finish(folder: Path, arguments: GRPOArguments, checkpoint: Path) -> None:
    """Write model/, adapter/ and results.json from the last checkpoint."""
    if arguments.lora_rank:
        base, tokenizer = load_model(arguments.model, torch.float32)
        adapted = PeftModel.from_pretrained(base, checkpoint)
        with new_folder(folder / "adapter") as unfinished:
            adapted.save_pretrained(unfinished)
        model = adapted.merge_and_unload()
    else:
        model, tokenizer = load_model(checkpoint, torch.float32)
        model.config.use_cache = True  # the trainer turned it off
    require_free_space(folder, _model_bytes(model), "the final model")
    with new_folder(folder / "model") as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    reached = read_json(checkpoint / MARKER)
    reached["steps"] = reached.pop("step")
    evaluations = read_jsonl(folder / "evaluations.jsonl")
    results = {
        "method": "grpo",
        "task": arguments.task,
        "parameters": model.num_parameters(),
        "lora_rank": arguments.lora_rank,
        **reached,
        "first_evaluation": evaluations[0] if evaluations else None,
        "last_evaluation": evaluations[-1] if evaluations else None,
    }
    write_json(folder / "results.json", results)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is complete; those that a kill left half-written are removed."""
    if is_main_process():
        for checkpoint in folder.glob("checkpoint-*"):
            if not (checkpoint / MARKER).exists():
                shutil.rmtree(checkpoint)
    PartialState().wait_for_everyone()
    return max(folder.glob("checkpoint-*"), key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _checkpoint_bytes(model: torch.nn.Module) -> int:
    """The weights that are trained, Adam's two float32 moments of each, and the files beside them."""
    trained = (weight for weight in model.parameters() if weight.requires_grad)
    return sum(weight.numel() * (weight.element_size() + 8) for weight in trained) + BESIDE_WEIGHTS


def _model_bytes(model: torch.nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters()) + BESIDE_WEIGHTS

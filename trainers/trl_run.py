"""What every run of one of TRL's trainers shares: options, the record that is kept, checkpoints, resuming, results.

The trainers are TRL's, unchanged; this is what surrounds them. The run folder, `output_dir`:

    config.yaml, environment.json   what was asked for, and on what it ran
    metrics.jsonl                   one row per optimiser step: what was generated so far, and all that TRL logs
    evaluations.jsonl               greedy accuracy on validation problems, in the precision of training
    evaluated/step_N/               with `keep_evaluated: true`: the weights there (see `trainers.evaluated`)
    checkpoint-N/                   TRL's own trainer state; complete when it holds complete.json
    model/                          the final model as a Hugging Face folder
    results.json                    written last: a run that has it is complete
"""

import copy
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import datasets
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from torch.distributed.tensor import DTensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from eval.digests import data_digests, rows_digest, run_digests
from eval.errors import UserError
from eval.hardware import multiplies_bfloat16
from eval.harness import evaluate_task
from eval.ownership import files_in, make_marked, read_marker, remove_made, require_ours, run_at, write_marker
from eval.rollout.base import Sampling
from eval.rollout.chat import end_token_ids, padding_id
from eval.rollout.hf import HFEngine
from eval.rollout.loading import load_model, require_finite, require_finite_logits
from eval.secrets import is_secret, without_secrets
from eval.storage import (
    append_jsonl,
    new_folder,
    read_json,
    require_free_space,
    truncate_jsonl,
    write_json,
    write_text,
)
from eval.tasks import Task, own_data
from trainers.arguments import (
    MOST,
    check_all_finite,
    check_at_least,
    check_choice,
    check_count,
    check_positive,
    check_seed,
)
from trainers.dead_signal import DeadSignal
from trainers.ending import diverged, ended_by
from trainers.evaluated import (
    DTYPES,
    drop_evaluated_after,
    evaluations_of,
    keep_evaluated,
    saved_bytes,
    saver_of,
)
from trainers.finish import finish_again, finish_training
from trainers.hub import HUB_OPTIONS, check_hub
from trainers.launch import is_main_process
from trainers.options import NonNegativeInt, Rows, check_bounds, check_not_negative, check_share, option
from trainers.run_folder import end_run, first_and_last_evaluation, start_run
from trainers.step_line import step_line
from trainers.task_options import TaskOption, TaskOptions, fold_task
from trainers.tracking import Tracking, tracker_names


# Options of transformers that only make sense with one value here, and why.
FIXED = {
    "logging_strategy": ("steps", "metrics.jsonl has a row for each optimiser step"),
    "logging_steps": (1, "metrics.jsonl has a row for each optimiser step"),
    "eval_strategy": ("no", "eval_every of the lab evaluates"),
    "save_strategy": ("steps", "the final model comes from the last checkpoint"),
    "save_only_model": (False, "a killed run could not go on without the optimiser's state"),
    "load_best_model_at_end": (False, "the final model is the last one"),
    "ignore_data_skip": (False, "a resumed run would see other problems"),
    "resume_from_checkpoint": (None, "starting the same command again resumes from the last complete checkpoint"),
    "model_init_kwargs": (None, "the model is loaded in float32 as it is"),
    "logging_nan_inf_filter": (False, "a loss is logged as it is, and one that is not finite ends the run"),
}
NAMES_IN_YAML = {None: "null", False: "false"}
# What may change between a killed run and its continuation: how much is kept, not what is computed.
# Earlier runs have logging_nan_inf_filter: true.
MAY_CHANGE = (
    "save_total_limit",
    "report_to",
    "logging_nan_inf_filter",
    "keep_evaluated",
    "evaluated_dtype",
    *HUB_OPTIONS,
)
# What is logged of the model itself: NaN there is a divergence. A reward is NaN where nothing could be scored.
OF_THE_MODEL = ("loss", "grad_norm", "kl", "entropy")
ADVICE = "lower learning_rate, or max_grad_norm"
MARKER = "complete.json"
# Room for the tokenizer and other small files of a checkpoint, in bytes.
BESIDE_WEIGHTS = 16 * 1024**2


@dataclass
class TRLArguments(TaskOptions):
    """What the lab adds to the options of each of TRL's trainers."""

    model: str = field(metadata={"help": "Checkpoint folder or hub name of the model to start from."})
    task: TaskOption = option("", "Name of the task to train on, own.yaml, file.py:TASK, or package.module:attribute.")
    eval_every: NonNegativeInt = option(
        0,
        "Optimiser steps between greedy evaluations on validation problems; there is also one before the first step "
        "and one after the last. 0: no evaluation at all.",
    )
    eval_size: Rows = option(200, "Validation problems of each evaluation.")
    keep_evaluated: bool = option(
        False,
        "Keep the weights of every evaluation, without the optimizer's state, in evaluated/step_N of the run folder: "
        "a comparison at equal accuracy reads them. With LoRA the adapter alone.",
    )
    evaluated_dtype: str = option(
        "float32",
        "Type in which they are stored: float32, or bfloat16, half the size, whose rounding hides the length and the "
        "direction of a small update.",
    )
    optimizer_from: str = option(
        "",
        "Run folder of an earlier run of the same method: the optimizer starts with the state it had at that run's "
        "end. Its options, the learning rate among them, are this run's own.",
    )

    def __post_init__(self):
        check_bounds(self)
        fold_task(self)
        check_at_least("eval_size", self.eval_size, 2)
        check_choice("evaluated_dtype", self.evaluated_dtype, DTYPES)


class Generated(Protocol):
    """What was generated so far, over all processes."""

    completions: int
    tokens: int


# Of transformers and TRL, by what they take; those that a trainer does not have are left out.
COUNTS = (
    "num_generations",
    "max_completion_length",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "generation_batch_size",
    "num_iterations",
    "num_train_epochs",
)
POSITIVE = ("temperature", "repetition_penalty", "adam_epsilon", "delta", "vllm_server_timeout")
NOT_NEGATIVE = (
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "warmup_steps",
    "beta",
    "epsilon",
    "epsilon_high",
    "top_k",
)
SHARES = (
    "adam_beta1",
    "adam_beta2",
    "top_p",
    "min_p",
    "label_smoothing_factor",
    "top_entropy_quantile",
    "vllm_gpu_memory_utilization",
)
ABOVE_ZERO = ("top_p", "vllm_gpu_memory_utilization")


def check_numbers(config: TrainingArguments) -> None:
    """Raise `UserError` for numbers that transformers and TRL take without a look, before they compute with them.

    None may be NaN or infinite.
    """
    check_all_finite(config)
    checks = {check_count: COUNTS, check_positive: POSITIVE, check_not_negative: NOT_NEGATIVE, check_share: SHARES}
    for check, names in checks.items():
        for name in names:
            if isinstance(value := getattr(config, name, None), int | float):
                check(name, value)
    for name in ABOVE_ZERO:
        if getattr(config, name, None) == 0:
            raise UserError(f"{name} is 0, which leaves nothing; give a share above 0")
    if config.max_steps > MOST:
        raise UserError(f"max_steps is {config.max_steps}, above {MOST:,}: no run is as long; give less")
    for name in ("seed", "data_seed"):
        if getattr(config, name) is not None:
            check_seed(name, getattr(config, name))


def check_options(config: TrainingArguments, fixed: Mapping[str, tuple[Any, str]], example: str) -> None:
    """Raise `UserError` for options of transformers that would go wrong later.

    fixed: options with only one value that makes sense, and why. example: a run folder, for a message.
    """
    if config.output_dir == "trainer_output":  # transformers' default
        raise UserError(f"output_dir is not set; give the folder of this run, such as output_dir: {example}")
    for name, (value, reason) in fixed.items():
        if getattr(config, name) != value:
            raise UserError(f"{name} has to be {NAMES_IN_YAML.get(value, value)}, because {reason}")
    if config.save_total_limit == 1:
        # transformers removes the last complete checkpoint before the new one is marked as complete.
        raise UserError("save_total_limit: 1 leaves moments without a complete checkpoint; give 2 or more")
    if config.save_steps != int(config.save_steps) or config.save_steps < 1:
        raise UserError(f"save_steps is {config.save_steps}; give a whole number of optimiser steps, at least 1")
    if config.save_total_limit is not None:
        check_at_least("save_total_limit", config.save_total_limit, 2)
    tracker_names(config.report_to)


def check_run(arguments: TRLArguments, config: TrainingArguments) -> None:
    """Raise `UserError` for options that do not fit this machine or an earlier run, before a model loads."""
    on_cpu = config.device.type == "cpu"
    if on_cpu and (config.fp16 or (config.bf16 and not multiplies_bfloat16("cpu"))):
        # TRL turns bf16 on wherever it is not turned off, on the CPU as well.
        raise UserError(
            "training would run in half precision, which this CPU does not multiply; write bf16: false (and no fp16)"
        )
    if arguments.optimizer_from:
        optimizer_file(arguments.optimizer_from)
    # In an empty one there is nothing to lose.
    foreign = [path for path in _checkpoints(run_folder(config)) if not _is_own(path) and any(path.iterdir())]
    if foreign:
        raise UserError(f"{foreign[0]} is not of this run; move it away, or choose another output_dir")
    check_hub(config)


def run_folder(config: TrainingArguments) -> Path:
    return Path(str(config.output_dir))


def seed_of_problems(config: TrainingArguments) -> int:
    return config.seed if config.data_seed is None else config.data_seed


def results_of_finished_run(
    arguments: TRLArguments, config: TrainingArguments, goes_on: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    """What stands in results.json of a complete run with these options; None if it is not complete.

    With `push_to_hub` its model is uploaded, again or for the first time.

    goes_on: whether a run with these results is to be given more steps.
    """
    file = run_folder(config) / "results.json"
    if not file.exists() or goes_on(read_json(file)):
        return None
    start_run(run_folder(config), arguments, config, may_change=MAY_CHANGE)
    finish_again(run_folder(config), config)
    end_run(run_folder(config))
    return read_json(file)


def load_chat_model(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in float32 and its tokenizer, whose end and padding tokens the model has.

    Raises `UserError` for a model without a chat template, or without any end token.
    """
    model, tokenizer = load_model(name, torch.float32)
    if tokenizer.chat_template is None:
        raise UserError(f"{name} has no chat template, and the prompts are chats; take an instruct model")
    ends = end_token_ids(tokenizer, model.generation_config)
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token_id = ends[0]
    rows = len(cast(torch.nn.Embedding, model.get_input_embeddings()).weight)
    tokenizer.pad_token_id = padding_id(tokenizer, ends, rows)
    return model, tokenizer


def end_tokens_only(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Leave of the model's generation configuration only what ends, pads and begins an answer; returns the whole.

    transformers' `generate` would put its constraints (suppressed tokens, a least length, penalties, its own top_k)
    in force where TRL says nothing of them, and refuses to save some of them.
    """
    whole = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=end_token_ids(tokenizer, whole),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    return whole


def watch_logits(model: PreTrainedModel) -> None:
    """Let every forward pass raise `UserError` if the logits are not finite, before a token is drawn from them."""

    def check(head: torch.nn.Module, inputs: Any, logits: torch.Tensor) -> None:
        if logits.numel():
            require_finite_logits(logits.detach().amax())

    if (head := model.get_output_embeddings()) is not None:
        head.register_forward_hook(check)


class RunRecorder(TrainerCallback):
    """Writes metrics.jsonl and evaluations.jsonl, and marks the checkpoints that are complete.

    Ends the run where a budget of tokens or seconds is reached, with a checkpoint there.

    generated: counts what was generated; set back to what it was at `checkpoint`.
    evaluate: the greedy accuracy of the model as it is now, as `evaluate_task` returns it.
    budgets: of tokens and of seconds, see `trainers.ending`; 0 is none.
    checkpoint: where the run goes on from, None at its beginning.
    trackers: their names (see `trainers.tracking`); the main process logs to them.
    generate_every: micro-steps (forward and backward passes) that use the same completions.
    generation: written into the checkpoints as the model's generation configuration.
    seconds: that a run has taken before its first step.
    left_out: what the trainer logs and the record does not take.
    keep: how many checkpoints, the newest ones; None keeps all.
    method: its name in the line after a step. rows: of a step and of the whole run, where all was sampled before the
        run; None where each step generates its own completions.
    evaluated_dtype: in which the weights of every evaluation are kept; None keeps none.
    """

    def __init__(
        self,
        folder: Path,
        generated: Generated,
        evaluate: Callable[[], dict[str, Any]],
        eval_every: int,
        budgets: tuple[int, float],
        checkpoint: Path | None,
        trackers: list[str],
        *,
        generation: GenerationConfig,
        generate_every: int = 1,
        seconds: float = 0.0,
        left_out: tuple[str, ...] = (),
        keep: int | None = None,
        method: str = "grpo",
        rows: tuple[int, int] | None = None,
        evaluated_dtype: str | None = None,
    ):
        self.folder, self.generated, self.evaluate, self.eval_every = folder, generated, evaluate, eval_every
        self.budgets, self.generate_every, self.generation = budgets, generate_every, generation
        self.seconds, self.left_out, self.keep = seconds, left_out, keep
        self.method, self.rows, self.seconds_before = method, rows, seconds
        self.evaluated_dtype = evaluated_dtype
        self.ended_by: str | None = None
        # Of the rewards so far, where there are rewards.
        self.signal: DeadSignal | None = getattr(generated, "signal", None)
        last_step = -1
        if checkpoint is not None:
            reached = read_json(checkpoint / MARKER)
            last_step, self.seconds = reached["step"], reached["seconds"]
            generated.completions, generated.tokens = reached["completions"], reached["tokens"]
        if is_main_process():
            truncate_jsonl(folder / "metrics.jsonl", last_step)
            truncate_jsonl(folder / "evaluations.jsonl", last_step)
            drop_evaluated_after(folder, last_step)
            if self.signal is not None:
                self.signal.resume(folder / "metrics.jsonl")
        self.tracking = Tracking(trackers if is_main_process() else [], folder)

    def on_train_begin(self, args, state, control, **kwargs):
        model = kwargs["model"]
        checkpoints = math.ceil((state.max_steps - state.global_step) / state.save_steps)
        needed = min(checkpoints, self.keep or checkpoints) * _checkpoint_bytes(model)
        if self.evaluated_dtype is not None:
            evaluations = evaluations_of(state.max_steps - state.global_step, self.eval_every)
            needed += evaluations * (saved_bytes(_trained(model), self.evaluated_dtype) + BESIDE_WEIGHTS)
        require_free_space(self.folder, needed + _model_bytes(model), "this run")
        if state.global_step == 0 and self.eval_every:
            self._evaluate(state, kwargs)

    def on_step_begin(self, args, state, control, **kwargs):
        self.step_began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds += time.perf_counter() - self.step_began
        self.ended_by = self._ended_by(args, state)
        if self.ended_by is not None:
            control.should_save = control.should_training_stop = True
        if self.eval_every and (state.global_step % self.eval_every == 0 or self.ended_by is not None):
            self._evaluate(state, kwargs)
        if control.should_save:
            needed = _checkpoint_bytes(kwargs["model"])
            require_free_space(self.folder, needed, f"the checkpoint of step {state.global_step}")
            if state.is_world_process_zero:
                # Made and marked before the trainer fills it: what a kill leaves of it is known as this run's.
                checkpoint = self.folder / f"checkpoint-{state.global_step}"
                require_ours(checkpoint, option="output_dir")
                if not checkpoint.exists():
                    make_marked(checkpoint, run_at(self.folder))
                elif not any(checkpoint.iterdir()):
                    write_marker(checkpoint, run_at(self.folder))

    def on_log(self, args, state, control, **kwargs):
        logs = {name: value for name, value in kwargs["logs"].items() if name not in self.left_out}
        # The last call of a run sums it up, without a loss; it belongs to no step.
        if "loss" not in logs:
            return
        if args.fp16 and not math.isfinite(logs.get("grad_norm") or 0.0):
            logs["grad_norm"] = None  # a step that the loss's scaling has skipped
        for name, value in logs.items():
            nan_is_wrong = name in OF_THE_MODEL
            if value is not None and (math.isinf(value) or (nan_is_wrong and math.isnan(value))):
                raise diverged(f"{name} of step {state.global_step} is {value}", ADVICE)
        if not state.is_world_process_zero:
            return
        # NaN (the reward of a step without a scorable completion, say) is not JSON.
        logged = {name: None if value is None or math.isnan(value) else value for name, value in logs.items()}
        flags = {} if self.signal is None else self.signal.flags()
        row = {**self._reached(state), **logged, **flags}
        append_jsonl(self.folder / "metrics.jsonl", row)
        self.tracking.log(row)
        # Steps that go on with older completions have no reward of their own, those of SFT never.
        line = step_line(
            self.method,
            state.global_step,
            state.max_steps,
            seconds=self.seconds - self.seconds_before,
            done=self._done(state),
            unit="completions" if self.rows is None else "rows",
            reward=logged.get("reward"),
            loss=None if "reward" in logged else logged["loss"],
        )
        print(line, flush=True)

    def on_save(self, args, state, control, **kwargs):
        trained = ((name, weight) for name, weight in kwargs["model"].named_parameters() if weight.requires_grad)
        require_finite(((name, _local(weight)) for name, weight in trained), f"step {state.global_step}")
        # Every process writes its own random state.
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = self.folder / f"checkpoint-{state.global_step}"
            if (checkpoint / "generation_config.json").exists():
                write_text(checkpoint / "generation_config.json", self.generation.to_json_string())
            for path in checkpoint.rglob("*"):
                if path.is_file():
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            marker = {**self._reached(state), "processes": args.world_size, "ended_by": self.ended_by}
            write_marker(checkpoint, run_at(self.folder), [*files_in(checkpoint), MARKER])
            write_json(checkpoint / MARKER, marker)
            keep_newest_checkpoints(self.folder, self.keep)

    def _ended_by(self, args: TrainingArguments, state: TrainerState) -> str | None:
        """See `trainers.ending`. A budget waits until all completions that it has paid for are used."""
        unused = state.global_step * args.gradient_accumulation_steps % self.generate_every
        budgets = (0, 0.0) if unused else self.budgets
        ended = ended_by(state.global_step, state.max_steps, self._reached(state), *budgets)
        # The clocks of the processes differ.
        return broadcast_object_list([ended])[0]

    def _evaluate(self, state: TrainerState, trainer: dict[str, Any]) -> None:
        """trainer: the model and the tokenizer, as transformers gives them to a callback."""
        if state.is_world_process_zero:
            if self.evaluated_dtype is not None and state.global_step:
                dtype = DTYPES[self.evaluated_dtype]
                save = saver_of(trainer["model"], trainer["processing_class"], self.generation, dtype)
                keep_evaluated(self.folder, state.global_step, save)
            evaluation = self.evaluate()
            if evaluation["accuracy"] is None:
                raise UserError("none of the task's validation problems could be scored; set eval_every: 0")
            kept = {key: evaluation[key] for key in ("correct", "total", "accuracy", "low", "high")}
            row = {"step": state.global_step, "completions": self.generated.completions, **kept}
            append_jsonl(self.folder / "evaluations.jsonl", row)
            self.tracking.log(row)
            self.tracking.log_completions(evaluation["records"], row["completions"])
            line = step_line(self.method, state.global_step, state.max_steps, accuracy=row["accuracy"])
            print(line, flush=True)
        PartialState().wait_for_everyone()

    def _done(self, state: TrainerState) -> int:
        """What was generated or, of the rows of a run, trained on so far."""
        if self.rows is None:
            return self.generated.completions
        of_step, of_run = self.rows
        return min(state.global_step * of_step, of_run)

    def _reached(self, state: TrainerState) -> dict[str, Any]:
        return {
            "step": state.global_step,
            "completions": self.generated.completions,
            "tokens": self.generated.tokens,
            "seconds": self.seconds,
        }


class OptimizerStart(TrainerCallback):
    """Gives the optimizer the state in `file` before the first step, but leaves it the options of its own run.

    The state is of parameters by their number. Raises `UserError` if the shapes are others.
    """

    def __init__(self, file: Path):
        self.file = file

    def on_train_begin(self, args, state, control, **kwargs):
        optimizer = kwargs["optimizer"]
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


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The run's newest checkpoint that is complete; what a kill left half-written of one is removed."""
    if is_main_process():
        for checkpoint in _checkpoints(folder):
            if _is_own(checkpoint) and not (checkpoint / MARKER).exists():
                remove_made(checkpoint)
    PartialState().wait_for_everyone()
    return max(complete_checkpoints(folder), key=step_of, default=None)


def keep_newest_checkpoints(folder: Path, keep: int | None) -> None:
    """Remove all but the `keep` newest complete checkpoints (None: all stay), on the main process.

    transformers would remove whatever has the name of a checkpoint.
    """
    if keep and is_main_process():
        for old in sorted(complete_checkpoints(folder), key=step_of)[:-keep]:
            remove_made(old)


def last_checkpoint_of_run(folder: Path, keep: int | None, train: Callable[[Path | None], None]) -> Path:
    """The checkpoint with which the run has ended; before, `train` goes on from the newest, if it has not ended.

    A kill between the newest checkpoint and the removal of the oldest leaves one more than `keep`, which goes first.
    """
    checkpoint = last_complete_checkpoint(folder)
    keep_newest_checkpoints(folder, keep)
    if checkpoint is None or read_json(checkpoint / MARKER)["ended_by"] is None:
        train(checkpoint)
        checkpoint = last_complete_checkpoint(folder)
    if checkpoint is None:
        raise RuntimeError(f"the trainer left no complete checkpoint in {folder}")
    return checkpoint


Config = TypeVar("Config", bound=TrainingArguments)


def trainer_config(config: Config, checkpoint: Path | None, **changed: Any) -> Config:
    """A copy for the trainer itself, with some options changed; what earlier trainers left behind is reset.

    Raises `UserError` if the run up to `checkpoint` had another number of processes.
    """
    if checkpoint is not None:
        before = read_json(checkpoint / MARKER)["processes"]
        if before != config.world_size:
            raise UserError(f"this run runs on {before} processes, not {config.world_size}; start it so")
    config = copy.copy(config)
    for name, value in changed.items():
        setattr(config, name, value)
    config.report_to = []  # transformers would log on an axis of steps
    config.save_total_limit = None  # the recorder removes old checkpoints
    config.push_to_hub = False  # transformers would upload checkpoints; the finished model goes there with its card
    for name, value in vars(config).items():
        # The trainer writes its options into every checkpoint (training_args.bin).
        if is_secret(name):
            setattr(config, name, None)
        elif isinstance(value, dict):
            setattr(config, name, without_secrets(value))
    if config.device.type == "cpu":
        # accelerate numbers the CPUs of several processes (cpu:1), and torch.load knows only "cpu".
        config._setup_devices = torch.device("cpu")
    # An accelerator that this process made before would hold this run to its own precision.
    AcceleratorState._reset_state()
    return config


def greedy_evaluation(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    arguments: TRLArguments,
    config: TrainingArguments,
    max_new_tokens: int,
) -> Callable[[], dict[str, Any]]:
    """What evaluates the trainer's model as it is then, for `RunRecorder`. Raises `UserError` if it is sharded."""
    if arguments.eval_every and (trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()):
        raise UserError(
            "greedy evaluation needs whole weight matrices, but FSDP and ZeRO-3 shard them; "
            "set eval_every: 0 and evaluate the final model"
        )

    def evaluate() -> dict[str, Any]:
        policy = trainer.model
        if isinstance(policy, PeftModel):
            policy = policy.get_base_model()
        return evaluate_task(
            HFEngine(cast(PreTrainedModel, policy), tokenizer),
            task,
            "validation",
            arguments.eval_size,
            seed_of_problems(config),
            Sampling(max_new_tokens=max_new_tokens),
            config.per_device_eval_batch_size,
        )

    return evaluate


def run_trainer(trainer: Trainer, recorder: RunRecorder, arguments: TRLArguments, checkpoint: Path | None) -> None:
    """Let the trainer run from `checkpoint` (None: from the beginning) to its end, where it leaves a checkpoint."""
    # One line per step, written by the recorder, takes the place of transformers' table of numbers.
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(recorder)
    if arguments.optimizer_from and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise UserError("optimizer_from reads a whole optimizer state, but FSDP and ZeRO shard it; leave it out")
    if arguments.optimizer_from and checkpoint is None:
        trainer.add_callback(OptimizerStart(optimizer_file(arguments.optimizer_from)))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    recorder.tracking.close()


def load_trained_model(checkpoint: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = load_model(checkpoint, torch.float32)
    model.config.use_cache = True  # the trainer turned it off
    return model, tokenizer


def write_finished_run(
    folder: Path,
    method: str,
    arguments: TRLArguments,
    config: TrainingArguments,
    problems: datasets.Dataset,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    checkpoint: Path,
    own: dict[str, Any],
    ended_early_by: str | None = None,
) -> None:
    """Write model/ and results.json.

    problems: in the order in which the run took them. own: results of this method alone. ended_early_by: what ended
        its sampling.
    """
    require_free_space(folder, _model_bytes(model), "the final model")
    with new_folder(folder / "model") as unfinished:
        # `save_pretrained` refuses what many models have in their generation configuration.
        whole, model.generation_config = model.generation_config, GenerationConfig()
        model.save_pretrained(str(unfinished))
        model.generation_config = whole
        write_text(unfinished / "generation_config.json", whole.to_json_string())
        tokenizer.save_pretrained(unfinished)
    reached = read_json(checkpoint / MARKER)
    reached["steps"] = reached.pop("step")
    if ended_early_by is not None:
        reached["ended_by"] = ended_early_by
    data = {f"{arguments.task}, {len(problems)} rows of train": rows_digest(problems)}
    if arguments.eval_every:
        data |= data_digests([(arguments.task, arguments.eval_size)], "validation", seed_of_problems(config))
    results = {
        "method": method,
        "task": arguments.task,
        "parameters": model.num_parameters(),
        **own,
        **reached,
        **first_and_last_evaluation(folder),
        **own_data([arguments.task]),
        "digests": run_digests(folder, {"start": arguments.model, "model": folder / "model"}, data),
    }
    finish_training(folder, config, results)


def _local(weight: torch.Tensor) -> torch.Tensor:
    """This process's part of a weight that FSDP shards."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _checkpoints(folder: Path) -> list[Path]:
    """All that transformers would take for checkpoints in `folder`."""
    return [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def complete_checkpoints(folder: Path) -> list[Path]:
    return [path for path in _checkpoints(folder) if _is_own(path) and (path / MARKER).exists()]


def _is_own(checkpoint: Path) -> bool:
    """Whether the run that it lies in made it. Runs of older versions marked only complete checkpoints, by a file."""
    marker = read_marker(checkpoint)
    if marker is None:
        return (checkpoint / MARKER).exists() and (checkpoint.parent / "config.yaml").exists()
    return marker["run"] == run_at(checkpoint.absolute().parent) != ""


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _trained(model: torch.nn.Module) -> int:
    """How many weights are trained."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def _checkpoint_bytes(model: torch.nn.Module) -> int:
    """The weights that are trained, Adam's two float32 moments of each, and the files beside them."""
    trained = (weight for weight in model.parameters() if weight.requires_grad)
    return sum(weight.numel() * (weight.element_size() + 8) for weight in trained) + BESIDE_WEIGHTS


def _model_bytes(model: torch.nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters()) + BESIDE_WEIGHTS

"""Supervised fine-tuning on a model's own correct answers, a baseline between sampling and reinforcement learning.

The model to start from answers every training problem several times; the answers that the task calls right become
the data of TRL's `SFTTrainer`, with the loss on their tokens alone. Known as rejection sampling fine-tuning (Yuan et
al. 2023, arXiv 2308.01825) and, with one round, as expert iteration (ReST-EM: Singh et al. 2023, arXiv 2312.06585).
Every right answer is kept, as often as it was sampled, so that the first step's gradient is REINFORCE's for a reward
of 0 or 1 without a baseline. Whatever is generated counts, right or wrong.

Data of one's own with a column of answers is trained on these answers instead, those that its reward scores above 0;
`answers: sampled` has the model's own here too, those with a reward above 0. With `answers: reference` the data are
the task's own answers: a warm start that teaches a model the form in which answers are asked for, from few examples,
before a reinforcement that would be starved without it. Of such answers nothing is generated.

The run folder is that of `trainers.trl_run`; besides, samples.jsonl has a row per batch of prompts, with the answers
kept.
"""

import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import trl
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTTrainer

from eval.adapters import score_completions
from eval.errors import UserError
from eval.log_probs import TokenPair
from eval.rollout.base import Sampling
from eval.rollout.chat import end_token_ids, prompt_ids
from eval.rollout.hf import HFEngine
from eval.storage import append_jsonl, read_json, read_jsonl, truncate_jsonl
from eval.tasks import Task, get_task
from eval.tasks.base import reference_answer
from eval.tasks.own import OwnTask, say
from trainers.arguments import check_choice
from trainers.ending import check_budgets
from trainers.launch import is_main_process
from trainers.more_steps import goes_on, options_before, reopen
from trainers.options import PositiveFloat, PositiveInt, Rows, option
from trainers.run_folder import end_run, start_run
from trainers.step_line import step_line
from trainers.task_options import training_rows
from trainers.tracking import tracker_names
from trainers.trl_run import (
    FIXED,
    MAY_CHANGE,
    RunRecorder,
    TRLArguments,
    check_numbers,
    check_options,
    check_run,
    end_tokens_only,
    greedy_evaluation,
    last_checkpoint_of_run,
    load_chat_model,
    load_trained_model,
    results_of_finished_run,
    run_folder,
    run_trainer,
    seed_of_problems,
    trainer_config,
    write_finished_run,
)


@dataclass
class SFTArguments(TRLArguments):
    """What the lab adds to TRL's `SFTConfig`; both are read from the same flat YAML."""

    answers: str = option(
        "",
        "sampled: learn from the model's own right answers; reference: from the task's, one for each problem; column: "
        "from your own data's, the default where it has answers. With the last two nothing is generated, and samples, "
        "temperature and prompts_per_batch count for nothing.",
    )
    problems: Rows = option(1920, "Training problems that the model answers.")
    samples: PositiveInt = option(8, "Answers to each of them.")
    temperature: PositiveFloat = option(1.0, "At which they are sampled.")
    max_completion_length: PositiveInt = option(256, "Longest answer, in tokens.")
    prompts_per_batch: PositiveInt = option(64, "Problems that are answered at a time, over all processes.")
    stop_at_tokens: int = option(0, "End sampling after the first batch that reaches so many tokens; 0: no limit.")
    stop_at_seconds: float = option(
        0.0,
        "End sampling after the first batch that reaches half of it, and training after the first step that reaches "
        "it; 0: no limit.",
    )

    def __post_init__(self):
        super().__post_init__()
        check_budgets(self.stop_at_tokens, self.stop_at_seconds)
        column = getattr(get_task(self.task), "answer_column", "")
        self.answers = self.answers or ("column" if column else "sampled")
        check_choice("answers", self.answers, ("sampled", "reference", "column"))
        if self.answers == "column" and not column:
            raise UserError(f"answers: column, but task {self.task} has none; give answer_column, or answers: sampled")


# Options of SFTTrainer that only make sense with one value here, and why.
FIXED_IN_SFT = FIXED | {
    "max_steps": (-1, "the length of the run is num_train_epochs passes over the answers that are kept"),
    "max_length": (None, "max_completion_length limits the answers, and none is to be cut afterwards"),
    "packing": (False, "each answer is an example of its own"),
    "assistant_only_loss": (False, "the loss is on the tokens of the answer in any case"),
}


@dataclass
class SFTConfig(trl.SFTConfig):
    """TRL's `SFTConfig`, which refuses with a `UserError` what would go wrong later."""

    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Has to be false: a loss is logged as it is."}
    )
    max_length: int | None = field(default=None, metadata={"help": "Has to be null; see max_completion_length."})

    def __post_init__(self):
        check_numbers(self)
        super().__post_init__()
        check_options(self, FIXED_IN_SFT, "runs/tiny/sft")
        if self.num_train_epochs != int(self.num_train_epochs) or self.num_train_epochs < 1:
            raise UserError(f"num_train_epochs is {self.num_train_epochs}; give a whole number of passes, at least 1")


@dataclass
class Sampled:
    """What was generated for this run, and the answers that are kept, as token ids (prompt, completion)."""

    completions: int
    tokens: int
    seconds: float
    correct: int
    kept: list[TokenPair]


def more_passes(config: SFTConfig) -> tuple[str, ...]:
    """The option that may differ from the run in the folder, because it is given more passes; none if it is not."""
    return () if options_before(run_folder(config), "num_train_epochs", config) is None else ("num_train_epochs",)


def train_sft(arguments: SFTArguments, config: SFTConfig) -> dict[str, Any]:
    """Sample and train in `config.output_dir`, or go on where a killed run was; returns what stands in results.json.

    A run that is complete returns at once, unless `num_train_epochs` asks for more passes. A run that was killed goes
    on from its last batch of samples or its last complete checkpoint. Both end with the weights of an undisturbed run,
    bit for bit. Raises `UserError` for mistakes in the options, for a model that answers nothing right, and for a full
    disk.
    """
    check_run(arguments, config)
    task = get_task(arguments.task)
    folder = run_folder(config)
    growing = more_passes(config)

    def more(results: dict[str, Any]) -> bool:
        return goes_on(folder, steps_of(results["kept"], config))

    if (finished := results_of_finished_run(arguments, config, more)) is not None:
        return finished
    # Loaded before the folder is touched: a wrong name leaves nothing behind.
    model, tokenizer = load_chat_model(arguments.model)
    problems = task.load("train", training_rows(task, arguments.problems), seed_of_problems(config))
    given = given_answers(arguments, task, model, tokenizer, problems)
    start_run(folder, arguments, config, may_change=(*MAY_CHANGE, *growing))
    model.to(config.device)  # pyright: ignore[reportArgumentType]  transformers' decorator hides that it is a method
    sampled = given or sample(folder, arguments, config, task, HFEngine(model, tokenizer), problems)
    if not sampled.kept:
        raise UserError(
            f"none of the {sampled.completions} answers of {arguments.model} on {arguments.task} is right and "
            "finished, so there is nothing to train on; raise samples or problems, or take another model"
        )
    kept = len(sampled.kept)
    # Where the answers do not fill the last step, a longer run fills it with those of the next pass.
    whole = partial(ends_whole, kept, config)
    reopen(folder, steps_of(kept, config), arguments.eval_every, whole)
    checkpoint = last_checkpoint_of_run(
        folder,
        config.save_total_limit,
        lambda newest: _train(arguments, config, task, model, tokenizer, sampled, newest),
    )
    if is_main_process():
        _finish(folder, arguments, config, problems, sampled, checkpoint)
    PartialState().wait_for_everyone()
    end_run(folder)
    return read_json(folder / "results.json")


def given_answers(
    arguments: SFTArguments,
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: datasets.Dataset,
) -> Sampled | None:
    """The answers that are there before the run, of which nothing is generated; None with `answers: sampled`."""
    if arguments.answers == "reference":
        return reference_answers(task, model, tokenizer, problems)
    if arguments.answers == "column" and isinstance(task, OwnTask):
        return answers_of_data(arguments, task, model, tokenizer, problems)
    return None


def reference_answers(
    task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: datasets.Dataset
) -> Sampled:
    """The task's own answers, each ended as the model ends its turns; nothing is generated, so nothing is counted."""
    rows = problems.to_list()
    texts = [reference_answer(task, row) for row in rows]
    return Sampled(0, 0, 0.0, 0, encoded_answers(model, tokenizer, rows, texts))


def answers_of_data(
    arguments: SFTArguments,
    task: OwnTask,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: datasets.Dataset,
) -> Sampled:
    """The answers in the data's own column that its reward scores above 0; how many are left out is said in one line.

    Raises UserError if none is left.
    """
    rows = problems.to_list()
    texts = [str(row[task.answer_column]) for row in rows]
    pairs = encoded_answers(model, tokenizer, rows, texts)
    scores = score_completions(task, texts, rows, [ids for _, ids in pairs])
    rewarded = [is_right(task, score.value) for score in scores]
    fits = [len(ids) <= arguments.max_completion_length for _, ids in pairs]
    kept = [pair for pair, *good in zip(pairs, rewarded, fits, strict=True) if all(good)]
    too_long = sum(right and not fit for right, fit in zip(rewarded, fits, strict=True))
    counts = (
        f"{len(kept)} of the {len(rows)} answers in column {task.answer_column!r} are trained on; "
        f"{len(rows) - sum(rewarded)} score 0 or less, {too_long} are longer than max_completion_length"
    )
    if not kept:
        raise UserError(
            f"task {task.name}: {counts}; give answers as a model should write them, a reward that accepts them, or "
            "answers: sampled, to train on the model's own"
        )
    say(f"task {task.name}: {counts}")
    return Sampled(completions=0, tokens=0, seconds=0.0, correct=sum(rewarded), kept=kept)


def encoded_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], texts: list[str]
) -> list[TokenPair]:
    """Each row's prompt and the text that answers it, which ends as the model ends its turns."""
    [end, *_] = end_token_ids(tokenizer, model.generation_config)
    answers = [[*tokenizer.encode(text, add_special_tokens=False), end] for text in texts]
    return list(zip(prompt_ids(tokenizer, [row["prompt"] for row in rows]), answers, strict=True))


def is_right(task: Task, value: float | None) -> bool:
    """Whether an answer is trained on: with score 1; of a reward of one's own, which has no such scale, above 0."""
    return value is not None and (value > 0 if isinstance(task, OwnTask) else value == 1.0)


def steps_of(kept: int, config: SFTConfig) -> int:
    """Optimiser steps of `num_train_epochs` passes over so many answers."""
    return math.ceil(kept * int(config.num_train_epochs) / answers_per_step(config))


def ends_whole(kept: int, config: SFTConfig, step: int) -> bool:
    """Whether the last of `step` steps, with which whole passes end, is a full one."""
    return step * answers_per_step(config) % kept == 0


def answers_per_step(config: SFTConfig) -> int:
    return config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size


def sample(
    folder: Path, arguments: SFTArguments, config: SFTConfig, task: Task, engine: HFEngine, problems: datasets.Dataset
) -> Sampled:
    """Answers to the problems, batch after batch; what an earlier start has sampled is read from samples.jsonl."""
    path = folder / "samples.jsonl"
    state = PartialState()
    if is_main_process():
        truncate_jsonl(path, len(problems))  # for the half line of a killed run
    [batches] = broadcast_object_list([read_jsonl(path)])
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
            "correct": sum(is_right(task, answer["value"]) for answer in answers),
            # A right answer that was cut would teach the model not to end.
            "kept": [answer for answer in answers if is_right(task, answer["value"]) and answer["finished"]],
        }
        [batch] = broadcast_object_list([batch])  # the clocks of the processes differ
        batches.append(batch)
        if is_main_process():
            append_jsonl(path, batch)
            done, seconds = (sum(one[key] for one in batches) for key in ("completions", "seconds"))
            right = batch["correct"] / batch["completions"]
            line = step_line("sft answers", step + 1, len(starts), seconds=seconds, done=done, reward=right)
            print(line, flush=True)
    kept = [(answer["prompt_ids"], answer["completion_ids"]) for batch in batches for answer in batch["kept"]]
    totals = {key: sum(batch[key] for batch in batches) for key in ("completions", "tokens", "seconds", "correct")}
    return Sampled(**totals, kept=kept)


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
    answered = [
        (row, prompt_ids, completion)
        for row, prompt_ids, completions in zip(rows, engine.encode(prompts), answers, strict=True)
        for completion in completions
    ]
    scores = score_completions(
        task,
        [completion.text for *_, completion in answered],
        [row for row, *_ in answered],
        [completion.token_ids for *_, completion in answered],
    )
    return [
        {
            "completion": completion.text,
            "value": score.value,
            "finished": completion.finished,
            "prompt_ids": prompt_ids,
            "completion_ids": completion.token_ids,
        }
        for (_, prompt_ids, completion), score in zip(answered, scores, strict=True)
    ]


def examples(kept: list[TokenPair], epochs: int, seed: int) -> datasets.Dataset:
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
    data = examples(sampled.kept, int(config.num_train_epochs), config.seed)
    # `examples` has all epochs, in the order in which they are taken.
    options = trainer_config(config, checkpoint, num_train_epochs=1, train_sampling_strategy="sequential")
    generation = end_tokens_only(model, tokenizer)
    trainer = SFTTrainer(model, args=options, train_dataset=data, processing_class=tokenizer)
    recorder = RunRecorder(
        run_folder(config),
        sampled,
        greedy_evaluation(trainer, tokenizer, task, arguments, config, arguments.max_completion_length),
        arguments.eval_every,
        # The tokens were spent before the first step.
        (0, arguments.stop_at_seconds),
        checkpoint,
        tracker_names(config.report_to),
        generation=generation,
        seconds=sampled.seconds,
        # TRL's count of the tokens trained on starts again at 0 when a run is resumed.
        left_out=("num_tokens",),
        keep=config.save_total_limit,
        method="sft",
        rows=(options.train_batch_size * options.gradient_accumulation_steps * options.world_size, len(data)),
        evaluated_dtype=arguments.evaluated_dtype if arguments.keep_evaluated else None,
    )
    run_trainer(trainer, recorder, arguments, checkpoint)


def _finish(
    folder: Path,
    arguments: SFTArguments,
    config: SFTConfig,
    problems: datasets.Dataset,
    sampled: Sampled,
    checkpoint: Path,
) -> None:
    """Write model/ and results.json from the last checkpoint."""
    model, tokenizer = load_trained_model(checkpoint)
    own = {"correct": sampled.correct, "kept": len(sampled.kept)}
    spent = arguments.stop_at_tokens and sampled.tokens >= arguments.stop_at_tokens
    ended_by = "tokens" if spent else None
    write_finished_run(folder, "sft", arguments, config, problems, model, tokenizer, checkpoint, own, ended_by)

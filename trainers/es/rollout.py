"""From members to rewards: which prompts a step asks, who answers them, and the tables of completions."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from accelerate.utils import gather_object

from eval.adapters import fitness, reward_names
from eval.log_prob_gap import COMPARED
from eval.rollout.base import Completion, Member, RolloutEngine, Sampling
from eval.tasks import Task, get_task
from trainers.dead_signal import SHOWN
from trainers.earlier_tasks import EarlierTasks, replayed_prompts
from trainers.es.assignment import Assignment
from trainers.es.config import ESConfig
from trainers.es.engine_gap import engine_gap
from trainers.es.search import Evaluation
from trainers.es.update import Weights


Row = dict[str, Any]


class TrainingRows:
    """The rows that every member answers, step by step, and the task that scores them.

    With `replay`, those of earlier tasks end each step (see `trainers.earlier_tasks`). task: where it is not the one
    of the options.
    """

    def __init__(self, config: ESConfig, task: Task | None = None):
        self.task: Task = task or get_task(config.task)
        self.earlier: EarlierTasks | None = None
        replayed = replayed_prompts(config.prompts_per_step, config.replay_share)
        if replayed:
            self.earlier = EarlierTasks.load(
                config.task, config.replay, replayed, config.train_size, config.data_seed, config.seed
            )
            self.task = self.earlier.task
        self.rows = self.task.load("train", config.train_size, config.data_seed)
        self.new_per_step, self.seed = config.prompts_per_step - replayed, config.seed

    def of_step(self, step: int) -> list[Row]:
        """The rows of `step` (0-based)."""
        rows = self.rows.select(prompt_indices(len(self.rows), self.new_per_step, self.seed, step)).to_list()
        return rows if self.earlier is None else rows + self.earlier.of_step(step)


class MemberRollout:
    """Rewards of members: those that this process gets to through the engine, the others' gathered."""

    def __init__(
        self,
        config: ESConfig,
        engine: RolloutEngine,
        rows: TrainingRows,
        accelerator: Accelerator,
        folder: Path,
        pristine: Callable[[], Weights] | None = None,
    ):
        """pristine: the float32 weights that members are overlays on, which `log_prob_gap_every` needs."""
        self.pristine = pristine
        self.config, self.engine, self.rows = config, engine, rows
        self.accelerator, self.folder = accelerator, folder
        self.assignment = Assignment(accelerator)

    def __call__(self, step: int, members: Sequence[Member]) -> Evaluation:
        config, task = self.config, self.rows.task
        rows = self.rows.of_step(step)
        repeated = [row for row in rows for _ in range(config.samples)]
        results, tables = [], []
        for member, completions in self._answers(step, rows, members):
            texts = [completion.text for completion in completions]
            # One reward per (prompt, sample); the samples of a prompt are averaged by the mean over columns.
            scored = fitness(task, texts, repeated, [completion.token_ids for completion in completions])
            parts = parts_of_rewards(task, scored.parts)
            results.append(
                {
                    "member": member.index,
                    "rewards": [math.nan if score is None else score for score in scored.scores],
                    "tokens": sum(len(completion.token_ids) for completion in completions),
                    "longest": max(len(completion.token_ids) for completion in completions),
                    "empty": scored.empty,
                    "examples": list(zip(texts, scored.scores, strict=True))[:SHOWN],
                    "unfinished": sum(not completion.finished for completion in completions),
                    "parts": parts,
                }
            )
            if member.index < config.log_members:
                tables += completion_rows(step + 1, member.index, repeated, texts, scored.scores, task.name, parts)
        if self.accelerator.num_processes > 1:
            results, tables = gather_object(results), gather_object(tables)
        if config.log_completions_every and step % config.log_completions_every == 0:
            self._write_table(step + 1, sorted(tables, key=lambda row: row["member"]))
        results = sorted(results, key=lambda result: result["member"])
        return Evaluation(
            rewards=np.array([result["rewards"] for result in results]),
            completions=len(members) * len(repeated),
            examples=results[0]["examples"],
            **{name: sum(result[name] for result in results) for name in ("tokens", "empty", "unfinished")},
            longest=max(result["longest"] for result in results),
            parts=means([part for result in results for part in result["parts"]]),
            gap=self._gap(step, rows, members),
        )

    def _gap(self, step: int, rows: list[Row], members: Sequence[Member]) -> dict[str, float]:
        """Where it is due, how far the engine's log-probabilities are from float32's, on the main process."""
        every = self.config.log_prob_gap_every
        due = self.pristine is not None and bool(every) and step % every == 0
        if not due or self.pristine is None or not self.accelerator.is_main_process:
            return {}
        prompts = [row["prompt"] for row in rows[:COMPARED]]
        return engine_gap(self.engine, prompts, self._sampling(step, 1), members[0], self.pristine())

    def _sampling(self, step: int, samples: int) -> Sampling:
        config = self.config
        return Sampling(config.max_new_tokens, config.temperature, samples, config.seed, step, config.member_noise)

    def _answers(
        self, step: int, rows: list[Row], members: Sequence[Member]
    ) -> Iterator[tuple[Member, list[Completion]]]:
        """The members that this process gets to, each with its completions, the samples of a prompt in a row.

        The engine gets a limited number of prompts at a time.
        """
        config = self.config
        sampling = self._sampling(step, config.samples)
        prompts = [row["prompt"] for row in rows]
        size = config.prompts_per_batch or len(prompts)
        for portion in self.assignment.take(step, len(members)):
            taken = members[portion.start : portion.stop]
            parts = [
                self.engine.generate(prompts[start : start + size], sampling, taken)
                for start in range(0, len(prompts), size)
            ]
            for place, member in enumerate(taken):
                yield member, [completion for part in parts for answers in part[place] for completion in answers]

    def _write_table(self, step: int, table: list[Row]) -> None:
        if self.accelerator.is_main_process:
            folder = self.folder / "completions"
            folder.mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist(table), folder / f"completions_{step:05d}.parquet")


def completion_rows(
    step: int,
    member: int,
    rows: list[Row],
    texts: list[str],
    scores: list[float | None],
    reward: str,
    parts: list[dict[str, float]],
) -> list[Row]:
    """Completions in the columns of TRL's GRPO tables (step, prompt, completion, one per reward), and the member."""
    names = dict.fromkeys(name for part in parts for name in part)
    return [
        {
            "step": step,
            "prompt": row["prompt"],
            "completion": [{"role": "assistant", "content": text}],
            **{name: part.get(name) for name in names},
            reward: score,
            "member": member,
        }
        for row, text, score, part in zip(rows, texts, scores, parts, strict=True)
    ]


def parts_of_rewards(task: Task, parts: list[dict[str, float]]) -> list[dict[str, float]]:
    """What each reward function gave; what else a task's scores are made of is not logged."""
    names = reward_names(task)
    return [{name: part[name] for name in names if name in part} for part in parts]


def means(parts: list[dict[str, float]]) -> dict[str, float]:
    """By name the mean of what there is of it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: fmean(part[name] for part in parts if name in part) for name in names}


def prompt_indices(rows: int, per_step: int, seed: int, step: int) -> list[int]:
    """Which training rows a step uses: consecutive pieces of one shuffled epoch after another, the rest left out."""
    steps_per_epoch = rows // per_step
    epoch, place = divmod(step, steps_per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return order[place * per_step : (place + 1) * per_step].tolist()

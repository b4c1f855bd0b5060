"""One task, three uses: a TRL reward, an ES fitness and an evaluation row. All score through `score_completion`."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import isinf, isnan
from statistics import fmean
from typing import Any

from eval.errors import UserError
from eval.tasks.base import Score, Task
from eval.tasks.own_reward import Reward


def score_completion(task: Task, text: str, row: dict[str, Any]) -> Score:
    """The task's score, with a NaN value turned into None: both mean that the completion cannot be scored.

    A task with `score_batch` says itself what its values mean: they are any finite number.

    Raises UserError for an infinite value, and ValueError for any other outside [0, 1], which is a bug of the task.
    """
    score = task.score(text, row)
    if hasattr(task, "score_batch"):
        return score
    if score.value is None or isnan(score.value):
        return replace(score, value=None)
    if isinf(score.value):
        raise UserError(f"task {task.name} gave the score {score.value}, which is not finite; correct the reward")
    if not 0 <= score.value <= 1:
        raise ValueError(f"task {task.name} gave the score {score.value}; scores lie in [0, 1] or are None")
    return replace(score, value=float(score.value))


def score_completions(
    task: Task,
    texts: Sequence[str],
    rows: Sequence[dict[str, Any]],
    completion_ids: Sequence[list[int]] | None = None,
    given: Mapping[str, Any] | None = None,
) -> list[Score]:
    """The score of each of `texts`, the answer to the row at its place.

    A task with `score_batch` (data and rewards of one's own) gets all of them at once, with their tokens and what else
    TRL passes to a reward. One whose scores are worked out in other processes says so by `concurrent_scores`, how many
    at a time.
    """
    score_batch = getattr(task, "score_batch", None)
    if score_batch is not None:
        return score_batch(texts, rows, completion_ids, given)
    at_once = getattr(task, "concurrent_scores", 1)
    if at_once == 1:
        return [score_completion(task, text, row) for text, row in zip(texts, rows, strict=True)]
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(partial(score_completion, task), texts, rows, chunksize=1))


def reward_names(task: Task) -> list[str]:
    """The names of the reward functions that a task of one's own is made of, in `Score.parts`; a built-in has none."""
    return [reward.name for reward in getattr(task, "rewards", ()) if isinstance(reward, Reward)]


class TaskReward:
    """A task as a reward function of TRL's `GRPOTrainer` (1.16).

    `__name__` is what TRL logs it under. It is a class and not a closure so that it can be pickled.
    """

    def __init__(self, task: Task, decode: Callable[[list[int]], str] | None = None):
        """decode: makes the text that is scored of a completion's tokens, where TRL's own lacks special tokens."""
        self.task, self.decode = task, decode
        self.__name__ = task.name

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str | list[dict[str, str]]],
        completion_ids: Sequence[list[int]] | None = None,
        trainer_state: Any = None,
        log_extra: Callable[[str, list], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        environments: Sequence[Any] | None = None,
        **columns: Sequence[Any],
    ) -> list[float | None]:
        """One reward per completion; None where it cannot be scored, which TRL leaves out of the group's baseline.

        completions: texts, or conversations whose last message is the answer.
        columns: the data set's other columns, one entry per completion.
        log_metric: gets the share of completions that hold an answer as `<task>/answered`, the mean of each part of
            the scores as `<task>/<part>`, and that of each reward function of one's own where TRL has its rewards.
        The remaining arguments are what TRL passes besides; a reward of one's own gets them.
        """
        columns = {"prompt": prompts, **columns}
        rows = [{name: column[i] for name, column in columns.items()} for i in range(len(completions))]
        if self.decode is not None and completion_ids is not None:
            texts = [self.decode(ids) for ids in completion_ids]
        else:
            texts = [completion_text(completion) for completion in completions]
        given = {"trainer_state": trainer_state, "log_extra": log_extra, "log_metric": log_metric}
        scores = score_completions(self.task, texts, rows, completion_ids, given)
        if log_metric is not None:
            log_metric(f"{self.task.name}/answered", fmean(score.parsed is not None for score in scores))
            for part in sorted({part for score in scores for part in score.parts}):
                mean = fmean(score.parts[part] for score in scores if part in score.parts)
                log_metric(f"{self.task.name}/{part}", mean)
                # Under the task's name stands the reward as a whole, TRL's own.
                if part in reward_names(self.task) and part != self.task.name:
                    log_metric(f"rewards/{part}/mean", mean)
        return [score.value for score in scores]


def completion_text(completion: str | list[dict[str, str]]) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]


@dataclass(frozen=True)
class Fitness:
    """How good one member of a population is on some rows.

    mean: of the scores that are not None; None if all are.
    scores: one per completion, None where it cannot be scored.
    empty: how many completions have no text but white space. They are scored like any other.
    parts: what the scores are made of, one dict per completion.
    """

    mean: float | None
    scores: list[float | None]
    empty: int
    parts: list[dict[str, float]]


def fitness(
    task: Task,
    completions: Sequence[str],
    rows: Sequence[dict[str, Any]],
    completion_ids: Sequence[list[int]] | None = None,
) -> Fitness:
    """The fitness of the member that answered `rows[i]` with `completions[i]`, of these tokens."""
    scored = score_completions(task, completions, rows, completion_ids)
    scores = [score.value for score in scored]
    scorable = [score for score in scores if score is not None]
    empty = sum(not text.strip() for text in completions)
    return Fitness(fmean(scorable) if scorable else None, scores, empty, [score.parts for score in scored])


def evaluation_row(task: Task, text: str, row: dict[str, Any]) -> dict[str, Any]:
    """The score of one completion as a dict: `value`, `parsed` and `parts`."""
    return evaluation_rows(task, [text], [row])[0]


def evaluation_rows(
    task: Task,
    texts: Sequence[str],
    rows: Sequence[dict[str, Any]],
    completion_ids: Sequence[list[int]] | None = None,
) -> list[dict[str, Any]]:
    """The score of each completion as a dict: `value`, `parsed` and `parts`, and `exact` of a graded one."""
    return [
        {
            "value": score.value,
            "parsed": score.parsed,
            "parts": dict(score.parts),
            **({} if score.exact is None else {"exact": score.exact}),
        }
        for score in score_completions(task, texts, rows, completion_ids)
    ]

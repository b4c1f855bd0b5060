"""What a task is: data with conversational prompts, and a pure score."""

import random
from dataclasses import dataclass, field
from typing import Any, Protocol

import datasets

from eval.errors import UserError


SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Score:
    """How good one completion is.

    value: 0.0 (wrong) to 1.0 (right); None if the completion cannot be scored at all (a broken reference, say),
        which is never the same as wrong.
    parsed: the answer found in the completion, None if there is none.
    parts: further numbers worth logging, by name.
    exact: only of a graded score: what accuracy counts in place of the value, 1.0 if right and in form, else 0.0. The
        value of an answer that is right but not in the form asked for is a reward and no share of right answers.
    """

    value: float | None
    parsed: str | None
    parts: dict[str, float] = field(default_factory=dict)
    exact: float | None = None


class Task(Protocol):
    """A task is data plus a score; it knows nothing of trainers or models.

    One whose scores are worked out in other processes may have `concurrent_scores`, how many at a time.
    """

    @property
    def name(self) -> str: ...

    @property
    def system_prompt(self) -> str: ...

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        """`size` rows of `split` ("train", "validation" or "test"), the same for the same arguments.

        Each row has `prompt` (a list of {"role", "content"} messages) and the columns that `score` reads.
        """
        ...

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        """Score one completion. Pure; never executes the completion; a wrong answer is 0.0, not an exception."""
        ...


def reference_answer(task: Task, row: dict[str, Any]) -> str:
    """A right answer to the row, in the form asked for, of a task that has them: `task.reference_answer(row)`.

    Raises UserError if it has none.
    """
    answer = getattr(task, "reference_answer", None)
    if answer is None:
        raise UserError(f"task {task.name} has no reference answers to learn from; write answers: sampled")
    return answer(row)


class GeneratedTask(Task, Protocol):
    """A task with an offline generator and with answers to learn from: what the tiny models are pre-trained on."""

    def draw(self, generator: random.Random) -> dict[str, Any]:
        """One problem."""
        ...

    def identity(self, problem: dict[str, Any]) -> str:
        """What the problem asks; equivalent problems have the same text, and the text decides the split."""
        ...

    def question(self, problem: dict[str, Any]) -> str:
        """The user's message."""
        ...

    def worked_answer(self, problem: dict[str, Any], generator: random.Random) -> str:
        """A right answer, step by step."""
        ...

    def careless_answer(self, problem: dict[str, Any], generator: random.Random) -> str:
        """An answer without any steps, mostly wrong."""
        ...


def check_request(task: str, split: str, size: int) -> None:
    """Raise UserError for a split that no task has, or for less than one row."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} of task {task}; choose one of {', '.join(SPLITS)}")
    if size < 1:
        raise UserError(f"size {size} of task {task} is too small; ask for at least 1 row")

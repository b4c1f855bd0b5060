"""Problems of several tasks in turn, each scored by its own."""

import json
from dataclasses import dataclass
from typing import Any

import datasets

from eval.errors import UserError
from eval.tasks.base import Score, Task, reference_answer


@dataclass(frozen=True)
class Mixture:
    """Several tasks in turn, each with its own prompt and score: for a warm start, and as a task of its own.

    Row i is of task i modulo their number. Rows have `task`, its name, and `row`, its row as JSON, because the columns
    of the tasks differ in type.
    """

    name: str
    tasks: tuple[Task, ...]
    system_prompt: str = ""

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        each = -(-size // len(self.tasks))
        columns = [task.load(split, each, seed).to_list() for task in self.tasks]
        rows = [
            (self.tasks[place], row) for in_turn in zip(*columns, strict=True) for place, row in enumerate(in_turn)
        ]
        return datasets.Dataset.from_list(
            [{"prompt": row["prompt"], "task": task.name, "row": json.dumps(row)} for task, row in rows[:size]]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        return self._task(row).score(completion, json.loads(row["row"]))

    def reference_answer(self, row: dict[str, Any]) -> str:
        return reference_answer(self._task(row), json.loads(row["row"]))

    def _task(self, row: dict[str, Any]) -> Task:
        for task in self.tasks:
            if task.name == row["task"]:
                return task
        raise UserError(f"task {self.name} has no rows of {row['task']!r}; load its rows with `load`")

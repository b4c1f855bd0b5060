"""Sums of two numbers."""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.base import Score
from eval.tasks.generate import Problem
from eval.tasks.short_answer import load_short, score_number


@dataclass(frozen=True)
class ShortSum:
    """Offline sums of two numbers from 1 to `largest`, the result alone. Graded, see `short_answer`.

    Rows have `numbers` and `answer` (int).
    """

    name: str = "short_sum"
    largest: int = 30
    system_prompt: str = "Answer with one number."

    def draw(self, generator: random.Random) -> Problem:
        numbers = [generator.randint(1, self.largest) for _ in range(2)]
        return {"numbers": numbers, "answer": sum(numbers)}

    def identity(self, problem: Problem) -> str:
        return "+".join(map(str, sorted(problem["numbers"])))

    def question(self, problem: Problem) -> str:
        first, second = problem["numbers"]
        return f"What is {first} + {second}?"

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        return load_short(self, split, size, seed)

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        return score_number(completion, row["answer"])

    def reference_answer(self, row: dict[str, Any]) -> str:
        return str(row["answer"])

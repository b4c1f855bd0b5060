"""The larger of two numbers."""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.base import Score
from eval.tasks.generate import Problem
from eval.tasks.short_answer import NUMBER, bare, graded, load_short


@dataclass(frozen=True)
class LargerNumber:
    """Offline pairs of different numbers up to `largest`; the larger one is asked for. Graded, see `short_answer`.

    Rows have `numbers` and `answer` (int). An answer is named if the completion holds it and not the other number.
    """

    name: str = "larger_number"
    largest: int = 999
    system_prompt: str = "Answer with one number."

    def draw(self, generator: random.Random) -> Problem:
        numbers = generator.sample(range(10, self.largest + 1), 2)
        return {"numbers": numbers, "answer": max(numbers)}

    def identity(self, problem: Problem) -> str:
        return " ".join(map(str, sorted(problem["numbers"])))

    def question(self, problem: Problem) -> str:
        first, second = problem["numbers"]
        return f"Which number is larger, {first} or {second}?"

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        return load_short(self, split, size, seed)

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        answer, numbers = row["answer"], row["numbers"]
        if answer not in numbers:
            return Score(None, bare(completion))
        named = {int(number) for number in NUMBER.findall(completion)} & set(numbers)
        return graded(bare(completion) == str(answer), named == {answer}, bare(completion))

    def reference_answer(self, row: dict[str, Any]) -> str:
        return str(row["answer"])

"""The largest of some numbers."""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.base import Score
from eval.tasks.generate import Problem
from eval.tasks.short_answer import NUMBER, bare, graded, load_short


@dataclass(frozen=True)
class LargestNumber:
    """`count` different numbers from 10 to `largest`; the largest is asked for. Graded, see `short_answer`.

    Rows have `numbers` and `answer` (int). An answer is named if the completion holds it and none of the others.
    """

    name: str = "largest_number"
    count: int = 4
    largest: int = 999
    system_prompt: str = "Answer with one number."

    def draw(self, generator: random.Random) -> Problem:
        numbers = generator.sample(range(10, self.largest + 1), self.count)
        return {"numbers": numbers, "answer": max(numbers)}

    def identity(self, problem: Problem) -> str:
        return " ".join(map(str, sorted(problem["numbers"])))

    def question(self, problem: Problem) -> str:
        *others, last = problem["numbers"]
        return f"Which number is the largest: {', '.join(map(str, others))} or {last}?"

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

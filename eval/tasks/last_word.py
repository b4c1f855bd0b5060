"""The last word of a list."""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.base import Score
from eval.tasks.generate import Problem
from eval.tasks.short_answer import draw_words, load_short, score_word


@dataclass(frozen=True)
class LastWord:
    """Offline lists of 4 to 8 words; the last one is asked for, that word alone. Graded, see `short_answer`.

    Rows have `words` and `answer`.
    """

    name: str = "last_word"
    system_prompt: str = "Answer with one word."

    def draw(self, generator: random.Random) -> Problem:
        words = draw_words(generator, 4, 8)
        return {"words": words, "answer": words[-1]}

    def identity(self, problem: Problem) -> str:
        return " ".join(problem["words"])

    def question(self, problem: Problem) -> str:
        return f"What is the last word of this list: {', '.join(problem['words'])}?"

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        return load_short(self, split, size, seed)

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        return score_word(completion, row["answer"], row["words"])

    def reference_answer(self, row: dict[str, Any]) -> str:
        return row["answer"]

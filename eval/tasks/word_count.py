"""How many words a list has."""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.base import Score
from eval.tasks.generate import Problem
from eval.tasks.short_answer import draw_words, load_short, score_number


@dataclass(frozen=True)
class WordCount:
    """Offline lists of 2 to 6 words; how many there are is asked for, in digits. Graded, see `short_answer`.

    Rows have `words` and `answer` (int).
    """

    name: str = "word_count"
    system_prompt: str = "Answer with one number."

    def draw(self, generator: random.Random) -> Problem:
        words = draw_words(generator, 2, 6)
        return {"words": words, "answer": len(words)}

    def identity(self, problem: Problem) -> str:
        return " ".join(sorted(problem["words"]))

    def question(self, problem: Problem) -> str:
        return f"How many words are in this list: {', '.join(problem['words'])}?"

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        return load_short(self, split, size, seed)

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        return score_number(completion, row["answer"])

    def reference_answer(self, row: dict[str, Any]) -> str:
        return str(row["answer"])

"""The longest word of a list."""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.base import Score
from eval.tasks.generate import Problem
from eval.tasks.short_answer import draw_words, load_short, score_word


@dataclass(frozen=True)
class LongestWord:
    """Offline lists of 3 or 4 words, one of which is longer than the others, by itself. Graded, see `short_answer`.

    Rows have `words` and `answer`.
    """

    name: str = "longest_word"
    system_prompt: str = "Answer with one word."

    def draw(self, generator: random.Random) -> Problem:
        while True:
            words = draw_words(generator, 3, 4)
            *_, second, longest = sorted(words, key=len)
            if len(longest) > len(second):
                return {"words": words, "answer": longest}

    def identity(self, problem: Problem) -> str:
        return " ".join(sorted(problem["words"]))

    def question(self, problem: Problem) -> str:
        return f"Which word has the most letters: {', '.join(problem['words'])}?"

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        return load_short(self, split, size, seed)

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        return score_word(completion, row["answer"], row["words"])

    def reference_answer(self, row: dict[str, Any]) -> str:
        return row["answer"]

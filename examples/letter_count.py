"""A task: how often does a letter stand in a word?

A task is data and a pure score. Name it by its dotted path wherever a task is named: `--task letter_count:TASK`, from
the folder of this file.
"""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.base import Score, check_request
from eval.tasks.generate import conversation, problems


WORDS = ("banana", "committee", "parallel", "successor", "mississippi", "bookkeeper", "assessment", "occurrence")


@dataclass(frozen=True)
class LetterCount:
    """Rows have `word`, `letter` and `answer`. Right is the number, alone on the last line of the completion."""

    name: str = "letter_count"
    system_prompt: str = "Answer with the number alone."

    def draw(self, generator: random.Random) -> dict[str, Any]:
        word = "".join(generator.choices(WORDS, k=2))
        letter = generator.choice(sorted(set(word)))
        return {"word": word, "letter": letter, "answer": str(word.count(letter))}

    def identity(self, problem: dict[str, Any]) -> str:
        """Decides the split: equal problems never stand in two."""
        return f"{problem['word']} {problem['letter']}"

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        check_request(self.name, split, size)
        drawn = problems(self.name, self.draw, self.identity, split, size, seed)
        question = "How often does the letter {letter} stand in {word}?"
        return datasets.Dataset.from_list(
            [problem | {"prompt": conversation(self.system_prompt, question.format(**problem))} for problem in drawn]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        lines = completion.strip().splitlines()
        parsed = lines[-1].strip(" .") if lines else None
        return Score(float(parsed == row["answer"]), parsed)


TASK = LetterCount()

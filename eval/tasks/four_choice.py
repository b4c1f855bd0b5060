"""Four-choice questions: which of four sums is the largest."""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.answer import extract_answer
from eval.tasks.base import Score
from eval.tasks.choice import parse_choice
from eval.tasks.generate import Problem, conversation, problems


LETTERS = "ABCD"


@dataclass(frozen=True)
class FourChoice:
    """Offline questions with one right letter.

    Rows have `choices` (four strings such as "12+35") and `answer` (a letter).
    """

    name: str = "four_choice"
    largest: int = 49
    system_prompt: str = (
        "Which of the four sums is the largest? Work out each of them, then give the letter of the largest alone in "
        "\\boxed{}."
    )

    def draw(self, generator: random.Random) -> Problem:
        while True:
            pairs = [(generator.randint(1, self.largest), generator.randint(1, self.largest)) for _ in LETTERS]
            values = [a + b for a, b in pairs]
            if values.count(max(values)) == 1:
                return {"choices": [f"{a}+{b}" for a, b in pairs], "answer": LETTERS[values.index(max(values))]}

    def identity(self, problem: Problem) -> str:
        return " ".join(sorted(problem["choices"]))

    def question(self, problem: Problem) -> str:
        return " ".join(f"{letter} {choice}" for letter, choice in zip(LETTERS, problem["choices"], strict=True))

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        drawn = problems(self.name, self.draw, self.identity, split, size, seed)
        return datasets.Dataset.from_list(
            [{"prompt": conversation(self.system_prompt, self.question(problem)), **problem} for problem in drawn]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        answer = extract_answer(completion)
        if row["answer"] not in tuple(LETTERS):
            return Score(None, answer)
        return Score(float(answer is not None and parse_choice(answer) == row["answer"]), answer)

    def worked_answer(self, problem: Problem, generator: random.Random) -> str:
        values = [sum(map(int, choice.split("+"))) for choice in problem["choices"]]
        return f"{' '.join(map(str, values))} \\boxed{{{problem['answer']}}}"

    def careless_answer(self, problem: Problem, generator: random.Random) -> str:
        """A guess."""
        return f"\\boxed{{{generator.choice(LETTERS)}}}"

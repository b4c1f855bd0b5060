"""What a circuit task is: pairs of prompts, clean and counterfactual, that differ in what the answer hangs on."""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.base import Score
from eval.tasks.generate import Problem, problems


@dataclass(frozen=True)
class Example:
    """One pair of prompts.

    clean, corrupted: the prompts; word by word of the same length, so that tokens can keep their positions.
    answer: the right continuation of the clean prompt, with its leading space if it has one.
    wrong: a continuation that is wrong after the clean prompt and right, or no worse than `answer`, after the
        corrupted one.
    """

    clean: str
    corrupted: str
    answer: str
    wrong: str


class CircuitTask:
    """A generated circuit task; subclasses are frozen dataclasses with a `name` and three methods.

    It is a task of `eval.tasks` as well (a user's message is the clean prompt, there is no system message), so that
    models can be post-trained on it. No problem of one split is in another.
    """

    name: str
    system_prompt = ""

    def draw(self, generator: random.Random) -> Problem:
        """One problem: everything that `example` needs, chosen at random."""
        raise NotImplementedError

    def identity(self, problem: Problem) -> str:
        """The content that decides the split: problems with equal content have the same text."""
        raise NotImplementedError

    def example(self, problem: Problem) -> Example:
        """The pair of prompts of a problem. Pure."""
        raise NotImplementedError

    def is_right(self, completion: str, row: dict[str, Any]) -> bool:
        """Whether `completion`, without the space around it, answers the clean prompt."""
        return completion == row["answer"].strip()

    def examples(self, split: str, size: int, seed: int, first: int = 0) -> list[Example]:
        """Examples `first` to `first + size - 1` of an endless sequence, the same for the same arguments.

        Raises UserError for an unknown split and for a size below 1.
        """
        drawn = problems(self.name, self.draw, self.identity, split, size, seed, first)
        return [self.example(problem) for problem in drawn]

    def document(self, problem: Problem, generator: random.Random) -> tuple[str, str]:
        """A prompt and a right continuation of it, to pre-train on."""
        example = self.example(problem)
        return example.clean, example.answer

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        """Rows with `prompt` (one user message, the clean prompt), `question` and `answer`."""
        return datasets.Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": example.clean}],
                    "question": example.clean,
                    "answer": example.answer,
                }
                for example in self.examples(split, size, seed)
            ]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        """1.0 if the whole completion is a right answer, else 0.0; nothing is searched for in it."""
        parsed = completion.strip()
        return Score(float(self.is_right(parsed, row)), parsed or None)


def swapped(words: list[str], first: int, second: int) -> list[str]:
    """`words` with two of them exchanged."""
    words = list(words)
    words[first], words[second] = words[second], words[first]
    return words

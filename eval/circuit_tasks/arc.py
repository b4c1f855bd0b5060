"""ARC: school science questions with labelled choices; the counterfactual gives the choices other labels.

Clark et al. 2018, "Think you have Solved Question Answering?" (arXiv 1803.05457). The questions come from the hub, or
from a local file in the same form, one JSON object a line:

    {"question": "...", "choices": {"text": ["...", ...], "label": ["A", ...]}, "answerKey": "A"}
"""

import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from eval.circuit_tasks.base import CircuitTask, Example
from eval.errors import UserError
from eval.storage import read_text
from eval.tasks.base import SPLITS
from eval.tasks.generate import Problem, hash64, split_of


HUB = "allenai/ai2_arc"


@dataclass(frozen=True)
class ARC(CircuitTask):
    """subset: ARC-Easy or ARC-Challenge. path: a local file; None takes the hub's data and its own splits.

    A local file is split by its questions, like the generated tasks.
    """

    name: str
    subset: str
    path: str | None = None

    def examples(self, split: str, size: int, seed: int, first: int = 0) -> list[Example]:
        """As of the generated tasks, except that there may be fewer: no question comes twice.

        Raises UserError for an unknown split, an unreadable or malformed file, and if the hub is needed and absent.
        """
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r} of task {self.name}; choose one of {', '.join(SPLITS)}")
        questions = self._hub(split) if self.path is None else self._file(Path(self.path), split)
        order = sorted(range(len(questions)), key=lambda i: hash64(self.name, seed, i))
        return [self.example(questions[i] | {"seed": seed}) for i in order[first : first + size]]

    def example(self, problem: Problem) -> Example:
        """Labels are A, B, ... whatever they are in the data; the other labels follow these in the alphabet."""
        texts = problem["choices"]["text"]
        right = problem["choices"]["label"].index(problem["answerKey"])
        letters = string.ascii_uppercase[: len(texts)]
        shift = len(texts) + hash64(self.name, problem["seed"], problem["question"]) % (26 - 2 * len(texts) + 1)
        other_letters = string.ascii_uppercase[shift : shift + len(texts)]
        return Example(
            clean=_prompt(problem["question"], texts, letters),
            corrupted=_prompt(problem["question"], texts, other_letters),
            answer=f" {letters[right]}",
            wrong=f" {other_letters[right]}",
        )

    def identity(self, problem: Problem) -> str:
        return problem["question"]

    def _hub(self, split: str) -> list[dict[str, Any]]:
        try:
            return datasets.load_dataset(HUB, self.subset, split=split).to_list()
        except (OSError, ValueError) as error:
            raise UserError(
                f"task {self.name} needs {HUB} from the hub, which cannot be reached ({type(error).__name__}); "
                f"give a local file instead: {self.name}=questions.jsonl"
            ) from error

    def _file(self, path: Path, split: str) -> list[dict[str, Any]]:
        if not path.is_file():
            raise UserError(f"task {self.name}: there is no file {path}; give a .jsonl file of questions")
        questions = []
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            try:
                question = json.loads(line)
                labels, texts = question["choices"]["label"], question["choices"]["text"]
                complete = question["answerKey"] in labels and len(labels) == len(texts) and question["question"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UserError(f"{path}, line {number}: {type(error).__name__} {error}; {EXPECTED}") from error
            if not complete:
                raise UserError(f"{path}, line {number}: answerKey is no label, or a choice lacks one; {EXPECTED}")
            questions.append(question)
        return [question for question in questions if split_of(f"{self.name} {question['question']}") == split]


EXPECTED = 'a line is {"question": ..., "choices": {"text": [...], "label": [...]}, "answerKey": ...}'


def _prompt(question: str, texts: list[str], letters: str) -> str:
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True))
    return f"{question}\n{listed}\nAnswer:"


ARC_EASY = ARC("arc_easy", "ARC-Easy")
ARC_CHALLENGE = ARC("arc_challenge", "ARC-Challenge")

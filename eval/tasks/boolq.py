"""BoolQ: yes/no questions about a passage (Clark et al. 2019, arXiv 1905.10044)."""

from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.answer import extract_answer
from eval.tasks.base import Score
from eval.tasks.choice import parse_judgement
from eval.tasks.generate import conversation
from eval.tasks.hub import HubSet, parts_of_two_splits, take_rows


@dataclass(frozen=True)
class BoolQ:
    """`google/boolq`: its train split (the last tenth of it for validation), and its validation split as test.

    Rows have `answer` (bool). The answer begins with one of yes, true, 1, correct, right, or no, false, 0, incorrect,
    wrong; see `parse_judgement`.
    """

    name: str = "boolq"
    system_prompt: str = (
        "Read the passage, then decide whether the answer to the question is yes or no. Think step by step, then give "
        "yes or no alone in \\boxed{}."
    )

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        source = HubSet(self.name, "google/boolq", None, ("question", "answer", "passage"))
        parts = parts_of_two_splits(source.open("train"), source.open("validation"))
        taken = take_rows(
            self.name, parts, split, size, seed, identity=lambda row: f"{row['question']}\n{row['passage']}"
        )
        return datasets.Dataset.from_list(
            [
                {
                    "prompt": conversation(
                        self.system_prompt, f"Passage: {row['passage']}\n\nQuestion: {row['question']}"
                    ),
                    "answer": row["answer"],
                }
                for row in taken
            ]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        answer = extract_answer(completion)
        if not isinstance(row["answer"], bool):
            return Score(None, answer)
        return Score(float(answer is not None and parse_judgement(answer) is row["answer"]), answer)

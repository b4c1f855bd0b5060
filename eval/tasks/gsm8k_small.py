"""GSM8K for small models: no system prompt's worth of instructions, answers in the set's own form, graded."""

import re
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.answer import own_turn
from eval.tasks.base import Score
from eval.tasks.gsm8k import CALCULATION, GSM8K, MARK, after_mark
from eval.tasks.number import parse_number
from eval.tasks.short_answer import graded


NUMBER = re.compile(r"-?\$?[0-9][0-9,]{0,40}(?:\.[0-9]{1,20})?")


@dataclass(frozen=True)
class GSM8KSmall:
    """`gsm8k` with a short prompt and its rows (same files, same splits): short steps, then `#### 72`, as in the set.

    Graded as the short tasks are: 1.0 for the right number after the last `####`, 0.4 if it is the last number of a
    completion without that mark. Rows have `answer`, the reference solution.
    """

    name: str = "gsm8k_small"
    system_prompt: str = "Solve the problem in short steps. End with #### and the number."

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        return GSM8K(system_prompt=self.system_prompt).load(split, size, seed)

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        text = own_turn(completion)
        answer = after_mark(text)
        reference = str(row["answer"])
        value = parse_number(after_mark(reference) or reference)
        if value is None:
            return Score(None, answer)
        numbers = NUMBER.findall(text)
        exact = answer is not None and parse_number(answer) == value
        named = answer is None and bool(numbers) and parse_number(numbers[-1]) == value
        return graded(exact, named, answer if answer is not None else next(reversed(numbers), None))

    def reference_answer(self, row: dict[str, Any]) -> str:
        """The reference solution, its steps included, without the calculator's marks."""
        steps, _, _ = CALCULATION.sub("", row["answer"]).rpartition(MARK)
        return f"{steps.strip()}\n{MARK} {after_mark(row['answer'])}"

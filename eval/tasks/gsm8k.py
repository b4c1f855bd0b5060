"""GSM8K: grade-school word problems with a whole number as the answer (Cobbe et al. 2021, arXiv 2110.14168)."""

import re
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.answer import LONGEST_ANSWER, extract_answer, own_turn
from eval.tasks.base import Score
from eval.tasks.generate import conversation
from eval.tasks.hub import HubSet, parts_of_two_splits, take_rows
from eval.tasks.number import parse_number


# The set's own mark for the final answer.
MARK = "####"
# What a calculator is to be asked, within the set's solutions: `<<48/2=24>>`.
CALCULATION = re.compile(r"<<[^<>]{0,200}>>")


@dataclass(frozen=True)
class GSM8K:
    """`openai/gsm8k`, configuration main: its train split (the last tenth of it for validation) and its test split.

    Rows have `answer`, the reference solution, which ends in `#### 72` (a number alone is taken too). The answer of a
    completion is the last `\\boxed{}` or `<answer>`, or else what follows the last `####` on its line. It is right if
    it is the same number, whatever its unit, thousands separators and trailing zeros.
    """

    name: str = "gsm8k"
    system_prompt: str = "Solve the problem. Think step by step, then give the number alone in \\boxed{}."

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        source = HubSet(self.name, "openai/gsm8k", "main", ("question", "answer"))
        parts = parts_of_two_splits(source.open("train"), source.open("test"))
        taken = take_rows(self.name, parts, split, size, seed, identity=lambda row: row["question"])
        return datasets.Dataset.from_list(
            [{"prompt": conversation(self.system_prompt, row["question"]), "answer": row["answer"]} for row in taken]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        answer = extract_answer(completion)
        if answer is None:
            answer = after_mark(own_turn(completion))
        reference = str(row["answer"])
        value = parse_number(after_mark(reference) or reference)
        if value is None:
            return Score(None, answer)
        return Score(float(answer is not None and parse_number(answer) == value), answer)

    def reference_answer(self, row: dict[str, Any]) -> str:
        """The reference solution, its steps included, with the number as the system prompt asks for it."""
        steps, _, _ = CALCULATION.sub("", row["answer"]).rpartition(MARK)
        return f"{steps.strip()}\n\\boxed{{{after_mark(row['answer'])}}}"


def after_mark(text: str) -> str | None:
    """What follows the last `####` on its line; None if there is none."""
    _, mark, rest = text.rpartition(MARK)
    return re.split(r"[\r\n]", rest[:LONGEST_ANSWER], maxsplit=1)[0].strip() if mark else None

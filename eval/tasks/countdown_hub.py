"""Countdown on the published problems of three and four numbers up to 99."""

from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.answer import extract_answer
from eval.tasks.base import Score
from eval.tasks.expression import score_countdown
from eval.tasks.generate import conversation
from eval.tasks.hub import HubSet, parts_of_one_split, take_rows


@dataclass(frozen=True)
class CountdownHub:
    """`Jiayi-Pan/Countdown-Tasks-3to4`: rows 0-199 train, 200-2199 test as in the paper (arXiv 2604.01499).

    Rows have `numbers` (list of int) and `target` (int). The score is `countdown`'s: an expression over `+ - * /` and
    brackets that uses each number once and equals the target. The paper's released scorer compares within 1e-5 and
    takes no LaTeX operators; ours is exact and takes them.
    """

    name: str = "countdown_hub"
    test_rows: int = 2000
    validation_rows: int = 1000
    system_prompt: str = (
        "You are given numbers and a target. Combine all the numbers, each exactly once, with +, -, *, / and brackets "
        "into an expression that equals the target. Think step by step, then give the expression alone in \\boxed{}."
    )

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        rows = HubSet(self.name, "Jiayi-Pan/Countdown-Tasks-3to4", None, ("target", "nums")).open("train")
        parts = parts_of_one_split(rows, range(len(rows)), self.test_rows, self.validation_rows)
        taken = take_rows(
            self.name, parts, split, size, seed, identity=lambda row: f"{sorted(row['nums'])} {row['target']}"
        )
        return datasets.Dataset.from_list(
            [
                {
                    "prompt": conversation(self.system_prompt, f"Numbers: {row['nums']}\nTarget: {row['target']}"),
                    "numbers": row["nums"],
                    "target": row["target"],
                }
                for row in taken
            ]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        answer = extract_answer(completion)
        return Score(score_countdown(answer, row["numbers"], row["target"]), answer)

"""Countdown with three small numbers, + and -, for models that write no step by step solution."""

import random
import re
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.base import Score
from eval.tasks.expression import score_countdown
from eval.tasks.generate import Problem
from eval.tasks.short_answer import bare, graded, load_short


# Numbers with signs between them.
PIECE = re.compile(r"[0-9]{1,4}(?: ?[-+] ?[0-9]{1,4})+")


@dataclass(frozen=True)
class ShortCountdown:
    """Offline Countdown with `+` and `-`: the expression alone, such as `9 + 3 - 5`. Graded, see `short_answer`.

    Rows have `numbers` (three ints) and `target` (int, positive). An answer is named if the last expression that the
    completion holds is right, an equation's left side included.
    """

    name: str = "short_countdown"
    largest: int = 12
    system_prompt: str = "Answer with an expression."

    def draw(self, generator: random.Random) -> Problem:
        while True:
            numbers = [generator.randint(1, self.largest) for _ in range(3)]
            target = numbers[0] + sum(number * generator.choice((1, -1)) for number in numbers[1:])
            if target > 0:
                return {"numbers": generator.sample(numbers, 3), "target": target}

    def identity(self, problem: Problem) -> str:
        return f"{sorted(problem['numbers'])} {problem['target']}"

    def question(self, problem: Problem) -> str:
        first, second, third = problem["numbers"]
        return f"Use {first}, {second} and {third}, each once, with + and - to make {problem['target']}."

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        return load_short(self, split, size, seed)

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        def is_right(expression: str) -> bool:
            return score_countdown(expression, row["numbers"], row["target"]) == 1.0

        pieces = PIECE.findall(completion)
        return graded(is_right(bare(completion)), bool(pieces) and is_right(pieces[-1]), bare(completion))

    def reference_answer(self, row: dict[str, Any]) -> str:
        """The first way to sign the second and third number, then the numbers in another order."""
        numbers, target = row["numbers"], row["target"]
        for first, second, third in (numbers, numbers[1:] + numbers[:1], numbers[2:] + numbers[:2]):
            for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                if first + a * second + b * third == target:
                    return f"{first} {'+' if a > 0 else '-'} {second} {'+' if b > 0 else '-'} {third}"
        raise ValueError(f"{numbers} cannot make {target}")

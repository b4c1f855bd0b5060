"""Countdown: combine the given numbers, each exactly once, into the target."""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.answer import extract_answer
from eval.tasks.base import Score
from eval.tasks.expression import score_countdown
from eval.tasks.generate import Problem, conversation, problems


@dataclass(frozen=True)
class Countdown:
    """Offline Countdown with `+` and `-`; every problem has a solution of that form.

    Rows have `numbers` (list of int) and `target` (int, positive). Any expression over `+ - * /` and brackets that
    uses each number once and equals the target exactly scores 1.0.
    """

    name: str = "countdown"
    numbers: int = 3
    largest: int = 20
    system_prompt: str = (
        "You are given numbers and a target, written as `3 7 12 -> 16`. Combine all the numbers, each exactly once, "
        "with +, -, *, / and brackets into an expression that equals the target. Think step by step, then give the "
        "expression alone in \\boxed{}."
    )

    def draw(self, generator: random.Random) -> Problem:
        while True:
            numbers = [generator.randint(1, self.largest) for _ in range(self.numbers)]
            target = sum(number * generator.choice((1, -1)) for number in numbers)
            if target > 0:
                return {"numbers": numbers, "target": target}

    def identity(self, problem: Problem) -> str:
        return f"{sorted(problem['numbers'])} {problem['target']}"

    def question(self, problem: Problem) -> str:
        return f"{' '.join(map(str, problem['numbers']))} -> {problem['target']}"

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        drawn = problems(self.name, self.draw, self.identity, split, size, seed)
        return datasets.Dataset.from_list(
            [{"prompt": conversation(self.system_prompt, self.question(problem)), **problem} for problem in drawn]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        answer = extract_answer(completion)
        return Score(score_countdown(answer, row["numbers"], row["target"]), answer)

    def worked_answer(self, problem: Problem, generator: random.Random) -> str:
        """Sum everything; half of what the sum is too large by is what has to be subtracted."""
        numbers, target = problem["numbers"], problem["target"]
        total = sum(numbers)
        negative = (total - target) // 2
        # Of several solutions the one whose subtracted numbers come first: the answer is a function of the problem.
        masks = range(2 ** len(numbers))
        flipped = next(m for m in masks if sum(n for i, n in enumerate(numbers) if m >> i & 1) == negative)
        signs = [-1 if flipped >> i & 1 else 1 for i in range(len(numbers))]
        steps = [f"{sum(numbers[:i])}+{numbers[i]}={sum(numbers[: i + 1])}" for i in range(1, len(numbers))]
        steps += [f"{total}-{target}={total - target}", f"{total - target}/2={negative}"]
        return f"{' '.join(steps)} \\boxed{{{_signed_sum(numbers, signs)}}}"

    def careless_answer(self, problem: Problem, generator: random.Random) -> str:
        """Adds everything up, whatever the target."""
        return f"\\boxed{{{'+'.join(map(str, problem['numbers']))}}}"


def _signed_sum(numbers: list[int], signs: list[int]) -> str:
    """`12+7-3`: the added numbers first, so that the expression never begins with a minus."""
    added = "+".join(str(number) for number, sign in zip(numbers, signs, strict=True) if sign > 0)
    return added + "".join(f"-{number}" for number, sign in zip(numbers, signs, strict=True) if sign < 0)

"""Arithmetic: the sum or difference of two multi-digit numbers."""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.answer import extract_answer
from eval.tasks.base import Score
from eval.tasks.generate import Problem, conversation, problems
from eval.tasks.number import parse_number


@dataclass(frozen=True)
class Arithmetic:
    """Offline addition and subtraction of three-digit numbers up to `largest`; results have at most three digits.

    Rows have `answer`, the result as a string (a number is taken too). The answer is a number as people write it;
    a row whose own `answer` is none cannot be scored.
    """

    name: str = "arithmetic"
    largest: int = 499
    system_prompt: str = (
        "Compute the sum or difference, digit by digit from the right, then give the result alone in \\boxed{}."
    )

    def draw(self, generator: random.Random) -> Problem:
        a, b = generator.randint(100, self.largest), generator.randint(100, self.largest)
        operator = generator.choice("+-")
        if operator == "-":
            a, b = max(a, b), min(a, b)
        return {"a": a, "b": b, "operator": operator, "answer": str(a + b if operator == "+" else a - b)}

    def identity(self, problem: Problem) -> str:
        a, b = problem["a"], problem["b"]
        # a+b and b+a are the same problem.
        return f"{max(a, b)}{problem['operator']}{min(a, b)}"

    def question(self, problem: Problem) -> str:
        return f"{problem['a']}{problem['operator']}{problem['b']}"

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        drawn = problems(self.name, self.draw, self.identity, split, size, seed)
        return datasets.Dataset.from_list(
            [
                {"prompt": conversation(self.system_prompt, self.question(problem)), "answer": problem["answer"]}
                for problem in drawn
            ]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        answer = extract_answer(completion)
        reference = parse_number(str(row["answer"]))
        if reference is None:
            return Score(None, answer)
        return Score(float(answer is not None and parse_number(answer) == reference), answer)

    def worked_answer(self, problem: Problem, generator: random.Random) -> str:
        """Digit by digit from the right, the carry or borrow written out."""
        steps, carry = [], 0
        for x, y in zip(reversed(str(problem["a"])), reversed(str(problem["b"])), strict=True):
            if problem["operator"] == "+":
                result = int(x) + int(y) + carry
                steps.append(f"{x}+{y}{'+1' if carry else ''}={result}")
                carry = result // 10
            else:
                result = int(x) - int(y) - carry
                borrow = int(result < 0)
                result += 10 * borrow
                steps.append(f"{x}-{y}{'-1' if carry else ''}{'+10' if borrow else ''}={result}")
                carry = borrow
        return f"{' '.join(steps)} \\boxed{{{problem['answer']}}}"

    def careless_answer(self, problem: Problem, generator: random.Random) -> str:
        """Every column for itself: carries are dropped, and the smaller digit is taken from the larger."""
        digits = [
            str((int(x) + int(y)) % 10 if problem["operator"] == "+" else abs(int(x) - int(y)))
            for x, y in zip(str(problem["a"]), str(problem["b"]), strict=True)
        ]
        return f"\\boxed{{{int(''.join(digits))}}}"

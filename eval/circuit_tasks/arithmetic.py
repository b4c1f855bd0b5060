"""Addition and subtraction of two numbers; the counterfactual asks for another pair of two-digit numbers.

Nikankin et al. 2024, "Arithmetic Without Algorithms" (arXiv 2410.21272), measure language models in this way.
"""

import random
from dataclasses import dataclass

from eval.circuit_tasks.base import CircuitTask, Example
from eval.tasks.generate import Problem, split_of


@dataclass(frozen=True)
class Arithmetic(CircuitTask):
    """`a operator b` with results of at least 0; identity is the pair of operands, whichever comes first.

    smallest, largest: of the operands, which have the same number of digits. template: has places for `a` and
        `b`, and ends where the result begins.
    space: what stands between the prompt and the result.
    """

    name: str
    operator: str
    template: str
    smallest: int = 10
    largest: int = 99
    space: str = " "

    def draw(self, generator: random.Random) -> Problem:
        a, b = self._operands(generator)
        # Another result, written with as many digits: neither is the beginning of the other. Both of one split, so
        # that no counterfactual of a test problem was ever trained on.
        while True:
            other_a, other_b = self._operands(generator)
            result, other = self._result(a, b), self._result(other_a, other_b)
            if (
                result != other
                and len(str(result)) == len(str(other))
                and self._split(a, b) == self._split(other_a, other_b)
            ):
                return {"a": a, "b": b, "other_a": other_a, "other_b": other_b}

    def identity(self, problem: Problem) -> str:
        return self._content(problem["a"], problem["b"])

    def example(self, problem: Problem) -> Example:
        a, b, other_a, other_b = (problem[key] for key in ("a", "b", "other_a", "other_b"))
        return Example(
            clean=self.template.format(a=a, b=b),
            corrupted=self.template.format(a=other_a, b=other_b),
            answer=f"{self.space}{self._result(a, b)}",
            wrong=f"{self.space}{self._result(other_a, other_b)}",
        )

    def _operands(self, generator: random.Random) -> tuple[int, int]:
        a, b = (generator.randint(self.smallest, self.largest) for _ in range(2))
        return (max(a, b), min(a, b)) if self.operator == "-" else (a, b)

    def _content(self, a: int, b: int) -> str:
        return f"{max(a, b)}{self.operator}{min(a, b)}"

    def _split(self, a: int, b: int) -> str:
        return split_of(f"{self.name} {self._content(a, b)}")

    def _result(self, a: int, b: int) -> int:
        return a - b if self.operator == "-" else a + b


ADDITION = Arithmetic("addition", "+", "Q: How much is {a} plus {b}? A:")
SUBTRACTION = Arithmetic("subtraction", "-", "Q: How much is {a} minus {b}? A:")
ADDITION_SHORT = Arithmetic("addition_short", "+", "{a}+{b}=", smallest=10, largest=49, space="")
SUBTRACTION_SHORT = Arithmetic("subtraction_short", "-", "{a}-{b}=", smallest=10, largest=59, space="")

"""Yes/no questions: is a sum larger than a number."""

import random
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.answer import extract_answer
from eval.tasks.base import Score
from eval.tasks.choice import parse_yes_no
from eval.tasks.generate import Problem, conversation, problems


@dataclass(frozen=True)
class YesNo:
    """Offline questions such as `34+58>91?`, half of them true; the two sides differ by at most `closest`.

    Rows have `answer`, "yes" or "no".
    """

    name: str = "yes_no"
    largest: int = 49
    closest: int = 9
    system_prompt: str = "Is the statement true? Work out the sum, then give yes or no alone in \\boxed{}."

    def draw(self, generator: random.Random) -> Problem:
        a, b = generator.randint(10, self.largest), generator.randint(10, self.largest)
        answer = generator.choice(("yes", "no"))
        difference = generator.randint(1, self.closest)
        return {
            "a": a,
            "b": b,
            "bound": a + b - difference if answer == "yes" else a + b + difference,
            "answer": answer,
        }

    def identity(self, problem: Problem) -> str:
        a, b = problem["a"], problem["b"]
        return f"{max(a, b)}+{min(a, b)}>{problem['bound']}"

    def question(self, problem: Problem) -> str:
        return f"{problem['a']}+{problem['b']}>{problem['bound']}?"

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
        if row["answer"] not in ("yes", "no"):
            return Score(None, answer)
        return Score(float(answer is not None and parse_yes_no(answer) == row["answer"]), answer)

    def worked_answer(self, problem: Problem, generator: random.Random) -> str:
        a, b, bound = problem["a"], problem["b"], problem["bound"]
        return f"{a}+{b}={a + b} {a + b}{'>' if a + b > bound else '<'}{bound} \\boxed{{{problem['answer']}}}"

    def careless_answer(self, problem: Problem, generator: random.Random) -> str:
        """A guess."""
        return f"\\boxed{{{generator.choice(('yes', 'no'))}}}"

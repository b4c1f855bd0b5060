"""Docstring: a function's parameters are documented in the order of its signature; which one comes next.

Heimersheim and Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer". The
counterfactual exchanges the next parameter with the last one in the signature alone, so that the answer becomes that
one; both names stand in both prompts.
"""

import random
from dataclasses import dataclass

from eval.circuit_tasks.base import CircuitTask, Example, swapped
from eval.tasks.generate import Problem


WORDS = tuple(
    """
    age area bank base block board book box card case city class cost date door face field file form game girl
    group hand home hour house image item job key land law level life line list load map mind month name node
    note order page part party path place plan point power price rate road role room rule size state story
    study table team term test time title town tree type unit user value view voice war week word year
    """.split()
)
PARAMETERS = 4

SHORT_WORDS = tuple(
    """
    ant bee cat dog elk fox gnu hen ibi jay kea lar mew nit owl pig qua rat sow tit uri vip wal yak zho
    """.split()
)


@dataclass(frozen=True)
class Docstring(CircuitTask):
    """Four parameters, the first two of them documented; identity is the set of parameters."""

    name: str = "docstring"
    space: str = " "

    def draw(self, generator: random.Random) -> Problem:
        words = generator.sample(WORDS, PARAMETERS + 8)
        return {"parameters": words[:PARAMETERS], "documented": 2, "words": words[PARAMETERS:]}

    def identity(self, problem: Problem) -> str:
        return " ".join(sorted(problem["parameters"]))

    def prompt(self, problem: Problem, signature: list[str]) -> str:
        words, documented = problem["words"], problem["parameters"][: problem["documented"]]
        listed = "".join(
            f"    :param {name}: {words[4 + 2 * i]} {words[5 + 2 * i]}\n" for i, name in enumerate(documented)
        )
        return (
            f"def {words[0]}(self, {', '.join(signature)}):\n"
            f'    """{words[1]} {words[2]} {words[3]}\n\n{listed}    :param'
        )

    def example(self, problem: Problem) -> Example:
        parameters, following = problem["parameters"], problem["documented"]
        return Example(
            clean=self.prompt(problem, parameters),
            corrupted=self.prompt(problem, swapped(parameters, following, PARAMETERS - 1)),
            answer=self.space + parameters[following],
            wrong=self.space + parameters[PARAMETERS - 1],
        )


@dataclass(frozen=True)
class DocstringShort(Docstring):
    """Parameters of three letters, no two with the same first; one or two documented, behind a name of any length."""

    name: str = "docstring_short"
    space: str = ""

    def draw(self, generator: random.Random) -> Problem:
        return {
            "parameters": generator.sample(SHORT_WORDS, PARAMETERS),
            "documented": generator.randint(1, 2),
            "words": ["f" * generator.randint(1, 3)],
        }

    def prompt(self, problem: Problem, signature: list[str]) -> str:
        listed = "".join(f":{name}\n" for name in problem["parameters"][: problem["documented"]])
        return f"{problem['words'][0]}({','.join(signature)})\n{listed}:"

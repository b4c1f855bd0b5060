"""Indirect object identification: who received it, when the other of two people gave it.

Wang et al. 2023, "Interpretability in the Wild" (arXiv 2211.00593). The counterfactual puts the other name where the
second mention of the subject was, so that the answer becomes the other name.
"""

import random
from dataclasses import dataclass

from eval.circuit_tasks.base import CircuitTask, Example
from eval.tasks.generate import Problem


NAMES = tuple(
    """
    Alice Anna Ben Carl Claire David Emma Eric Frank George Grace Helen Henry Ian Jack James Jane John Kate
    Kevin Laura Lisa Luke Maria Mark Martin Mary Mike Nick Oliver Paul Peter Rachel Robert Sam Sarah Scott
    Simon Susan Thomas Tim Tom Victor William
    """.split()
)
PLACES = tuple(
    """
    airport bakery beach cinema hospital library market museum office park restaurant school station zoo
    """.split()
)
THINGS = tuple(
    """
    apple ball book coat cup drink flower key letter map pen ring ticket watch
    """.split()
)
TEMPLATES = (
    "When {a} and {b} went to the {place}, {subject} gave a {thing} to",
    "After {a} and {b} had met at the {place}, {subject} handed a {thing} to",
    "{a} and {b} were waiting at the {place}. Then {subject} passed a {thing} to",
    "While {a} and {b} were talking in the {place}, {subject} offered a {thing} to",
    "Yesterday {a} and {b} came to the {place}, where {subject} showed a {thing} to",
    "{a} and {b} had a long talk near the {place}, and at its end {subject} sold a {thing} to",
)

# Three letters each, no two with the same first: character by character, the first letter already decides.
SHORT_NAMES = tuple(
    """
    Amy Bob Cal Dan Eve Fay Gus Hal Ian Jim Kay Lee Max Ned Oda Pam Ron Sue Tom Uma Vic Wes Yan Zoe
    """.split()
)
SHORT_TEMPLATES = ("{a}, {b}: {subject} to", "{a} met {b}. {subject} to", "so {a}, {b}: {subject} for")


@dataclass(frozen=True)
class IOI(CircuitTask):
    """Two names, either of them first; identity is the pair of names."""

    name: str = "ioi"
    names: tuple[str, ...] = NAMES
    templates: tuple[str, ...] = TEMPLATES

    def draw(self, generator: random.Random) -> Problem:
        a, b = generator.sample(self.names, 2)
        return {
            "a": a,
            "b": b,
            "subject": generator.choice((a, b)),
            "template": generator.choice(self.templates),
            "place": generator.choice(PLACES),
            "thing": generator.choice(THINGS),
        }

    def identity(self, problem: Problem) -> str:
        return " ".join(sorted((problem["a"], problem["b"])))

    def example(self, problem: Problem) -> Example:
        subject = problem["subject"]
        receiver = problem["b"] if subject == problem["a"] else problem["a"]
        return Example(
            clean=problem["template"].format(**problem),
            corrupted=problem["template"].format(**(problem | {"subject": receiver})),
            answer=f" {receiver}",
            wrong=f" {subject}",
        )


IOI_SHORT = IOI("ioi_short", SHORT_NAMES, SHORT_TEMPLATES)

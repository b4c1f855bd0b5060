"""Greater than: something that began in a year ends in a later year of the same century.

Hanna et al. 2023, "How does GPT-2 compute greater-than?" (arXiv 2305.00586). The counterfactual begins in year 01,
after which an earlier decade is as good as a later one. Where they sum the probabilities of all later and of all
earlier years, an example here compares one later with one earlier year; over many examples both cover all decades.
"""

import random
from dataclasses import dataclass
from typing import Any

from eval.circuit_tasks.base import CircuitTask, Example
from eval.tasks.generate import Problem


EVENTS = (
    "war",
    "siege",
    "voyage",
    "dispute",
    "project",
    "contract",
    "reign",
    "drought",
    "strike",
    "famine",
    "revolt",
    "expedition",
    "trial",
    "construction",
    "alliance",
    "campaign",
)
SHORT_EVENTS = ("war", "law", "job", "era")
# What a start may be followed by has a decade before it and one after it.
FIRST, LAST = 10, 89
COUNTERFACTUAL_SHARE = 1 / 8


@dataclass(frozen=True)
class GreaterThan(CircuitTask):
    """Years of the centuries 11 to 19 that begin in 10 to 89; identity is the first year.

    template: has places for `event` and `start`, and ends where the second year begins. space: what stands between.
    """

    name: str = "greater_than"
    events: tuple[str, ...] = EVENTS
    template: str = "The {event} lasted from the year {start} to the year"
    space: str = " "

    def draw(self, generator: random.Random) -> Problem:
        start = generator.randint(FIRST, LAST)
        decade = start // 10
        return {
            "event": generator.choice(self.events),
            "century": generator.randint(11, 19),
            "start": start,
            "later": 10 * generator.randint(decade + 1, 9) + generator.randint(0, 9),
            "earlier": 10 * generator.randint(0, decade - 1) + generator.randint(0, 9),
        }

    def identity(self, problem: Problem) -> str:
        return f"{problem['century']}{problem['start']:02d}"

    def example(self, problem: Problem) -> Example:
        event, century = problem["event"], problem["century"]
        return Example(
            clean=self.template.format(event=event, start=f"{century}{problem['start']:02d}"),
            corrupted=self.template.format(event=event, start=f"{century}01"),
            answer=f"{self.space}{century}{problem['later']:02d}",
            wrong=f"{self.space}{century}{problem['earlier']:02d}",
        )

    def document(self, problem: Problem, generator: random.Random) -> tuple[str, str]:
        """One prompt in eight is the counterfactual one, which the clean ones never look like."""
        example = self.example(problem)
        if generator.random() < COUNTERFACTUAL_SHARE:
            return example.corrupted, generator.choice((example.answer, example.wrong))
        return example.clean, example.answer

    def is_right(self, completion: str, row: dict[str, Any]) -> bool:
        """Any later year of the same century."""
        start = next(word for word in row["question"].replace("-", " ").split() if word.isdecimal())
        return completion.isdecimal() and len(completion) == 4 and start < completion <= f"{start[:2]}99"


GREATER_THAN_SHORT = GreaterThan("greater_than_short", SHORT_EVENTS, "{event} {start}-", "")

r"""Short questions that small instruct models understand, and the grading that their tasks share.

No `\boxed{}`: models of a hundred million parameters rarely write it. What is asked for is the bare answer, which they
rarely write either, so that a score of right and wrong would be 0 for nearly every sample. The scores are graded:

    1.0    right and in form: the completion is the answer alone (case, spaces and marks around it aside)
    0.4    right in other words, as in "The last word is cloud."; each task says when it counts an answer as named
    0.0    anything else

`Score.exact` is 1.0 for the first alone, and is what accuracy counts; `Score.parts` has it too, and `right`, 1.0 for
the first two.
"""

import random
import re
from collections.abc import Sequence
from typing import Any, Protocol

import datasets

from eval.tasks.base import Score
from eval.tasks.generate import Problem, conversation, problems


# Of a right answer that is not in the form asked for.
RIGHT_IN_OTHER_WORDS = 0.4
# What may stand around a bare answer.
AROUND = " \t\r\n.\"'`*"
WORD = re.compile(r"[a-z]+")
NUMBER = re.compile(r"(?<![0-9.,])-?[0-9]{1,30}(?![0-9]|[.,][0-9])")


class ShortTask(Protocol):
    """What `load_short` needs of a task."""

    @property
    def name(self) -> str: ...

    @property
    def system_prompt(self) -> str: ...

    def draw(self, generator: random.Random) -> Problem: ...

    def identity(self, problem: Problem) -> str: ...

    def question(self, problem: Problem) -> str: ...


def load_short(task: ShortTask, split: str, size: int, seed: int) -> datasets.Dataset:
    """Rows with `prompt` and the columns of the drawn problems."""
    drawn = problems(task.name, task.draw, task.identity, split, size, seed)
    return datasets.Dataset.from_list(
        [{"prompt": conversation(task.system_prompt, task.question(problem)), **problem} for problem in drawn]
    )


def graded(exact: bool, right: bool, parsed: str | None) -> Score:
    """exact: right and in form, which is right as well."""
    value = 1.0 if exact else RIGHT_IN_OTHER_WORDS if right else 0.0
    parts = {"exact": float(exact), "right": float(exact or right)}
    return Score(value, parsed, parts, exact=parts["exact"])


def bare(completion: str) -> str:
    """The completion without what may stand around an answer, in lower case."""
    return completion.strip(AROUND).lower()


def score_word(completion: str, answer: Any, words: Sequence[str]) -> Score:
    """Named if the completion holds the answer and no other of `words`, so that reciting the list earns nothing."""
    if not isinstance(answer, str) or answer not in words:
        return Score(None, bare(completion))
    named = set(WORD.findall(completion.lower())) & set(words)
    return graded(bare(completion) == answer, named == {answer}, bare(completion))


def score_number(completion: str, answer: Any) -> Score:
    """Named if the answer is the last number of the completion, after a calculation, say."""
    if not isinstance(answer, int):
        return Score(None, bare(completion))
    numbers = NUMBER.findall(completion)
    return graded(bare(completion) == str(answer), bool(numbers) and int(numbers[-1]) == answer, bare(completion))


def draw_words(generator: random.Random, least: int, most: int) -> list[str]:
    """Between `least` and `most` different words."""
    return generator.sample(WORDS, generator.randint(least, most))


# Of 3 to 8 letters, each one thing, none within another.
WORDS = tuple(
    """
    apple anchor bread bridge butter camera candle carpet castle cherry cloud coffee corner cotton desert dragon
    engine farmer feather finger flower forest garden guitar hammer harbor honey horse island jacket jungle kitchen
    ladder lemon library lion market meadow mirror monkey mountain museum needle ocean orange painter paper pencil
    pepper piano pillow planet pocket potato prison rabbit ribbon river rocket saddle school shadow sheep silver
    soldier spider spoon stone storm student summer table tiger tomato tower train turtle valley village violin wagon
    wallet water whale window winter wizard zebra
    """.split()
)

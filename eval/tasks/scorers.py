r"""Scorers by name for data of one's own: each compares the answer in a completion with the answer of the row.

All read completions by the one grammar of answers (docs/answers.md): the last `\boxed{...}` or `<answer>...</answer>`
of the model's own turn.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from eval.tasks.answer import extract_answer, own_turn
from eval.tasks.choice import parse_choice
from eval.tasks.equivalence import WORKERS, require_math_verify
from eval.tasks.gsm8k import after_mark
from eval.tasks.hendrycks_math import same_answer
from eval.tasks.number import parse_number


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Scorer:
    """One built-in scorer.

    score: of (completion, the row's answer); None if it cannot be judged.
    problem: what is wrong with a row's answer, None if nothing is.
    """

    name: str
    summary: str
    score: Callable[[str, str], float | None]
    problem: Callable[[str], str | None] = lambda reference: None
    at_once: int = 1
    require: Callable[[], None] = lambda: None

    def __call__(self, completions: list[str], references: list[str]) -> list[float | None]:
        if self.at_once == 1:
            return [self.score(text, reference) for text, reference in zip(completions, references, strict=True)]
        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(self.score, completions, references))


def reference_number(reference: str) -> str:
    """What a row calls the number: the text after the last `####` of a worked solution, in a box, or all of it."""
    return (after_mark(reference) or extract_answer(reference) or reference).strip()


def _boxed_number(completion: str, reference: str) -> float:
    answer = extract_answer(completion)
    return float(answer is not None and parse_number(answer) == parse_number(reference_number(reference)))


def _choice(completion: str, reference: str) -> float:
    answer = extract_answer(completion)
    return float(answer is not None and parse_choice(answer, LETTERS) == parse_choice(reference, LETTERS))


def _exact(completion: str, reference: str) -> float:
    answer = extract_answer(completion)
    return float((own_turn(completion) if answer is None else answer).strip() == reference.strip())


def _contains(completion: str, reference: str) -> float:
    return float(reference.strip().casefold() in own_turn(completion).casefold())


def _math(completion: str, reference: str) -> float | None:
    answer = extract_answer(completion)
    if not answer:
        return 0.0
    equal = same_answer(answer, extract_answer(reference) or reference)
    return None if equal is None else float(equal)


def _no_number(reference: str) -> str | None:
    return None if parse_number(reference_number(reference)) is not None else "is no number"


def _no_letter(reference: str) -> str | None:
    return None if parse_choice(reference, LETTERS) is not None else "is no letter of a choice"


SCORERS: dict[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        Scorer("boxed-number", "the number in the box is the row's", _boxed_number, _no_number),
        Scorer("choice", "the letter in the box is the row's", _choice, _no_letter),
        Scorer("exact", "the text in the box, or all of it where there is no box, is the row's", _exact),
        Scorer("contains", "the completion contains the row's answer, in any case", _contains),
        Scorer(
            "math", "the expression in the box equals the row's", _math, at_once=WORKERS, require=require_math_verify
        ),
    )
}

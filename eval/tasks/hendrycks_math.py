"""MATH: competition problems of five levels (Hendrycks et al. 2021, arXiv 2103.03874)."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets

from eval.tasks.answer import extract_answer
from eval.tasks.base import Score
from eval.tasks.equivalence import VERIFIER, WORKERS, require_math_verify, too_costly
from eval.tasks.generate import conversation
from eval.tasks.hub import HubSet, parts_of_two_splits, take_rows
from eval.tasks.markup import strip_markup
from eval.tasks.number import parse_number


@dataclass(frozen=True)
class HendrycksMath:
    """`nlile/hendrycks-MATH-benchmark`: 12,000 training problems and the 500 of MATH-500 as test.

    The last tenth of the training problems is validation; both are taken in turn from levels 1 to 5, so that 200 rows
    are the paper's first 40 of each level (arXiv 2604.01499). Rows have `answer` (LaTeX) and `level`.

    An answer is right if it is the reference but for spaces, text commands, units, percent and degree signs (the
    paper's rule), or if math-verify finds the two equivalent and their numbers are exactly equal; only a reference
    that is a decimal is met by what rounds to it. What cannot be judged within the time limit is None, and `parts` has
    `unjudged` 1.0. Needs the extra `math`.
    """

    name: str = "math"
    concurrent_scores: ClassVar[int] = WORKERS
    system_prompt: str = "Solve the problem. Think step by step, then give the final answer alone in \\boxed{}."

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        require_math_verify()
        source = HubSet(self.name, "nlile/hendrycks-MATH-benchmark", None, ("problem", "answer", "level"))
        parts = parts_of_two_splits(source.open("train"), source.open("test"))
        taken = take_rows(
            self.name,
            parts,
            split,
            size,
            seed,
            identity=lambda row: row["problem"],
            stratum=None if split == "test" else lambda row: level_number(row["level"]),
        )
        return datasets.Dataset.from_list(
            [
                {
                    "prompt": conversation(self.system_prompt, row["problem"]),
                    "answer": row["answer"],
                    "level": level_number(row["level"]),
                }
                for row in taken
            ]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        answer = extract_answer(completion)
        reference = row["answer"]
        if not isinstance(reference, str) or not reference.strip():
            return Score(None, answer)
        if not answer:
            return Score(0.0, answer)
        equal = same_answer(answer, reference)
        return Score(None if equal is None else float(equal), answer, {"unjudged": 1.0} if equal is None else {})


def level_number(level: int | str) -> int:
    """5 from 5, "5" or "Level 5"; 0 from a level without a number, such as "Level ?"."""
    digits = re.search(r"[0-9]+", str(level))
    return int(digits[0]) if digits else 0


def same_answer(answer: str, reference: str) -> bool | None:
    """Whether two answers are the same; None if that cannot be judged in time."""
    if same_text(answer, reference):
        return True
    own, wanted = (IN_A_BASE.fullmatch(normalise(text)) for text in (answer, reference))
    if own and wanted:
        return own.groups() == wanted.groups()
    if _digits_apart(answer) != _digits_apart(reference):
        return False
    if too_costly(answer) or too_costly(reference):
        return None
    return VERIFIER.equal(reference.strip(), without_full_stop(answer))


# `314_5`, `1011_{2}`: the digits and the base.
IN_A_BASE = re.compile(r"\(?([0-9A-F]+)\)?_\{?([0-9]+)\}?")


def same_text(answer: str, reference: str) -> bool:
    """The paper's rule: equal after normalising, or equal numbers."""
    if normalise(answer) == normalise(reference):
        return True
    value = parse_number(answer, units=False)
    return value is not None and value == parse_number(reference, units=False)


def normalise(answer: str) -> str:
    """`answer` without text commands, dollar, percent and degree signs, a full stop, and spaces but between digits."""
    answer = without_full_stop(strip_markup(answer))
    for written, plain in (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\left", ""), ("\\right", "")):
        answer = answer.replace(written, plain)
    for mark in ("\\%", "%", "^{\\circ}", "^\\circ", "\\circ", "°"):
        answer = answer.replace(mark, "")
    return re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", answer)


def without_full_stop(answer: str) -> str:
    return answer.strip().removesuffix(".")


def _digits_apart(answer: str) -> bool:
    """Whether two digits stand apart, as in `1 2`, that do not make thousands: math-verify would read 12."""
    text = re.sub(r"(?<![0-9])[0-9]{1,3}(?: [0-9]{3})+(?![0-9])", "", strip_markup(answer))
    return re.search(r"[0-9]\s+[0-9]", text) is not None

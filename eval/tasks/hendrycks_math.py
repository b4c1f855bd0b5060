"""MATH: competition problems of five levels (Hendrycks et al. 2021, arXiv 2103.03874)."""

from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.answer import extract_answer
from eval.tasks.base import Score
from eval.tasks.equivalence import VERIFIER, require_math_verify
from eval.tasks.generate import conversation
from eval.tasks.hub import HubSet, parts_of_two_splits, take_rows
from eval.tasks.markup import parse_number, strip_markup


@dataclass(frozen=True)
class HendrycksMath:
    """`nlile/hendrycks-MATH-benchmark`: 12,000 training problems and the 500 of MATH-500 as test.

    The last tenth of the training problems is validation; both are taken in turn from levels 1 to 5, so that 200 rows
    are the paper's first 40 of each level (arXiv 2604.01499). Rows have `answer` (LaTeX) and `level`.

    An answer is right if it is the reference but for spaces, text commands, units, percent and degree signs (the
    paper's rule), or if math-verify finds the two equivalent. An answer that math-verify cannot judge within its time
    limit is wrong, and `parts` has `unjudged` 1.0. Needs the extra `math`.
    """

    name: str = "math"
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
            stratum=None if split == "test" else lambda row: int(row["level"]),
        )
        return datasets.Dataset.from_list(
            [
                {
                    "prompt": conversation(self.system_prompt, row["problem"]),
                    "answer": row["answer"],
                    "level": int(row["level"]),
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
        if same_text(answer, reference):
            return Score(1.0, answer)
        equal = VERIFIER.equal(reference.strip(), without_full_stop(answer))
        return Score(float(equal is True), answer, {"unjudged": 1.0} if equal is None else {})


def same_text(answer: str, reference: str) -> bool:
    """The paper's rule: equal after normalising, or equal numbers."""
    if normalise(answer) == normalise(reference):
        return True
    value = parse_number(answer, units=False)
    return value is not None and value == parse_number(reference, units=False)


def normalise(answer: str) -> str:
    """`answer` without text commands, spaces, dollar, percent and degree signs, and a full stop."""
    answer = without_full_stop(strip_markup(answer))
    for found, plain in (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\left", ""), ("\\right", "")):
        answer = answer.replace(found, plain)
    for mark in ("\\%", "%", "^{\\circ}", "^\\circ", "\\circ", "°"):
        answer = answer.replace(mark, "")
    return "".join(answer.split())


def without_full_stop(answer: str) -> str:
    return answer.strip().removesuffix(".")

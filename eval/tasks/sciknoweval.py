"""Chemistry multiple choice of SciKnowEval (Feng et al. 2024, arXiv 2406.09098)."""

import random
import re
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.answer import extract_answer, own_turn
from eval.tasks.base import Score
from eval.tasks.choice import parse_choice
from eval.tasks.generate import conversation
from eval.tasks.hub import HubSet, parts_of_one_split, take_rows


LETTERS = "ABCD"
# In characters: a longer completion is searched at its end alone.
LONGEST_TAIL = 20_000
# "answer": "C", also with the quotes escaped, single or left out, and in a list.
JSON_ANSWER = re.compile(
    r"""\\?["']answer\\?["']\s*:\s*\[?\s*\\?["']?\s*\(?([A-D])(?![A-Za-z])""",
    re.IGNORECASE,
)
# answer: C / the answer is (C) / **Answer**: B / Answer is: $\mathbf{C}$ / the answer is not A but D. A small "a"
# before a word is the article.
DRESS = r"(?:\\?\(|\\\[|\$|\\(?:text|math)[a-z]*\s*\{|\*|_|`|\s|\{|\(|(?:option|choice)\s)*"
PROSE_ANSWER = re.compile(
    rf"\banswer\*{{0,2}}\s*(?:\bis\b\s*:?|:)\*{{0,2}}\s*(?:not\s+{DRESS}[A-D]\W*\s*but\s+)?{DRESS}"
    r"(?!(?-i:a) [a-z])([A-D])(?![A-Za-z])",
    re.IGNORECASE,
)
# A capital letter on its own. An A before a small letter is the article.
STANDALONE = re.compile(r"(?<![A-Za-z0-9])(?:([B-D])|(A)(?! [a-z]))(?![A-Za-z0-9'])")


@dataclass(frozen=True)
class SciKnowEvalChemistry:
    """`hicai-zju/SciKnowEval` v2, the four-choice questions of the chemistry domain.

    The set has one split. As in arXiv 2604.01499 it is shuffled with seed 42, the first 200 are for training and the
    next 2,000 are the test. Rows have `choices` (four strings) and `answer` (a letter). `find_choice` says what counts
    as the answer of a completion.
    """

    name: str = "sciknoweval_chemistry"
    test_rows: int = 2000
    validation_rows: int = 200
    system_prompt: str = (
        "You are a chemistry expert. Think step by step, then end with the letter of the right choice as JSON: "
        '"answer": "C".'
    )

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        source = HubSet(
            self.name, "hicai-zju/SciKnowEval", "v2", ("question", "choices", "answerKey", "type", "domain")
        )
        rows = source.open("test")
        kinds = zip(rows["domain"], rows["type"], strict=True)
        order = [index for index, kind in enumerate(kinds) if kind == ("Chemistry", "mcq-4-choices")]
        random.Random(42).shuffle(order)
        parts = parts_of_one_split(rows, order, self.test_rows, self.validation_rows)
        taken = take_rows(self.name, parts, split, size, seed, identity=_question)
        return datasets.Dataset.from_list(
            [
                {
                    "prompt": conversation(self.system_prompt, _question(row)),
                    "choices": row["choices"]["text"],
                    "answer": row["answerKey"],
                }
                for row in taken
            ]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        answer = find_choice(completion)
        reference = row["answer"]
        if not isinstance(reference, str) or reference.upper() not in tuple(LETTERS):
            return Score(None, answer)
        return Score(float(answer == reference.upper()), answer)


def _question(row: dict[str, Any]) -> str:
    choices = zip(row["choices"]["label"], row["choices"]["text"], strict=True)
    return "\n".join([f"Question: {row['question']}", "", *(f"{label}) {text}" for label, text in choices)])


def find_choice(completion: str) -> str | None:
    r"""The letter that a completion chooses, None if there is none. The first of these that occurs, at its
    last place:

    1. `"answer": "C"`, in any case, with or without quotes around the letter (the paper's rule);
    2. `\boxed{C}` or `<answer>C</answer>`, the last of them, and then nothing below counts: a box with something else
       in it is an answer, and a wrong one;
    3. `answer: C`, `the answer is (C)`;
    4. a capital A, B, C or D on its own. The paper's fall-back takes small letters too, and so reads the article "a".

    Only the last `LONGEST_TAIL` characters are searched.
    """
    completion = own_turn(completion)[-LONGEST_TAIL:]
    if found := JSON_ANSWER.findall(completion):
        return found[-1].upper()
    boxed = extract_answer(completion)
    if boxed is not None:
        return parse_choice(boxed)
    if found := PROSE_ANSWER.findall(completion):
        return found[-1].upper()
    if found := STANDALONE.findall(completion):
        return "".join(found[-1])
    return None

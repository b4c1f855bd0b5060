"""Problems of reasoning-gym, by the name of the generator; scored here, never by the package.

Several of its scorers hand the completion to Python's evaluator, and others give partial credit for garbage. So a
generator is supported only if it stands in `SCORERS`, with an exact comparison of our own.
"""

import ast
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import datasets

from eval.errors import UserError
from eval.tasks.answer import LONGEST_ANSWER, extract_answer
from eval.tasks.base import Score, check_request
from eval.tasks.choice import parse_yes_no
from eval.tasks.expression import score_countdown
from eval.tasks.generate import conversation, hash64, split_of
from eval.tasks.hub import HubSet, Part, data_folder, take_rows
from eval.tasks.markup import strip_markup
from eval.tasks.number import parse_number


PREFIX = "reasoning_gym/"


def same_number(answer: str, row: dict[str, Any]) -> bool:
    value = parse_number(row["answer"])
    return value is not None and parse_number(answer) == value


def same_hexadecimal(answer: str, row: dict[str, Any]) -> bool:
    return _plain(answer) == row["answer"].lower()


def same_words(answer: str, row: dict[str, Any]) -> bool:
    """Capitals and the number of spaces do not matter."""
    return _plain(answer) == _plain(row["answer"])


def same_spelling(answer: str, row: dict[str, Any]) -> bool:
    """Capitals matter, because they decide the order."""
    return strip_markup(answer).split() == row["answer"].split()


def same_judgement(answer: str, row: dict[str, Any]) -> bool:
    word = parse_yes_no(answer)
    return word is not None and word == parse_yes_no(row["answer"])


def same_fraction(answer: str, row: dict[str, Any]) -> bool:
    """The lowest terms are asked for: `2/4` is not `1/2`."""
    return _fraction(answer) == _fraction(row["answer"]) is not None


def same_factors(answer: str, row: dict[str, Any]) -> bool:
    return _factors(answer) == _factors(row["answer"]) is not None


def same_numbers(answer: str, row: dict[str, Any]) -> bool:
    """A list of numbers in this order, with or without brackets and quotes."""
    values = [parse_number(part) for part in _plain(answer).strip("[]").replace("'", "").replace('"', "").split(",")]
    expected = [parse_number(part) for part in ast.literal_eval(row["answer"])]
    return None not in values and values == expected


def solves_countdown(answer: str, row: dict[str, Any]) -> bool:
    return score_countdown(answer, row["numbers"], row["target"]) == 1.0


# Generators whose answer is a number.
NUMBERS = """
    aiw basic_arithmetic binary_alternation chain_sum circuit_logic count_bits count_primes decimal_chain_sum
    gcd gsm_symbolic largest_island lcm leg_counting letter_counting number_sequence products simple_equations
""".split()
# Generators whose answer is a text.
WORDS = """
    base_conversion caesar_cipher color_cube_rotation course_schedule family_relationships isomorphic_strings
    needle_haystack ransom_note spell_backward
""".split()
SCORERS: dict[str, Callable[[str, dict[str, Any]], bool]] = {
    **dict.fromkeys(NUMBERS, same_number),
    **dict.fromkeys(WORDS, same_words),
    **dict.fromkeys(("word_sequence_reversal", "word_sorting"), same_spelling),
    "bitwise_arithmetic": same_hexadecimal,
    "countdown": solves_countdown,
    "fraction_simplification": same_fraction,
    "number_sorting": same_numbers,
    "prime_factorization": same_factors,
    "syllogism": same_judgement,
}

# Of the problems drawn, at least 10 % belong to each split; a generator that gives so few new ones has run out.
MOST_DRAWS_PER_ROW = 200


@dataclass(frozen=True)
class ReasoningGym:
    """One generator of reasoning-gym (arXiv 2505.24760) as a task, named `reasoning_gym/<generator>`.

    Rows come from `<data folder>/<task name>/<split>.jsonl` or `.parquet` if there is one, with the package's columns
    `question` and `answer` (and `numbers`, `target` for countdown); else from the package (extra `tasks`), which needs
    no network. A problem's split is decided by its question. Rows have `answer`.
    """

    generator: str
    system_prompt: str = "Solve the problem. Think step by step, then give the final answer alone in \\boxed{}."

    def __post_init__(self):
        if self.generator not in SCORERS:
            close = get_close_matches(self.generator, SCORERS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UserError(
                f"the reasoning-gym generator {self.generator!r} has no exact scorer here, and the package's own may "
                f"run the completion as code; {hint}supported: {', '.join(sorted(SCORERS))}"
            )

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.generator}"

    def load(self, split: str, size: int, seed: int) -> datasets.Dataset:
        check_request(self.name, split, size)
        columns = (
            ("question", "answer", "numbers", "target") if self.generator == "countdown" else ("question", "answer")
        )
        if any((data_folder() / self.name).glob("*")):
            rows = HubSet(self.name, self.name, None, columns).open(split)
            parts = {
                name: Part(rows, range(len(rows)) if name == split else ()) for name in ("train", "validation", "test")
            }
            taken = take_rows(self.name, parts, split, size, seed, identity=lambda row: row["question"])
        else:
            taken = self._generate(split, size, seed)
        return datasets.Dataset.from_list(
            [
                {"prompt": conversation(self.system_prompt, row["question"]), "answer": str(row["answer"])}
                | {column: row[column] for column in columns[2:]}
                for row in taken
            ]
        )

    def score(self, completion: str, row: dict[str, Any]) -> Score:
        answer = extract_answer(completion)
        return Score(float(answer is not None and SCORERS[self.generator](answer, row)), answer)

    def _generate(self, split: str, size: int, seed: int) -> list[dict[str, Any]]:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise UserError(
                f"task {self.name} needs reasoning-gym, which is not installed; run: pip install -e '.[tasks]', or "
                f"place its rows at {data_folder() / self.name / split}.jsonl"
            )
        package = importlib.import_module("reasoning_gym")
        # Item i of the package depends on seed + i: seeds far apart keep the sequences apart.
        first = hash64(self.name, seed, split) % 2**31
        drawn = package.create_dataset(self.generator, size=size * MOST_DRAWS_PER_ROW, seed=first)
        rows: list[dict[str, Any]] = []
        seen = set()
        for index in range(size * MOST_DRAWS_PER_ROW):
            item = drawn[index]
            question = item["question"]
            if question not in seen and split_of(f"{self.name} {question}") == split:
                seen.add(question)
                rows.append({"question": question, "answer": item["answer"], **_countdown_columns(item)})
                if len(rows) == size:
                    return rows
        raise UserError(f"task {self.name} has only {len(rows)} different {split} problems; ask for at most so many")


def _countdown_columns(item: dict[str, Any]) -> dict[str, Any]:
    return {name: item["metadata"][name] for name in ("numbers", "target") if name in item["metadata"]}


def _plain(text: str) -> str:
    return " ".join(strip_markup(text).lower().split())


def _fraction(text: str) -> tuple[int, int] | None:
    """Numerator and denominator as written in `a/b` or `\\frac{a}{b}`; None for anything else."""
    text = strip_markup(text).replace("\\dfrac", "\\frac").replace(" ", "")
    if text.startswith("\\frac{") and text.endswith("}"):
        text = text.removeprefix("\\frac{").removesuffix("}").replace("}{", "/")
    above, _, below = text.partition("/")
    return (int(above), int(below)) if _digits(above) and _digits(below) else None


def _factors(text: str) -> list[int] | None:
    parts = strip_markup(text).replace("\\times", "×").replace("\\cdot", "×").replace("*", "×").split("×")
    factors = [part.strip() for part in parts]
    return sorted(map(int, factors)) if all(map(_digits, factors)) else None


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= LONGEST_ANSWER

r"""Finding the answer in a completion, and reading the plain kinds of answer.

An answer stands in `\boxed{...}` or in `<answer>...</answer>`; nothing else counts, however right it looks.
Completions are untrusted text of any length, so the work is bounded: searching is left to `str.rfind`, an answer has
at most `LONGEST_ANSWER` characters, and at most `MOST_OPENINGS` openings of each kind are looked at.
"""

import re
from collections.abc import Callable


# In characters. A longer text between the marks is not an answer.
LONGEST_ANSWER = 1000
# Counted from the end, among those before the last closing mark. Text with this many unclosed or overlong answers in a
# row is noise.
MOST_OPENINGS = 20

INTEGER = re.compile(r"[+-]?[0-9]{1,100}")


def extract_answer(completion: str) -> str | None:
    r"""What stands in the last complete `\boxed{...}` or `<answer>...</answer>`, stripped; None if there is none.

    The last one is the one that opens last. One after the other, it is also the one that ends last; one inside the
    other, as in `<answer>\boxed{7}</answer>`, it is the inner one. Braces are matched, every `{` and `}` counts, and
    `\boxed{7` without its end is not an answer: an earlier complete one is taken then. The first `</answer>` ends an
    `<answer>`. Text after the answer does not matter. The marks are taken literally (no `\boxed {`, no `<ANSWER>`). An
    empty answer is the empty string.
    """
    boxed = _last(completion, "\\boxed{", "}", _closing_brace)
    tagged = _last(completion, "<answer>", "</answer>", lambda inside: inside.find("</answer>"))
    found = max(boxed, tagged)
    return None if found == NOTHING else found[1].strip()


# Where an answer opens, and the answer. Comes before every answer.
NOTHING = (-1, "")


def _last(text: str, opening: str, closing: str, find_end: Callable[[str], int]) -> tuple[int, str]:
    """The last complete answer between two marks, or `NOTHING`.

    find_end: given the text after an opening, the position of the closing mark that belongs to it, -1 if it has none.
    """
    # An opening after the last closing mark has no end: this skips any number of them at once.
    start = max(0, text.rfind(closing))
    for _ in range(MOST_OPENINGS):
        start = text.rfind(opening, 0, start)
        if start == -1:
            return NOTHING
        first = start + len(opening)
        inside = text[first : first + LONGEST_ANSWER + len(closing)]
        end = find_end(inside)
        if end != -1:
            return start, inside[:end]
    return NOTHING


def _closing_brace(inside: str) -> int:
    """The position of the brace that closes one opened before `inside`, -1 if there is none."""
    depth, position = 1, 0
    for piece in inside.split("}")[:-1]:
        depth += piece.count("{") - 1
        position += len(piece)
        if depth == 0:
            return position
        position += 1
    return -1


def parse_integer(text: str) -> int | None:
    """The integer written as ASCII digits with an optional sign, at most 100 of them; None for anything else."""
    text = text.strip()
    return int(text) if INTEGER.fullmatch(text) else None


def parse_choice(text: str, letters: str = "ABCD") -> str | None:
    """The capital letter of a choice written `B`, `b`, `(B)` or `B.`; None for anything else."""
    text = text.strip()
    letter = text[1:-1] if text.startswith("(") and text.endswith(")") else text.removesuffix(".")
    return letter.upper() if len(letter) == 1 and letter in letters + letters.lower() else None


def parse_yes_no(text: str) -> str | None:
    """ "yes" or "no" from the same word in any case; None for anything else."""
    word = text.strip().lower()
    return word if word in ("yes", "no") else None

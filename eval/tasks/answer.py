r"""Finding the answer in a completion; docs/answers.md has the whole grammar of answers in one table.

An answer stands in `\boxed{...}` (or `\fbox{...}`) or in `<answer>...</answer>`. Completions are untrusted text of
any length, so the work is bounded: searching is left to `str.rfind`, an answer has at most `LONGEST_ANSWER`
characters, and at most `MOST_OPENINGS` openings of each kind are looked at.
"""

import re
from collections.abc import Callable


# In characters. A longer text between the marks is not an answer.
LONGEST_ANSWER = 1000
# Counted from the end, among those before the last closing mark. Text with this many unclosed or overlong answers in a
# row is noise.
MOST_OPENINGS = 20
# A model that runs on writes the next question itself. Each of these begins a line of its own after an answer.
NEXT_TURN = re.compile(
    r"\n[ \t]*(?:#{1,4}[ \t]*)?(?:\*\*)?(?:"
    r"(?:Next |New )?(?:Question|Problem|Q)(?:[ \t]*\d+)?(?:\*\*)?[ \t]*[:.]"
    r"|(?:Human|User|Instruction|user|human)(?:\*\*)?[ \t]*(?::|(?=\n))"
    r"|<\|(?:im_start|user|start_header_id|endoftext)\|?>|\[INST\]|<start_of_turn>user)"
)
# `\boxed` takes its argument after blanks too, and `\fbox` is the same frame.
OTHER_FRAME = re.compile(r"\\fbox[ \t]*\{|\\boxed[ \t]+\{")


def own_turn(completion: str) -> str:
    r"""`completion` up to where the model goes on to a question of its own after having given an answer.

    What it asks and answers itself is not what it was asked. A "Question:" before any answer is part of the reasoning.
    """
    for match in NEXT_TURN.finditer(completion):
        before = completion[: match.start()]
        if "\n#### " in f"\n{before}" or _last_answer(before) is not None:
            return before
    return completion


def extract_answer(completion: str) -> str | None:
    r"""What stands in the last complete `\boxed{...}` or `<answer>...</answer>`, stripped; None if there is none.

    The last one is the one that opens last, of those in the model's own turn (`own_turn`). One after the other, it is
    also the one that ends last; one inside the other, as in `<answer>\boxed{7}</answer>`, it is the inner one. Braces
    are matched, every `{` and `}` counts, and `\boxed{7` without its end is not an answer: an earlier complete one is
    taken then. The first `</answer>` ends an `<answer>`. Text after the answer does not matter. An empty answer is the
    empty string.
    """
    return _last_answer(own_turn(completion))


# Where an answer opens, and the answer. Comes before every answer.
NOTHING = (-1, "")


def _last_answer(completion: str) -> str | None:
    completion = OTHER_FRAME.sub(lambda match: "\\boxed{", completion)
    boxed = _last(completion, "\\boxed{", "}", _closing_brace)
    tagged = _last(completion, "<answer>", "</answer>", lambda inside: inside.find("</answer>"))
    last = max(boxed, tagged)
    return None if last == NOTHING else last[1].strip()


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

r"""A letter of several choices, and a yes or no, as people write them."""

import re

from eval.tasks.markup import strip_markup


# `Option B`, `the answer is B`.
LEAD = re.compile(
    r"(?:the\s+)?(?:correct\s+|final\s+|right\s+)*(?:answer|option|choice)?\s*(?:is\b|:)?\s*(?:option|choice)?\s*",
    re.IGNORECASE,
)
# What a letter may be followed by: nothing, or a separator and the text of the choice.
TAIL = re.compile(r"\s*\)?\s*[.!]?\s*|\s*(?:[):.]|-(?=\s))\s*\S.*", re.DOTALL)
YES_NO = {"yes": True, "no": False}
# The words that the released scorer of arXiv 2604.01499 takes for an answer to a question of BoolQ.
JUDGEMENTS = {
    **dict.fromkeys(("yes", "true", "1", "correct", "right"), True),
    **dict.fromkeys(("no", "false", "0", "incorrect", "wrong"), False),
}


def parse_choice(text: str, letters: str = "ABCD") -> str | None:
    r"""The capital letter of a choice, None for anything else.

    `B`, `b`, `(B)`, `B.`, `\textbf{(B)}`, `B) 9+9`, `B: 9+9`, `(B) 9+9`, `Option B`, `"B"`. Several letters, or a
    letter that goes on as a word or a list (`Both`, `A, not B`), are no choice.
    """
    text = strip_markup(text).strip("\"'` ")
    lead = LEAD.match(text)
    text = text[lead.end() :].strip("\"'`*([ ") if lead and lead.end() else text.lstrip("([")
    if not text or text[0].upper() not in letters or (len(text) > 1 and text[1].isalnum()):
        return None
    return text[0].upper() if TAIL.fullmatch(text[1:].replace("]", ")", 1)) else None


def parse_judgement(text: str, words: dict[str, bool] = JUDGEMENTS) -> bool | None:
    r"""True for yes and False for no, None for anything else.

    The first word decides, in any case and dress, if it is one of `words` and ends there: `Yes.`, `\text{No}`,
    `yes, it is`, `"No"`, `1.0`. `not yes`, `yes/no`, `yes or no` are none.
    """
    text = strip_markup(text).strip("\"'`“”‘’*( ").lower()
    match = re.match(r"([a-z]+|[01])(?:\.0+)?(?![a-z0-9])", text)
    if match is None or match[1] not in words:
        return None
    rest = text[match.end() :]
    ends = re.match(r"[\s\"'`“”‘’)*]*(?:[.,;:!]|$| -)", rest)
    if not ends or re.search(rf"\b(?:{'|'.join(words)}|maybe|or)\b", rest):
        return None
    return words[match[1]]


def parse_yes_no(text: str) -> str | None:
    """ "yes" or "no" as `parse_judgement` reads them, from these two words alone; None for anything else."""
    value = parse_judgement(text, YES_NO)
    return None if value is None else "yes" if value else "no"

r"""Taking the dress off an answer: LaTeX text commands, dollar signs, Markdown stars, units, thousands separators.

Answers are untrusted text; everything here works on at most `LONGEST` characters and runs no part of it.
"""

import re
from fractions import Fraction


LONGEST = 1000
# Innermost first: the argument may hold no braces, and the caller repeats.
TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|emph)\s*\{([^{}]*)\}")
DEEPEST = 5

NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,50})(?:\.[0-9]{0,50})?|\.[0-9]{1,50}"
SIGNED = re.compile(rf"([+-]?)\s*\$?\s*({NUMBER})")
FRACTION = re.compile(r"([+-]?)\\frac\{([+-]?[0-9]{1,50})\}\{([+-]?[0-9]{1,50})\}")
RATIO = re.compile(r"([+-]?)([0-9]{1,50})\s*/\s*([0-9]{1,50})")
# What may follow a number: a percent or degree sign and a full stop, or a unit. A single letter is a unit only after a
# blank: `3i` and `5x` are no numbers.
SIGN = re.compile(r"\s*(?:%|°|\^\\circ|\^\{\\circ\})?\s*\.?")
UNIT = re.compile(r"\s*(?:[A-Za-z]{2}|(?<=\s)[A-Za-z])[A-Za-z ]{0,60}(?:\^[23]|\^\{[23]\}|²|³)?\s*\.?")


def strip_markup(text: str) -> str:
    r"""`text` without `\text{...}` and the like, math dollars, `\(` `\)`, Markdown stars, and thin spaces.

    A dollar sign that is money (`\$`) goes as well, and `{,}` becomes a comma.
    """
    text = text[:LONGEST]
    for _ in range(DEEPEST):
        text = TEXT_COMMAND.sub(r"\1", text)
    for mark in ("\\(", "\\)", "\\$", "$", "**", "\\,", "\\!", "\\;"):
        text = text.replace(mark, "")
    return text.replace("{,}", ",").replace("~", " ").strip()


def parse_number(text: str, units: bool = True) -> Fraction | None:
    r"""The exact value of a number as people write it, None for anything else.

    `1,234`, `$18.50`, `\$18`, `18\%` (18: the sign is read as a unit), `\frac{1}{2}`, `1/2`, `18 dollars`,
    `5\text{ cm}^2`, `x = 18` (what follows the last equals sign).
    Without `units` neither words after the number nor an equation are taken.
    """
    text = strip_markup(text).replace("\\%", "%").replace("−", "-").replace("\\dfrac", "\\frac")
    text = text.replace("\\tfrac", "\\frac").replace("\\left", "").replace("\\right", "")
    if units:
        text = text.rpartition("=")[2].strip()
    for pattern in (FRACTION, RATIO, SIGNED):
        match = pattern.match(text)
        if match is None:
            continue
        if not SIGN.fullmatch(text, match.end()) and not (units and UNIT.fullmatch(text, match.end())):
            continue
        sign = -1 if match[1] == "-" else 1
        if pattern is SIGNED:
            return sign * Fraction(match[2].replace(",", "").removesuffix("."))
        return sign * Fraction(int(match[2]), int(match[3])) if int(match[3]) else None
    return None

r"""Arithmetic expressions as data: an own parser and exact fractions, never Python's evaluator.

The grammar, with spaces of any kind allowed between tokens:

    sum     = product {("+" | "-") product}
    product = factor {("*" | "/") factor}
    factor  = ("-" | "+") factor | number | "(" sum ")" | \frac "{" sum "}" "{" sum "}"
    number  = one or more of 0-9

Written otherwise but meaning the same: `\times`, `\cdot`, `\ast`, `×`, `·`, `∙`, `⋅` for `*`; `\div`, `÷`, `∕` for
`/`; `−`, `–` and other dashes for `-`; square brackets, and brackets with `\left`, `\bigl` and the like, for round
ones; `\dfrac` and `\tfrac` for `\frac`; `$...$` and `\(...\)` around the whole. Nothing else is an expression: no
powers, floor division, decimal points, letters, implied products such as `2(3)`, no digits apart (`3 7`), and no
equations: `3+4=7` is two expressions and a claim. The released scorer of the paper on ES and GRPO (arXiv 2604.01499)
allows no `=` either.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from eval.tasks.markup import MINUS, strip_spaces


# In characters. Six numbers of a Countdown problem, fully bracketed in LaTeX, take about half of this.
LONGEST_EXPRESSION = 200
# Open brackets, fractions and signs around a number.
DEEPEST_NESTING = 50

# `\left(`, `\bigl[`: the size of a bracket means nothing.
SIZE = re.compile(r"\\(?:left|right|[bB]ig{1,2}[lrm]?)(?![A-Za-z])\s*(?=[()\[\]])")
TOKEN = re.compile(r"[0-9]+|[-+*/(){}\[\]×·∙⋅÷∕]|\\(?:times|cdot|ast|div|[dt]?frac)(?![A-Za-z])")
PLAIN = {
    **dict.fromkeys(("×", "·", "∙", "⋅", "\\times", "\\cdot", "\\ast"), "*"),
    **dict.fromkeys(("÷", "∕", "\\div"), "/"),
    **dict.fromkeys(("\\dfrac", "\\tfrac"), "\\frac"),
    "[": "(",
    "]": ")",
}
# Around a whole expression.
DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
# Of a target that is no whole number, and so was written with limited precision: relative.
TOLERANCE = Fraction(1, 10**9)
END = ""


@dataclass(frozen=True)
class Expression:
    """The exact value of an expression, and its integer literals in the order in which they are written."""

    value: Fraction
    numbers: tuple[int, ...]


def evaluate_expression(text: str) -> Expression | None:
    """The expression that `text` is, None if it is none: not in the grammar, a division by zero, too long or too deep.

    A sign is not part of a number: `-3+5` has the numbers (3, 5).
    """
    tokens = _tokens(text)
    if tokens is None:
        return None
    parser = _Parser(tokens)
    try:
        value = parser.sum(DEEPEST_NESTING)
        parser.take(END)
    except (_NotAnExpression, ZeroDivisionError):
        return None
    return Expression(value, tuple(parser.numbers))


def score_countdown(answer: str | None, numbers: list[int], target: int | float | str) -> float:
    """1.0 if `answer` is an expression that uses each of `numbers` exactly once and equals `target`, else 0.0.

    A target that is a whole number, also as text or as 98.0, must be met exactly. Another one (43 of the 2,200
    published problems have a target such as "266.6666666666667") is met within `TOLERANCE`. Raises ValueError if the
    problem itself is broken.
    """
    values = [exact_number(number) for number in numbers] if isinstance(numbers, list) else []
    wanted, given = exact_number(target), [value for value in values if value is not None and value.denominator == 1]
    if wanted is None or not given or len(given) < len(values):
        raise ValueError("numbers must be a list of integers, and target a number")
    expression = None if answer is None else evaluate_expression(answer)
    if expression is None or sorted(expression.numbers) != sorted(given):
        return 0.0
    allowed = 0 if wanted.denominator == 1 else abs(wanted) * TOLERANCE
    return float(abs(expression.value - wanted) <= allowed)


def exact_number(value: Any) -> Fraction | None:
    """The value of an int, a finite float, or a decimal number as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = str(value).strip()
    return Fraction(text) if re.fullmatch(r"[+-]?(?:[0-9]{1,50}(?:\.[0-9]{0,50})?|\.[0-9]{1,50})", text) else None


class _NotAnExpression(Exception):
    pass


def _tokens(text: str) -> list[str] | None:
    """The tokens of `text` in their plain form, with `END` after the last; None if it holds anything else."""
    if len(text) > LONGEST_EXPRESSION:
        return None
    text = SIZE.sub("", _undressed(text))
    tokens, position = [], 0
    while position < len(text):
        if text[position] == " ":
            position += 1
            continue
        match = TOKEN.match(text, position)
        if match is None:
            return None
        tokens.append(PLAIN.get(match[0], match[0]))
        position = match.end()
    return [*tokens, END]


def _undressed(text: str) -> str:
    """`text` without what stands around a whole expression, its spaces and dashes plain."""
    text = strip_spaces(text).translate(MINUS).strip()
    for opening, closing in DELIMITERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            return text[len(opening) : -len(closing)].strip()
    return text


class _Parser:
    """Recursive descent: one method per rule of the grammar, each given how deep it may still nest."""

    def __init__(self, tokens: list[str]):
        self.tokens = tokens
        self.position = 0
        self.numbers: list[int] = []

    @property
    def upcoming(self) -> str:
        return self.tokens[self.position]

    def take(self, expected: str | None = None) -> str:
        token = self.upcoming
        if expected is not None and token != expected:
            raise _NotAnExpression
        self.position += 1
        return token

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while self.upcoming in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value += sign * self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while self.upcoming in ("*", "/"):
            if self.take() == "*":
                value *= self.factor(depth)
            else:
                value /= self.factor(depth)
        return value

    def factor(self, depth: int) -> Fraction:
        if depth == 0:
            raise _NotAnExpression
        token = self.take()
        if token.isdecimal():
            self.numbers.append(int(token))
            return Fraction(int(token))
        if token in ("-", "+"):
            return self.factor(depth - 1) * (-1 if token == "-" else 1)
        if token == "(":
            return self.group(")", depth)
        if token == "\\frac":
            self.take("{")
            numerator = self.group("}", depth)
            self.take("{")
            return numerator / self.group("}", depth)
        raise _NotAnExpression

    def group(self, closing: str, depth: int) -> Fraction:
        value = self.sum(depth - 1)
        self.take(closing)
        return value

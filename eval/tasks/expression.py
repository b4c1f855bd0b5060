r"""Arithmetic expressions as data: an own parser and exact fractions, never Python's evaluator.

The grammar, with blanks (U+0020) allowed between tokens:

    sum     = product {("+" | "-") product}
    product = factor {("*" | "/") factor}
    factor  = "-" factor | number | "(" sum ")" | \frac "{" sum "}" "{" sum "}"
    number  = one or more of 0-9

Written otherwise but meaning the same: `\times`, `\cdot`, `×` for `*`; `\div`, `÷` for `/`; `−` (U+2212) for `-`;
`\left(` and `\right)` for brackets; `\dfrac` and `\tfrac` for `\frac`. Nothing else is an expression: no powers, floor
division, decimal points, letters, implied products such as `2(3)`, and no equations: `3+4=7` is two expressions and a
claim. The released scorer of the paper on ES and GRPO (arXiv 2604.01499) allows no `=` either.
"""

import re
from dataclasses import dataclass
from fractions import Fraction


# In characters. Six numbers of a Countdown problem, fully bracketed in LaTeX, take about half of this.
LONGEST_EXPRESSION = 200
# Open brackets, fractions and signs around a number.
DEEPEST_NESTING = 50

TOKEN = re.compile(r"[0-9]+|[-+*/(){}×÷−]|\\left *\(|\\right *\)|\\(?:times|cdot|div|[dt]?frac)(?![A-Za-z])")
PLAIN = {
    "×": "*",
    "\\times": "*",
    "\\cdot": "*",
    "÷": "/",
    "\\div": "/",
    "−": "-",
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac",
}
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


def score_countdown(answer: str | None, numbers: list[int], target: int) -> float:
    """1.0 if `answer` is an expression that uses each of `numbers` exactly once and equals `target` exactly, else 0.0.

    Raises ValueError if the problem itself is broken.
    """
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in [*numbers, target]):
        raise ValueError("numbers must be a list of integers, and target an integer")
    expression = None if answer is None else evaluate_expression(answer)
    if expression is None:
        return 0.0
    return float(sorted(expression.numbers) == sorted(numbers) and expression.value == target)


class _NotAnExpression(Exception):
    pass


def _tokens(text: str) -> list[str] | None:
    """The tokens of `text` in their plain form, with `END` after the last; None if it holds anything else."""
    if len(text) > LONGEST_EXPRESSION:
        return None
    tokens, position = [], 0
    while position < len(text):
        if text[position] == " ":
            position += 1
            continue
        match = TOKEN.match(text, position)
        if match is None:
            return None
        token = match[0]
        if token.startswith(("\\left", "\\right")):
            token = token[-1]
        tokens.append(PLAIN.get(token, token))
        position = match.end()
    return [*tokens, END]


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
        if token == "-":
            return -self.factor(depth - 1)
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

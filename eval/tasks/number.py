r"""A number as people write it: currency, thousands separators, fractions, mixed fractions, units, words after it."""

import re
from fractions import Fraction

from eval.tasks.markup import strip_markup


# A unit or a currency before the number, and a label such as `x =`, `Total:` or `about`.
CURRENCY = r"(?:[$€£¥₹¢]|\b(?:USD|EUR|GBP|Rs\.?)(?=\s*[-+0-9.]))"
BEFORE_THE_DIGITS = re.compile(rf"\s*{CURRENCY}?\s*([+-]?)\s*{CURRENCY}?\s*")
LABEL = re.compile(
    r"(?:[A-Za-z][A-Za-z ]{0,40}[A-Za-z]|[A-Za-z])?\s*(?:=|:|\bis\b)\s*|\\approx|≈|(?:about|approximately|only)\s",
    re.IGNORECASE,
)
# Thousands are separated by commas, apostrophes or blanks, in groups of exactly three.
PLAIN = r"(?:[0-9]{1,3}(?:(?P<mark>[,' ’])[0-9]{3}(?![0-9]))(?:(?P=mark)[0-9]{3}(?![0-9]))*|[0-9]{1,50})"
DECIMAL = rf"(?:{PLAIN}(?:\.[0-9]{{0,50}})?|\.[0-9]{{1,50}})"
POWER = r"(?:[eE](?P<e>[+-]?[0-9]{1,3})|\s*(?:\\times|\\cdot|×|·|\*)\s*10\s*\^\s*\{?(?P<ten>[+-]?[0-9]{1,3})\}?)"
SIGNED = re.compile(rf"(?P<value>{DECIMAL})(?:{POWER})?")
BRACED = r"\{\s*([+-]?[0-9]{1,50})\s*\}"
FRACTION = re.compile(rf"\\[dt]?frac\s*(?:{BRACED}|([0-9]))\s*(?:{BRACED}|([0-9]))")
RATIO = re.compile(r"([0-9]{1,50})\s*[/⁄∕]\s*([0-9]{1,50})")
MIXED = re.compile(r"([0-9]{1,50})(?:\s*(?=\\[dt]?frac)|[ -]\s*(?=[0-9]{1,50}\s*[/⁄∕]))")
MULTIPLES = {"hundred": 100, "dozen": 12, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MULTIPLE = re.compile(rf"\s*({'|'.join(MULTIPLES)})\b", re.IGNORECASE)
SIGN = re.compile(r"\s*(?:\\?%|°|\^\s*\\circ|\^\s*\{\s*\\circ\s*\}|\\degree|[$€£¥₹¢])?\s*[.!]?\s*")
# Words after a number. A single letter is a unit only after a blank: `3i` and `5x` are no numbers. No digits but the
# exponents of a unit, and no word that makes another number of it.
WORDS = re.compile(
    r"\s*(?:\\?%|(?:°|\^\s*\{?\s*\\circ\s*\}?)[CF]?)?(?:$|\s*,\s+|\s*\(|\s*(?=[A-Za-zÀ-ÿ]{2})|\s+(?=[A-Za-z]\b))"
    r"[A-Za-zÀ-ÿ\s,.;:!()'’/%\"-]*(?:\^\s*\{?[0-9]\}?|[²³])?[A-Za-zÀ-ÿ\s,.;:!()'’/%\"-]*"
)
ANOTHER_NUMBER = re.compile(
    r"\b(?:or|and a|half|halves|thirds?|quarters?|fifths?|tenths?|to the)\b|^(?:st|nd|rd|th)\b", re.IGNORECASE
)


def parse_number(text: str, units: bool = True) -> Fraction | None:
    r"""The exact value of a number as people write it, None for anything else.

    `1,234`, `12 500`, `$18.50`, `-\$7`, `€36`, `18\%` (18: the sign is read as a unit), `\frac{1}{2}`, `1/2`,
    `7\frac{1}{2}`, `4.8e1`, `18 dollars`, `5\text{ cm}^2`, `48 (apples)`, `3 million`, `x = 18`, `18 = x`.
    Without `units` neither words around the number nor an equation are taken.
    """
    text = strip_markup(text).replace("\\left", "").replace("\\right", "")
    if units:
        left, equals, right = text.rpartition("=")
        # `18 = x` as well as `x = 18`; of two numbers the last, which a calculation ends with.
        text = left if equals and re.fullmatch(r"\s*[A-Za-z]\s*", right) else right
        text = text.strip()
        label = LABEL.match(text)
        text = text[label.end() :] if label else text
    sign, rest = _sign(text)
    value, end = _unsigned(rest)
    if value is None:
        return None
    tail = rest[end:]
    if units and (multiple := MULTIPLE.match(tail)):
        value, tail = value * MULTIPLES[multiple[1].lower()], tail[multiple.end() :]
    if SIGN.fullmatch(tail) or (units and WORDS.fullmatch(tail) and not ANOTHER_NUMBER.search(tail)):
        return sign * value
    return None


def _sign(text: str) -> tuple[int, str]:
    """1 or -1, and what follows the sign and the currency, in either order."""
    match = BEFORE_THE_DIGITS.match(text)
    assert match is not None  # it matches nothing at all, too
    return (-1 if match[1] == "-" else 1), text[match.end() :]


def _unsigned(text: str) -> tuple[Fraction | None, int]:
    """The number that `text` begins with, and where it ends."""
    mixed = MIXED.match(text)
    start = mixed.end() if mixed else 0
    fraction = FRACTION.match(text, start) or RATIO.match(text, start)
    if fraction:
        above, below = (int(part) for part in fraction.groups() if part is not None)
        if below == 0 or (mixed and (above < 0 or below < 0)):
            return None, 0
        return Fraction(above, below) + (int(mixed[1]) if mixed else 0), fraction.end()
    match = SIGNED.match(text)
    if match is None:
        return None, 0
    value = Fraction(re.sub(r"[,' ’]", "", match["value"]).removesuffix("."))
    return value * Fraction(10) ** int(match["e"] or match["ten"] or 0), match.end()

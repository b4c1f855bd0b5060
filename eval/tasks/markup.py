r"""Taking the dress off an answer: LaTeX text commands and spaces, dollar signs, Markdown, typographic signs.

Answers are untrusted text; everything here works on at most `LONGEST` characters and runs no part of it.
"""

import re


LONGEST = 1000
DEEPEST = 5
# Innermost first: the argument may hold no braces, and the caller repeats.
TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|normal)?|math(?:rm|bf|it|sf|tt)|operatorname|boldsymbol|mbox|fbox|boxed|emph"
    r"|underline|overline(?=\{[^{}]*[A-Za-z])|bf|it|rm|color\{[^{}]*\}|textcolor\{[^{}]*\})\s*\{([^{}]*)\}"
)
SWITCH = re.compile(r"\\(?:bf|it|rm|bfseries|itshape|displaystyle|textstyle|color\{[^{}]*\})(?![A-Za-z])")
# LaTeX spaces, and Unicode's: no-break, thin, narrow and their kin. Zero-width ones vanish.
SPACE = re.compile(
    r"\\(?:[,:;> ]|q?quad(?![A-Za-z])|thinspace|enspace)|[\u00a0\u2000-\u200a\u202f\u205f\u3000~\t\r\n]"
)
INVISIBLE = re.compile(r"\\!|[\u200b-\u200f\u2060\ufeff]")
MINUS = str.maketrans({sign: "-" for sign in "\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d"})
DELIMITERS = ("\\(", "\\)", "\\[", "\\]", "$")


def strip_text_commands(text: str) -> str:
    r"""`text` with the argument of `\text{...}`, `\textbf{...}`, `\color{red}{...}` and the like in place of them."""
    text = text[:LONGEST]
    for _ in range(DEEPEST):
        text = TEXT_COMMAND.sub(r"\1", text)
    return SWITCH.sub("", text)


def strip_spaces(text: str) -> str:
    """`text` with every kind of space as a plain one."""
    return INVISIBLE.sub("", SPACE.sub(" ", text[:LONGEST]))


def strip_markup(text: str) -> str:
    r"""`text` without `\text{...}` and the like, math delimiters, Markdown, and LaTeX's and Unicode's spaces.

    A dollar sign that is money (`\$`) goes as well, `{,}` becomes a comma, and every dash a minus sign.
    """
    text = strip_spaces(strip_text_commands(text)).replace("\\$", "").replace("{,}", ",").translate(MINUS)
    for delimiter in DELIMITERS:
        text = text.replace(delimiter, "")
    return re.sub(r"^[*_`\s]+|[*_`\s]+$|\*\*", "", text).strip()

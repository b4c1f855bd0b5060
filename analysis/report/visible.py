"""Text of models as a page can show it: what cannot be seen is made visible, and what is too long is cut."""

import re
import unicodedata


# Characters of one text that a page shows, and of marks on top of each other.
LONGEST = 2000
MOST_MARKS = 8

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
# C1 controls, halves of surrogate pairs, no characters, and those that are invisible or turn the direction of a line.
# The two joiners stay: scripts and emoji need them.
UNSEEN = re.compile(
    "[\x80-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufdd0-\ufdef"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)


def visible(text: str, longest: int = LONGEST) -> str:
    """At most `longest` characters of the text, with pictures for control characters and numbers for unseen ones.

    Lines and tabs stay. Of marks that stand on top of each other all beyond `MOST_MARKS` are counted instead.
    """
    shown = without_floods(text[:longest])
    shown = CONTROLS.sub(lambda found: picture(found[0]), shown)
    return UNSEEN.sub(lambda found: bracketed(f"U+{ord(found[0]):04X}"), shown)


def picture(character: str) -> str:
    """The symbol of Unicode for a control character: \N{SYMBOL FOR NULL} of 0."""
    return "\N{SYMBOL FOR DELETE}" if character == "\x7f" else chr(0x2400 + ord(character))


def without_floods(text: str) -> str:
    """The text with at most `MOST_MARKS` combining marks on a character, and how many more there are."""
    kept: list[str] = []
    marks = 0
    for character in text:
        is_mark = unicodedata.category(character) in ("Mn", "Me")
        if not is_mark and marks > MOST_MARKS:
            kept.append(further(marks))
        marks = marks + 1 if is_mark else 0
        if marks <= MOST_MARKS:
            kept.append(character)
    return "".join(kept) + (further(marks) if marks > MOST_MARKS else "")


def further(marks: int) -> str:
    return bracketed(f"{marks - MOST_MARKS} more marks")


def bracketed(words: str) -> str:
    return f"\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}{words}\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"


def cut_note(text: str, longest: int = LONGEST) -> str:
    """What is said below a text that was cut; empty for one that was not."""
    return f"Cut: {longest:,} of {len(text):,} characters" if len(text) > longest else ""

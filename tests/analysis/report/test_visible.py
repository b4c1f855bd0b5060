"""Text of models on a page: nothing unseen, nothing without end."""

import pytest

from analysis.report.results import UNPRINTABLE
from analysis.report.visible import LONGEST, cut_note, visible
from tests.analysis.report.planted_texts import HOSTILE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x00\x1b[31m\x7f\r\n", "\u2400\u241b[31m\u2421\u240d\n"),
        ("\x9b\ud83d\u202e\u2066\u200f", "‹U+009B›‹U+D83D›‹U+202E›‹U+2066›‹U+200F›"),
        ("a\u2028b\u2029c\ufeff", "a‹U+2028›b‹U+2029›c‹U+FEFF›"),
        ("שלום עולם", "שלום עולם"),
        ("👩\u200d🚀 é e\u0301", "👩\u200d🚀 é e\u0301"),
        ("a" + "\u0301" * 9, "a" + "\u0301" * 8 + "‹1 more marks›"),
        ("a" + "\u0301" * 1000 + "b\u0301", "a" + "\u0301" * 8 + "‹992 more marks›b\u0301"),
        ("", ""),
    ],
)
def test_unseen_characters_are_seen(text, shown):
    assert visible(text) == shown


def test_a_megabyte_is_cut_and_its_length_is_said():
    assert visible("x" * 1_000_000) == "x" * LONGEST
    assert cut_note("x" * 1_000_000) == "Cut: 2,000 of 1,000,000 characters"
    assert cut_note("x" * LONGEST) == ""


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page_and_xml_can_hold_it(text):
    assert not UNPRINTABLE.search(visible(text))
    assert visible(text).encode("utf-8")

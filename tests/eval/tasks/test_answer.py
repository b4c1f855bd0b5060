r"""eval/tasks/answer.py: which text is the answer, and what it says."""

import time
from fractions import Fraction

import pytest

from eval.tasks.answer import LONGEST_ANSWER, MOST_OPENINGS, extract_answer, own_turn
from eval.tasks.choice import parse_choice, parse_yes_no
from eval.tasks.number import parse_number


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"\boxed{3+4}", "3+4"),
        ("<answer>3+4</answer>", "3+4"),
        (r"So it is $\boxed{ 7 }$, as I said.", "7"),
        ("<answer>\n7\n</answer>\n", "7"),
        # The last one counts, of either kind.
        (r"\boxed{1} then \boxed{2}", "2"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        (r"\boxed{1} <answer>2</answer>", "2"),
        (r"<answer>1</answer> \boxed{2}", "2"),
        # One inside the other: the inner one.
        (r"<answer>\boxed{7}</answer>", "7"),
        (r"\boxed{<answer>7</answer>}", "7"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{6} \fbox{7}", "7"),
        # Braces are matched.
        (r"\boxed{\frac{1}{2}+{3}} }", r"\frac{1}{2}+{3}"),
        (r"{\boxed{{}{{}}}}", "{}{{}}"),
        # Unclosed ones are no answers; an earlier complete one is.
        (r"\boxed{3+4} but \boxed{5+", "3+4"),
        (r"\boxed{3+4} but \boxed{\frac{1}{2}", "3+4"),
        ("<answer>1</answer> <answer>2", "1"),
        (r"<answer>1</answer> \boxed{2", "1"),
        (r"\boxed{1} <answer>2", "1"),
        (r"\boxed{5+ \boxed{2}", "2"),
        ("<answer>1</answer>2</answer>", "1"),
        # Empty is an answer, though never a right one.
        (r"\boxed{1} \boxed{}", ""),
        ("<answer> </answer>", ""),
        # Odd characters pass through.
        ("\\boxed{\ud800\0}", "\ud800\0"),
        ("\ud800\0\\boxed{7}\0", "7"),
        (r"\\boxed{7}", "7"),
    ],
)
def test_the_last_complete_answer(completion, answer):
    assert extract_answer(completion) == answer


@pytest.mark.parametrize(
    "completion",
    ["", "7", "boxed{7}", r"\boxed 7", r"\boxed{7", r"}\boxed{", "answer: 7", "<answer>7", "</answer>"]
    + ["<ANSWER>7</ANSWER>", "</answer>7<answer>", "<answer>7<answer>", r"\fbox 7", "}", "{7}"],
)
def test_no_answer(completion):
    assert extract_answer(completion) is None


@pytest.mark.parametrize(("opening", "closing"), [("\\boxed{", "}"), ("<answer>", "</answer>")])
def test_a_longer_text_between_the_marks_is_not_an_answer(opening, closing):
    assert extract_answer(f"{opening}{'7' * LONGEST_ANSWER}{closing}") == "7" * LONGEST_ANSWER
    too_long = f"{opening}{'7' * (LONGEST_ANSWER + 1)}{closing}"
    assert extract_answer(too_long) is None
    assert extract_answer(f"{opening}1{closing} {too_long}") == "1"


def test_how_far_back_the_search_goes():
    # Openings after the last closing mark have no end, and any number of them is passed over.
    assert extract_answer(r"\boxed{1}" + r"\boxed{" * 100_000) == "1"
    assert extract_answer("<answer>1</answer>" + "<answer>" * 100_000) == "1"
    # Among those before it, the last MOST_OPENINGS are looked at.
    unclosed = r"\boxed{{2}"
    assert extract_answer(r"\boxed{1}" + unclosed * (MOST_OPENINGS - 1)) == "1"
    assert extract_answer(r"\boxed{1}" + unclosed * MOST_OPENINGS) is None


BOXED = "\\boxed{"
LONG_TEXTS = {
    "a megabyte of letters": ("x" * 1_000_000, None),
    "an answer before a megabyte": (BOXED + "7}" + "x" * 1_000_000, "7"),
    "an answer after a megabyte": ("x" * 1_000_000 + BOXED + "7}", "7"),
    "100,000 unclosed": (BOXED * 100_000, None),
    "100,000 unclosed and one end": (BOXED * 100_000 + "}", ""),
    "100,000 nested": (BOXED * 100_000 + "7" + "}" * 100_000, "7"),
    "100,000 unclosed with groups": ((BOXED + "{}") * 100_000, None),
    "100,000 unclosed with inner groups": ((BOXED + "{{}") * 100_000, None),
    "100,000 brackets": (BOXED + "(" * 100_000 + "7" + ")" * 100_000 + "}", None),
    "100,000 braces": (BOXED + "{" * 100_000 + "7" + "}" * 100_001, None),
    "a megabyte of groups": (BOXED + "{}" * 500_000, None),
    "a megabyte of {": ("{" * 1_000_000, None),
    "a megabyte of }": ("}" * 1_000_000, None),
    "long unclosed ones, full of groups": ((BOXED + "{}" * 490 + "{ ") * 1000, None),
    "100,000 <answer>": ("<answer>" * 100_000, None),
    "100,000 </answer>": ("</answer>" * 100_000, None),
    "overlong <answer>": (("<answer>" + "x" * 2000) * 500 + "</answer>", None),
    "nearly marks": ("</answer\\boxed" * 70_000, None),
    "nearly marks, backwards": ("oxed{" * 200_000 + "}", None),
    "lone surrogates": (BOXED + "\ud800" * 1_000_000 + "}", None),
    "NUL": ("\0" * 1_000_000, None),
    "white space": ("<answer>" + " " * 1_000_000 + "</answer>", None),
}


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_long_texts_take_well_under_10_ms(name):
    completion, answer = LONG_TEXTS[name]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        found = extract_answer(completion)
        seconds.append(time.perf_counter() - start)
        assert found == answer
    assert min(seconds) < 0.010


NUMBERS = {
    "-\\$7": -7,
    "\\$-7": -7,
    "$1,250": 1250,
    "12\u202f500 km": 12500,
    "1,234,567.5": 1234567.5,
    "1'000": 1000,
    "7 1/2": 7.5,
    "-7\\frac{1}{2}": -7.5,
    "7\\tfrac12": 7.5,
    "3/4 cup": 0.75,
    "3 million": 3_000_000,
    "5 dozen": 60,
    "5 m^2": 5,
    "48^\\circ\\text{C}": 48,
    "x = 18 \\text{ cm}": 18,
    "18=x": 18,
    "3\\cdot6=18": 18,
    "Total: 48": 48,
    "4.8\\times10^{1}": 48,
    "1e-3": 0.001,
    "36 \u20ac": 36,
    "USD 36": 36,
    "`48`": 48,
    "48 kg.": 48,
    "36\\text{ (thirty-six)}": 36,
}
NO_NUMBERS = [
    "1 2",
    "12,50",
    "5x",
    "3i",
    "48 or 49",
    "48 and a half",
    "2\\pi",
    "\\sqrt{2}",
    "1st",
    "2^3",
    "1/0",
    "",
    "two",
]
NO_NUMBERS += [
    "two",
    "1.5.2",
    "--5",
    "9:30",
    "10-12",
    "10 to 12",
    "18 dollars and 50 cents",
    "\u0667",
    "\ud800",
    "9" * 101,
]


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_numbers(text, value):
    assert parse_number(text) == Fraction(str(value))


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_not_a_number(text):
    assert parse_number(text) is None


RUN_ON = [
    ("a \\boxed{18}\n\nQuestion: Bob? \\boxed{42}", "18"),
    ("a \\boxed{18}\nuser\nBob?\nassistant\n\\boxed{42}", "18"),
    ("a \\boxed{18}\n**Problem 2:** Bob? \\boxed{42}", "18"),
    ("a \\boxed{18}\n<|im_start|>user\n\\boxed{42}", "18"),
    ("a <answer>18</answer>\nHuman: more <answer>42</answer>", "18"),
    # A question before any answer is the model repeating what it was asked.
    ("\nQuestion: Bob has 40.\nSo \\boxed{42}", "42"),
    ("\\boxed{18} no, \\boxed{42}", "42"),
    ("\\boxed{18}\nThe question: was it so? \\boxed{42}", "42"),
]


@pytest.mark.parametrize(("completion", "answer"), RUN_ON)
def test_the_answer_is_the_one_before_a_question_of_the_models_own(completion, answer):
    assert extract_answer(completion) == answer
    assert extract_answer(own_turn(completion)) == answer


@pytest.mark.parametrize(
    "text", ["B", "b", "(B)", "(b)", "B.", "b.", " B ", "B)", "B. 12+35", "\\textbf{(B)}", "Option B", '"B"']
)
def test_choices(text):
    assert parse_choice(text) == "B"


def test_the_letters_of_a_choice():
    assert parse_choice("F", letters="ABCDEF") == "F"
    assert parse_choice("F") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "E",
        "BC",
        "B, C",
        "B or C",
        "A, not B",
        "Both",
        ".B",
        "B:",
        "()",
        "(",
        ".",
        "\u0412",
        "\uff22",
    ]
    + ["\ud800", "\0"],
)
def test_what_is_not_a_choice(text):
    assert parse_choice(text) is None


@pytest.mark.parametrize(
    ("text", "word"),
    [("yes", "yes"), ("Yes.", "yes"), ("YES", "yes"), (" no ", "no"), ("**No**", "no"), ("no, it is not", "no")],
)
def test_yes_and_no(text, word):
    assert parse_yes_no(text) == word


@pytest.mark.parametrize(
    "text",
    [
        "",
        "y",
        "n",
        "true",
        "yes/no",
        "yes or no",
        "yes no",
        "not yes",
        "not",
        "\uff59\uff45\uff53",
        "\ud800",
        "\0",
        "no\0",
    ],
)
def test_what_is_neither_yes_nor_no(text):
    assert parse_yes_no(text) is None


def test_long_texts_are_no_plain_answers():
    for parse in (parse_number, parse_choice, parse_yes_no):
        for text in ("9" * 1_000_000, "B" * 1_000_000, "yes" * 300_000):
            assert parse(text) is None

r"""eval/tasks/expression.py: exact values of what is an expression, and None for everything else."""

import ast
import random
import time
import warnings
from fractions import Fraction

import pytest

from eval.tasks.answer import extract_answer
from eval.tasks.expression import (
    DEEPEST_NESTING,
    LONGEST_EXPRESSION,
    Expression,
    evaluate_expression,
    score_countdown,
)


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("7", 7, (7,)),
        ("3+4", 7, (3, 4)),
        ("10-4-3", 3, (10, 4, 3)),
        ("24/4/3", 2, (24, 4, 3)),
        ("2+3*4", 14, (2, 3, 4)),
        ("(2+3)*4", 20, (2, 3, 4)),
        (" ( 2 + 3 ) * 4 ", 20, (2, 3, 4)),
        ("1/3", Fraction(1, 3), (1, 3)),
        ("8/(3-8/3)", 24, (8, 3, 8, 3)),
        ("1/3*3", 1, (1, 3, 3)),
        ("((((5))))", 5, (5,)),
        ("007", 7, (7,)),
        # A sign is not part of the number.
        ("-3+5", 2, (3, 5)),
        ("2*-3", -6, (2, 3)),
        ("2--3", 5, (2, 3)),
        ("-(2-5)", 3, (2, 5)),
        ("--2", 2, (2,)),
        ("+3+4", 7, (3, 4)),
        # Spaces, brackets and signs of every kind.
        ("3\u00a0+\u20094", 7, (3, 4)),
        ("\n3 +\t4\r\n", 7, (3, 4)),
        (r"3\,+\;4\quad", 7, (3, 4)),
        ("[3+4]*2", 14, (3, 4, 2)),
        (r"\bigl[3+4\bigr]\ast 2", 14, (3, 4, 2)),
        (r"\left[3\right]", 3, (3,)),
        ("$3+4$", 7, (3, 4)),
        (r"\(3+4\)", 7, (3, 4)),
        ("3 \u00b7 4", 12, (3, 4)),
        ("7 \u2013 3", 4, (7, 3)),
        # LaTeX and typographic signs.
        (r"3 \times 4", 12, (3, 4)),
        (r"3\times4", 12, (3, 4)),
        (r"3 \cdot 4", 12, (3, 4)),
        (r"12 \div 4", 3, (12, 4)),
        ("3×4", 12, (3, 4)),
        ("12÷4", 3, (12, 4)),
        ("7−4", 3, (7, 4)),
        (r"\left(2+3\right)\times 4", 20, (2, 3, 4)),
        (r"\left( 2+3 \right )\times 4", 20, (2, 3, 4)),
        (r"\frac{1}{2}", Fraction(1, 2), (1, 2)),
        (r"\dfrac{1+2}{3}", 1, (1, 2, 3)),
        (r"\tfrac{\frac{12}{3}}{2}\times 5", 10, (12, 3, 2, 5)),
        (r"-\frac{4}{2}", -2, (4, 2)),
        # Exact where floating point is not.
        ("1/10+2/10-3/10", 0, (1, 10, 2, 10, 3, 10)),
        ("9007199254740993-9007199254740992", 1, (9007199254740993, 9007199254740992)),
    ],
)
def test_expressions(text, value, numbers):
    assert evaluate_expression(text) == Expression(Fraction(value), numbers)


@pytest.mark.parametrize(
    "text",
    ["", " ", "()", "(", ")", "+", "-", "3+", "*3", "3 4", "(3+4", "3+4)", ")3(", "2(3)", "(2)(3)", "2(", "{3}"]
    + [
        "{[3}",
        "3+4=7",
        "3+4==7",
        "=7",
        "7=3+4",
        "3+4;",
        "3,4",
        "3.0",
        ".5",
        "1e3",
        "3!",
        "7%4",
        "2^3",
        "3<4",
        "$3",
    ]
    # Division by zero, however written.
    + ["1/0", "1/(2-2)", r"\frac{1}{0}", "0/0"]
    # Powers and floor division.
    + ["2**3", "9**9**9", "2* *3", "7//2", "7/ /2"]
    # Not numbers, or not for us.
    + ["1_0", "0x10", "0b1", "0o7", "1j", "3 # comment", "3#", "True", "None", "x", "e", "abs(3)", "__import__('os')"]
    + ["(3).real", "().__class__", "lambda: 3", "[3][0]", "'3'", "f'3'", "(3:=3)", "3 if 3 else 4", "3 or 4"]
    # Unicode digits, signs and blanks.
    + ["\u0663+4", "\uff13+4", "\u00b2", "3\u00b2", "\u2460", "\uff083\uff09"]
    # Line breaks, tabs, NUL and halves of surrogate pairs.
    + ["3+4\nimport os", "3+4\0", "\0", "3\x0b+4", "\ud800", "3+4\udc00"]
    # LaTeX that is not in the grammar.
    + [r"\frac", r"\frac{1}", r"\frac12", r"\frac{1}2", r"\frac{1}{}", r"\frac{}{1}", r"\frac(1)(2)", r"\frac{1}{2}3"]
    + [
        r"3\timesx",
        r"3\times",
        r"3\time4",
        r"\left3\right",
        r"\left(3",
        r"\sqrt{4}",
        r"3\,4",
        "\\",
    ],
)
def test_what_is_not_an_expression(text):
    assert evaluate_expression(text) is None


def test_length_is_capped():
    longest = "1" + "+1" * ((LONGEST_EXPRESSION - 1) // 2) + " "
    assert len(longest) == LONGEST_EXPRESSION
    assert evaluate_expression(longest) == Expression(
        Fraction(LONGEST_EXPRESSION // 2), (1,) * (LONGEST_EXPRESSION // 2)
    )
    assert evaluate_expression(longest + " ") is None


@pytest.mark.parametrize(("before", "after", "value"), [("(", ")", 5), ("-", "", -5)])
def test_depth_is_capped(before, after, value):
    deepest = DEEPEST_NESTING - 1
    assert evaluate_expression(before * deepest + "5" + after * deepest) == Expression(Fraction(value), (5,))
    assert evaluate_expression(before * (deepest + 1) + "5" + after * (deepest + 1)) is None


# Random trees. A tree is a number, ("-", tree) or (operator, left, right).
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
SPELLINGS = {
    "+": ["+", " + "],
    "-": ["-", "−", " - "],
    "*": ["*", "×", r"\times ", r" \cdot "],
    "/": ["/", "÷", r"\div "],
}


def random_tree(generator, size):
    if size == 1:
        return generator.choice((generator.randint(0, 9), generator.randint(10, 99)))
    if generator.random() < 0.1:
        return ("-", random_tree(generator, size))
    left = generator.randint(1, size - 1)
    return (generator.choice("+-*/"), random_tree(generator, left), random_tree(generator, size - left))


def value_of(tree):
    if isinstance(tree, int):
        return Fraction(tree)
    operator, *parts = tree
    values = [value_of(part) for part in parts]
    if None in values:
        return None
    if len(values) == 1:
        return -values[0]
    left, right = values
    if operator == "/":
        return left / right if right else None
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def literals_of(tree):
    return (tree,) if isinstance(tree, int) else tuple(number for part in tree[1:] for number in literals_of(part))


def render(tree, generator, loosest=1):
    """`tree` as text that may stand where an operator of precedence `loosest` or higher may."""
    if isinstance(tree, int):
        text, precedence = str(tree), 3
    elif len(tree) == 2:
        text, precedence = generator.choice("-−") + render(tree[1], generator, 3), 3
    elif tree[0] == "/" and generator.random() < 0.3:
        text, precedence = f"\\frac{{{render(tree[1], generator)}}}{{{render(tree[2], generator)}}}", 3
    else:
        operator, left, right = tree
        precedence = PRECEDENCE[operator]
        text = render(left, generator, precedence) + generator.choice(SPELLINGS[operator])
        text += render(right, generator, precedence + 1)
    if precedence < loosest or generator.random() < 0.1:
        return generator.choice([f"({text})", f"( {text} )", f"\\left({text}\\right)"])
    return text


def test_random_expressions_agree_with_the_trees_they_come_from():
    generator = random.Random(0)
    evaluated = undefined = 0
    while evaluated < 3000:
        tree = random_tree(generator, generator.randint(1, 8))
        text, value = render(tree, generator), value_of(tree)
        if len(text) > LONGEST_EXPRESSION:
            continue
        expected = None if value is None else Expression(value, literals_of(tree))
        assert evaluate_expression(text) == expected, text
        evaluated += value is not None
        undefined += value is None
    assert undefined > 50


def reference(text):
    """What Python's grammar makes of `text`, restricted to our operators: (value, numbers), or None."""

    def walk(node):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return Fraction(node.value), (node.value,)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            value, numbers = walk(node.operand)
            return (-value if isinstance(node.op, ast.USub) else value), numbers
        if isinstance(node, ast.BinOp) and type(node.op) in (ast.Add, ast.Sub, ast.Mult, ast.Div):
            (left, first), (right, second) = walk(node.left), walk(node.right)
            if isinstance(node.op, ast.Div):
                return left / right, first + second
            return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[
                type(node.op)
            ], first + second
        raise SyntaxError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # "2(3)": did you forget a comma?
            return walk(ast.parse(text.strip(" "), mode="eval").body)
    except (SyntaxError, ZeroDivisionError):
        return None


def test_random_characters_are_read_as_python_reads_them():
    generator = random.Random(0)
    accepted = 0
    for _ in range(20_000):
        # No zeros: Python refuses 07 and we do not.
        text = "".join(generator.choice("123456789123+-*/()-+ ") for _ in range(generator.randint(1, 9)))
        expression = evaluate_expression(text)
        assert (expression and (expression.value, expression.numbers)) == reference(text), text
        accepted += expression is not None
    assert accepted > 1000


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("3+4*5", 1.0),
        ("5*4+3", 1.0),
        (r"3+\left(4\times 5\right)", 1.0),
        ("-(-3)+4*5", 1.0),
        ("3+4+5", 0.0),  # another value
        ("23", 0.0),  # the target, from no numbers
        ("3+20", 0.0),
        ("3+4*5+4-4", 0.0),  # a number too often
        ("3*5+4*2", 0.0),  # a number that is not there
        ("4*5", 0.0),
        ("34-5-6", 0.0),
        ("3+4*5=23", 0.0),  # an equation is not an expression
        ("3+4*5.", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_countdown_scores(answer, score):
    assert score_countdown(answer, [3, 4, 5], 23) == score


def test_countdown_counts_each_number_as_often_as_it_is_given():
    assert score_countdown("4+4+4", [4, 4, 4], 12) == 1.0
    assert score_countdown("4+4", [4, 4, 4], 8) == 0.0
    assert score_countdown("4+4+4", [4, 4], 12) == 0.0
    assert score_countdown("8/(3-8/3)", [3, 3, 8, 8], 24) == 1.0


def test_countdown_has_no_tolerance():
    assert score_countdown("100000000/100000001", [100000000, 100000001], 1) == 0.0
    assert score_countdown("1/3*3", [1, 3, 3], 1) == 1.0


def test_targets_that_are_text_or_no_whole_numbers():
    assert score_countdown("(98/(47-52))+47", [98, 47, 47, 52], "27.4") == 1.0
    assert score_countdown("10/(60-57)*80", [60, 10, 57, 80], "266.6666666666667") == 1.0
    assert score_countdown("10/(60-57)*80", [60, 10, 57, 80], 266.6666666666667) == 1.0
    assert score_countdown("10/(60-57)*80", [60, 10, 57, 80], "266.66667") == 0.0
    assert score_countdown("3+4", ["3", 4.0], 7.0) == score_countdown("3+4", [3, 4], "7") == 1.0
    # A whole number is met exactly.
    assert score_countdown("100000000000/100000000001", [100000000000, 100000000001], 1.0) == 0.0


@pytest.mark.parametrize(
    ("numbers", "target"),
    [("3 4", 7), ([3, 4.5], 7), ([3, True], 7), ([3, 4], "seven"), ([3, 4], float("nan")), ([3, 4], None), (None, 7)],
)
def test_a_broken_countdown_problem_is_not_a_wrong_answer(numbers, target):
    with pytest.raises(ValueError, match="numbers must be a list of integers, and target a number"):
        score_countdown("3+4", numbers, target)


HOSTILE = {
    "powers": "9**9**9",
    "many powers": "9**" * 60 + "9",
    "many caret powers": "9^" * 90 + "9",
    "a call": "__import__('os').system('true')",
    "an attribute": "(3).__class__.__mro__",
    "a name": "exit",
    "unicode digits": "\u0663" * 200,
    "underscores": "1_000_000",
    "hexadecimal": "0xff",
    "a comment": "3+4 # 5",
    "a line break": "3+4\n5",
    "a megabyte of digits": "9" * 1_000_000,
    "a megabyte of text": "x" * 1_000_000,
    "a megabyte of spaces": " " * 1_000_000,
    "100,000 brackets": "(" * 100_000 + "7" + ")" * 100_000,
    "100,000 open brackets": "(" * 100_000,
    "100,000 signs": "-" * 100_000 + "7",
    "100,000 fractions": r"\frac{" * 100_000,
    "brackets as far as they go": "(" * 99 + "7" + ")" * 99,
    "signs as far as they go": "-" * 199 + "7",
    "products as large as they go": "*".join(["99999"] * 33),
    "quotients as fine as they go": "/".join(["99989", "99991"] * 16),
    "one long number": "9" * LONGEST_EXPRESSION,
    "lone surrogates": "\ud800" * 200,
    "NUL": "3+4\0",
    "a hundred thousand NUL": "\0" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("frame", ["{}", "\\boxed{{{}}}", "<answer>{}</answer>"])
def test_hostile_answers_score_0_in_well_under_10_ms(name, frame):
    completion = frame.format(HOSTILE[name])
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        direct = score_countdown(HOSTILE[name], [3, 4], 7)
        extracted = score_countdown(extract_answer(completion), [3, 4], 7)
        seconds.append(time.perf_counter() - start)
        assert (direct, extracted) == (0.0, 0.0)
    assert min(seconds) < 0.010

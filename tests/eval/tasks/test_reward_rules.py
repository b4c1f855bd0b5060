r"""What each of the papers' tasks takes for right, case by case: at least 60 written cases a task.

A case is (completion, row, value); B("x") is \boxed{x}.
"""

import pytest

from eval.tasks import PAPER_TASKS, get_task


def B(text):
    return "\\boxed{" + text + "}"


NUMBERS = {"numbers": [3, 7, 12], "target": 16}
SIX = {"numbers": [2, 3, 4], "target": 6}
HALF = {"numbers": [1, 2, 8], "target": 4}
COUNTDOWN = [
    *(
        (B(text), NUMBERS, 1.0)
        for text in (
            "7+12-3",
            "12+7-3",
            "12 + 7 - 3",
            "(12+7)-3",
            "((12)+(7))-3",
            "-3+7+12",
            "7-(3-12)",
            "12-(3-7)",
            "7-3+12",
            "\\left(12+7\\right)-3",
            "12−3+7",
            "-(3-7)+12",
            "--12+7-3",
            " 12+7-3 ",
        )
    ),
    *(
        (B(text), SIX, 1.0)
        for text in (
            "3*(4-2)",
            "3*4/2",
            "4*3/2",
            "\\frac{3*4}{2}",
            "\\frac{3 \\times 4}{2}",
            "3\\cdot4/2",
            "3\\cdot 4\\div2",
            "3×4÷2",
            "\\dfrac{4}{2}*3",
            "\\tfrac{3}{2} \\times 4",
            "(4-2)*3",
            "4/(2/3)",
            "4*(3/2)",
            "\\frac{4}{\\frac{2}{3}}",
        )
    ),
    (B("8*1/2"), HALF, 1.0),
    (B("8/(2/1)"), HALF, 1.0),
    (B("8/(1*2)"), HALF, 1.0),
    (f"First {B('3+7+12')}, no: {B('7+12-3')}", NUMBERS, 1.0),
    (f"{B('7+12-3')} or {B('3+7+12')}", NUMBERS, 0.0),
    (f"<answer>{B('7+12-3')}</answer>", NUMBERS, 1.0),
    ("<answer>7+12-3</answer>", NUMBERS, 1.0),
    (f"${B('7+12-3')}$.", NUMBERS, 1.0),
    (f"{B('7+12-3')} and {B('7+12')[:-1]}", NUMBERS, 1.0),
    *(
        (B(text), NUMBERS, 0.0)
        for text in (
            "16",
            "7+12-3=16",
            "16=7+12-3",
            "7+12",
            "7+12-3+0",
            "7+12-3-7+7",
            "12+12-3-7+2",
            "3+7+12",
            "7*12-3",
            "7+12-3.0",
            "7+12-03+",
            "7 12 3",
            "seven+12-3",
            "7+12-3%",
            "7+12-3 apples",
            "",
            " ",
            "\\text{7+12-3}",
            "7+12-3)",
            "(7+12-3",
            "73+12",
            "__import__('os')",
            "12**7-3",
            "9**9**9",
            "7//12-3",
            "2(3)",
            "\\boxed{16}",
            "I cannot",
            "12/(7-7)-3",
            "12/(3-3)",
        )
    ),
    ("", NUMBERS, 0.0),
    ("7+12-3", NUMBERS, 0.0),
    ("I'm sorry, I cannot solve this.", NUMBERS, 0.0),
    ("the answer is (C)", NUMBERS, 0.0),
    ("\\boxed{7+12-3", NUMBERS, 0.0),
]

BOOLQ = [
    *(
        (B(text), {"answer": True}, 1.0)
        for text in (
            "yes",
            "Yes",
            "YES",
            "yes.",
            " yes ",
            "\\text{yes}",
            "\\text{Yes.}",
            "\\textbf{yes}",
            "\\mathrm{Yes}",
            "**yes**",
            "true",
            "True",
            "1",
            "correct",
            "right",
            '"yes"',
            "'yes'",
            "\\text{\\textbf{yes}}",
            "yes!",
            "$yes$",
        )
    ),
    *(
        (B(text), {"answer": False}, 1.0)
        for text in (
            "no",
            "No",
            "NO",
            "no.",
            "\\text{no}",
            "\\text{\\textit{No}}",
            "false",
            "False",
            "0",
            "incorrect",
            "wrong",
            "(no)",
        )
    ),
    *(
        (B(text), {"answer": True}, 0.0)
        for text in (
            "no",
            "No.",
            "\\text{no}",
            "false",
            "0",
            "yes or no",
            "maybe",
            "",
            " ",
            "not sure",
            "yes it is",
            "y",
            "yesno",
            "unknown",
            "\\text{}",
            "\\frac{1}{1}",
            "(C)",
            "50\\%",
            "10",
            "ja",
            "not right",
        )
    ),
    *((B(text), {"answer": False}, 0.0) for text in ("yes", "true", "1", "", "maybe", "not", "nope", "00")),
    (f"{B('no')} wait {B('yes')}", {"answer": True}, 1.0),
    (f"{B('no')} wait {B('yes')}", {"answer": False}, 0.0),
    ("<answer>yes</answer>", {"answer": True}, 1.0),
    (f"The passage says so. {B('yes')} is my answer", {"answer": True}, 1.0),
    ("yes", {"answer": True}, 0.0),
    ("", {"answer": False}, 0.0),
    ("I cannot answer that.", {"answer": False}, 0.0),
    ("the answer is (C)", {"answer": True}, 0.0),
    ("\\boxed{yes", {"answer": True}, 0.0),
    (B("yes"), {"answer": None}, None),
    (B("yes"), {"answer": "yes"}, None),
]

GSM = {"answer": "She sold 48/2 = <<48/2=24>>24 clips.\n#### 72"}
THOUSAND = {"answer": "...\n#### 1,250"}
GSM8K = [
    *(
        (B(text), GSM, 1.0)
        for text in (
            "72",
            " 72 ",
            "72.",
            "72.0",
            "72.00",
            "+72",
            "$72",
            "\\$72",
            "72\\%",
            "72%",
            "72 dollars",
            "72\\text{ dollars}",
            "72 \\text{ cm}^2",
            "72\\text{ km}",
            "72~\\text{apples}",
            "x = 72",
            "48+24=72",
            "\\text{72}",
            "\\textbf{72}",
            "\\frac{144}{2}",
            "\\dfrac{72}{1}",
            "144/2",
            "72^\\circ",
            "72°",
            "**72**",
            "\\$72.00",
            "072",
        )
    ),
    *(
        (B(text), THOUSAND, 1.0)
        for text in (
            "1250",
            "1,250",
            "1{,}250",
            "\\$1,250.00",
            "1,250 \\text{ people}",
            "1250.0",
            "1250 m",
            "1 250",
        )
    ),
    *(
        (B(text), GSM, 0.0)
        for text in (
            "73",
            "-72",
            "7.2",
            "720",
            "72.5",
            "0.72",
            "72 or 73",
            "about",
            "",
            " ",
            "seventy-two",
            "72x",
            "7 2",
            "\\frac{72}{0}",
            "\\frac{72}",
            "(C)",
            "\\boxed{}",
            "72,",
            "7,2",
            "[72]",
            "I cannot",
            "infinity",
            "nan",
            "1e2",
        )
    ),
    *((B(text), THOUSAND, 0.0) for text in ("1,25", "12,50", "125", "1.250", "1 25")),
    ("48/2=24, 48+24=72\n#### 72", GSM, 1.0),
    ("#### 72\nThat is all.", GSM, 1.0),
    ("#### $72", GSM, 1.0),
    ("#### 71\n#### 72", GSM, 1.0),
    ("#### 72\n#### 71", GSM, 0.0),
    (f"#### 71 {B('72')}", GSM, 1.0),
    (f"#### 72 {B('71')}", GSM, 0.0),
    (f"{B('71')} {B('72')}", GSM, 1.0),
    ("<answer>72</answer>", GSM, 1.0),
    ("The answer is 72.", GSM, 0.0),
    ("the answer is (C)", GSM, 0.0),
    ("72", GSM, 0.0),
    ("", GSM, 0.0),
    ("####", GSM, 0.0),
    ("I'm sorry, but I can't help with that.", GSM, 0.0),
    (B("-5"), {"answer": "#### -5"}, 1.0),
    (B("−5"), {"answer": "#### -5"}, 1.0),
    (B("18"), {"answer": 18}, 1.0),
    (B("18"), {"answer": "none"}, None),
    (B("18"), {"answer": ""}, None),
]

C = {"answer": "C"}
CHEMISTRY = [
    *(
        (text, C, 1.0)
        for text in (
            '"answer": "C"',
            '{"answer": "C"}',
            '"answer": "c"',
            '"Answer": "C"',
            '"answer":"C"',
            '"answer" : "C"',
            '"answer": C',
            "'answer': 'C'",
            '```json\n{"answer": "C"}\n```',
            '{"reason": "A is too big", "answer": "C"}',
            '"answer": "C) benzene"',
            '"answer": "(C)"',
            '{\\"answer\\": \\"C\\"}',
            '"answer": "A" no, "answer": "C"',
            'First "answer": "B". Then A and B. "answer": "C"',
            'A or B? "answer": "C". Not D.',
            '"answer":\n"C"',
            "answer: C",
            "Answer: C",
            "ANSWER: C.",
            "answer: (C)",
            "**Answer:** C",
            "Answer: **C**",
            "The answer is C.",
            "The answer is (C)",
            "the answer is (C).",
            "the answer is: C",
            "The correct answer is **C**",
            "the answer is c",
            "Answer: A. Wait. Answer: C",
            "C",
            "(C)",
            "C.",
            "C) benzene",
            "**C**",
            "Option C",
            "choice C is right",
            "It is not A, so it is C",
            "the answer is C because B is wrong",
            "x" * 30_000 + " The answer is C",
            "A molecule is polar, hence C",
            "C\n",
            "I pick C because a bond forms",
            B("C"),
            B("c"),
            B("(C)"),
            B("\\text{C}"),
            B("\\text{(C)}"),
            B("C)"),
            B("C."),
            "<answer>C</answer>",
            f"{B('A')} {B('C')}",
        )
    ),
    *(
        (text, C, 0.0)
        for text in (
            '"answer": "A"',
            '"answer": "D"',
            '"answer": ""',
            '"answer": "E"',
            '"answer": "Carbon"',
            "",
            " ",
            '"answer": "C" or rather "answer": "B"',
            "The answer is (A)",
            "the answer is a molecule",
            "answer: B, not C",
            "I cannot answer that.",
            "As an AI I do not know.",
            "a carbon atom",
            "carbon",
            "CH4",
            "Vitamin B",
            B("A"),
            B(""),
            B("CD"),
            B("benzene"),
            f"{B('C')} {B('B')}",
            f"C is tempting, but {B('D')}",
            "A",
            "C or D",
            "The answer is D. C is wrong: answer: D",
            B("\\frac{1}{2}"),
            "50%",
            "A molecule",
        )
    ),
    ('"answer": "A"', {"answer": "A"}, 1.0),
    ("the answer is (a)", {"answer": "A"}, 1.0),
    ("A", {"answer": "A"}, 1.0),
    ("A molecule", {"answer": "A"}, 0.0),
    ("I need a hint", {"answer": "A"}, 0.0),
    ('"answer": "c"', {"answer": "c"}, 1.0),
    ("C", {"answer": "E"}, None),
    ("C", {"answer": ""}, None),
    ("C", {"answer": None}, None),
]

# (answer, reference) pairs that are the same, and pairs that are not.
SAME = [
    ("5", "5"),
    (" 5 ", "5"),
    ("5.", "5"),
    ("5.0", "5"),
    ("+5", "5"),
    ("-5", "-5"),
    ("−5", "-5"),
    ("1,234", "1234"),
    ("1{,}234", "1,234"),
    ("1234", "1{,}234"),
    ("\\frac{1}{2}", "\\frac{1}{2}"),
    ("\\dfrac{1}{2}", "\\frac{1}{2}"),
    ("\\tfrac12", "\\frac{1}{2}"),
    ("\\frac12", "\\frac{1}{2}"),
    ("1/2", "\\frac{1}{2}"),
    ("0.5", "\\frac{1}{2}"),
    ("\\frac{2}{4}", "\\frac{1}{2}"),
    ("-\\frac{3}{4}", "\\frac{-3}{4}"),
    ("\\frac{\\pi}{2}", "\\pi/2"),
    ("\\frac{\\sqrt{3}}{2}", "\\frac{\\sqrt{3}}{2}"),
    ("\\frac{1}{\\frac{1}{2}}", "2"),
    ("2\\sqrt{2}", "\\sqrt{8}"),
    ("50\\%", "50"),
    ("50", "50\\%"),
    ("50%", "50\\%"),
    ("0.5", "50\\%"),
    ("10^\\circ", "10"),
    ("10", "10^{\\circ}"),
    ("\\$18.90", "18.90"),
    ("18.9", "\\$18.90"),
    ("5\\text{ cm}", "5"),
    ("5", "5\\text{ cm}"),
    ("5 cm", "5"),
    ("12\\text{ square units}", "12"),
    ("\\text{Evelyn}", "Evelyn"),
    ("Evelyn", "\\text{Evelyn}"),
    ("(C)", "\\text{(C)}"),
    ("C", "\\text{(C)}"),
    ("(1, 2)", "(1,2)"),
    ("\\left(1,2\\right)", "(1,2)"),
    ("[0, 1)", "[0,1)"),
    ("2,1", "1,2"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("(x+1)^2", "x^2+2x+1"),
    ("3i+2", "2+3i"),
    ("2(k+1)", "2k+2"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("11_{2}", "11_2"),
    ("\\infty", "\\infty"),
    ("\\{2,1\\}", "\\{1,2\\}"),
    ("4+1", "5"),
    ("\\boxed{5}", "5"),
]
OTHER = [
    ("6", "5"),
    ("-5", "5"),
    ("50", "5"),
    ("0.51", "\\frac{1}{2}"),
    ("\\frac{1}{3}", "\\frac{1}{2}"),
    ("2", "\\frac{1}{2}"),
    ("(2,1)", "(1,2)"),
    ("[0,1]", "[0,1)"),
    ("x^2+1", "x^2+2x+1"),
    ("3i", "3"),
    ("5x", "5"),
    ("five", "5"),
    ("", "5"),
    (" ", "5"),
    ("\\text{no}", "\\text{yes}"),
    ("(D)", "\\text{(C)}"),
    ("1,2", "1,2,3"),
    ("\\sqrt{7}", "\\sqrt{8}"),
    ("I cannot solve this", "5"),
    ("\\text{even}", "\\text{odd}"),
    ("12,34", "1234"),
    ("q-p", "p-q"),
    ("\\frac{1}{0}", "1"),
    ("\\frac{", "1"),
    ("5\\%", "50\\%"),
    ("3", "11_2"),
]
MATH = [
    *((B(answer), {"answer": reference}, 1.0) for answer, reference in SAME),
    *((B(answer), {"answer": reference}, 0.0) for answer, reference in OTHER),
    (f"{B('4')} no, {B('5')}", {"answer": "5"}, 1.0),
    (f"{B('5')} no, {B('4')}", {"answer": "5"}, 0.0),
    ("<answer>5</answer>", {"answer": "5"}, 1.0),
    (f"{B('5')} and {B('4')[:-1]}", {"answer": "5"}, 1.0),
    ("", {"answer": "5"}, 0.0),
    ("5", {"answer": "5"}, 0.0),
    ("the answer is (C)", {"answer": "\\text{(C)}"}, 0.0),
    ("I'm sorry, I can't.", {"answer": "5"}, 0.0),
    (B("5"), {"answer": ""}, None),
    (B("5"), {"answer": None}, None),
]

CONCISENESS = [
    *((text, {"answer": "No"}, 1.0) for text in ("No", "no", "12", "  ", "ab", "é!")),
    *(
        ("x" * length, {"answer": "No"}, 1 - abs(length - 2) / 500)
        for length in (0, 1, 3, 4, 5, 10, 50, 100, 250, 400)
    ),
    *(("x" * length, {"answer": "No"}, 0.0) for length in (502, 503, 1000, 100_000)),
    *(("x" * length, {"answer": "12345678"}, 1 - abs(length - 8) / 500) for length in range(30)),
    ("The answer is (C).", {"answer": "C"}, 1 - 17 / 500),
    (B("8"), {"answer": "8"}, 1 - 8 / 500),
    (B("\\frac{1}{2}"), {"answer": "1/2"}, 1 - 16 / 500),
    (f"{B('7')}{B('8')}", {"answer": "8"}, 1 - 17 / 500),
    ("50 %", {"answer": "50"}, 1 - 2 / 500),
    ("5 cm", {"answer": "5"}, 1 - 3 / 500),
    ("I cannot answer that.", {"answer": "No"}, 1 - 19 / 500),
    ("", {"answer": "No"}, 1 - 2 / 500),
    ("\n\n", {"answer": "No"}, 1.0),
    ("No", {"answer": ""}, None),
    ("No", {"answer": None}, None),
]

TABLES = {
    "countdown_hub": COUNTDOWN,
    "boolq": BOOLQ,
    "gsm8k": GSM8K,
    "sciknoweval_chemistry": CHEMISTRY,
    "math": MATH,
    "conciseness": CONCISENESS,
}
CASES = [(name, *case) for name, table in TABLES.items() for case in table]


def test_every_task_has_at_least_60_cases():
    assert set(TABLES) == set(PAPER_TASKS)
    assert {name: len(table) for name, table in TABLES.items() if len(table) < 60} == {}


@pytest.mark.parametrize(("name", "completion", "row", "value"), CASES)
def test_reward(name, completion, row, value):
    assert PAPER_TASKS[name].score(completion, row).value == (value if value is None else pytest.approx(value))


def test_conciseness_reports_what_it_measures():
    score = PAPER_TASKS["conciseness"].score("The answer is NO, I think", {"answer": "No"})
    assert score.parts == {"length_difference": 23.0, "contains_answer": 1.0}
    assert PAPER_TASKS["conciseness"].score("", {"answer": "No"}).parts["contains_answer"] == 0.0


GYM = [
    ("chain_sum", "-4", "-4", 1.0),
    ("chain_sum", "−4", "-4", 1.0),
    ("chain_sum", "4", "-4", 0.0),
    ("chain_sum", "-4.0", "-4", 1.0),
    ("products", "793,546,072", "793546072", 1.0),
    ("lcm", "858", "2842", 0.0),
    ("decimal_chain_sum", "7.14", "7.140", 1.0),
    ("decimal_chain_sum", "7.1", "7.140", 0.0),
    ("bitwise_arithmetic", "0x5B993", "0x5b993", 1.0),
    ("bitwise_arithmetic", "5b993", "0x5b993", 0.0),
    ("spell_backward", "\\text{ainomma}", "ainomma", 1.0),
    ("spell_backward", "ammonia", "ainomma", 0.0),
    ("caesar_cipher", "those from  mars", "THOSE FROM MARS", 1.0),
    ("base_conversion", "1F", "1f", 1.0),
    ("word_sorting", "They, WARRANTY, novel", "They, WARRANTY, novel", 1.0),
    ("word_sorting", "they, WARRANTY, novel", "They, WARRANTY, novel", 0.0),
    ("syllogism", "yes", "Yes", 1.0),
    ("syllogism", "\\text{No}.", "No", 1.0),
    ("syllogism", "Yes", "No", 0.0),
    ("fraction_simplification", "138/583", "138/583", 1.0),
    ("fraction_simplification", "\\frac{1}{2}", "1/2", 1.0),
    ("fraction_simplification", "2/4", "1/2", 0.0),
    ("fraction_simplification", "0.5", "1/2", 0.0),
    ("fraction_simplification", "\\dfrac{138}{583}", "$\\frac{138}{583}$", 1.0),
    ("prime_factorization", "2 × 2 × 5", "2 × 2 × 5", 1.0),
    ("prime_factorization", "5*2*2", "2 × 2 × 5", 1.0),
    ("prime_factorization", "2 \\times 2 \\times 5", "2 × 2 × 5", 1.0),
    ("prime_factorization", "4 × 5", "2 × 2 × 5", 0.0),
    ("number_sorting", "['52.2', '30.0']", "['52.2', '30.0']", 1.0),
    ("number_sorting", "52.2, 30", "['52.2', '30.0']", 1.0),
    ("number_sorting", "30, 52.2", "['52.2', '30.0']", 0.0),
    ("number_sorting", "", "['52.2', '30.0']", 0.0),
    ("gcd", "", "1", 0.0),
    ("gcd", "__import__('os')", "1", 0.0),
    ("letter_counting", "9**9**9", "3", 0.0),
]


@pytest.mark.parametrize(("generator", "answer", "reference", "value"), GYM)
def test_reasoning_gym(generator, answer, reference, value):
    assert get_task(f"reasoning_gym/{generator}").score(B(answer), {"answer": reference}).value == value
    assert get_task(f"reasoning_gym/{generator}").score("I do not know", {"answer": reference}).value == 0.0


def test_reasoning_gym_countdown_takes_any_right_expression():
    row = {"numbers": [94, 4, 61, 6], "target": 309, "answer": "94*4 - 61 - 6"}
    task = get_task("reasoning_gym/countdown")
    assert task.score(B("94*4-6-61"), row).value == 1.0
    assert task.score(B("309"), row).value == 0.0

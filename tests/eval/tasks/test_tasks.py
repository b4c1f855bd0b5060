"""Data and scores of the four offline tasks."""

import random

import pytest

from eval.errors import UserError
from eval.tasks import TASKS, get_task
from eval.tasks.base import SPLITS
from eval.tasks.generate import problems


ALL = list(TASKS.values())
ROWS = 300


def draw(task, split, seed=0, size=ROWS, first=0):
    return list(problems(task.name, task.draw, task.identity, split, size, seed, first))


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
class TestEveryTask:
    def test_rows_are_a_function_of_seed_split_and_index(self, task):
        assert draw(task, "train") == draw(task, "train")
        assert draw(task, "train")[40:60] == draw(task, "train", first=40, size=20)
        assert draw(task, "train") != draw(task, "train", seed=1)
        assert task.load("test", 20, 3).to_list() == task.load("test", 40, 3).to_list()[:20]

    def test_splits_never_share_a_problem_whatever_the_seeds(self, task):
        asked = {split: {task.identity(p) for seed in range(3) for p in draw(task, split, seed)} for split in SPLITS}
        assert not asked["train"] & asked["validation"]
        assert not asked["train"] & asked["test"]
        assert not asked["validation"] & asked["test"]

    def test_prompts_are_conversations_that_state_the_problem(self, task):
        rows = task.load("train", 5, 0)
        for row, problem in zip(rows, draw(task, "train", size=5), strict=True):
            system, user = row["prompt"]
            assert system == {"role": "system", "content": task.system_prompt}
            assert user == {"role": "user", "content": task.question(problem)}
            assert "\\boxed" in task.system_prompt

    def test_worked_answers_are_right(self, task):
        generator = random.Random(0)
        for problem, row in zip(draw(task, "test"), task.load("test", ROWS, 0), strict=True):
            assert task.score(task.worked_answer(problem, generator), row).value == 1.0

    def test_careless_answers_are_well_formed_and_at_most_half_right(self, task):
        generator = random.Random(0)
        pairs = zip(draw(task, "test"), task.load("test", ROWS, 0), strict=True)
        scores = [task.score(task.careless_answer(problem, generator), row) for problem, row in pairs]
        assert all(score.parsed for score in scores)
        assert 0.15 < sum(score.value for score in scores) / ROWS < 0.6

    def test_no_answer_and_hostile_answers_are_wrong(self, task):
        row = task.load("test", 1, 0)[0]
        for text in ("", "I do not know", "\\boxed{}", "\\boxed{__import__('os')}", "\\boxed{9**9**9}", "\x00\ud800"):
            assert task.score(text, row).value == 0.0

    def test_bad_requests_are_one_line(self, task):
        with pytest.raises(UserError, match="unknown split 'dev'.*train, validation, test"):
            task.load("dev", 5, 0)
        with pytest.raises(UserError, match="size 0"):
            task.load("train", 0, 0)


def test_equivalent_problems_are_one_problem():
    countdown, arithmetic, choice, yes_no = ALL
    assert countdown.identity({"numbers": [3, 1, 2], "target": 6}) == countdown.identity(
        {"numbers": [1, 2, 3], "target": 6}
    )
    assert countdown.identity({"numbers": [1, 2, 3], "target": 4}) != countdown.identity(
        {"numbers": [1, 2, 3], "target": 6}
    )
    assert arithmetic.identity({"a": 1, "b": 2, "operator": "+"}) == arithmetic.identity(
        {"a": 2, "b": 1, "operator": "+"}
    )
    assert choice.identity({"choices": ["1+2", "3+4"]}) == choice.identity({"choices": ["3+4", "1+2"]})
    assert yes_no.identity({"a": 1, "b": 2, "bound": 3}) == yes_no.identity({"a": 2, "b": 1, "bound": 3})


def test_worked_examples():
    """The answers a reader of the README sees."""
    countdown, arithmetic, choice, yes_no = ALL
    generator = random.Random(0)
    problem = {"numbers": [3, 7, 12], "target": 16}
    assert countdown.question(problem) == "3 7 12 -> 16"
    assert countdown.worked_answer(problem, generator) == "3+7=10 10+12=22 22-16=6 6/2=3 \\boxed{7+12-3}"
    assert countdown.careless_answer(problem, generator) == "\\boxed{3+7+12}"
    problem = {"a": 385, "b": 147, "operator": "+", "answer": "532"}
    assert arithmetic.worked_answer(problem, generator) == "5+7=12 8+4+1=13 3+1+1=5 \\boxed{532}"
    assert arithmetic.careless_answer(problem, generator) == "\\boxed{422}"
    problem = {"a": 402, "b": 147, "operator": "-", "answer": "255"}
    assert arithmetic.worked_answer(problem, generator) == "2-7+10=5 0-4-1+10=5 4-1-1=2 \\boxed{255}"
    assert arithmetic.careless_answer(problem, generator) == "\\boxed{345}"
    problem = {"choices": ["12+7", "31+5", "4+9", "8+19"], "answer": "B"}
    assert choice.question(problem) == "A 12+7 B 31+5 C 4+9 D 8+19"
    assert choice.worked_answer(problem, generator) == "19 36 13 27 \\boxed{B}"
    problem = {"a": 34, "b": 18, "bound": 55, "answer": "no"}
    assert yes_no.question(problem) == "34+18>55?"
    assert yes_no.worked_answer(problem, generator) == "34+18=52 52<55 \\boxed{no}"


def test_countdown_takes_any_right_expression():
    row = {"numbers": [3, 7, 12], "target": 16}
    right = ("\\boxed{12+7-3}", "<answer>(12 + 7) - 3</answer>", "\\boxed{3+7+12} no, \\boxed{7-3+12}")
    wrong = ("\\boxed{16}", "\\boxed{12+7-3+0}", "\\boxed{12+4}", "\\boxed{12+7-3", "12+7-3")
    assert [TASKS["countdown"].score(text, row).value for text in right] == [1.0] * len(right)
    assert [TASKS["countdown"].score(text, row).value for text in wrong] == [0.0] * len(wrong)


def test_choice_letters_and_yes_no_words():
    assert TASKS["four_choice"].score("\\boxed{(B)}", {"answer": "B"}).value == 1.0
    assert TASKS["four_choice"].score("\\boxed{AB}", {"answer": "B"}).value == 0.0
    assert TASKS["yes_no"].score("\\boxed{Yes}", {"answer": "yes"}).value == 1.0
    assert TASKS["yes_no"].score("\\boxed{yes or no}", {"answer": "yes"}).value == 0.0


def test_a_broken_reference_is_unscorable_and_not_wrong():
    for name, answers in {
        "arithmetic": ("", "twelve"),
        "four_choice": ("E", "AB", ""),
        "yes_no": ("maybe", ""),
    }.items():
        for answer in answers:
            assert TASKS[name].score("\\boxed{1}", {"answer": answer}).value is None


def test_tasks_by_name_and_dotted_path():
    assert get_task("countdown") is TASKS["countdown"]
    assert get_task("eval.circuit_tasks.arithmetic:SUBTRACTION_SHORT").name == "subtraction_short"
    with pytest.raises(UserError, match="'eval.tasks.yes_no:YesNo' is a class, no task"):
        get_task("eval.tasks.yes_no:YesNo")
    with pytest.raises(UserError, match="unknown task 'contdown'; did you mean 'countdown'"):
        get_task("contdown")
    with pytest.raises(UserError, match="cannot import no.such.module"):
        get_task("no.such.module:Task")
    with pytest.raises(UserError, match="has no 'Nothing'"):
        get_task("eval.tasks.yes_no:Nothing")

"""The tasks for small instruct models: data, graded scores on answers as such models write them, reference answers."""

import itertools
import json

import pytest

from eval.adapters import TaskReward, evaluation_row
from eval.completions import accuracy_of
from eval.errors import UserError
from eval.harness import spread, summary
from eval.tasks import PAPER_TASKS, SMALL_TASKS, TASKS, get_task
from eval.tasks.base import SPLITS, reference_answer
from eval.tasks.generate import problems
from eval.tasks.short_answer import RIGHT_IN_OTHER_WORDS, WORDS


SHORT = [task for name, task in SMALL_TASKS.items() if name not in ("short_answers", "gsm8k_small")]
GENERATED = [*SHORT, SMALL_TASKS["short_answers"]]
BY_NAME = pytest.mark.parametrize("task", SHORT, ids=lambda task: task.name)


@BY_NAME
def test_splits_never_share_a_problem_and_rows_are_a_function_of_the_seed(task):
    def asked(split, seed):
        drawn = problems(task.name, task.draw, task.identity, split, 200, seed)
        return {task.identity(problem) for problem in drawn}

    sets = {split: asked(split, 0) | asked(split, 1) for split in SPLITS}
    assert not any(sets[one] & sets[other] for one, other in itertools.combinations(SPLITS, 2))
    assert task.load("test", 20, 3).to_list() == task.load("test", 40, 3).to_list()[:20]
    assert task.load("test", 20, 3).to_list() != task.load("test", 20, 4).to_list()


@pytest.mark.parametrize("task", GENERATED, ids=lambda task: task.name)
def test_reference_answers_are_right_and_in_form(task):
    assert get_task(task.name) is task
    for row in task.load("train", 120, 0).to_list():
        score = task.score(reference_answer(task, row), row)
        assert (score.value, score.parts) == (1.0, {"exact": 1.0, "right": 1.0})
        # Short prompts of a system and a user message, without the form of the larger models' tasks.
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert "boxed" not in str(row["prompt"]) and len(row["prompt"][1]["content"]) < 120


@pytest.mark.parametrize("task", GENERATED, ids=lambda task: task.name)
def test_hostile_and_empty_answers_are_wrong(task):
    row = task.load("test", 1, 0)[0]
    for text in ("", " .\n", "I do not know", "\\boxed{}", "__import__('os')", "9**9**9", "\x00\ud800", "7" * 10**5):
        score = task.score(text, row)
        assert (score.value, score.exact) == (0.0, 0.0)


def test_the_words_are_of_one_kind():
    assert len(set(WORDS)) == len(WORDS) and all(word.isalpha() and word.islower() for word in WORDS)


def test_what_the_generated_tasks_ask():
    for row in SMALL_TASKS["longest_word"].load("train", 100, 0):
        assert [len(word) for word in row["words"]].count(len(row["answer"])) == 1
        assert len(row["answer"]) == max(map(len, row["words"]))
    for row in SMALL_TASKS["last_word"].load("train", 100, 0):
        assert row["answer"] == row["words"][-1] and 4 <= len(row["words"]) <= 8
    for row in SMALL_TASKS["word_count"].load("train", 100, 0):
        assert row["answer"] == len(row["words"]) == len(set(row["words"]))
    for row in SMALL_TASKS["largest_number"].load("train", 100, 0):
        assert row["answer"] == max(row["numbers"]) and len(set(row["numbers"])) == 4
    for row in SMALL_TASKS["short_sum"].load("train", 100, 0):
        assert row["answer"] == sum(row["numbers"])
    for row in SMALL_TASKS["short_countdown"].load("train", 100, 0):
        assert row["target"] > 0


LIST = {"words": ["tiger", "cloud", "honey"], "answer": "honey"}
PAIR = {"numbers": [705, 235, 64, 90], "answer": 705}
DOWN = {"numbers": [9, 5, 3], "target": 7}


@pytest.mark.parametrize(
    ("name", "row", "completion", "value"),
    [
        ("last_word", LIST, "honey", 1.0),
        ("last_word", LIST, ' "Honey".\n', 1.0),
        ("last_word", LIST, "**honey**", 1.0),
        ("last_word", LIST, 'The last word of this list is "honey."', RIGHT_IN_OTHER_WORDS),
        ("last_word", LIST, "tiger, cloud, honey", 0.0),
        ("last_word", LIST, "cloud", 0.0),
        ("last_word", LIST, "honeymoon", 0.0),
        ("longest_word", LIST | {"answer": "tiger"}, "It is the tiger", RIGHT_IN_OTHER_WORDS),
        ("word_count", LIST | {"answer": 3}, "3.", 1.0),
        ("word_count", LIST | {"answer": 3}, "There are 3 words in the list.", RIGHT_IN_OTHER_WORDS),
        ("word_count", LIST | {"answer": 3}, "There are 3 words, not 4", 0.0),
        ("word_count", LIST | {"answer": 3}, "3.5", 0.0),
        ("word_count", LIST | {"answer": 3}, "-3", 0.0),
        ("word_count", LIST | {"answer": 3}, "three", 0.0),
        ("short_sum", {"numbers": [39, 19], "answer": 58}, "58", 1.0),
        ("short_sum", {"numbers": [39, 19], "answer": 58}, "39 + 19 = 58", RIGHT_IN_OTHER_WORDS),
        ("short_sum", {"numbers": [39, 19], "answer": 58}, "58 = 39 + 19", 0.0),
        ("largest_number", PAIR, "705", 1.0),
        ("largest_number", PAIR, "The largest one is 705.", RIGHT_IN_OTHER_WORDS),
        ("largest_number", PAIR, "705 is larger than 235", 0.0),
        ("largest_number", PAIR, "7051", 0.0),
        ("short_countdown", DOWN, "9 + 3 - 5", 1.0),
        ("short_countdown", DOWN, "3-5+9", 1.0),
        ("short_countdown", DOWN, "9 + 3 - 5 = 7", RIGHT_IN_OTHER_WORDS),
        ("short_countdown", DOWN, "You can write 9 + 3 - 5.", RIGHT_IN_OTHER_WORDS),
        ("short_countdown", DOWN, "9 + 5 - 3, or 9 + 3 - 5, or 9 + 5 + 3", 0.0),
        ("short_countdown", DOWN, "7", 0.0),
        ("short_countdown", DOWN, "9 - 2", 0.0),
    ],
)
def test_grading(name, row, completion, value):
    score = SMALL_TASKS[name].score(completion, row)
    assert score.value == value
    assert score.parts == {"exact": float(value == 1.0), "right": float(value > 0)}


def test_broken_references_cannot_be_scored():
    assert SMALL_TASKS["last_word"].score("x", {"words": ["a"], "answer": None}).value is None
    assert SMALL_TASKS["short_sum"].score("3", {"answer": "3"}).value is None
    assert SMALL_TASKS["largest_number"].score("3", {"numbers": [1, 2], "answer": 3}).value is None


def test_the_mixture_takes_turns_and_scores_by_each_rows_task():
    mixture = SMALL_TASKS["short_answers"]
    rows = mixture.load("train", 20, 0).to_list()
    assert [row["task"] for row in rows] == [task.name for task in SHORT] * 3 + ["last_word", "longest_word"]
    assert mixture.load("train", 13, 0).to_list() == rows[:13]
    of_one = SMALL_TASKS["last_word"].load("train", 4, 0).to_list()
    assert [json.loads(row["row"]) for row in rows if row["task"] == "last_word"] == of_one
    with pytest.raises(UserError, match="no rows of 'elsewhere'"):
        mixture.score("x", {"task": "elsewhere", "row": "{}"})


def test_accuracy_counts_what_is_right_and_in_form_and_reward_the_grades():
    task = SMALL_TASKS["last_word"]
    texts = ["honey", "It is honey", "cloud", "honey"]
    records = []
    for index, text in enumerate(texts):
        scored = evaluation_row(task, text, LIST)
        records.append({"index": index, **scored, "tokens": 1, "finished": True})
    found = summary(records)
    assert (found["correct"], found["accuracy"], found["reward"]) == (2, 0.5, (2 + RIGHT_IN_OTHER_WORDS) / 4)
    # Shares again: the interval is Wilson's.
    assert (found["low"], found["high"]) == pytest.approx((0.1500, 0.8500), abs=1e-3)
    assert [accuracy_of(record) for record in records] == [1.0, 0.0, 0.0, 1.0]
    assert accuracy_of({"value": None, "parts": {}}) is None
    # A part of that name, of a reward of one's own, say, is no declaration.
    ungraded = summary([{key: value for key, value in record.items() if key != "exact"} for record in records])
    assert all("exact" in record["parts"] for record in records)
    assert "reward" not in ungraded and ungraded["accuracy"] == (2 + RIGHT_IN_OTHER_WORDS) / 4


def test_spread_is_the_share_of_rows_whose_samples_differ():
    def records(*rows):
        return [{"index": index, "value": value} for index, row in enumerate(rows) for value in row]

    assert spread(records([1.0, 0.4], [0.0, 0.0], [1.0, 1.0], [0.0, None, 0.4])) == 0.5
    assert spread(records([None])) is None


def test_a_reward_of_trl_gets_the_grades_and_logs_their_parts():
    logged = {}
    rewards = TaskReward(SMALL_TASKS["last_word"])(
        ["", ""],
        ["honey", "It is honey"],
        words=[LIST["words"]] * 2,
        answer=["honey"] * 2,
        log_metric=logged.__setitem__,
    )
    assert rewards == [1.0, RIGHT_IN_OTHER_WORDS]
    assert logged["last_word/exact"] == 0.5 and logged["last_word/right"] == 1.0


def test_tasks_without_reference_answers_say_so():
    with pytest.raises(UserError, match="task yes_no has no reference answers"):
        reference_answer(TASKS["yes_no"], {})


STEPS = "He buys 3 boxes of 4.\nHe pays 3*4=<<3*4=12>>12 dollars.\n#### 12"
GSM8K_SMALL = SMALL_TASKS["gsm8k_small"]


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("He pays 12.\n#### 12", 1.0),
        ("#### $12.00", 1.0),
        ("He pays 3*4=12 dollars.", RIGHT_IN_OTHER_WORDS),
        ("#### 13\nor 12", 0.0),
        ("He pays 12 dollars, not 13.", 0.0),
        ("#### 12\nQuestion: what is 2+2?\n#### 4", 1.0),
        ("####", 0.0),
    ],
)
def test_gsm8k_for_small_models(completion, value):
    assert GSM8K_SMALL.score(completion, {"answer": STEPS}).value == value


def test_reference_answers_of_gsm8k_have_their_steps_and_no_calculator():
    answer = reference_answer(GSM8K_SMALL, {"answer": STEPS})
    assert answer == "He buys 3 boxes of 4.\nHe pays 3*4=12 dollars.\n#### 12"
    assert GSM8K_SMALL.score(answer, {"answer": STEPS}).value == 1.0
    gsm8k = PAPER_TASKS["gsm8k"]
    assert reference_answer(gsm8k, {"answer": STEPS}).endswith("12 dollars.\n\\boxed{12}")
    assert gsm8k.score(reference_answer(gsm8k, {"answer": STEPS}), {"answer": STEPS}).value == 1.0
    assert GSM8K_SMALL.score("12", {"answer": "no number"}).value is None

"""The pairs of every circuit task: right answers, aligned counterfactuals, disjoint splits."""

import json
import random
import re

import pytest

from eval.circuit_tasks import CIRCUIT_TASKS, get_circuit_task
from eval.circuit_tasks.arc import ARC_EASY
from eval.circuit_tasks.arithmetic import ADDITION, SUBTRACTION_SHORT
from eval.circuit_tasks.greater_than import GREATER_THAN_SHORT, GreaterThan
from eval.errors import UserError
from eval.tasks.generate import split_of


GENERATED = [name for name in CIRCUIT_TASKS if not name.startswith("arc")]


def words(text: str) -> list[str]:
    return re.findall(r"\w+|\W", text)


@pytest.mark.parametrize("name", GENERATED)
def test_examples_are_the_same_for_the_same_arguments_and_word_by_word_aligned(name):
    task = get_circuit_task(name)
    examples = task.examples("test", 60, seed=3)
    assert examples == task.examples("test", 60, seed=3) != task.examples("test", 60, seed=4)
    assert task.examples("test", 20, 3, first=40) == examples[40:]
    for example in examples:
        assert len(words(example.clean)) == len(words(example.corrupted))
        assert example.clean != example.corrupted and example.answer != example.wrong


@pytest.mark.parametrize("name", GENERATED)
def test_no_content_is_in_two_splits(name):
    task = get_circuit_task(name)
    prompts = {
        split: {e.clean for e in task.examples(split, 400, seed=0)} for split in ("train", "validation", "test")
    }
    assert not prompts["train"] & prompts["test"] and not prompts["train"] & prompts["validation"]
    assert not prompts["validation"] & prompts["test"]


def test_ioi_answers_with_the_name_that_is_not_repeated():
    for example in get_circuit_task("ioi").examples("train", 100, 0):
        for prompt, answer in ((example.clean, example.answer), (example.corrupted, example.wrong)):
            openings = ("When", "After", "While", "Then", "Yesterday")
            names = [word for word in words(prompt) if word[0].isupper() and word not in openings]
            assert len(names) == 3 and names.count(answer.strip()) == 1


def test_copy_colour_answers_with_the_letter_of_the_colour():
    for example in get_circuit_task("copy_colour").examples("train", 100, 0):
        for prompt, answer in ((example.clean, example.answer), (example.corrupted, example.wrong)):
            colour = re.match(r"The \w+ is (\w+)\.", prompt)[1]
            assert re.findall(rf"^(\w)\. {colour}$", prompt, re.MULTILINE) == [answer.strip()]
        assert example.clean.count("\nA. ") == 1 and "\nA. " not in example.corrupted


@pytest.mark.parametrize("name", ["addition", "subtraction", "addition_short", "subtraction_short"])
def test_arithmetic_is_right_and_both_prompts_are_of_one_split(name):
    task = get_circuit_task(name)
    for example in task.examples("validation", 100, 0):
        for prompt, answer in ((example.clean, example.answer), (example.corrupted, example.wrong)):
            a, b = map(int, re.findall(r"\d+", prompt))
            assert int(answer) == (a + b if task.operator == "+" else a - b)
            assert split_of(f"{name} {max(a, b)}{task.operator}{min(a, b)}") == "validation"
        assert len(example.answer) == len(example.wrong)


def test_greater_than_has_a_later_and_an_earlier_year_around_the_first():
    for example in GreaterThan().examples("train", 100, 0):
        start = int(re.search(r"\d{4}", example.clean)[0])
        assert int(example.wrong) // 10 < start // 10 < int(example.answer) // 10
        assert re.search(r"\d{4}", example.corrupted)[0] == f"{start // 100}01"
    row = {"question": "war 1732-", "answer": "1756"}
    scores = {text: GREATER_THAN_SHORT.score(text, row).value for text in ("1733", " 1799", "1732", "1805", "17", "x")}
    assert scores == {"1733": 1.0, " 1799": 1.0, "1732": 0.0, "1805": 0.0, "17": 0.0, "x": 0.0}


def test_greater_than_is_trained_on_the_counterfactual_too():
    generator = random.Random(0)
    problems = [GREATER_THAN_SHORT.draw(generator) for _ in range(2000)]
    documents = [GREATER_THAN_SHORT.document(problem, generator) for problem in problems]
    share = sum(prompt[-3:] == "01-" for prompt, _ in documents) / len(documents)
    assert share == pytest.approx(1 / 8, abs=0.03)


def test_docstring_answers_with_the_next_parameter_of_either_signature():
    for example in get_circuit_task("docstring").examples("train", 100, 0):
        for prompt, answer in ((example.clean, example.answer), (example.corrupted, example.wrong)):
            signature = re.search(r"self, (.*)\)", prompt)[1].split(", ")
            documented = re.findall(r":param (\w+):", prompt)
            assert documented == signature[:2] and signature[2] == answer.strip()
        assert example.answer.strip() in example.corrupted and example.wrong.strip() in example.clean


def test_every_circuit_task_is_a_task_that_models_can_be_trained_on():
    rows = SUBTRACTION_SHORT.load("train", 5, 0)
    for row, example in zip(rows, SUBTRACTION_SHORT.examples("train", 5, 0), strict=True):
        assert row["prompt"] == [{"role": "user", "content": example.clean}]
        assert SUBTRACTION_SHORT.score(f" {row['answer']}", row).value == 1.0
        assert SUBTRACTION_SHORT.score(example.wrong, row).value == 0.0
        assert SUBTRACTION_SHORT.score(f"{row['answer']} or so", row).value == 0.0
    assert SUBTRACTION_SHORT.score("", rows[0]).parsed is None


QUESTIONS = [
    {
        "question": f"Which of these is thing {i}?",
        "choices": {"text": ["w", f"thing {i}", "y", "z"], "label": ["1", "2", "3", "4"]},
        "answerKey": "2",
    }
    for i in range(200)
]


def test_arc_from_a_local_file(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, QUESTIONS)))
    task = get_circuit_task(f"arc_easy={path}")
    splits = {split: task.examples(split, 1000, 0) for split in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == len(QUESTIONS)
    assert len({example.clean for examples in splits.values() for example in examples}) == len(QUESTIONS)
    example = splits["train"][0]
    assert example.answer == " B" and re.search(r"\nB\. thing \d+\n", example.clean)
    assert re.findall(r"^(\w)\. thing", example.corrupted, re.MULTILINE) == [example.wrong.strip()]
    assert set(re.findall(r"^(\w)\. ", example.corrupted, re.MULTILINE)).isdisjoint("ABCD")
    assert task.examples("train", 5, 0, first=5) == splits["train"][5:10]


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="unknown circuit task 'iio'; did you mean 'ioi'"):
        get_circuit_task("iio")
    with pytest.raises(UserError, match="takes no file"):
        get_circuit_task("ioi=x.jsonl")
    with pytest.raises(UserError, match="no file nowhere.jsonl"):
        get_circuit_task("arc_easy=nowhere.jsonl").examples("train", 1, 0)
    with pytest.raises(UserError, match="unknown split 'dev' of task arc_easy"):
        ARC_EASY.examples("dev", 1, 0)
    with pytest.raises(UserError, match="unknown split 'dev' of task addition"):
        ADDITION.examples("dev", 1, 0)
    for line, message in (
        ("{", "line 1: JSONDecodeError"),
        ('{"question": "q"}', "line 1: KeyError"),
        (json.dumps(QUESTIONS[0] | {"answerKey": "9"}), "answerKey is no label"),
    ):
        path = tmp_path / "broken.jsonl"
        path.write_text(line)
        with pytest.raises(UserError, match=message):
            get_circuit_task(f"arc_easy={path}").examples("train", 1, 0)


def test_arc_without_the_hub_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="give a local file instead: arc_easy=questions.jsonl"):
        ARC_EASY.examples("train", 1, 0)

"""Loading the papers' tasks: from local files with each set's true columns, and the errors without any."""

import json
import random
import shutil
from pathlib import Path

import pytest

from eval.errors import UserError
from eval.tasks import PAPER_TASKS, get_task
from eval.tasks.base import SPLITS
from eval.tasks.countdown_hub import CountdownHub
from eval.tasks.hub import DATA_VARIABLE
from eval.tasks.sciknoweval import SciKnowEvalChemistry


FIXTURES = Path(__file__).parent / "fixtures"
ALL = {
    **PAPER_TASKS,
    "countdown_hub": CountdownHub(test_rows=10, validation_rows=4),
    "sciknoweval_chemistry": SciKnowEvalChemistry(test_rows=10, validation_rows=4),
}
FILES = {
    "countdown_hub": "train",
    "math": "train",
    "sciknoweval_chemistry": "test",
    "boolq": "train",
    "gsm8k": "train",
}


def fixture(task, split):
    return [json.loads(line) for line in (FIXTURES / task / f"{split}.jsonl").read_text().splitlines()]


@pytest.fixture
def local(monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(FIXTURES))


def question(row):
    return row["prompt"][1]["content"]


@pytest.mark.parametrize("name", ALL)
class TestEveryTask:
    def test_rows_are_a_function_of_the_arguments(self, name, local):
        task = ALL[name]
        for seed in (0, 1):
            rows = task.load("train", 12, seed).to_list()
            assert rows == task.load("train", 12, seed).to_list()
            assert rows[:5] == task.load("train", 5, seed).to_list()
        assert task.load("train", 12, 0).to_list() != task.load("train", 12, 1).to_list()

    def test_splits_share_no_problem(self, name, local):
        asked = {split: {question(row) for row in ALL[name].load(split, 1 + (split == "test"), 0)} for split in SPLITS}
        asked["train"] = {question(row) for row in ALL[name].load("train", 16, 3)}
        assert len(asked["train"]) == 16
        assert not asked["train"] & (asked["validation"] | asked["test"])
        assert not asked["validation"] & asked["test"]

    def test_prompts_state_the_task(self, name, local):
        for row in ALL[name].load("test", 4, 0):
            assert row["prompt"][0] == {"role": "system", "content": ALL[name].system_prompt}
            assert row["prompt"][1]["role"] == "user"

    def test_bad_requests_are_one_line(self, name, local):
        with pytest.raises(UserError, match="unknown split 'dev'"):
            ALL[name].load("dev", 1, 0)
        with pytest.raises(UserError, match="size 0"):
            ALL[name].load("train", 0, 0)


@pytest.mark.parametrize("name", FILES)
class TestEveryFile:
    def test_too_many_rows(self, name, local):
        with pytest.raises(UserError, match=r"has \d+ rows in its test split, not 9999; ask for at most \d+"):
            ALL[name].load("test", 9999, 0)

    def test_no_file_and_no_hub(self, name, tmp_path, monkeypatch):
        # tests/conftest.py turns the hub off.
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
        with pytest.raises(UserError) as error:
            ALL[name].load("train", 5, 0)
        assert f"place its {FILES[name]} split at {tmp_path}/{name}/{FILES[name]}.jsonl" in str(error.value)
        assert "HF_HUB_OFFLINE" in str(error.value) and "with the columns" in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_file_without_a_column(self, name, tmp_path, monkeypatch):
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{FILES[name]}.jsonl").write_text('{"text": "x"}\n')
        with pytest.raises(UserError, match="has no column"):
            ALL[name].load("train", 5, 0)

    def test_a_file_that_is_not_json(self, name, tmp_path, monkeypatch):
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{FILES[name]}.jsonl").write_text("no\n")
        with pytest.raises(UserError, match="cannot read .*one JSON object a line"):
            ALL[name].load("train", 5, 0)


def test_the_papers_rows_of_countdown(local):
    rows = fixture("countdown_hub", "train")
    test = ALL["countdown_hub"].load("test", 10, 0)
    assert [(row["numbers"], row["target"]) for row in test] == [(r["nums"], r["target"]) for r in rows[200:210]]
    train = ALL["countdown_hub"].load("train", 200, 0)
    # Row 3 of the file asks what row 205, a test row, asks: it is left out, and the first after validation comes in.
    wanted = rows[:3] + rows[4:200] + rows[214:215]
    assert [(row["numbers"], row["target"]) for row in train] == [(r["nums"], r["target"]) for r in wanted]
    assert question(train[0]) == f"Numbers: {rows[0]['nums']}\nTarget: {rows[0]['target']}"


def test_math_takes_the_levels_in_turn(local):
    train = ALL["math"].load("train", 10, 0)
    assert train["level"] == [1, 2, 3, 4, 5] * 2
    first = [next(row for row in fixture("math", "train") if row["level"] == level) for level in range(1, 6)]
    assert [question(row) for row in train][:5] == [row["problem"] for row in first]
    test = ALL["math"].load("test", 6, 0)
    assert test["answer"] == [row["answer"] for row in fixture("math", "test")]


def test_the_papers_rows_of_chemistry(local):
    rows = [
        row
        for row in fixture("sciknoweval_chemistry", "test")
        if row["domain"] == "Chemistry" and row["type"] == "mcq-4-choices"
    ]
    random.Random(42).shuffle(rows)
    for split, wanted in (("train", rows[:200]), ("test", rows[200:210])):
        loaded = ALL["sciknoweval_chemistry"].load(split, len(wanted), 0)
        assert loaded["answer"] == [row["answerKey"] for row in wanted]
        assert loaded["choices"] == [row["choices"]["text"] for row in wanted]
    a, b, c, d = wanted[0]["choices"]["text"]
    assert question(loaded[0]) == f"Question: {wanted[0]['question']}\n\nA) {a}\nB) {b}\nC) {c}\nD) {d}"


def test_the_papers_rows_of_boolq_and_gsm8k(local):
    rows = fixture("boolq", "train")
    train = ALL["boolq"].load("train", 18, 0)
    assert train["answer"] == [row["answer"] for row in rows[:18]]
    assert question(train[0]) == f"Passage: {rows[0]['passage']}\n\nQuestion: {rows[0]['question']}"
    assert ALL["boolq"].load("validation", 2, 0)["answer"] == [row["answer"] for row in rows[18:]]
    assert ALL["boolq"].load("test", 5, 0)["answer"] == [row["answer"] for row in fixture("boolq", "validation")]
    test = ALL["gsm8k"].load("test", 5, 0)
    assert [question(row) for row in test] == [row["question"] for row in fixture("gsm8k", "test")]
    assert all(ALL["gsm8k"].score(row["answer"], row).value == 1.0 for row in test)


def test_parquet_reads_as_json_lines_do(tmp_path, monkeypatch, local):
    expected = ALL["gsm8k"].load("train", 18, 0).to_list()
    import datasets

    for split in ("train", "test"):
        (tmp_path / "gsm8k").mkdir(exist_ok=True)
        datasets.Dataset.from_list(fixture("gsm8k", split)).to_parquet(tmp_path / "gsm8k" / f"{split}.parquet")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert ALL["gsm8k"].load("train", 18, 0).to_list() == expected


def test_reasoning_gym_from_a_file(local, tmp_path, monkeypatch):
    task = get_task("reasoning_gym/chain_sum")
    rows = task.load("train", 5, 0)
    assert rows["answer"] == ["3", "4", "5", "6", "7"]
    assert task.score("\\boxed{3}", rows[0]).value == 1.0
    with pytest.raises(UserError, match="place its test split at .*reasoning_gym/chain_sum/test.jsonl"):
        task.load("test", 5, 0)


def test_reasoning_gym_refuses_by_name():
    for name in ("puzzle24", "propositional_logic", "simple_integration", "nothing"):
        with pytest.raises(UserError, match=f"generator '{name}' has no exact scorer here.*supported: aiw, "):
            get_task(f"reasoning_gym/{name}")
    with pytest.raises(UserError, match="did you mean 'chain_sum'"):
        get_task("reasoning_gym/chainsum")


def test_tasks_by_name():
    assert get_task("math") is PAPER_TASKS["math"]
    with pytest.raises(UserError, match="did you mean 'gsm8k'"):
        get_task("gsm8")


def test_the_default_folder_is_data(tmp_path, monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURES / "gsm8k", tmp_path / "data" / "gsm8k")
    assert len(PAPER_TASKS["gsm8k"].load("train", 3, 0)) == 3

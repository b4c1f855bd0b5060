"""eval/harness.py: what an evaluation counts. The engine is a script, because it is not what is tested here."""

from dataclasses import dataclass

import pytest
from datasets import Dataset

from eval.errors import UserError
from eval.harness import accuracy_interval, evaluate_task
from eval.intervals import mean_interval, wilson_interval
from eval.rollout.base import Completion, Sampling
from eval.tasks import TASKS, Score


GREEDY = Sampling(max_new_tokens=8)


class ScriptedEngine:
    """Answers the i-th prompt it is asked with the i-th text, one token a character; cut after 8."""

    def __init__(self, texts):
        self.texts = iter(texts)
        self.batches = []

    def generate(self, prompts, sampling, members=(None,)):
        assert list(members) == [None]
        assert sampling == GREEDY
        self.batches.append(list(prompts))
        texts = [next(self.texts) for _ in prompts]
        return [[[Completion(text, list(range(len(text))), len(text) < 8)] for text in texts]]


@dataclass(frozen=True)
class Number:
    """The score is the number that the model writes; "?" cannot be scored."""

    name: str = "number"
    system_prompt: str = ""

    def load(self, split, size, seed):
        rows = [{"prompt": [{"role": "user", "content": f"{split} {seed} {i}"}], "column": i} for i in range(size)]
        return Dataset.from_list(rows)

    def score(self, completion, row):
        return Score(None if completion == "?" else float(completion), completion, {"column": float(row["column"])})


def evaluate(texts, task=None, batch_size=2):
    engine = ScriptedEngine(texts)
    return evaluate_task(engine, task or Number(), "test", len(texts), 7, GREEDY, batch_size), engine


def test_right_or_wrong_answers():
    result, engine = evaluate(["1", "0", "1.000000", "?", "0"])
    low, high = wilson_interval(2, 4)
    records = result.pop("records")
    assert result == {
        "correct": 2,
        "total": 4,
        "unscorable": 1,
        "accuracy": 0.5,
        "low": low,
        "high": high,
        "mean_tokens": 12 / 5,
        "unfinished": 1,
    }
    assert [len(batch) for batch in engine.batches] == [2, 2, 1]
    assert [record["index"] for record in records] == [0, 1, 2, 3, 4]
    assert records[2] == {
        "index": 2,
        "prompt": [{"role": "user", "content": "test 7 2"}],
        "completion": "1.000000",
        "value": 1.0,
        "parsed": "1.000000",
        "parts": {"column": 2.0},
        "tokens": 8,
        "finished": False,
    }
    assert records[3]["value"] is None


def test_partial_credit_takes_the_interval_of_a_mean():
    result, _ = evaluate(["1", "0.5", "0.25", "0.25"])
    assert (result["correct"], result["total"], result["accuracy"]) == (1, 4, 0.5)
    assert (result["low"], result["high"]) == mean_interval([1, 0.5, 0.25, 0.25])


def test_accuracy_intervals():
    assert accuracy_interval([1.0, 0.0, 1.0]) == wilson_interval(2, 3)
    assert accuracy_interval([1.0]) == wilson_interval(1, 1)
    assert accuracy_interval([0.5, 0.75]) == mean_interval([0.5, 0.75])
    # The normal approximation goes beyond 1, a score does not.
    assert mean_interval([1.0, 0.5])[1] > 1
    assert accuracy_interval([1.0, 0.5]) == (mean_interval([1.0, 0.5])[0], 1.0)
    assert accuracy_interval([0.0, 0.5])[0] == 0.0
    assert accuracy_interval([0.5]) == (None, None)
    assert accuracy_interval([]) == (None, None)


def test_nothing_that_can_be_scored():
    result, _ = evaluate(["?", "?"])
    assert (result["correct"], result["total"], result["unscorable"]) == (0, 0, 2)
    assert (result["accuracy"], result["low"], result["high"]) == (None, None, None)


@pytest.mark.parametrize("name", TASKS)
def test_each_task_from_its_own_rows(name):
    task = TASKS[name]
    right = {"countdown": None, "arithmetic": "answer", "four_choice": "answer", "yes_no": "answer"}[name]
    rows = task.load("test", 6, 7).to_list()
    texts = ["\\boxed{" + (row[right] if right else _solution(row)) + "}" for row in rows[:4]] + ["", "\\boxed{"]
    result, engine = evaluate(texts, task, batch_size=100)
    assert [record["value"] for record in result["records"]] == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert (result["correct"], result["total"], result["accuracy"]) == (4, 6, 4 / 6)
    assert engine.batches == [[row["prompt"] for row in rows]]


def _solution(row):
    """Signs for three numbers that reach the target, by trying all."""
    signs = [(a, b, c) for a in (1, -1) for b in (1, -1) for c in (1, -1)]
    found = next(s for s in signs if sum(x * n for x, n in zip(s, row["numbers"], strict=True)) == row["target"])
    return "".join(("+" if x > 0 else "-") + str(n) for x, n in zip(found, row["numbers"], strict=True)).lstrip("+")


def test_a_progress_bar_on_stderr(capsys):
    evaluate(["1", "0"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "evaluate number: 100%" in captured.err
    assert "2/2" in captured.err


def test_mistakes():
    with pytest.raises(UserError, match="batch_size is 0; give at least 1"):
        evaluate(["1"], batch_size=0)
    with pytest.raises(ValueError, match="one sample per prompt, not 2"):
        evaluate_task(ScriptedEngine([]), Number(), "test", 1, 0, Sampling(max_new_tokens=8, samples=2), 1)

    class NoRows(Number):
        def load(self, split, size, seed):
            return Dataset.from_list([])

    with pytest.raises(UserError, match="task number has no rows in its test split"):
        evaluate(["1"], NoRows())

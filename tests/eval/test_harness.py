"""eval/harness.py: what an evaluation counts. The engine is a script, because it is not what is tested here."""

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations

import pytest
import torch
from datasets import Dataset

from eval.errors import UserError
from eval.harness import accuracy_interval, evaluate_task, pass_at, pass_at_k, weights_hash
from eval.intervals import mean_interval, wilson_interval
from eval.rollout.base import Completion, Sampling
from eval.rollout.hf import HFEngine
from eval.tasks import TASKS, Score
from tests.tiny import random_model


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
    with pytest.raises(ValueError, match="2 greedy samples of a prompt are all the same"):
        evaluate_task(ScriptedEngine([]), Number(), "test", 1, 0, Sampling(max_new_tokens=8, samples=2), 1)

    class NoRows(Number):
        def load(self, split, size, seed):
            return Dataset.from_list([])

    with pytest.raises(UserError, match="task number has no rows in its test split"):
        evaluate(["1"], NoRows())


@pytest.mark.parametrize(("correct", "samples"), [(0, 4), (1, 4), (2, 4), (4, 4), (3, 7), (1, 1)])
def test_pass_at_k_counts_the_subsets_with_a_right_one(correct, samples):
    right = [True] * correct + [False] * (samples - correct)
    for k in range(1, samples + 1):
        subsets = [any(subset) for subset in combinations(right, k)]
        assert pass_at_k(correct, samples, k) == pytest.approx(float(Fraction(sum(subsets), len(subsets))), abs=1e-15)


@pytest.mark.parametrize("arguments", [(0, 0, 1), (1, 2, 3), (1, 2, 0), (3, 2, 1), (-1, 2, 1)])
def test_pass_at_k_that_is_not_defined(arguments):
    with pytest.raises(ValueError, match="is not defined"):
        pass_at_k(*arguments)


def records(*rows):
    return [{"index": index, "value": value} for index, row in enumerate(rows) for value in row]


def test_pass_at_over_rows():
    found = pass_at(records([1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]))
    assert {k: entry["value"] for k, entry in found.items()} == {
        "1": pytest.approx((1 / 4 + 1 / 2 + 0) / 3),
        "2": pytest.approx((1 / 2 + 5 / 6 + 0) / 3),
        "4": pytest.approx(2 / 3),
    }
    assert (found["4"]["low"], found["4"]["high"]) == wilson_interval(2, 3)
    # The row with the fewest scored samples limits k; a row without any is left out.
    assert list(pass_at(records([1.0, 0.0, None, None], [1.0] * 4, [None] * 4))) == ["1", "2"]
    assert pass_at(records([None, None])) == {}


class Sampler(ScriptedEngine):
    """Several samples of each prompt."""

    def generate(self, prompts, sampling, members=(None,)):
        texts = [[next(self.texts) for _ in range(sampling.samples)] for _ in prompts]
        return [[[Completion(text, [0] * len(text), True) for text in row] for row in texts]]


def test_several_samples_of_a_prompt():
    sampling = Sampling(max_new_tokens=8, temperature=1.0, samples=2)
    result = evaluate_task(Sampler(["1", "0", "1", "1", "?", "0"]), Number(), "test", 3, 0, sampling, 2)
    assert [(record["index"], record["sample"]) for record in result["records"]] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    assert (result["correct"], result["total"], result["unscorable"]) == (3, 5, 1)
    # Rows are the independent units: the interval is that of their means, 1/2, 1 and 0.
    assert (result["accuracy"], result["low"], result["high"]) == (0.5, *accuracy_interval([0.5, 1.0, 0.0]))
    assert result["pass_at"]["1"]["value"] == 0.5
    assert list(result["pass_at"]) == ["1"]


@pytest.fixture(scope="module")
def tiny_engine():
    return HFEngine(*random_model())


@pytest.mark.parametrize("sampling", [Sampling(6), Sampling(6, temperature=1.0, samples=3, seed=5)])
def test_results_do_not_depend_on_the_batch_size(tiny_engine, sampling):
    results = [
        evaluate_task(tiny_engine, TASKS["yes_no"], "test", 7, 3, sampling, batch_size) for batch_size in (1, 3, 100)
    ]
    assert results[0] == results[1] == results[2]
    assert len({record["completion"] for record in results[0]["records"]}) > 1


class Forbidden(HFEngine):
    def generate(self, prompts, sampling, members=(None,)):
        raise AssertionError("this should have come from the cache")


def test_a_result_is_made_once(tmp_path):
    model, tokenizer = random_model()
    arguments = (TASKS["yes_no"], "test", 3, 0)
    sampling = Sampling(4, temperature=1.0, samples=2)
    first = evaluate_task(HFEngine(model, tokenizer), *arguments, sampling, 2, cache=tmp_path)
    again = evaluate_task(Forbidden(model, tokenizer), *arguments, sampling, 3, cache=tmp_path)
    assert again == first
    [file] = tmp_path.iterdir()
    assert file.name.startswith("yes_no-")
    # Anything that decides the result makes another entry.
    others = [
        (TASKS["countdown"], "test", 3, 0, sampling),
        (replace(TASKS["yes_no"], closest=3), "test", 3, 0, sampling),
        (TASKS["yes_no"], "train", 3, 0, sampling),
        (TASKS["yes_no"], "test", 2, 0, sampling),
        (TASKS["yes_no"], "test", 3, 1, sampling),
        (TASKS["yes_no"], "test", 3, 0, replace(sampling, seed=1)),
    ]
    for count, other in enumerate(others, start=2):
        evaluate_task(HFEngine(model, tokenizer), *other, 8, cache=tmp_path)
        assert len(list(tmp_path.iterdir())) == count
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(AssertionError, match="from the cache"):
        evaluate_task(Forbidden(model, tokenizer), *arguments, sampling, 2, cache=tmp_path)
    # A name that the caller vouches for stands in for the hash.
    evaluate_task(HFEngine(model, tokenizer), *arguments, sampling, 2, cache=tmp_path, checkpoint="step 3")
    evaluate_task(Forbidden(model, tokenizer), *arguments, sampling, 2, cache=tmp_path, checkpoint="step 3")


def test_the_hash_of_weights():
    weights = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    same = {"b": torch.ones(2), "a": torch.zeros(3, 2).t().contiguous()}
    assert weights_hash(weights) == weights_hash(same)
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "c": torch.ones(2)},
        {"a": torch.zeros(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)},
        {"a": torch.zeros(2, 3), "b": torch.tensor([1.0, 1.0 + 2**-23])},
        {"a": torch.zeros(2, 3)},
    ]
    assert len({weights_hash(other) for other in [weights, *others]}) == 6

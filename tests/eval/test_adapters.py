"""eval/adapters.py: a TRL reward, an ES fitness and an evaluation row agree on every sample."""

import pickle
import random
from dataclasses import dataclass, field

import pytest

from eval.adapters import Fitness, TaskReward, evaluation_row, fitness
from eval.errors import UserError
from eval.tasks import TASKS, Score
from eval.tasks.answer import extract_answer
from eval.tasks.generate import problems


# Wrong for every task, and worth 0.0.
WRONG = [
    "",
    " \n",
    "I do not know.",
    "\\boxed{}",
    "\\boxed{wrong}",
    "\\boxed{7",
    "<answer></answer>",
    "0",
    "\0",
    "\ud800",
]
HOSTILE = [
    "\\boxed{9**9**9}",
    "\\boxed{__import__('os').system('true')}",
    "\\boxed{(1).__class__}",
    "\\boxed{\u0661\u0662}",
    "\\boxed{0x10}",
    "\\boxed{1_0}",
    "\\boxed{" + "(" * 100_000 + ")" * 100_000 + "}",
    "\\boxed{" * 100_000,
    "x" * 1_000_000,
    "<answer>\ud800\0</answer>",
]


def rows_and_completions(task):
    """Ten problems with right answers, then one problem for each wrong or hostile completion."""
    generator = random.Random(0)
    rows = list(problems(task.name, task.draw, task.identity, "test", 10 + len(WRONG + HOSTILE), 0))
    right = [task.worked_answer(row, generator) for row in rows[:10]]
    return rows, right + WRONG + HOSTILE


@pytest.mark.parametrize("name", TASKS)
def test_the_three_uses_agree(name):
    task = TASKS[name]
    rows, completions = rows_and_completions(task)
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    prompts = [[{"role": "user", "content": task.question(row)}] for row in rows]
    messages = [[{"role": "assistant", "content": text}] for text in completions]
    ids = [[0]] * len(rows)

    as_fitness = fitness(task, completions, rows)
    as_rows = [evaluation_row(task, text, row) for text, row in zip(completions, rows, strict=True)]
    reward = TaskReward(task)
    as_reward = reward(prompts=prompts, completions=messages, completion_ids=ids, **columns)

    expected = [1.0] * 10 + [0.0] * len(WRONG + HOSTILE)
    assert as_reward == expected
    assert reward(prompts=prompts, completions=completions, completion_ids=ids, **columns) == expected
    assert as_fitness == Fitness(10 / len(rows), expected, 2, [row["parts"] for row in as_rows])
    assert [row["value"] for row in as_rows] == expected
    assert [row["parsed"] for row in as_rows] == [extract_answer(text) for text in completions]


@dataclass(frozen=True)
class Told:
    """A task that gives the score that its row tells it to give."""

    name: str = "told"
    system_prompt: str = ""
    parts: dict = field(default_factory=dict)

    def score(self, completion, row):
        return Score(row["told"], completion or None, row.get("parts", {}))


def test_trl_calls_the_reward_with_all_it_has():
    logged = {}
    reward = TaskReward(Told())
    values = reward(
        prompts=["a", "b", "c", "d"],
        completions=["x", "", "x", "x"],
        completion_ids=[[1], [], [1], [1]],
        told=[1.0, 0.25, None, 0],
        parts=[{"format": 1.0}, {"format": 0.0, "length": 3.0}, {}, {"format": 0.5}],
        trainer_state=object(),
        log_extra=lambda name, values: pytest.fail("nothing to add to the table of completions"),
        log_metric=logged.__setitem__,
    )
    assert values == [1.0, 0.25, None, 0.0]
    assert logged == {"told/answered": 0.75, "told/format": 0.5, "told/length": 3.0}
    assert reward.__name__ == "told"


@dataclass(frozen=True)
class Echo:
    name: str = "echo"
    system_prompt: str = ""

    def score(self, completion, row):
        return Score(float(completion == row["prompt"]), completion)


def test_the_row_holds_the_prompt():
    assert TaskReward(Echo())(prompts=["a", "b"], completions=["a", "a"], completion_ids=[[1], [1]]) == [1.0, 0.0]


def test_the_reward_can_be_pickled():
    reward = pickle.loads(pickle.dumps(TaskReward(TASKS["yes_no"])))
    assert reward.__name__ == "yes_no"
    assert reward(prompts=["?"], completions=["\\boxed{yes}"], completion_ids=[[1]], answer=["yes"]) == [1.0]


@pytest.mark.parametrize("unscorable", [None, float("nan")])
def test_what_cannot_be_scored_is_left_out_of_the_fitness(unscorable):
    task = Told()
    rows = [{"told": 1.0}, {"told": unscorable}, {"told": 0.0}, {"told": unscorable}]
    assert fitness(task, ["x", "x", "", ""], rows) == Fitness(0.5, [1.0, None, 0.0, None], 2, [{}] * 4)
    assert fitness(task, ["x"], [{"told": unscorable}]) == Fitness(None, [None], 0, [{}])
    assert fitness(task, [], []) == Fitness(None, [], 0, [])
    assert TaskReward(task)(prompts=["?"], completions=["x"], completion_ids=[[1]], told=[unscorable]) == [None]
    assert evaluation_row(task, "x", {"told": unscorable, "parts": {"a": 2.0}}) == {
        "value": None,
        "parsed": "x",
        "parts": {"a": 2.0},
    }


OUT_OF_BOUNDS = [(1.5, ValueError), (-0.1, ValueError), (100, ValueError)]
NOT_FINITE = [(float("inf"), UserError), (float("-inf"), UserError)]


@pytest.mark.parametrize(("value", "error"), OUT_OF_BOUNDS + NOT_FINITE)
def test_a_score_out_of_bounds_is_a_bug_and_an_infinite_one_ends_the_command(value, error):
    task = Told()
    for use in (
        lambda: fitness(task, ["x"], [{"told": value}]),
        lambda: evaluation_row(task, "x", {"told": value}),
        lambda: TaskReward(task)(prompts=["?"], completions=["x"], completion_ids=[[1]], told=[value]),
    ):
        with pytest.raises(error, match="task told gave the score"):
            use()


def test_as_many_completions_as_rows():
    with pytest.raises(ValueError, match="zip"):
        fitness(Told(), ["x", "x"], [{"told": 1.0}])


def test_the_reward_reads_tokens_where_it_is_told_how():
    reward = TaskReward(Echo(), decode=lambda ids: "ab"[ids[0]])
    assert reward(prompts=["a", "b"], completions=["b", "b"], completion_ids=[[0], [0]]) == [1.0, 0.0]

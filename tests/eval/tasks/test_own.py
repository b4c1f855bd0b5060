"""Data and rewards of one's own: rows named by line, splits by content, functions in TRL's signature by file path."""

import asyncio
import csv
import json
import math
import pickle
import re
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.adapters import TaskReward, evaluation_row, fitness
from eval.completions import accuracy_of
from eval.errors import UserCodeError, UserError
from eval.harness import accuracy_interval, summary
from eval.tasks import OwnSpec, get_task, own_data, task_name, task_spec
from eval.tasks.own import own_task, task_of_rewards
from eval.tasks.own_rows import LEAST_HELD_OUT
from eval.tasks.scorers import SCORERS


ROWS = [{"prompt": f"{number} + 1 =", "answer": str(number + 1)} for number in range(50)]
REWARD = """
def score(completions, answer, **columns):
    return [float(right in completion[0]["content"]) for completion, right in zip(completions, answer)]

async def length(completions, completion_ids):
    return [-len(completion[0]["content"]) / 100 for completion in completions]

def half(completions, **columns):
    return [1.0 if len(completion[0]["content"]) % 2 else None for completion in completions]

def broken(completions, prompts, **columns):
    return [1 / len(completion[0]["content"]) for completion in completions]

def short(completions, **columns):
    return [0.0]

def no_number(completions, **columns):
    return ["good" for completion in completions]

def not_a_number(completions, **columns):
    return [float("nan") for completion in completions]

def needs_level(completions, level):
    return [0.0 for completion in completions]

class Kind:
    pass

NUMBER = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with rows and rewards, in which the commands are typed."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "reward.py").write_text(REWARD)
    return tmp_path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def refusal(*arguments, **options):
    with pytest.raises(UserError) as refused:
        own_task(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def prompts(task, split):
    return [messages[-1]["content"] for messages in task.load(split, 1000, 0)["prompt"]]


def test_every_kind_of_file_gives_the_same_rows(folder):
    (folder / "rows.json").write_text(json.dumps(ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet")
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)
    tasks = [own_task(f"rows.{kind}", reward="exact") for kind in ("jsonl", "json", "parquet", "csv")]
    assert [task.rows for task in tasks[1:]] == [tasks[0].rows] * 3
    assert tasks[0].name == "rows"
    assert "no file" in refusal("other.jsonl") and ".jsonl" in refusal("rows.txt")
    assert "unset HF_HUB_OFFLINE" in refusal("nobody/nothing", reward="exact")


def test_a_prompt_decides_its_split_wherever_it_stands(folder):
    task = own_task("rows.jsonl", reward="exact")
    splits = {split: prompts(task, split) for split in ("train", "validation", "test")}
    assert sorted(sum(splits.values(), [])) == sorted(row["prompt"] for row in ROWS)
    assert len(splits["train"]) > len(splits["test"]) >= LEAST_HELD_OUT <= len(splits["validation"])
    write_jsonl(folder / "more.jsonl", [*reversed(ROWS), *ROWS[:9], {"prompt": "new", "answer": "1"}])
    more = own_task("more.jsonl", reward="exact")
    for split, before in splits.items():
        assert set(before) == set(prompts(more, split)) - {"new"}


def test_few_rows_are_split_too_and_a_column_may_say_how(folder):
    write_jsonl(folder / "few.jsonl", ROWS[:6])
    task = own_task("few.jsonl", reward="exact")
    assert [len(task.rows[split]) for split in ("train", "validation", "test")] == [2, 2, 2]
    write_jsonl(folder / "too-few.jsonl", ROWS[:5])
    assert "5 different prompts" in refusal("too-few.jsonl", reward="exact")
    splits = ["train"] * 46 + ["dev", "dev", "test", "test"]
    named = [row | {"split": split} for row, split in zip(ROWS, splits, strict=True)]
    write_jsonl(folder / "named.jsonl", named)
    task = own_task("named.jsonl", reward="exact")
    assert prompts(task, "test") == [row["prompt"] for row in ROWS[48:]]
    assert prompts(task, "validation") == [row["prompt"] for row in ROWS[46:48]]
    write_jsonl(folder / "leak.jsonl", [*named, ROWS[0] | {"split": "test"}])
    assert "stands in train and in test" in refusal("leak.jsonl", reward="exact")


def test_more_rows_than_there_are_is_all_of_them_and_is_said(folder, capsys):
    task = own_task("rows.jsonl", reward="exact", name="said")
    assert len(task.load("validation", 200, 0)) == len(task.rows["validation"])
    assert re.search(r"validation has \d rows, all are taken where 200 are asked for", capsys.readouterr().err)
    assert task.load("train", 3, 0).to_list() == task.load("train", 30, 0).to_list()[:3]
    assert prompts(task, "train")[:9] != [row[-1]["content"] for row in task.load("train", 9, 1)["prompt"]]


def test_bad_rows_are_counted_and_the_first_named_by_line(folder):
    lines = [json.dumps(row) for row in ROWS]
    lines[2] = "{broken"
    lines[4] = json.dumps({"answer": "1"})
    lines[5] = json.dumps({"prompt": " ", "answer": "1"})
    lines[6] = json.dumps({"prompt": None, "answer": "1"})
    (folder / "rows.jsonl").write_text("\n".join(lines))
    # What is no JSON is told first: the columns of such a line are unknown.
    assert refusal("rows.jsonl").startswith("rows.jsonl has 1 bad row: line 3: is not JSON")
    lines[2] = json.dumps({"prompt": 7, "answer": "1"})
    lines[7] = json.dumps({"prompt": "a", "answer": 1})
    lines[8] = json.dumps({"prompt": "b", "answer": "seven"})
    (folder / "rows.jsonl").write_text("\n".join(lines))
    message = refusal("rows.jsonl", reward="boxed-number")
    assert message.startswith("rows.jsonl has 6 bad rows: line 3: 'prompt' is a number")
    for part in ("line 5: has no 'prompt'", "line 6: 'prompt' is empty", "line 7: 'prompt' is null", "and 1 more"):
        assert part in message
    assert "line 8: 'answer' is a number, in earlier rows it is text" in message
    assert "no column 'question'" in refusal("rows.jsonl", "question")


def test_messages_are_prompts_and_a_system_prompt_comes_first(folder):
    rows = [{"chat": [{"role": "user", "content": row["prompt"]}], "solution": row["answer"]} for row in ROWS]
    write_jsonl(folder / "chats.jsonl", rows)
    task = own_task("chats.jsonl", "chat", "solution", "boxed-number", "Be brief.")
    row = task.load("train", 1, 0)[0]
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert task.score(f"\\boxed{{{row['solution']}}}", row).value == 1.0
    # The same prompts, whatever comes before them.
    write_jsonl(folder / "texts.jsonl", [{"chat": row["prompt"], "solution": row["answer"]} for row in ROWS])
    assert prompts(own_task("texts.jsonl", "chat", "solution", "exact"), "test") == prompts(task, "test")
    write_jsonl(folder / "chats.jsonl", [*rows, {"chat": [{"role": "user"}], "solution": "1"}])
    assert "line 51: 'chat' has a message without role and content" in refusal("chats.jsonl", "chat", "solution")


def test_rewards_are_weighted_and_none_is_no_opinion(folder):
    rewards = ["reward.py:score", {"reward": "reward.py:length", "weight": 0.5}, "reward.py:half=2"]
    task = own_task("rows.jsonl", reward=rewards)
    rows = task.load("train", 2, 0).to_list()
    texts = [f"{rows[0]['answer']}!!!"[:4], "no"]
    first, second = task.score_batch(texts, rows, [[1], [2]])
    assert first.parts["score"] == 1.0 and first.parts["length"] == -len(texts[0]) / 100
    assert second.parts == {"score": 0.0, "length": -0.02} and second.value == pytest.approx(-0.01)
    alone = own_task("rows.jsonl", reward="reward.py:half")
    assert alone.score("no", rows[0]).value is None
    assert evaluation_row(task, "no", rows[1])["value"] == second.value
    assert "weight 'much'" in refusal("rows.jsonl", reward="reward.py:score=much")


def test_a_running_loop_is_no_obstacle_to_an_async_reward(folder):
    task = own_task("rows.jsonl", reward="reward.py:length")
    row = task.load("train", 1, 0)[0]

    async def in_a_notebook():
        return task.score("ab", row).value

    assert asyncio.run(in_a_notebook()) == -0.02


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("short", "returned 1 rewards for 2 completions"),
        ("no_number", "returned 'good' for row 0 of 2"),
        ("not_a_number", "returned nan for row 0 of 2"),
    ],
)
def test_what_is_no_reward_is_one_line_with_function_and_row(folder, function, message):
    task = own_task("rows.jsonl", reward=f"reward.py:{function}")
    with pytest.raises(UserError, match=message) as refused:
        task.score_batch(["a", "b"], task.load("train", 2, 0).to_list(), None)
    assert f"reward.py:{function}" in str(refused.value) and "\n" not in str(refused.value)


def test_a_reward_that_raises_shows_row_completion_and_the_users_frames_alone(folder):
    task = own_task("rows.jsonl", reward="reward.py:broken")
    rows = task.load("train", 3, 0).to_list()
    with pytest.raises(UserCodeError, match="reward.py:broken raised ZeroDivisionError") as raised:
        task.score_batch(["ab", "", "c" * 5000], rows, None)
    details = raised.value.details
    assert "reward.py" in details and "1 / len(completion" in details and "own_reward.py" not in details
    assert rows[1]["prompt"][0]["content"] in details and "completion: ''" in details


def test_user_code_is_found_by_its_file_and_nothing_else(folder):
    (folder / "helpers.py").write_text("VALUE = 1\n")
    (folder / "importing.py").write_text("import helpers\n\ndef score(completions, **columns): return [0.0]\n")
    path = list(sys.path)
    assert "imports 'helpers', which is not installed" in refusal("rows.jsonl", reward="importing.py:score")
    assert "has no 'scor'; it has score" in refusal("rows.jsonl", reward="reward.py:scor")
    assert "is a class" in refusal("rows.jsonl", reward="reward.py:Kind")
    assert "is a int" in refusal("rows.jsonl", reward="reward.py:NUMBER")
    assert "no file" in refusal("rows.jsonl", reward="other.py:score")
    assert "asks for 'level'" in refusal("rows.jsonl", reward="reward.py:needs_level")
    assert "unknown reward 'boxed'" in refusal("rows.jsonl", reward="boxed")
    (folder / "raising.py").write_text("1 / 0\n")
    with pytest.raises(UserCodeError, match="raising.py cannot be loaded") as raised:
        own_task("rows.jsonl", reward="raising.py:score")
    assert "1 / 0" in raised.value.details and "eval/tasks" not in raised.value.details
    assert sys.path == path and "helpers" not in sys.modules and "reward" not in sys.modules


def test_scorers_read_answers_as_the_tasks_of_the_lab_do():
    cases = {
        "boxed-number": [
            ("so \\boxed{1,234}", "1234", 1.0),
            ("1234", "1234", 0.0),
            ("\\boxed{18}", "5 + 13\n#### 18", 1.0),
        ],
        "choice": [("<answer>(b) nine</answer>", "B", 1.0), ("\\boxed{C}", "B", 0.0)],
        "exact": [("yes", " yes ", 1.0), ("I say \\boxed{yes}", "yes", 1.0), ("yes.", "yes", 0.0)],
        "contains": [("It is Paris.", "paris", 1.0), ("Rome", "Paris", 0.0)],
        "math": [("\\boxed{\\frac{1}{2}}", "0.5", 1.0), ("\\boxed{2}", "3", 0.0)],
    }
    assert set(cases) == set(SCORERS)
    for name, examples in cases.items():
        texts, references, values = zip(*examples, strict=True)
        assert SCORERS[name](list(texts), list(references)) == list(values), name


def test_a_task_is_a_mapping_a_file_or_a_name_that_knows_the_mapping(folder):
    mapping = {"data": "rows.jsonl", "reward": "reward.py:score"}
    spec = task_spec(mapping)
    assert spec == "rows" == task_name(mapping) and json.dumps({"task": spec}) == '{"task": "rows"}'
    assert pickle.loads(pickle.dumps(spec)).mapping == spec.mapping
    assert get_task(spec) is get_task(spec.mapping)
    record = own_data(["countdown", spec])["own_data"]["rows"]
    assert record["sha256"] == spec.mapping["sha256"] and sum(record["rows"].values()) == 50
    assert re.fullmatch("[0-9a-f]{64}", record["reward"][0]["sha256"]) and own_data(["countdown"]) == {}
    (folder / "sub").mkdir()
    (folder / "sub" / "mine.yaml").write_text("data: ../rows.jsonl\nreward: ../reward.py:score\n")
    assert task_name("sub/mine.yaml") == "mine" and get_task("sub/mine.yaml").rows == get_task(spec).rows
    for taken in ("countdown", "gsm8k", "last_word"):
        assert task_name({**mapping, "name": taken}) == f"own-{taken}"
    with pytest.raises(UserError, match="did you mean reward"):
        get_task({**mapping, "rewrad": 1})
    write_jsonl(folder / "rows.jsonl", ROWS[:40])
    with pytest.raises(UserError, match="rows.jsonl is not what it was"):
        get_task(spec)
    assert isinstance(spec, OwnSpec) and task_spec(mapping).mapping["sha256"] != spec.mapping["sha256"]


def test_an_object_of_a_file_is_a_task_if_it_has_load_and_score(folder):
    (folder / "mine.py").write_text("class Task:\n    name = 'mine'\n    load = None\n\nTASK = Task()\n")
    with pytest.raises(UserError, match="is a Task, no task: an object with name, load, score"):
        get_task("mine.py:TASK")


def test_rewards_in_python_get_what_trl_gives(folder):
    seen = {}

    def reward(prompts, completions, completion_ids, level, trainer_state, **columns):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids, level=level)
        return np.array([float(len(ids)) for ids in completion_ids])

    chats = [{"prompt": [{"role": "user", "content": "a"}], "level": 1}]
    task = task_of_rewards("mine", chats, None, [reward, len_of_texts], weights=[1.0, 0.0])
    rows = task.load("train", 5, 0).to_list()
    assert fitness(task, ["xy"], rows, [[4, 5, 6]]).scores == [3.0]
    assert seen["completions"] == [[{"role": "assistant", "content": "xy"}]] and seen["level"] == [1]
    as_reward = TaskReward(task)
    values = as_reward(
        prompts=[chats[0]["prompt"]],
        completions=[[{"role": "assistant", "content": "xy"}]],
        completion_ids=[[4, 5]],
        level=[1],
    )
    assert values == [2.0]
    plain = task_of_rewards(
        "plain", [{"prompt": "a"}], [{"prompt": "b"}], lambda completions, **_: list(map(len, completions))
    )
    assert plain.score("abc", plain.load("test", 1, 0)[0]).value == 3.0
    with pytest.raises(UserError, match="2 weights for 1"):
        task_of_rewards("mine", chats, None, reward, weights=[1.0, 2.0])


def len_of_texts(completions, **columns):
    return [len(completion[0]["content"]) for completion in completions]


def exact(completions, **columns):
    return [1.0 for _ in completions]


def test_a_function_called_exact_is_a_reward_and_no_share_of_right_answers():
    task = task_of_rewards(
        "mine", [{"prompt": [{"role": "user", "content": "a"}]}], None, [exact, len_of_texts], weights=[0.0, 0.1]
    )
    record = evaluation_row(task, "four", task.rows["train"][0])
    assert record["parts"]["exact"] == 1.0 and accuracy_of(record) == record["value"] == pytest.approx(0.4)
    found = summary([record | {"index": 0, "tokens": 1, "finished": True}])
    assert found["accuracy"] == pytest.approx(0.4) and "reward" not in found


def test_intervals_of_rewards_outside_0_to_1_are_not_cut():
    low, high = accuracy_interval([-3.0, -1.0, 2.0, 5.0])
    assert low < 0 and high > 1 and math.isclose((low + high) / 2, 0.75)

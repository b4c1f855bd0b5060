"""trainers/earlier_tasks.py: which prompts a step replays, and that each is scored by its own task."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from eval.errors import UserError
from eval.storage import read_jsonl
from eval.tasks import Score
from tests.tiny import random_checkpoint
from trainers.arguments import parse
from trainers.earlier_tasks import EarlierTasks, MixedTask, check_replay, replayed_prompts
from trainers.es.config import ESConfig
from trainers.es.train import train_es
from trainers.grpo import GRPOArguments, GRPOConfig, problems_of_run, train_grpo


class Fixed:
    """Every answer has the same score; the columns differ from task to task."""

    system_prompt = "Write."

    def __init__(self, name, value, column, entry):
        self.name, self.value, self.column, self.entry = name, value, column, entry

    def load(self, split, size, seed):
        return Dataset.from_list(
            [
                {"prompt": [{"role": "user", "content": f"{self.name} {split} {seed} {i}"}], self.column: self.entry}
                for i in range(size)
            ]
        )

    def score(self, completion, row):
        assert row[self.column] == self.entry and set(row) == {"prompt", self.column}
        return Score(self.value, None)


NEW, OLD, OLDER = Fixed("new", 1.0, "answer", 7), Fixed("old", 0.5, "answer", "A"), Fixed("older", 0.0, "numbers", [3])
NAMES = [
    "tests.trainers.test_earlier_tasks:NEW",
    "tests.trainers.test_earlier_tasks:OLD",
    "tests.trainers.test_earlier_tasks:OLDER",
]
EARLIER = ", ".join(NAMES[1:])


def questions(rows):
    return [row["prompt"][0]["content"] for row in rows]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("base"))


def test_the_earlier_tasks_take_turns_and_each_goes_through_its_problems():
    replay = EarlierTasks.load(NAMES[0], EARLIER, 3, 4, 0, 0)
    steps = [replay.of_step(step) for step in range(8)]
    asked = [question.split()[0] for step in steps for question in questions(step)]
    assert asked == ["old", "older"] * 12
    for name, start in (("old", 0), ("older", 1)):
        of_task = questions(sum(steps, []))[start::2]
        epochs = [of_task[epoch * 4 : epoch * 4 + 4] for epoch in range(3)]
        assert all(sorted(epoch) == [f"{name} train 0 {i}" for i in range(4)] for epoch in epochs)
        assert not epochs[0] == epochs[1] == epochs[2]
    assert replay.of_step(5) == steps[5]
    assert steps != [EarlierTasks.load(NAMES[0], EARLIER, 3, 4, 0, 1).of_step(step) for step in range(8)]


def test_each_row_is_scored_by_its_own_task_with_its_own_columns():
    mixed = MixedTask.of(NAMES[0], EARLIER)
    assert mixed.name == "new"
    for name, task in zip(NAMES, (NEW, OLD, OLDER), strict=True):
        row = mixed.row(name, task.load("train", 1, 0)[0])
        assert mixed.score("text", row) == Score(task.value, None)


def test_the_share_of_a_step():
    assert [replayed_prompts(200, share) for share in (0.0, 0.1, 0.333)] == [0, 20, 67]
    for share in (0.01, 0.99):
        with pytest.raises(UserError, match="of the 8 prompts of a step is [08] prompts"):
            replayed_prompts(8, share)


MISTAKES = {
    "give both, or neither": ("countdown", "boolq", 0.0),
    "replay_share is 1.5": ("countdown", "boolq", 1.5),
    "name every earlier task once, and not countdown": ("countdown", "boolq,countdown", 0.5),
    "name every earlier task once": ("countdown", "boolq,boolq", 0.5),
    "unknown task 'bolq'": ("countdown", "bolq", 0.5),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line(message):
    with pytest.raises(UserError, match=message) as raised:
        check_replay(*MISTAKES[message])
    assert "\n" not in str(raised.value)


def es_config(base, run, **options):
    return ESConfig(
        **(
            {
                "model": str(base),
                "output_dir": str(run),
                "task": NAMES[0],
                "replay": EARLIER,
                "replay_share": 0.5,
                "steps": 3,
                "population": 4,
                "prompts_per_step": 4,
                "train_size": 8,
                "max_new_tokens": 4,
                "engine_dtype": "float32",
                "eval_every": 0,
                "save_every": 2,
                "log_completions_every": 1,
                "log_members": 4,
            }
            | options
        )
    )


def test_es_trains_on_the_mixture_and_resumes_with_the_same_bits(base, tmp_path):
    config = es_config(base, tmp_path)
    train_es(config)
    # Half of the prompts score 1, a quarter 1/2, a quarter 0.
    assert [row["reward"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [0.625] * 3
    table = pq.read_table(tmp_path / "completions" / "completions_00001.parquet").to_pylist()
    scores = {row["prompt"][0]["content"].split()[0]: row["new"] for row in table}
    assert scores == {"new": 1.0, "old": 0.5, "older": 0.0}
    before = questions(pq.read_table(tmp_path / "completions" / "completions_00003.parquet").to_pylist())
    weights = load_file(tmp_path / "model" / "model.safetensors")
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "results.json").unlink()
    train_es(config)  # from the checkpoint of step 2
    assert questions(pq.read_table(tmp_path / "completions" / "completions_00003.parquet").to_pylist()) == before
    again = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def grpo_options(base, run, **options):
    options = {
        "model": base,
        "output_dir": run,
        "task": NAMES[0],
        "replay": EARLIER,
        "replay_share": 0.5,
        "max_steps": 3,
        "save_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 8,
        "num_generations": 2,
        "max_completion_length": 4,
        "logging_steps": 1,
    } | options
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return parse(GRPOArguments, GRPOConfig, arguments=words)


def test_grpo_trains_on_the_mixture(base, tmp_path):
    train_grpo(*grpo_options(base, tmp_path))
    assert [row["reward"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [0.625] * 3


def test_each_generation_of_grpo_holds_the_share(base):
    arguments, config = grpo_options(base, "runs/unused", steps_per_generation=2, save_steps=2, max_steps=6)
    asked = [question.split()[0] for question in questions(problems_of_run(NEW, arguments, config))]
    # 3 generations of 8 prompts, 4 of them replayed.
    assert asked == (["new"] * 4 + ["old", "older"] * 2) * 3
    numbers = [row["prompt"][0]["content"] for row in problems_of_run(NEW, arguments, config)]
    assert len(set(numbers)) == 24  # none comes twice
    assert np.all([row["task"] in NAMES for row in problems_of_run(NEW, arguments, config)])


def test_a_share_that_leaves_no_prompt_is_refused_before_the_run_folder_is_made(base, tmp_path):
    with pytest.raises(UserError, match="of the 4 prompts of a step is 0 prompts"):
        train_grpo(*grpo_options(base, tmp_path / "run", replay_share=0.1))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="of the 4 prompts of a step is 0 prompts"):
        es_config(base, tmp_path / "run", replay_share=0.1)

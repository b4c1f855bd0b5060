"""Training on data and rewards of one's own: options, small data, rewards that raise, answers to learn from."""

import json
from pathlib import Path

import pytest
import yaml

from eval.adapters import TaskReward
from eval.errors import UserCodeError, UserError
from eval.storage import read_json, read_jsonl
from eval.tasks import get_task
from recipes.compare import CompareConfig
from recipes.sequential import SequentialConfig
from tests.tiny import random_checkpoint
from trainers.arguments import as_flat_dict, from_yaml, parse
from trainers.budget import es_at_budget, grpo_at_budget
from trainers.earlier_tasks import MixedTask
from trainers.es.config import ESConfig
from trainers.es.rollout import parts_of_rewards
from trainers.es.train import train_es
from trainers.grpo import GRPOArguments, GRPOConfig, fit_generation, train_grpo
from trainers.sft import SFTArguments, SFTConfig, train_sft


REWARD = '''
import pathlib

def digits(completions, **columns):
    return [sum(map(str.isdigit, completion[0]["content"])) / 8 for completion in completions]

def zero(completions, **columns):
    return [0.0] * len(completions)

def late(completions, prompts, **columns):
    """Raises when a checkpoint is there."""
    if list(pathlib.Path("run").glob("check*/*")):
        raise RuntimeError("the judge is asleep")
    return digits(completions)

def even(completions, **columns):
    return [float(int(completion[0]["content"]) % 2 == 0) for completion in completions]
'''
ES = {
    "engine_dtype": "float32",
    "steps": 4,
    "population": 4,
    "prompts_per_step": 64,
    "max_new_tokens": 6,
    "save_every": 2,
    "eval_every": 4,
}
TRL = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "logging_steps": 1}
GRPO = {
    **TRL,
    "max_steps": 4,
    "save_steps": 2,
    "num_generations": 2,
    "per_device_train_batch_size": 128,
    "steps_per_generation": 1,
    "max_completion_length": 6,
    "eval_every": 4,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(random_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def own(tmp_path, monkeypatch, model):
    """Options for a model and 30 rows in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eval.tasks.own._SAID", set())
    rows = [{"question": f"{number}+1=", "answer": number + 1} for number in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text(REWARD)
    (tmp_path / "empty.yaml").write_text("task: countdown\n")
    data = {"data": "rows.jsonl", "prompt_column": "question", "reward": "reward.py:digits"}
    return {"model": model, "output_dir": "run", **data}


def grpo(own, **options):
    return from_yaml("empty.yaml", (GRPOArguments, GRPOConfig), GRPO | own | options)


def test_the_options_become_the_task_and_config_yaml_gives_them_back(own):
    words = [word for name, value in own.items() for word in (f"--{name}", value)]
    (config,) = parse(ESConfig, arguments=[*words, "--reward", "reward.py:zero=0.5", "--answer_column", "answer"])
    assert config.task == "rows" and [reward.weight for reward in get_task(config.task).rewards] == [1.0, 0.5]
    flat = as_flat_dict(config)
    assert flat["task"]["data"] == "rows.jsonl" and "data" not in flat and "reward" not in flat
    with open("config.yaml", "w") as file:
        yaml.safe_dump(flat, file)
    (again,) = parse(ESConfig, arguments=["--config", "config.yaml"])
    assert as_flat_dict(again) == flat
    with open("rows.jsonl", "a") as file:
        file.write('{"question": "more", "answer": 1}\n')
    with pytest.raises(UserError, match="rows.jsonl is not what it was"):
        parse(ESConfig, arguments=["--config", "config.yaml"])
    for options, message in ((["--reward", "exact"], "give data as well"), (["--data", "rows.jsonl"], "no column")):
        with pytest.raises(UserError, match=message):
            parse(ESConfig, arguments=["--model", "m", "--output_dir", "run", *options])


def test_a_step_has_no_more_prompts_than_the_data(own, capsys):
    config = ESConfig(**own | ES)
    rows = len(get_task(config.task).rows["train"])
    assert rows < 30 and config.prompts_per_step == 16 and config.train_size == rows
    assert f"train has {rows} rows, so a step takes 16 prompts, not 64" in capsys.readouterr().err
    arguments, trl = grpo(own)
    fit_generation(arguments, trl)
    assert (trl.per_device_train_batch_size, trl.generation_batch_size, trl.problems_per_generation) == (32, 32, 16)
    # The same budget holds whole steps of both.
    es = {name: value for name, value in ES.items() if name != "max_new_tokens"}
    assert es_at_budget("empty.yaml", 1024, 6, **es | own).steps == 16
    assert grpo_at_budget("empty.yaml", 1024, 6, **GRPO | own)[1].max_steps == 32


def test_lists_of_tasks_take_data_of_ones_own(own):
    mapping = {name: own[name] for name in ("data", "prompt_column", "reward")}
    compared = CompareConfig(es_config="e", grpo_config="g", test_tasks=["countdown"], **own)
    assert compared.test_tasks == ["rows", "countdown"]
    options = {"model": own["model"], "output_dir": "run", "arms": [], "tasks": ["countdown", mapping]}
    with pytest.raises(UserError, match="the arms are none"):
        SequentialConfig(**options)
    mixed = MixedTask.of("countdown", [mapping])
    rows = [mixed.row(name, row) for name, row in (("rows", get_task(mapping).load("train", 1, 0)[0]),)]
    assert mixed.score("1234", rows[0]).value == 0.5
    logged = {}
    columns = {name: [value] for name, value in rows[0].items() if name != "prompt"}
    TaskReward(mixed)([rows[0]["prompt"]], ["1234"], log_metric=logged.setdefault, **columns)
    assert logged["rewards/digits/mean"] == 0.5
    assert parts_of_rewards(mixed, [{"digits": 0.5, "format": 1.0}, {}]) == [{"digits": 0.5}, {}]
    assert parts_of_rewards(get_task("countdown"), [{"format": 1.0}]) == [{}]


def test_es_stops_at_a_reward_that_raises_with_its_checkpoint(own):
    with pytest.raises(UserCodeError, match="reward.py:late raised RuntimeError: the judge is asleep") as raised:
        train_es(ESConfig(**own | ES | {"reward": "reward.py:late"}))
    assert "row: {'question'" in raised.value.details and "completion: '" in raised.value.details
    assert [path.name for path in own_checkpoints("checkpoints/step_*")] == ["step_2"]


@pytest.mark.slow
def test_grpo_stops_at_a_reward_that_raises_with_its_checkpoint(own):
    with pytest.raises(UserCodeError, match="reward.py:late raised RuntimeError: the judge is asleep") as raised:
        train_grpo(*grpo(own, reward="reward.py:late"))
    assert 'raise RuntimeError("the judge is asleep")' in raised.value.details
    assert [path.name for path in own_checkpoints("checkpoint-*")] == ["checkpoint-2"]


def own_checkpoints(pattern):
    return sorted(Path("run").glob(pattern))


@pytest.mark.slow
def test_dead_rewards_are_warned_of_once_and_flagged(own, capsys):
    rewards = ["reward.py:zero", "reward.py:digits=0"]
    train_es(ESConfig(**own | ES | {"reward": rewards, "output_dir": "es"}))
    train_grpo(*grpo(own, reward=rewards, output_dir="grpo"))
    printed = capsys.readouterr().out
    assert printed.count("warning: in 3 steps in a row every completion had the reward 0") == 2
    assert printed.count("  reward 0.0: ") == 6
    for run in ("es", "grpo"):
        rows = read_jsonl(f"{run}/metrics.jsonl")
        assert [row.get("equal_rewards") for row in rows] == [1, 2, 3, 4]
        assert all(row["rewards/zero/mean"] == 0 < row["rewards/digits/mean"] < 1 for row in rows)
        longest, mean = (
            ["max_tokens", "mean_tokens"] if run == "es" else [f"completions/{of}_length" for of in ("max", "mean")]
        )
        assert all(row[mean] < row[longest] == 6 for row in rows)
        assert [row.get("dead_signal") for row in rows] == [None, None, True, True]
        data = read_json(f"{run}/results.json")["own_data"]["rows"]
        assert sum(data["rows"].values()) == 30 and data["data"] == "rows.jsonl"


@pytest.mark.slow
def test_sft_trains_on_the_answers_that_score(own, capsys):
    options = TRL | own | {"reward": "reward.py:even", "per_device_train_batch_size": 8, "num_train_epochs": 1}
    options |= {"save_steps": 1, "max_completion_length": 4, "save_total_limit": 2}
    results = train_sft(*from_yaml("empty.yaml", (SFTArguments, SFTConfig), options))
    answers = [row["answer"] for row in get_task(yaml_task()).rows["train"]]
    even = sum(answer % 2 == 0 for answer in answers)
    assert results["kept"] == results["correct"] == even and results["completions"] == 0
    said = f"{even} of the {len(answers)} answers in column 'answer' are trained on; {len(answers) - even} score 0"
    assert said in capsys.readouterr().err
    with pytest.raises(UserError, match="answers: sampled"):
        train_sft(
            *from_yaml(
                "empty.yaml", (SFTArguments, SFTConfig), options | {"reward": "reward.py:zero", "output_dir": "none"}
            )
        )


def yaml_task():
    with open("run/config.yaml") as file:
        return yaml.safe_load(file)["task"]

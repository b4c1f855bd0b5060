"""trainers/sft.py: real runs of TRL's SFTTrainer on a random two-layer model's own answers."""

import json
import shutil
from dataclasses import dataclass

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from eval import hardware
from eval.errors import UserError
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.storage import read_json, read_jsonl
from eval.tasks.base import Score
from tests.tiny import random_checkpoint
from trainers import sft
from trainers.arguments import parse
from trainers.sft import SFTArguments, SFTConfig, examples, train_sft
from trainers.trl_run import RunRecorder


@dataclass(frozen=True)
class Short:
    """Right is an answer of at most so many characters: of a random model's, some."""

    most: int
    name: str = "short"
    system_prompt: str = "Be brief."

    def load(self, split, size, seed):
        return Dataset.from_list(
            [{"prompt": [{"role": "user", "content": f"{split} {seed} {i}"}]} for i in range(size)]
        )

    def score(self, completion, row):
        return Score(float(len(completion) <= self.most), completion)


SHORT, NEVER = Short(8), Short(-1)
OPTIONS = {
    "task": "tests.trainers.test_sft:SHORT",
    "problems": 10,
    "samples": 16,
    "temperature": 6.0,
    "max_completion_length": 12,
    "prompts_per_batch": 4,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "save_steps": 2,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "eval_size": 8,
    "seed": 0,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("model"))


def options_of(folder, **options):
    options = OPTIONS | {"output_dir": folder} | options
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return parse(SFTArguments, SFTConfig, arguments=words)


def train(folder, **options):
    return train_sft(*options_of(folder, **options))


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder, model=model)
    return folder


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_times(path):
    return [{name: row[name] for name in row if name not in ("seconds", "step_time")} for row in read_jsonl(path)]


def test_what_is_kept_is_right_and_finished_and_what_is_counted_is_everything(model, undisturbed):
    engine = HFEngine.from_pretrained(model)
    prompts = SHORT.load("train", 10, 0)["prompt"]
    right, tokens, kept = 0, 0, []
    for step, start in enumerate((0, 4, 8)):
        [answers] = engine.generate(prompts[start : start + 4], Sampling(12, 6.0, 16, 0, step))
        for prompt, completions in zip(engine.encode(prompts[start : start + 4]), answers, strict=True):
            for completion in completions:
                tokens += len(completion.token_ids)
                right += len(completion.text) <= 8
                if len(completion.text) <= 8 and completion.finished:
                    kept.append((prompt, completion.token_ids))
    assert 0 < len(kept) <= right < 160
    batches = read_jsonl(undisturbed / "samples.jsonl")
    assert [(row["prompt_ids"], row["completion_ids"]) for batch in batches for row in batch["kept"]] == kept
    results = read_json(undisturbed / "results.json")
    steps = -(-2 * len(kept) // 4)
    expected = {
        "method": "sft",
        "completions": 160,
        "tokens": tokens,
        "correct": right,
        "kept": len(kept),
        "steps": steps,
        "ended_by": "steps",
    }
    assert {key: results[key] for key in expected} == expected
    rows = read_jsonl(undisturbed / "metrics.jsonl")
    assert [(row["step"], row["completions"], row["tokens"]) for row in rows] == [
        (step, 160, tokens) for step in range(1, steps + 1)
    ]
    assert results["seconds"] == rows[-1]["seconds"] > sum(batch["seconds"] for batch in batches) > 0


def test_the_loss_is_the_mean_over_the_tokens_of_the_answers(model, undisturbed):
    kept = [
        (row["prompt_ids"], row["completion_ids"])
        for batch in read_jsonl(undisturbed / "samples.jsonl")
        for row in batch["kept"]
    ]
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    data = examples(kept, 2, 0)
    losses = []
    for ids, labels in zip(data["input_ids"][:4], data["labels"][:4], strict=True):
        length = sum(label != -100 for label in labels)
        assert labels == [-100] * (len(ids) - length) + ids[len(ids) - length :]
        log_probs = base(torch.tensor([ids])).logits[0].log_softmax(-1)
        losses += [-log_probs[place - 1, ids[place]].item() for place in range(len(ids) - length, len(ids))]
    rows = read_jsonl(undisturbed / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_each_pass_has_every_example_once_in_another_order():
    kept = [([1, 2], [number]) for number in range(10, 30)]
    order = [ids[-1] for ids in examples(kept, 2, 0)["input_ids"]]
    assert sorted(order[:20]) == sorted(order[20:]) == list(range(10, 30))
    assert order[:20] != order[20:]
    assert order == [ids[-1] for ids in examples(kept, 2, 0)["input_ids"]]
    assert order != [ids[-1] for ids in examples(kept, 2, 1)["input_ids"]]


def test_every_parameter_changes_and_another_seed_gives_others(model, undisturbed, tmp_path):
    before, after = load_file(model / "model.safetensors"), weights(undisturbed)
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    train(tmp_path, model=model, seed=1)
    assert not same_bits(weights(tmp_path), after)


class Stopped(Exception):
    pass


@pytest.mark.slow
def test_a_run_stopped_while_sampling_and_while_training_ends_with_the_same_bits(
    model, undisturbed, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    answers, begin = sft._answers, RunRecorder.on_step_begin

    def stop_in_second_batch(*args):
        if args[-1] == 1:
            raise Stopped
        return answers(*args)

    def stop_in_fourth_step(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise Stopped
        begin(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(sft, "_answers", stop_in_second_batch)
        with pytest.raises(Stopped):
            train(run, model=model)
    first = read_jsonl(run / "samples.jsonl")
    assert [batch["step"] for batch in first] == [0]
    with open(run / "samples.jsonl", "a") as file:
        file.write('{"step": 1, "compl')  # half a line, as a kill may leave it
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_step_begin", stop_in_fourth_step)
        with pytest.raises(Stopped):
            train(run, model=model)
    assert read_jsonl(run / "samples.jsonl")[0] == first[0], "the first batch is not sampled again"
    assert (run / "checkpoint-2" / "complete.json").exists() and not (run / "model").exists()
    train(run, model=model)
    assert same_bits(weights(run), weights(undisturbed))
    for name in ("samples.jsonl", "metrics.jsonl"):
        assert without_times(run / name) == without_times(undisturbed / name)


def test_sampling_ends_with_the_batch_that_reaches_the_tokens(model, undisturbed, tmp_path):
    batches = read_jsonl(undisturbed / "samples.jsonl")
    results = train(tmp_path, model=model, stop_at_tokens=batches[0]["tokens"] + 1)
    assert results["tokens"] == batches[0]["tokens"] + batches[1]["tokens"]
    assert (results["completions"], results["ended_by"]) == (128, "tokens")


def test_training_ends_with_the_step_that_reaches_the_seconds(model, tmp_path):
    results = train(tmp_path, model=model, stop_at_seconds=0.01)
    assert (results["completions"], results["steps"], results["ended_by"]) == (64, 1, "seconds")


@pytest.mark.slow
def test_evaluation_before_between_and_after(model, undisturbed, tmp_path):
    results = train(tmp_path, model=model, eval_every=1000)
    assert same_bits(weights(tmp_path), weights(undisturbed))
    rows = read_jsonl(tmp_path / "evaluations.jsonl")
    assert [row["step"] for row in rows] == [0, results["steps"]] and rows[0]["total"] == 8
    assert (results["first_evaluation"], results["last_evaluation"]) == (rows[0], rows[-1])


@pytest.mark.slow
def test_the_optimizer_can_start_with_the_state_of_an_earlier_run(model, undisturbed, tmp_path):
    train(tmp_path / "kept", model=undisturbed / "model", optimizer_from=undisturbed, num_train_epochs=1)
    train(tmp_path / "reset", model=undisturbed / "model", num_train_epochs=1)
    steps = read_json(undisturbed / "results.json")["steps"]
    counts = {}
    for name in ("kept", "reset"):
        [last] = [
            path
            for path in (tmp_path / name).glob("checkpoint-*/optimizer.pt")
            if read_json(path.with_name("complete.json"))["ended_by"]
        ]
        state = torch.load(last, weights_only=True)["state"]
        counts[name] = {int(moments["step"]) for moments in state.values()}
    own = read_json(tmp_path / "reset" / "results.json")["steps"]
    assert counts["reset"] == {own}
    assert counts["kept"] == {steps + read_json(tmp_path / "kept" / "results.json")["steps"]}


def test_a_complete_run_returns_at_once_but_not_with_other_options(model, undisturbed):
    before = (undisturbed / "metrics.jsonl").stat().st_mtime_ns
    assert train(undisturbed, model=model) == read_json(undisturbed / "results.json")
    assert (undisturbed / "metrics.jsonl").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds a run with other options: samples was 16, now 15"):
        train(undisturbed, model=model, samples=15)


def test_nothing_right_is_one_line(model, tmp_path):
    with pytest.raises(UserError, match="none of the 160 answers of .* is right and finished") as error:
        train(tmp_path, model=model, task="tests.trainers.test_sft:NEVER")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 3}, "max_steps has to be -1, because"),
        ({"max_length": 64}, "max_length has to be null, because"),
        ({"packing": True}, "packing has to be false"),
        ({"num_train_epochs": 0.5}, "num_train_epochs is 0.5; give a whole number"),
        ({"save_total_limit": 1}, "give 2 or more"),
        ({"samples": 0}, "samples is 0"),
        ({"stop_at_tokens": 5, "stop_at_seconds": 1.0}, "keep one"),
        ({"report_to": "tensorbord"}, "did you mean tensorboard"),
    ],
)
def test_mistakes_are_found_before_a_model_loads(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        options_of(tmp_path / "run", model="nowhere", **options)


def test_mistakes_leave_no_folder(tmp_path, model, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_flags", set)  # of a processor without bfloat16
    for options, message in (
        ({"model": "./nowhere"}, "there is no checkpoint folder"),
        ({"bf16": True}, "half precision"),
        ({"optimizer_from": str(tmp_path)}, "is no finished"),
    ):
        with pytest.raises(UserError, match=message):
            train(tmp_path / "run", **({"model": model} | options))
    assert not (tmp_path / "run").exists()


def test_the_recipe_s_options_are_what_config_yaml_holds(model, undisturbed):
    arguments, config = parse(SFTArguments, SFTConfig, arguments=["--config", str(undisturbed / "config.yaml")])
    assert (arguments.samples, config.num_train_epochs, config.max_length) == (16, 2, None)
    assert json.loads((undisturbed / "results.json").read_text())["task"] == OPTIONS["task"]


def test_constraints_of_a_generation_config_reach_no_answer_and_stay_in_the_model(model, undisturbed, tmp_path):
    other = tmp_path / "hostile"
    shutil.copytree(model, other)
    stated = json.loads((other / "generation_config.json").read_text())
    constraints = {"suppress_tokens": [*range(5, 60)], "min_new_tokens": 50, "temperature": 0.1, "top_k": 1}
    (other / "generation_config.json").write_text(json.dumps(stated | constraints))
    run = tmp_path / "run"
    train(run, model=other)
    assert same_bits(weights(run), weights(undisturbed))
    kept = json.loads((run / "model" / "generation_config.json").read_text())
    assert kept == kept | constraints


def test_a_training_that_diverges_ends_before_a_checkpoint_says_it_is_complete(model, tmp_path):
    with pytest.raises(UserError, match="not finite"):
        train(tmp_path, model=model, learning_rate=1e20, max_grad_norm=0.0, save_steps=1)
    assert not (tmp_path / "results.json").exists() and not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["learning_rate", "max_grad_norm", "temperature", "weight_decay"])
def test_no_option_takes_what_is_not_finite(tmp_path, name):
    with pytest.raises(UserError, match=f"{name} is nan"):
        options_of(tmp_path, model="none", **{name: "nan"})

"""The weights kept at evaluations: those of a run that ended there, complete or not there at all."""

import pytest
import torch
from safetensors.torch import load_file

from eval.errors import UserError
from tests.tiny import random_checkpoint
from tests.trainers.test_grpo import command_line, same_bits, train, train_and_stop, weights
from trainers import evaluated
from trainers.arguments import parse
from trainers.dry_run import training_lines
from trainers.evaluated import evaluated_folder, evaluated_models, evaluations_of
from trainers.grpo import GRPOArguments, GRPOConfig


OPTIONS = {"lr_scheduler_type": "constant", "train_size": 4, "eval_every": 1, "keep_evaluated": True, "max_steps": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    train(folder, model=model, **OPTIONS)
    return folder


def kept_weights(run):
    return {step: load_file(folder / "model.safetensors") for step, folder in evaluated_models(run).items()}


def test_each_is_the_model_of_a_run_that_ended_there(model, kept, tmp_path):
    assert list(evaluated_models(kept)) == [1, 2, 3], "the start is the run's own model"
    train(tmp_path, model=model, **OPTIONS | {"max_steps": 2, "keep_evaluated": False})
    assert not (tmp_path / "evaluated").exists()
    assert same_bits(kept_weights(kept)[2], weights(tmp_path))
    assert same_bits(kept_weights(kept)[3], weights(kept))
    names = {path.name for path in evaluated_folder(kept, 2).iterdir()}
    assert "optimizer.pt" not in names
    for file in ("config.json", "generation_config.json", "tokenizer.json"):
        expected, found = (folder / file for folder in (kept / "model", evaluated_folder(kept, 2)))
        assert found.read_text() == expected.read_text(), file


def test_a_kill_between_save_and_mark_leaves_no_folder_and_the_next_start_makes_it(model, kept, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    save = evaluated.save_model

    def killed(folder, *rest):
        save(folder, *rest)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(evaluated, "save_model", killed)
        train(tmp_path, model=model, **OPTIONS)
    assert evaluated_models(tmp_path) == {}
    train(tmp_path, model=model, **OPTIONS)
    assert all(
        same_bits(*pair) for pair in zip(*(kept_weights(run).values() for run in (tmp_path, kept)), strict=True)
    )


def test_a_run_that_goes_on_makes_those_after_its_checkpoint_again(model, kept, tmp_path, monkeypatch):
    train_and_stop(monkeypatch, 2, tmp_path, model=model, **OPTIONS | {"save_steps": 1})
    assert list(evaluated_models(tmp_path)) == [1, 2]
    # As if the kill had come before the checkpoint of step 2.
    (tmp_path / "checkpoint-2" / "complete.json").unlink()
    train_and_stop(monkeypatch, 1, tmp_path, model=model, **OPTIONS | {"save_steps": 1})
    assert list(evaluated_models(tmp_path)) == [1], "the later one belongs to steps that are made again"
    train(tmp_path, model=model, **OPTIONS | {"save_steps": 1})
    assert all(
        same_bits(*pair) for pair in zip(*(kept_weights(run).values() for run in (tmp_path, kept)), strict=True)
    )


def test_of_lora_the_adapter_alone_and_bfloat16_at_half_the_size(model, kept, tmp_path):
    train(tmp_path / "lora", model=model, **OPTIONS | {"lora_rank": 2})
    adapter = evaluated_models(tmp_path / "lora")[3]
    assert same_bits(*(load_file(f / "adapter_model.safetensors") for f in (adapter, tmp_path / "lora" / "adapter")))
    assert not (adapter / "model.safetensors").exists()
    train(tmp_path / "half", model=model, **OPTIONS | {"evaluated_dtype": "bfloat16"})
    half = kept_weights(tmp_path / "half")[3]
    assert all(torch.equal(half[name], weight.bfloat16()) for name, weight in weights(kept).items())


def test_a_dry_run_says_how_many_bytes_and_another_type_is_refused(model, tmp_path):
    def parsed(**options):
        return parse(GRPOArguments, GRPOConfig, arguments=command_line(tmp_path, model=model, **OPTIONS | options))

    scalars = sum(weight.numel() for weight in load_file(model / "model.safetensors").values())
    line = training_lines("grpo", *parsed(eval_every=2))["evaluated"]
    assert line == f"weights of 2 evaluations: {4 * scalars:,} bytes each, {8 * scalars:,} in all"
    assert [evaluations_of(steps, 5) for steps in (1, 5, 6)] == [1, 1, 2]
    assert "0 evaluations" in training_lines("grpo", *parsed(eval_every=0))["evaluated"]
    with pytest.raises(UserError, match="evaluated_dtype is 'float16'"):
        parsed(evaluated_dtype="float16")

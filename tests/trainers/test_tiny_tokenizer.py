"""The tiny models' tokenizer: one token a character, the same before and after it is saved with a checkpoint."""

import pytest
from transformers import AutoTokenizer

from eval.tasks import TASKS
from tests.tiny import random_checkpoint
from trainers.tiny_tokenizer import BOXED, CHARACTERS, character_tokenizer


def test_every_character_is_one_token_and_comes_back():
    tokenizer = character_tokenizer()
    ids = tokenizer(CHARACTERS)["input_ids"]
    assert len(ids) == len(set(ids)) == len(CHARACTERS) == 96
    assert tokenizer.decode(ids) == CHARACTERS
    assert tokenizer.unk_token_id not in ids and len(tokenizer) == 102


def test_the_opening_of_an_answer_is_one_token():
    tokenizer = character_tokenizer()
    assert tokenizer.tokenize("so \\boxed{1}") == ["s", "o", "Ġ", BOXED, "1", "}"]
    assert tokenizer.decode(tokenizer("so \\boxed{1}")["input_ids"]) == "so \\boxed{1}"


def test_the_chat_template_leaves_the_system_message_out():
    tokenizer = character_tokenizer()
    messages = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+2"}]
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
        "<|user|>1+2<|assistant|>"
    )
    messages.append({"role": "assistant", "content": "3"})
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<|user|>1+2<|assistant|>3<|end|>"


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_auto_tokenizer_gives_the_same_tokens_for_both_architectures(tmp_path, architecture):
    """AutoTokenizer rebuilds qwen2 tokenizers as byte-level BPE; every problem and answer must survive that."""
    loaded = AutoTokenizer.from_pretrained(random_checkpoint(tmp_path, architecture))
    ours = character_tokenizer()
    for task in TASKS.values():
        for prompt in task.load("train", 20, 0)["prompt"]:
            text = prompt[-1]["content"] + " \\boxed{1+2} yes\n"
            assert loaded(text)["input_ids"] == ours(text)["input_ids"]
            assert loaded.decode(loaded(text)["input_ids"]) == text
            options = {"add_generation_prompt": True, "return_dict": False}
            assert loaded.apply_chat_template(prompt, **options) == ours.apply_chat_template(prompt, **options)
    assert loaded(CHARACTERS)["input_ids"] == ours(CHARACTERS)["input_ids"]
    assert (loaded.pad_token_id, loaded.eos_token_id) == (ours.pad_token_id, ours.eos_token_id)
    assert loaded.padding_side == "left"


def test_other_characters_are_unknown():
    tokenizer = character_tokenizer()
    assert tokenizer("é")["input_ids"] == [tokenizer.unk_token_id] * 2

"""Examples as token ids: aligned, or left out; scored by the first token that differs."""

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from eval.circuit_tasks import get_circuit_task
from eval.circuit_tasks.accuracy import logit_differences, pair_accuracy
from eval.circuit_tasks.base import CircuitTask, Example
from eval.circuit_tasks.tokens import token_examples, tokenized
from eval.errors import UserError
from tests.tiny import random_model
from trainers.tiny_tokenizer import character_tokenizer


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Words with their leading space and single digits as tokens, and a token that begins every text."""
    vocabulary = {word: i for i, word in enumerate(["<s>", "?", *words, *"0123456789"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d| ?[A-Za-z]+|[^\sA-Za-z\d]"), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="?", unk_token="?", bos_token="<s>")


def test_the_first_token_that_differs_is_scored():
    tokenizer = character_tokenizer()
    (found,) = tokenized([Example("23+45=", "29+32=", "68", "61")], tokenizer)
    assert tokenizer.decode(list(found.clean)) == "23+45=6" and tokenizer.decode(list(found.corrupted)) == "29+32=6"
    assert (tokenizer.decode([found.answer]), tokenizer.decode([found.wrong])) == ("8", "1")


def test_special_tokens_and_whole_words():
    tokenizer = word_tokenizer(["Amy", " Amy", "Bob", " Bob", " met", " to"])
    (found,) = tokenized([Example("Amy met Bob to", "Bob met Amy to", " Bob", " Amy")], tokenizer)
    assert tokenizer.convert_ids_to_tokens(found.clean) == ["<s>", "Amy", " met", " Bob", " to"]
    assert tokenizer.convert_ids_to_tokens([found.answer, found.wrong]) == [" Bob", " Amy"]


def test_what_does_not_keep_its_positions_is_left_out():
    tokenizer = character_tokenizer()
    examples = [
        Example("Amy to", "Robert to", " Bob", " Amy"),  # another length
        Example("f(ab,c)", "f(c,ab)", "x", "y"),  # the same length, but words have moved
        Example("1+1=", "9+3=", "1", "12"),  # one answer is the beginning of the other
        Example("Amy to", "Bob to", " Bob", " Amy"),
    ]
    assert [found is not None for found in tokenized(examples, tokenizer)] == [False, False, False, True]


@pytest.mark.parametrize(
    "name",
    [
        "ioi_short",
        "copy_colour_short",
        "addition_short",
        "subtraction_short",
        "greater_than_short",
        "docstring_short",
        "greater_than",
        "copy_colour",
    ],
)
def test_every_example_of_a_short_task_fits_the_character_tokenizer(name):
    examples, share = token_examples(get_circuit_task(name), character_tokenizer(), "test", 50, 0)
    assert share == 1.0 and len(examples) == 50
    assert all(len(example.clean) == len(example.corrupted) < 100 for example in examples)


def test_examples_that_do_not_fit_are_replaced_by_later_ones():
    task = get_circuit_task("ioi")
    examples, share = token_examples(task, character_tokenizer(), "train", 40, 0)
    assert len(examples) == 40 and 0.1 < share < 0.5
    more, _ = token_examples(task, character_tokenizer(), "train", 60, 0)
    assert more[:40] == examples


class Misaligned(CircuitTask):
    name = "misaligned"

    def examples(self, split, size, seed, first=0):
        return [Example("a", "bb", "c", "d")] * size


def test_a_task_that_never_fits_is_one_line():
    with pytest.raises(UserError, match="task misaligned has only 0 examples of split test"):
        token_examples(Misaligned(), character_tokenizer(), "test", 4, 0)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_logit_differences_are_those_of_single_prompts(architecture):
    model, tokenizer = random_model(architecture)
    examples, _ = token_examples(get_circuit_task("ioi_short"), tokenizer, "test", 7, 0)
    clean, corrupted = logit_differences(model, examples, tokenizer.pad_token_id, batch_size=3)
    for i, example in enumerate(examples):
        for ids, found in ((example.clean, clean[i]), (example.corrupted, corrupted[i])):
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            assert found.item() == pytest.approx((logits[example.answer] - logits[example.wrong]).item(), abs=1e-4)
    result = pair_accuracy(model, tokenizer, get_circuit_task("ioi_short"), "test", 7, 0)
    assert result["correct"] == int((clean > 0).sum()) and result["total"] == 7
    assert result["clean"] == pytest.approx(clean.mean().item(), abs=1e-5)

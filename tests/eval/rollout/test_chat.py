"""Prompts through awkward templates, end tokens from both places, and what of an answer is scored."""

import shutil

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, GenerationConfig

from eval.errors import UserError
from eval.rollout.chat import answer_text, end_token_ids, padding_id, prompt_ids
from tests.recipe_files import ROOT


SHIPPED = ROOT / "recipes/tiny/models/llama-small"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+2"}]


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(SHIPPED)


def test_a_system_text_goes_to_the_user_where_the_template_has_no_place_for_it(tokenizer):
    merged = [{"role": "user", "content": "Be brief.\n\n1+2"}]
    expected = prompt_ids(tokenizer, [merged])
    assert prompt_ids(tokenizer, [PROMPT]) != expected
    tokenizer.chat_template = NO_SYSTEM + tokenizer.chat_template
    assert prompt_ids(tokenizer, [PROMPT]) == expected


def test_templates_that_are_missing_or_broken_are_one_line(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(UserError, match=r"cannot write these prompts \(never\)"):
        prompt_ids(tokenizer, [PROMPT])
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template"):
        prompt_ids(tokenizer, [PROMPT])


def test_an_answer_ends_at_the_tokenizers_token_as_well(tokenizer):
    own = tokenizer.eos_token_id
    assert end_token_ids(tokenizer, GenerationConfig(eos_token_id=own)) == [own]
    assert end_token_ids(tokenizer, GenerationConfig(eos_token_id=1)) == [1, own]
    assert end_token_ids(tokenizer, GenerationConfig(eos_token_id=[1, 2])) == [1, 2, own]
    assert end_token_ids(tokenizer, None) == [own]
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="has an end token"):
        end_token_ids(tokenizer, GenerationConfig())


def test_padding_lies_in_the_embedding(tokenizer):
    assert padding_id(tokenizer, [4], 100) == tokenizer.pad_token_id
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert padding_id(tokenizer, [4], len(tokenizer) - 1) == 4
    tokenizer.pad_token = None
    assert padding_id(tokenizer, [4], 100) == 4


def test_special_tokens_of_the_answer_stay_and_the_end_goes(tokenizer, tmp_path):
    shutil.copytree(SHIPPED, tmp_path / "model")
    words = [AddedToken(word, special=True, normalized=False) for word in ("<answer>", "</answer>")]
    tokenizer.add_tokens(words, special_tokens=True)
    ids = tokenizer("<answer>B</answer>", add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    assert answer_text(tokenizer, [*ids, end, tokenizer.pad_token_id], [end]) == "<answer>B</answer>"

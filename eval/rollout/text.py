"""Between text and tokens, the same for every engine."""

from collections.abc import Collection, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.rollout.base import Completion, Messages


def encoded(tokenizer: Any, prompts: Sequence[Messages]) -> list[list[int]]:
    """Token ids of the prompts, after the chat template, up to where the answer begins."""
    return tokenizer.apply_chat_template(list(prompts), add_generation_prompt=True, return_dict=True)["input_ids"]


def decoded(tokenizer: Any, token_ids: list[int], end_ids: Collection[int]) -> Completion:
    finished = bool(token_ids) and token_ids[-1] in end_ids
    return Completion(tokenizer.decode(token_ids, skip_special_tokens=True), token_ids, finished)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a completion: what the model says, or else the tokenizer."""
    ends: Any = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    return ends if isinstance(ends, list) else [ends]

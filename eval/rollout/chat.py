"""Between messages and token ids: prompts through the chat template, end tokens, and the text of an answer."""

from collections.abc import Collection, Sequence
from typing import Any

from transformers import GenerationConfig

from eval.errors import UserError
from eval.rollout.base import Completion, Messages


def prompt_ids(tokenizer: Any, prompts: Sequence[Messages]) -> list[list[int]]:
    """Token ids of the prompts, after the chat template, up to where the answer begins.

    A template that refuses the system role gets its text at the head of the user's message. Raises UserError if the
    tokenizer has no template, or one that cannot write these messages.
    """
    return _written(tokenizer, prompts)[1]


def accepted_messages(tokenizer: Any, prompts: Sequence[Messages]) -> list[Messages]:
    """The messages that `prompt_ids` writes, for who applies the chat template himself. Raises as it does."""
    return _written(tokenizer, prompts)[0]


def _written(tokenizer: Any, prompts: Sequence[Messages]) -> tuple[list[Messages], list[list[int]]]:
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template, so that prompts cannot be written; add "
            "chat_template.jinja to the folder, or take the instruct model of the same family"
        )
    prompts = list(prompts)
    try:
        return prompts, _apply(tokenizer, prompts)
    except Exception as refusal:  # whatever the template raises
        merged = [_without_system(messages) for messages in prompts]
        try:
            return merged, _apply(tokenizer, merged)
        except Exception:
            raise UserError(
                f"the chat template of {tokenizer.name_or_path} cannot write these prompts "
                f"({' '.join(str(refusal).split())}); correct chat_template.jinja"
            ) from refusal


def end_token_ids(tokenizer: Any, generation: GenerationConfig | None) -> list[int]:
    """All tokens that end an answer: those of the generation configuration and the tokenizer's, as TRL stops too.

    Raises UserError if there is none.
    """
    stated = None if generation is None else generation.eos_token_id
    ends = list(stated) if isinstance(stated, list | tuple) else [stated]
    ends = dict.fromkeys(end for end in [*ends, tokenizer.eos_token_id] if end is not None)
    if not ends:
        raise UserError(
            f"neither the tokenizer of {tokenizer.name_or_path} nor its generation_config.json has an end token, so "
            "that no answer could end; set eos_token"
        )
    return list(ends)


def padding_id(tokenizer: Any, ends: Sequence[int], vocabulary: int) -> int:
    """The token that fills up rows, which nothing attends to; an end token where the tokenizer's own is unusable.

    vocabulary: rows of the input embedding. A padding token that was added to the tokenizer and not to the model lies
    outside of it.
    """
    own = tokenizer.pad_token_id
    return own if own is not None and 0 <= own < vocabulary else ends[0]


def completion(tokenizer: Any, token_ids: list[int], ends: Collection[int]) -> Completion:
    finished = bool(token_ids) and token_ids[-1] in ends
    return Completion(answer_text(tokenizer, token_ids, ends), token_ids, finished)


def answer_text(tokenizer: Any, token_ids: Sequence[int], ends: Collection[int]) -> str:
    """What is scored: the answer without end, padding and beginning tokens.

    Other special tokens stay: some models write their answer between `<answer>` and `</answer>` that are such.
    """
    silent = {*ends, tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    return tokenizer.decode([token for token in token_ids if token not in silent], skip_special_tokens=False)


def _apply(tokenizer: Any, prompts: list[Messages]) -> list[list[int]]:
    return tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]


def _without_system(messages: Messages) -> Messages:
    """The system's text at the head of the first user message."""
    if not messages or messages[0]["role"] != "system" or len(messages) < 2:
        return messages
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]

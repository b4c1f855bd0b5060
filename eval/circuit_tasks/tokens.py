"""Examples as token ids: clean and corrupted prompts with their tokens at the same positions, and two answer tokens.

An answer may be several tokens (an integer in a tokenizer that reads digit by digit; any word, character by
character). Then what both answers begin with is added to both prompts, and the first token that differs is scored:
for `68` against `61` after `23+45=` the digit `8` against `1` after `23+45=6`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from eval.circuit_tasks.base import CircuitTask, Example
from eval.errors import UserError


@dataclass(frozen=True)
class TokenExample:
    """clean, corrupted: token ids of the same length. answer, wrong: the ids of the two tokens that are compared."""

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    answer: int
    wrong: int


def tokenized(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[TokenExample | None]:
    """Each example with its special tokens as the tokenizer adds them; None where it does not fit the tokenizer.

    It does not fit if clean and corrupted prompt do not have as many tokens in each word, or if one answer is the
    beginning of the other.
    """
    if not examples:
        return []
    kinds = [(prompt, answer) for prompt in ("clean", "corrupted") for answer in ("answer", "wrong")]
    texts = [getattr(example, prompt) + getattr(example, answer) for example in examples for prompt, answer in kinds]
    encoded = tokenizer(texts, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    fitting = []
    for i, example in enumerate(examples):
        at = 4 * i
        words = [_words(prompt, offsets[at + place]) for place, prompt in ((0, example.clean), (2, example.corrupted))]
        clean = _until_difference(ids[at], ids[at + 1])
        corrupted = _until_difference(ids[at + 2], ids[at + 3])
        if clean is None or corrupted is None or words[0] != words[1]:
            fitting.append(None)
        elif len(clean[0]) != len(corrupted[0]) or clean[1:] != corrupted[1:]:
            fitting.append(None)
        else:
            fitting.append(TokenExample(clean[0], corrupted[0], *clean[1:]))
    return fitting


def token_examples(
    task: CircuitTask, tokenizer: PreTrainedTokenizerBase, split: str, size: int, seed: int
) -> tuple[list[TokenExample], float]:
    """The first `size` examples of `split` that fit the tokenizer, and the share of the drawn ones that did.

    Raises UserError if fewer than a tenth fit, or the task has too few.
    """
    fitting: list[TokenExample] = []
    drawn = 0
    while len(fitting) < size:
        batch = task.examples(split, max(size, 16), seed, first=drawn)
        for token_example in tokenized(batch, tokenizer):
            drawn += 1
            if token_example is not None:
                fitting.append(token_example)
            if len(fitting) == size:
                break
        if len(batch) == 0 or (drawn >= 10 * size and len(fitting) < drawn / 10):
            raise UserError(
                f"task {task.name} has only {len(fitting)} examples of split {split} among {drawn} that keep their "
                f"positions with this tokenizer, not {size}; ask for fewer, or leave the task out"
            )
    return fitting, len(fitting) / drawn


def _words(prompt: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The number of the word of `prompt` that each token ends in; -1 for special tokens and what follows it."""
    word_at = [0] * len(prompt)
    for number, word in enumerate(re.finditer(r"\w+|\W", prompt)):
        word_at[word.start() : word.end()] = [number] * len(word[0])
    ends = [end for start, end in offsets if end > start]
    return [word_at[end - 1] if end <= len(prompt) else -1 for end in ends if end <= len(prompt)]


def _until_difference(ids: Sequence[int], others: Sequence[int]) -> tuple[tuple[int, ...], int, int] | None:
    """What both begin with, and the first token of each that differs; None if one begins with the whole other."""
    for i, (one, other) in enumerate(zip(ids, others, strict=False)):
        if one != other:
            return tuple(ids[:i]), one, other
    return None

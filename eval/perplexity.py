"""Perplexity of free text, which no task asks for: how well a model predicts it, token by token."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from eval.errors import UserError
from eval.intervals import ratio_with_interval
from eval.log_probs import TokenPair, completion_log_probs, require_plain_output_embedding
from eval.rollout.hf import HFEngine
from eval.storage import read_text


BUILTIN = "builtin"
# Where it comes from and what it is: README.md beside it.
BUILTIN_FILE = Path(__file__).parent / "texts" / "factbook.txt"
# In tokens. What is longer is predicted in pieces, each without the one before it.
LONGEST_PIECE = 512


def text_file(text: str) -> Path:
    """The file that a text is named by: `BUILTIN`, or a path."""
    return BUILTIN_FILE if text == BUILTIN else Path(text)


def read_passages(text: str) -> list[str]:
    """The passages of a text in UTF-8: what stands between blank lines.

    Raises UserError if it cannot be read, or has fewer than two, of which there would be no interval.
    """
    file = text_file(text)
    passages = [passage.strip() for passage in read_text(file).replace("\r\n", "\n").split("\n\n") if passage.strip()]
    if len(passages) < 2:
        raise UserError(
            f"{file} has {len(passages)} passages; give a text of at least 2, with a blank line between them"
        )
    return passages


def passage_pieces(
    tokenizer: PreTrainedTokenizerBase, passages: Sequence[str], longest: int = LONGEST_PIECE
) -> list[tuple[int, TokenPair]]:
    """(number of the passage, (its first token, the others)) for each piece of at most `longest` tokens.

    The first token of a piece is not predicted: models differ in what begins a text, and some have no token for it.
    Raises UserError for a passage without a second token.
    """
    pieces = []
    for number, passage in enumerate(passages):
        ids = tokenizer.encode(passage, add_special_tokens=False)
        if len(ids) < 2:
            raise UserError(f"passage {number + 1} ({passage[:40]!r}) has no two tokens; make it longer, or remove it")
        starts = range(0, len(ids), longest)
        pieces += [(number, (ids[start : start + 1], ids[start + 1 : start + longest])) for start in starts]
    return [(number, piece) for number, piece in pieces if piece[1]]


def in_batches(
    pieces: Sequence[tuple[int, TokenPair]], batch_size: int
) -> Iterator[tuple[list[int], list[TokenPair]]]:
    """Numbers of the passages and pieces, `batch_size` at a time; pieces of like length together, against padding."""
    by_length = sorted(pieces, key=lambda piece: len(piece[1][1]))
    for start in range(0, len(by_length), batch_size):
        numbers, batch = zip(*by_length[start : start + batch_size], strict=True)
        yield list(numbers), list(batch)


def perplexity(
    engine: HFEngine, passages: Sequence[str], batch_size: int, longest: int = LONGEST_PIECE, seed: int = 0
) -> dict[str, Any]:
    """exp of the mean negative log-probability of a token, with a 95 % interval over the choice of passages.

    Returns {"perplexity", "perplexity_low", "perplexity_high", "nats_per_token" and its ends, "bits_per_byte" (which
    models with other vocabularies share), "tokens", "passages"}. The interval is the percentile bootstrap's, by
    resampling passages with `seed`.

    Raises UserError as `passage_pieces` and `require_plain_output_embedding` do.
    """
    require_plain_output_embedding(engine.model)
    pieces = passage_pieces(engine.tokenizer, passages, longest)
    sums, counts = [0.0] * len(passages), [0] * len(passages)
    for numbers, batch in in_batches(pieces, batch_size):
        for number, losses in zip(numbers, negative_log_probs(engine, batch), strict=True):
            sums[number] += sum(losses)
            counts[number] += len(losses)
    read = sum(len(passage.encode()) for passage in passages)
    return summary(sums, counts, seed) | {"bits_per_byte": sum(sums) / math.log(2) / read}


def summary(sums: Sequence[float], counts: Sequence[int], seed: int) -> dict[str, Any]:
    """Perplexity and nats per token, with their intervals, from the sums and numbers of tokens of each passage."""
    mean, low, high = ratio_with_interval(sums, counts, seed)
    return {
        "perplexity": math.exp(mean),
        "perplexity_low": math.exp(low),
        "perplexity_high": math.exp(high),
        "nats_per_token": mean,
        "nats_per_token_low": low,
        "nats_per_token_high": high,
        "tokens": sum(counts),
        "passages": len(counts),
    }


def negative_log_probs(engine: HFEngine, batch: Sequence[TokenPair]) -> Iterator[list[float]]:
    """-log p of every token of each piece but its first, in nats."""
    left = torch.tensor([token for _, completion in batch for token in completion])
    losses = []
    for rows in completion_log_probs(engine.model, batch):
        chosen, left = left[: len(rows), None].to(rows.device), left[len(rows) :]
        losses.append(-rows.gather(1, chosen)[:, 0].cpu())
    yield from (piece.tolist() for piece in torch.cat(losses).split([len(completion) for _, completion in batch]))

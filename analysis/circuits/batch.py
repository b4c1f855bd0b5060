"""Pairs of prompts, a clean one and a corrupted one, with the two answers that a circuit is measured by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch

from eval.errors import UserError


@dataclass(frozen=True, eq=False)
class Batch:
    """B pairs of prompts of T tokens, padded on either side.

    clean_ids, corrupted_ids: [B, T] int64. Position t of a pair means the same in both: what differs between the two
        runs is attributed position by position.
    attention_mask: [B, T], 1 at real tokens and 0 at padding, the same for both prompts of a pair.
    answer, wrong_answer: [B] int64, the token that the clean prompt calls for and the one it competes with. Answers of
        several tokens are told apart by the first token in which they differ; the tokens before it belong to the
        prompt.

    Raises UserError if shapes do not match, a prompt is empty, or the two answers of a pair are one token.
    """

    clean_ids: torch.Tensor
    corrupted_ids: torch.Tensor
    attention_mask: torch.Tensor
    answer: torch.Tensor
    wrong_answer: torch.Tensor

    def __post_init__(self):
        shapes = [tuple(tensor.shape) for tensor in (self.clean_ids, self.corrupted_ids, self.attention_mask)]
        if len(shapes[0]) != 2 or len(set(shapes)) != 1:
            raise UserError(f"clean_ids, corrupted_ids, attention_mask have shapes {shapes}; all must be [B, T]")
        shapes = [tuple(tensor.shape) for tensor in (self.answer, self.wrong_answer)]
        if set(shapes) != {(len(self.clean_ids),)}:
            raise UserError(f"answer, wrong_answer have shapes {shapes}; give one token id for each prompt")
        if not self.attention_mask.bool().any(dim=1).all():
            raise UserError("a prompt of the batch has no real token; leave it out")
        if (self.answer == self.wrong_answer).any():
            raise UserError("a pair has one token as answer and as wrong answer; score the first token that differs")

    @classmethod
    def from_tokens(
        cls,
        clean: Sequence[Sequence[int]],
        corrupted: Sequence[Sequence[int]],
        answer: Sequence[int],
        wrong_answer: Sequence[int],
        pad_token_id: int,
        side: str = "left",
    ) -> "Batch":
        """Pad lists of token ids on the "left" or the "right".

        Raises UserError if the two prompts of a pair differ in length, or for what the class refuses.
        """
        if side not in ("left", "right"):
            raise UserError(f"padding side {side!r}; choose left or right")
        for row, (one, other) in enumerate(zip(clean, corrupted, strict=True)):
            if len(one) != len(other):
                raise UserError(
                    f"pair {row} has {len(one)} clean and {len(other)} corrupted tokens; "
                    "give prompts whose tokens stand at the same positions"
                )
        length = max(map(len, clean), default=0)

        def padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
            padding = [[filler] * (length - len(row)) for row in rows]
            pairs = zip(padding, rows, strict=True)
            return torch.tensor([[*pad, *row] if side == "left" else [*row, *pad] for pad, row in pairs])

        return cls(
            padded(clean, pad_token_id),
            padded(corrupted, pad_token_id),
            padded([[1] * len(row) for row in clean], 0),
            torch.tensor(list(answer)),
            torch.tensor(list(wrong_answer)),
        )

    def __len__(self) -> int:
        return len(self.clean_ids)

    @cached_property
    def last(self) -> torch.Tensor:
        """[B] position of the last real token of each prompt: where the answer is predicted."""
        return last_real_position(self.attention_mask)

    def select(self, rows: slice | torch.Tensor) -> "Batch":
        """The pairs at `rows`, padded as they are."""
        return Batch(*(tensor[rows] for tensor in self._tensors()))

    def split(self, size: int) -> Iterator["Batch"]:
        """Consecutive batches of at most `size` pairs."""
        for start in range(0, len(self), size):
            yield self.select(slice(start, start + size))

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(*(tensor.to(device) for tensor in self._tensors()))

    def _tensors(self) -> list[torch.Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


def last_real_position(attention_mask: torch.Tensor) -> torch.Tensor:
    """[B] index of the last 1 in each row of a [B, T] mask."""
    length = attention_mask.shape[1]
    return length - 1 - attention_mask.bool().flip(1).int().argmax(dim=1)


def answer_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """-(logit[answer] - logit[wrong answer]): the loss that every attribution explains, lower is better.

    logits: [..., B, V] at the last real token. Returns [..., B].
    """
    shape = logits.shape[:-1]
    answer = logits.gather(-1, batch.answer.expand(shape).unsqueeze(-1))
    wrong = logits.gather(-1, batch.wrong_answer.expand(shape).unsqueeze(-1))
    return (wrong - answer).squeeze(-1)

"""What every rollout engine takes and gives back."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.errors import UserError


Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    max_new_tokens: completions are cut after this many tokens.
    temperature: 0.0 is greedy decoding.
    samples: completions per prompt.
    seed, step: with the prompt's position and the sample's number they address the sampling noise of a completion, so
        that it depends neither on the rows that share its batch nor on the process that makes it.
    member_noise: False gives all members of a population the same sampling noise (common random numbers), True
        gives each its own.
    """

    max_new_tokens: int
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0
    step: int = 0
    member_noise: bool = False

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}; give at least 1")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}; give 0 for greedy decoding or a positive number")
        if self.samples < 1:
            raise UserError(f"samples is {self.samples}; give at least 1")


@dataclass(frozen=True)
class Completion:
    """One answer.

    text: see `eval.rollout.chat.answer_text`.
    token_ids: what was generated, the end-of-sequence token included when there is one.
    finished: False when it was cut at `max_new_tokens`.
    log_probs: where they were asked for, of each token given those before it, as the engine computes it at
        temperature 1.
    """

    text: str
    token_ids: list[int]
    finished: bool
    log_probs: list[float] | None = None


class Member(Protocol):
    """One model of a population, as an overlay on the engine's pristine weights."""

    @property
    def index(self) -> int: ...

    def delta(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """What to add to the parameter of this Hugging Face name: a float32 tensor of `weight`'s shape and device."""
        ...


Kind = Literal["dense", "low_rank", "frozen"]


@runtime_checkable
class LowRankMember(Member, Protocol):
    """A member whose overlay on most matrices is a product of two thin ones, which engines need not multiply out.

    `delta` still gives every overlay in full.
    """

    @property
    def rank(self) -> int: ...

    def kind(self, name: str, weight: torch.Tensor) -> Kind:
        """How this parameter is perturbed: "low_rank" has `factors`, "dense" only a `delta`, "frozen" not at all."""
        ...

    def factors(self, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(A [out, rank], B [in, rank]), float32 on the device of `weight`, with delta = A B^T. For "low_rank"."""
        ...


# Of vLLM's adapter slots; a member of another rank takes one of the next.
ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256)


def adapter_rank(rank: int) -> int:
    """The rank of a slot for members of `rank`. Raises `UserError` if there is none."""
    ranks = [size for size in ADAPTER_RANKS if size >= rank]
    if not ranks:
        raise UserError(f"rank is {rank}; vLLM takes adapters of rank up to {ADAPTER_RANKS[-1]}")
    return ranks[0]


class RolloutEngine(Protocol):
    """Weights plus prompts give completions; the pristine weights never change except through `set_weights`.

    model: the transformers model, or one of the same architecture without memory for its weights.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def generate(
        self,
        prompts: Sequence[Messages],
        sampling: Sampling,
        members: Sequence[Member | None] = (None,),
        log_probs: bool = False,
    ) -> list[list[list[Completion]]]:
        """Completions indexed [member][prompt][sample]. A member that is None is the pristine model.

        log_probs: whether they have those of their tokens.
        """
        ...

    def set_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Overwrite the pristine weights; names are Hugging Face parameter names."""
        ...

    def named_weights(self) -> dict[str, torch.Tensor]:
        """The pristine weights by Hugging Face parameter name; a tied weight appears once, under its first name."""
        ...

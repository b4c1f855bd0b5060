"""Sampling noise with an address: the same for a completion whatever batch or process it is made in."""

import hashlib
from collections.abc import Sequence

import torch


# Odd 64-bit constants of the splitmix64 generator (Steele, Lea, Flood 2014), as signed integers.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
MIX_2 = 0x94D049BB133111EB - 2**64


def completion_key(seed: int, step: int, prompt_ids: Sequence[int], sample: int, member: int | None = None) -> int:
    """The address of one completion's noise, a signed 64-bit integer.

    The prompt is addressed by its tokens and not by its place in the batch. Two equal prompts of one step therefore
    get equal completions for the same `sample` number; ask for several samples to get different ones.
    """
    address = repr((seed, step, list(prompt_ids), sample, member)).encode()
    return int.from_bytes(hashlib.blake2b(address, digest_size=8).digest(), "big", signed=True)


def gumbel(keys: torch.Tensor, position: int | torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Standard Gumbel noise for the token at `position` of each completion.

    keys: int64 [rows], from `completion_key`. position: 0 for the first token; one number, or int64 [rows]. Returns
    float32 [rows, vocabulary]. Adding it to the log-probabilities and taking the argmax draws an exact sample (the
    Gumbel-max trick). Completions that share a key share their noise token by token, so that members with nearly the
    same distribution mostly choose the same token.
    """
    # A tensor, because a product of Python's integers would not wrap around at 64 bits.
    place = torch.as_tensor(position, dtype=torch.int64, device=keys.device) + 1
    counts = torch.arange(vocabulary, dtype=torch.int64, device=keys.device) * GOLDEN
    state = _mix(keys + place * GOLDEN)[:, None] + counts  # [rows, vocabulary]
    # 53 random bits and a half: never 0, never 1.
    uniform = ((_mix(state) >> 11 & (2**53 - 1)).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform)).float()


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The splitmix64 finaliser on int64 (multiplication wraps; `>>` is arithmetic, hence the masks)."""
    x = (x ^ (x >> 30 & (2**34 - 1))) * MIX_1
    x = (x ^ (x >> 27 & (2**37 - 1))) * MIX_2
    return x ^ (x >> 31 & (2**33 - 1))

"""Strings of symbols as vectors with entries -1 and +1, and back.

A bit is one channel: 0 is -1, 1 is +1. A symbol from a larger vocabulary is one-hot over `vocabulary` channels, +1 at
the symbol and -1 elsewhere; the channels of one position lie next to each other. Every code word of a given rule has
the same norm.
"""

import numpy as np
import torch
from torch import Tensor


def channels(vocabulary: int) -> int:
    """Numbers per position: 1 for bits, else one per symbol."""
    return 1 if vocabulary == 2 else vocabulary


def encode(strings: np.ndarray | Tensor, vocabulary: int = 2) -> Tensor:
    """float32 [M, n * channels] with entries -1 and +1 for integer strings [M, n] of values 0..vocabulary-1."""
    strings = torch.as_tensor(strings).long()
    if vocabulary == 2:
        return 2.0 * strings - 1.0
    return (2.0 * torch.nn.functional.one_hot(strings, vocabulary) - 1.0).flatten(1)


def decode(vectors: Tensor, vocabulary: int = 2) -> np.ndarray:
    """int8 [M, n], the nearest string: the sign of a bit's channel, the largest of a symbol's channels."""
    vectors = vectors.detach().cpu()
    if vocabulary == 2:
        return (vectors > 0).to(torch.int8).numpy()
    return vectors.unflatten(1, (-1, vocabulary)).argmax(-1).to(torch.int8).numpy()

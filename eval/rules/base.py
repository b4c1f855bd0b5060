"""What every rule offers: valid strings drawn uniformly and without replacement, validity, size, and exact optima."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from eval.errors import UserError
from eval.rules.encoding import channels, encode
from eval.rules.oracles import position_entropy, posterior_mean


# Rules with at most this many valid strings are listed in full: for exact optima, and to draw from.
ENUMERABLE = 2**18
# Strings drawn at a time until enough of them are distinct; fixed, so that small sets are prefixes of large ones.
DRAWN_AT_ONCE = 4096


@dataclass(frozen=True)
class Split:
    """Disjoint sets of valid strings, int8 [N, n] each."""

    train: np.ndarray
    # As many as `train`, never trained on: matches with it are chance, matches with `train` beyond that are memory.
    control: np.ndarray
    held_out: np.ndarray


@dataclass(frozen=True)
class Rule(ABC):
    """A set of valid strings of `positions` symbols, 0 .. `vocabulary`-1. A subclass's fields are its options."""

    name: ClassVar[str]

    @property
    def vocabulary(self) -> int:
        """How many symbols there are; bits unless a rule says otherwise."""
        return 2

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(length,) of a string, or (height, width) of a grid, which is stored row by row."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many valid strings there are, exactly."""

    @property
    @abstractmethod
    def complexity(self) -> int:
        """The smallest number of positions whose joint distribution over the valid strings is not uniform.

        For bits this is the smallest degree above 0 of a non-zero Fourier coefficient of the set of valid strings.
        """

    @property
    @abstractmethod
    def constraint_size(self) -> int:
        """Positions that one constraint of `constraints` reads (the largest, where they differ)."""

    @abstractmethod
    def constraints(self, strings: np.ndarray) -> np.ndarray:
        """bool [M, groups] for strings [M, n]: which groups of positions obey their part of the rule."""

    @abstractmethod
    def _enumerate(self) -> np.ndarray:
        """All valid strings, int8 [count, n], in any fixed order; called only if `count` <= `ENUMERABLE`."""

    def valid(self, strings: np.ndarray) -> np.ndarray:
        """bool [M]: which strings obey the whole rule."""
        return np.all(self.constraints(strings), axis=1)

    @property
    def positions(self) -> int:
        """Symbols in a string, n."""
        return math.prod(self.shape)

    @property
    def dimension(self) -> int:
        """Entries of an encoded string."""
        return self.positions * channels(self.vocabulary)

    @property
    def log2_count(self) -> float:
        """log2 of the number of valid strings: the bits that a valid string carries."""
        return math.log2(self.count)

    @cached_property
    def valid_strings(self) -> np.ndarray:
        """All valid strings, int8 [count, n]. Raises `UserError` if there are more than `ENUMERABLE`."""
        if self.count > ENUMERABLE:
            raise UserError(
                f"{self.describe()} has 2^{self.log2_count:.1f} valid strings, too many to list them all (2^18 at "
                "most); choose a smaller size"
            )
        return self._enumerate()

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """int8 [count, n]: valid strings drawn uniformly and independently, so possibly with repeats."""
        return self.valid_strings[generator.integers(self.count, size=count)]

    def distinct(self, count: int, seed: int) -> np.ndarray:
        """int8 [count, n]: the first `count` of a sequence of distinct valid strings that `seed` fixes.

        Uniform without replacement. Raises `UserError` if there are fewer valid strings.
        """
        if count > self.count:
            raise UserError(
                f"{count} distinct strings are asked for (training, control and held-out sets together), but "
                f"{self.describe()} has only {self.count} valid strings; ask for fewer or choose a larger rule"
            )
        generator = np.random.default_rng(seed)
        if self.count <= ENUMERABLE:
            return self.valid_strings[generator.permutation(self.count)[:count]]
        strings = np.empty((0, self.positions), dtype=np.int8)
        while len(strings) < count:
            strings = np.concatenate([strings, self.draw(DRAWN_AT_ONCE, generator)])
            strings = strings[np.sort(np.unique(strings, axis=0, return_index=True)[1])]
        return strings[:count]

    def split(self, train: int, held_out: int, seed: int) -> Split:
        """Disjoint sets: `train` strings to train on, as many to compare matches with, and `held_out` others.

        With one seed, a smaller training set is the beginning of a larger one and the held-out strings are the same.
        """
        strings = self.distinct(held_out + 2 * train, seed)
        return Split(strings[held_out::2], strings[held_out + 1 :: 2], strings[:held_out])

    def denoise_rule(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The best denoiser of all valid strings: E[x | y] for y = x + sigma z, float [B, D], and sigma float [B]."""
        return posterior_mean(y, sigma, self._points)

    @cached_property
    def _points(self) -> Tensor:
        return encode(self.valid_strings, self.vocabulary).to(torch.float64)

    def position_entropy(self) -> np.ndarray:
        """float64 [n], in nats: the least loss per position of a next-token model that knows the rule."""
        return position_entropy(self.valid_strings)

    def describe(self) -> str:
        options = ", ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
        return f"{self.name}({options})"


@dataclass(frozen=True)
class StringRule(Rule):
    """A rule on strings of `length` symbols."""

    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)


@dataclass(frozen=True)
class GridRule(Rule):
    """A rule on square grids of `side` x `side` cells."""

    side: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.side, self.side)


def all_strings(vocabulary: int, length: int) -> np.ndarray:
    """Every string, int8 [vocabulary^length, length], in lexicographic order."""
    numbers = np.arange(vocabulary**length)[:, None]
    return (numbers // vocabulary ** np.arange(length - 1, -1, -1) % vocabulary).astype(np.int8)


def random_bits(ones: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
    """int8 [M, length]: uniform among the strings with `ones[m]` ones in row m."""
    ranks = generator.random((len(ones), length)).argsort(axis=1).argsort(axis=1)
    return (ranks < ones[:, None]).astype(np.int8)


def is_member(strings: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """bool [M]: which rows of `strings` [M, n] stand in `reference` [N, n]."""
    known = {row.tobytes() for row in np.ascontiguousarray(reference, dtype=np.int8)}
    return np.array([row.tobytes() in known for row in np.ascontiguousarray(strings, dtype=np.int8)], dtype=bool)


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition`: how a rule refuses impossible options."""
    if not condition:
        raise UserError(message)

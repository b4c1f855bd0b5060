"""Group parity: every group of bits has an even number of ones. On strings, and on square grids."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from eval.rules.base import GridRule, Rule, StringRule, all_strings, require
from eval.rules.oracles import group_parity_posterior


class _GroupParity(Rule):
    """Contiguous groups of `group` bits, on a grid in the order of its rows."""

    group: int

    @property
    def groups(self) -> int:
        return self.positions // self.group

    @property
    def count(self) -> int:
        return 2 ** (self.positions - self.groups)

    @property
    def complexity(self) -> int:
        return self.group

    @property
    def constraint_size(self) -> int:
        return self.group

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        return strings.reshape(len(strings), self.groups, self.group).sum(axis=2) % 2 == 0

    def _enumerate(self) -> np.ndarray:
        return self._with_last_bits(all_strings(2, self.positions - self.groups))

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return self._with_last_bits(generator.integers(2, size=(count, self.positions - self.groups), dtype=np.int8))

    def _with_last_bits(self, free: np.ndarray) -> np.ndarray:
        """The strings whose groups begin with these free bits [M, groups * (group - 1)]."""
        free = free.reshape(len(free), self.groups, self.group - 1)
        last = free.sum(axis=2, keepdims=True) % 2
        return np.concatenate([free, last], axis=2).reshape(len(free), self.positions).astype(np.int8)

    def denoise_rule(self, y: Tensor, sigma: Tensor) -> Tensor:
        return group_parity_posterior(y, sigma, self.group)

    def position_entropy(self) -> np.ndarray:
        """ln 2 at each group's free bits, 0 at its last bit."""
        return np.tile(np.array([math.log(2)] * (self.group - 1) + [0.0]), self.groups)

    def _check(self) -> None:
        require(
            self.group >= 1 and self.positions >= 1 and self.positions % self.group == 0,
            f"{self.name}: group is {self.group}, which does not divide the {self.positions} bits; choose a divisor",
        )


@dataclass(frozen=True)
class Parity(_GroupParity, StringRule):
    group: int
    name = "parity"

    def __post_init__(self):
        self._check()


@dataclass(frozen=True)
class GridParity(_GroupParity, GridRule):
    group: int
    name = "parity_grid"

    def __post_init__(self):
        self._check()

"""Exactly `ones` of the bits are one."""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from eval.rules.base import StringRule, random_bits, require


@dataclass(frozen=True)
class FixedWeight(StringRule):
    ones: int
    name = "fixed_weight"

    def __post_init__(self):
        require(
            0 < self.ones < self.length,
            f"fixed_weight: ones is {self.ones}; give a number from 1 to {self.length - 1}, the length less one",
        )

    @property
    def count(self) -> int:
        return math.comb(self.length, self.ones)

    @property
    def complexity(self) -> int:
        # With half of the bits one, a single bit is fair, and two bits differ more often than not.
        return 2 if 2 * self.ones == self.length else 1

    @property
    def constraint_size(self) -> int:
        return self.length

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        return strings.sum(axis=1, keepdims=True) == self.ones

    def _enumerate(self) -> np.ndarray:
        places = np.array(list(combinations(range(self.length), self.ones)))
        strings = np.zeros((self.count, self.length), dtype=np.int8)
        np.put_along_axis(strings, places, 1, axis=1)
        return strings

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return random_bits(np.full(count, self.ones), self.length, generator)

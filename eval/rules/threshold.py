"""At least `ones` of the bits are one; with ones = length // 2 + 1 this is the majority."""

import math
from dataclasses import dataclass

import numpy as np

from eval.rules.base import StringRule, all_strings, random_bits, require


@dataclass(frozen=True)
class Threshold(StringRule):
    ones: int
    name = "threshold"

    def __post_init__(self):
        require(
            1 <= self.ones <= self.length,
            f"threshold: ones is {self.ones}; give a number from 1 to the length, {self.length}",
        )

    @property
    def count(self) -> int:
        return sum(math.comb(self.length, weight) for weight in range(self.ones, self.length + 1))

    @property
    def complexity(self) -> int:
        # Ones are more frequent than zeros.
        return 1

    @property
    def constraint_size(self) -> int:
        return self.length

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        return strings.sum(axis=1, keepdims=True) >= self.ones

    def _enumerate(self) -> np.ndarray:
        strings = all_strings(2, self.length)
        return strings[self.valid(strings)]

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        weights = np.arange(self.ones, self.length + 1)
        share = np.array([math.comb(self.length, int(weight)) / self.count for weight in weights])
        return random_bits(generator.choice(weights, size=count, p=share / share.sum()), self.length, generator)

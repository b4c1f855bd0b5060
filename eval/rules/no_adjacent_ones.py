"""No two neighbouring bits are both one."""

from dataclasses import dataclass

import numpy as np

from eval.rules.base import StringRule, require


@dataclass(frozen=True)
class NoAdjacentOnes(StringRule):
    name = "no_adjacent_ones"

    def __post_init__(self):
        require(self.length >= 2, f"no_adjacent_ones: length is {self.length}; give at least 2")

    @property
    def count(self) -> int:
        """A Fibonacci number: a valid string is 0 and a valid one of length - 1, or 10 and one of length - 2."""
        return self._counts()[self.length]

    @property
    def complexity(self) -> int:
        # Zeros are more frequent than ones.
        return 1

    @property
    def constraint_size(self) -> int:
        return 2

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        return strings[:, :-1] + strings[:, 1:] < 2

    def _enumerate(self) -> np.ndarray:
        strings = np.array([[0], [1]], dtype=np.int8)
        for _ in range(self.length - 1):
            with_zero = np.pad(strings, ((0, 0), (0, 1)))
            with_one = np.pad(strings[strings[:, -1] == 0], ((0, 0), (0, 1)), constant_values=1)
            # `pad` fills the new last column only.
            strings = np.concatenate([with_zero, with_one])
        return strings

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        counts = self._counts()
        strings = np.zeros((count, self.length), dtype=np.int8)
        for position in range(self.length):
            left = self.length - position
            # Of the valid endings of `left` bits, those that begin with a one go on with a zero.
            share_of_ones = counts[max(left - 2, 0)] / counts[left]
            free = strings[:, position - 1] == 0 if position else np.ones(count, dtype=bool)
            strings[:, position] = free & (generator.random(count) < share_of_ones)
        return strings

    def _counts(self) -> list[int]:
        """Valid strings of every length from 0 to `length`."""
        counts = [1, 2]
        while len(counts) <= self.length:
            counts.append(counts[-1] + counts[-2])
        return counts

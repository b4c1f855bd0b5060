"""The string reads the same from both ends."""

from dataclasses import dataclass

import numpy as np

from eval.rules.base import StringRule, all_strings, require


@dataclass(frozen=True)
class Palindrome(StringRule):
    name = "palindrome"

    def __post_init__(self):
        require(self.length >= 2, f"palindrome: length is {self.length}; give at least 2")

    @property
    def free(self) -> int:
        """Bits of the first half, the middle one included."""
        return (self.length + 1) // 2

    @property
    def count(self) -> int:
        return 2**self.free

    @property
    def complexity(self) -> int:
        return 2

    @property
    def constraint_size(self) -> int:
        return 2

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        half = self.length // 2
        return strings[:, :half] == strings[:, ::-1][:, :half]

    def _enumerate(self) -> np.ndarray:
        return self._mirrored(all_strings(2, self.free))

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return self._mirrored(generator.integers(2, size=(count, self.free), dtype=np.int8))

    def _mirrored(self, first: np.ndarray) -> np.ndarray:
        return np.concatenate([first, first[:, : self.length // 2][:, ::-1]], axis=1)

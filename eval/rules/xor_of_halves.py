"""Two halves of free bits followed by their bitwise XOR: bit i of the third part is bit i of the first XOR the second.

The constraints are those of group parity with three bits, but the bits of a group lie a third of the string apart.
"""

from dataclasses import dataclass

import numpy as np

from eval.rules.base import StringRule, all_strings, require


@dataclass(frozen=True)
class XorOfHalves(StringRule):
    name = "xor_of_halves"

    def __post_init__(self):
        require(
            self.length >= 3 and self.length % 3 == 0,
            f"xor_of_halves: length is {self.length}; give a multiple of 3 (two halves and their XOR)",
        )

    @property
    def part(self) -> int:
        return self.length // 3

    @property
    def count(self) -> int:
        return 2 ** (2 * self.part)

    @property
    def complexity(self) -> int:
        return 3

    @property
    def constraint_size(self) -> int:
        return 3

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        first, second, third = np.split(strings, 3, axis=1)
        return (first ^ second) == third

    def _enumerate(self) -> np.ndarray:
        return self._with_xor(all_strings(2, 2 * self.part))

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return self._with_xor(generator.integers(2, size=(count, 2 * self.part), dtype=np.int8))

    def _with_xor(self, halves: np.ndarray) -> np.ndarray:
        return np.concatenate([halves, halves[:, : self.part] ^ halves[:, self.part :]], axis=1)

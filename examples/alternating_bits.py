"""A rule for the two clocks: bits alternate within each block of a fixed length, in either phase.

A rule says which strings are valid, how many there are and, if few enough, lists them; splits, oracles, models, clocks
and the report follow from that. To train on it, put the file into `eval/rules` and the class into `RULES` there.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from eval.rules.base import Rule, require


@dataclass(frozen=True)
class AlternatingBits(Rule):
    length: int
    group: int
    name = "alternating_bits"

    def __post_init__(self):
        require(self.group >= 2, f"alternating_bits: group is {self.group}; give at least 2")
        require(
            self.length >= self.group and self.length % self.group == 0,
            f"alternating_bits: length is {self.length}; give a multiple of the group of {self.group}",
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def count(self) -> int:
        """Each block has two phases."""
        return 2 ** (self.length // self.group)

    @property
    def complexity(self) -> int:
        """A single bit is uniform; two neighbours of one block always differ."""
        return 2

    @property
    def constraint_size(self) -> int:
        return self.group

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        blocks = strings.reshape(len(strings), -1, self.group)
        return (blocks[:, :, 1:] != blocks[:, :, :-1]).all(axis=2)

    def _enumerate(self) -> np.ndarray:
        phases = np.array(list(product((0, 1), repeat=self.length // self.group)), dtype=np.int8)
        return (phases.repeat(self.group, axis=1) + np.arange(self.length) % self.group) % 2

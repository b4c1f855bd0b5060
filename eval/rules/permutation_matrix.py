"""A square grid of bits with exactly one 1 in every row and in every column."""

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from eval.rules.base import GridRule, require


@dataclass(frozen=True)
class PermutationMatrix(GridRule):
    name = "permutation_matrix"

    def __post_init__(self):
        require(self.side >= 2, f"permutation_matrix: side is {self.side}; give at least 2")

    @property
    def count(self) -> int:
        return math.factorial(self.side)

    @property
    def complexity(self) -> int:
        # A cell is one with probability 1 / side.
        return 2 if self.side == 2 else 1

    @property
    def constraint_size(self) -> int:
        return self.side

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        grids = strings.reshape(-1, self.side, self.side)
        return np.concatenate([grids.sum(axis=2) == 1, grids.sum(axis=1) == 1], axis=1)

    def _enumerate(self) -> np.ndarray:
        return one_per_row(np.array(list(permutations(range(self.side)))))

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return one_per_row(generator.random((count, self.side)).argsort(axis=1))


def one_per_row(columns: np.ndarray) -> np.ndarray:
    """int8 [M, side * side]: grids with a one in row r at column `columns[m, r]`."""
    side = columns.shape[1]
    return (columns[:, :, None] == np.arange(side)).reshape(len(columns), side * side).astype(np.int8)

"""Rows of three numbers that all obey one relation, as in Raven's progressive matrices (one attribute, three rows).

The relations between a, b and c of a row, with numbers 0 .. symbols-1:

    constant        a = b = c
    progression     b - a = c - b = d, for d = +1, -1, +2, -2
    sum             c = a + b
    difference      c = a - b

A grid is valid if some relation holds in all of its rows. A row by itself is counted as right if any relation holds.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from eval.rules.base import Rule, all_strings, require


ROWS = 3


@dataclass(frozen=True)
class Raven(Rule):
    symbols: int
    name = "raven"

    def __post_init__(self):
        require(3 <= self.symbols <= 10, f"raven: symbols is {self.symbols}; give a number from 3 to 10")

    @property
    def vocabulary(self) -> int:
        return self.symbols

    @property
    def shape(self) -> tuple[int, ...]:
        return (ROWS, 3)

    @property
    def count(self) -> int:
        return len(self._grids)

    @property
    def complexity(self) -> int:
        # Without wrap-around, the relations do not favour all numbers alike.
        return 1

    @property
    def constraint_size(self) -> int:
        return 3

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        return np.any(relations(strings.reshape(-1, ROWS, 3)), axis=2)

    def valid(self, strings: np.ndarray) -> np.ndarray:
        return np.any(np.all(relations(strings.reshape(-1, ROWS, 3)), axis=1), axis=1)

    def _enumerate(self) -> np.ndarray:
        return self._grids

    @cached_property
    def _grids(self) -> np.ndarray:
        rows = all_strings(self.symbols, 3)
        grids = []
        for holds in relations(rows).T:
            row = rows[holds]
            index = np.indices([len(row)] * ROWS).reshape(ROWS, -1).T
            grids.append(row[index].reshape(len(index), 3 * ROWS))
        return np.unique(np.concatenate(grids), axis=0)


def relations(rows: np.ndarray) -> np.ndarray:
    """bool [..., 7] for rows [..., 3]: which relations hold, in the order of the text above."""
    a, b, c = np.moveaxis(rows.astype(int), -1, 0)
    steps = [(b - a == step) & (c - b == step) for step in (0, 1, -1, 2, -2)]
    return np.stack([*steps, c == a + b, c == a - b], axis=-1)

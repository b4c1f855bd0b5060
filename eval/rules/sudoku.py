"""4x4 sudoku: every row, column and 2x2 box holds each of the four symbols once."""

from dataclasses import dataclass

import numpy as np

from eval.rules.base import Rule
from eval.rules.latin_square import each_symbol_once, latin_squares


@dataclass(frozen=True)
class Sudoku(Rule):
    name = "sudoku"

    @property
    def vocabulary(self) -> int:
        return 4

    @property
    def shape(self) -> tuple[int, ...]:
        return (4, 4)

    @property
    def count(self) -> int:
        return 288

    @property
    def complexity(self) -> int:
        # A cell is uniform; two cells of a row differ.
        return 2

    @property
    def constraint_size(self) -> int:
        return 4

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        grids = strings.reshape(-1, 4, 4)
        boxes = grids.reshape(-1, 2, 2, 2, 2).swapaxes(2, 3).reshape(-1, 4, 4)
        lines = (grids, grids.swapaxes(1, 2), boxes)
        return np.concatenate([each_symbol_once(line) for line in lines], axis=1)

    def _enumerate(self) -> np.ndarray:
        squares = latin_squares(4)
        return squares[self.valid(squares)]

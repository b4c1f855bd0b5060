"""A square grid in which every row and every column holds each symbol once."""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from eval.rules.base import GridRule, require


# Latin squares of each side (sequence A002860 of the OEIS); the next has 812,851,200.
COUNTS = {2: 2, 3: 12, 4: 576, 5: 161280}


@dataclass(frozen=True)
class LatinSquare(GridRule):
    name = "latin_square"

    def __post_init__(self):
        require(self.side in COUNTS, f"latin_square: side is {self.side}; give one of 2, 3, 4, 5")

    @property
    def vocabulary(self) -> int:
        return self.side

    @property
    def count(self) -> int:
        return COUNTS[self.side]

    @property
    def complexity(self) -> int:
        # A cell is uniform; two cells of a row differ.
        return 2

    @property
    def constraint_size(self) -> int:
        return self.side

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        grids = strings.reshape(-1, self.side, self.side)
        return np.concatenate([each_symbol_once(grids), each_symbol_once(grids.swapaxes(1, 2))], axis=1)

    def _enumerate(self) -> np.ndarray:
        return latin_squares(self.side)


def each_symbol_once(lines: np.ndarray) -> np.ndarray:
    """bool [M, L] for lines [M, L, k]: which lines hold each of the symbols 0 .. k-1 once."""
    return (np.sort(lines, axis=2) == np.arange(lines.shape[2])).all(axis=2)


def latin_squares(side: int) -> np.ndarray:
    """All of them, int8 [count, side * side], built row by row."""
    rows = np.array(list(permutations(range(side))), dtype=np.int8)
    symbols = 1 << rows
    squares, used = rows[:, None, :], symbols
    for _ in range(side - 1):
        # fits[s, r]: row r repeats no symbol in a column of the unfinished square s.
        fits = (used[:, None, :] & symbols == 0).all(axis=2)
        square, row = np.nonzero(fits)
        squares = np.concatenate([squares[square], rows[row][:, None, :]], axis=1)
        used = used[square] | symbols[row]
    return squares.reshape(len(squares), side * side)

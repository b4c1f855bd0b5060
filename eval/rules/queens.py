"""N queens on a board of N x N: no two in one row, column or diagonal. A one is a queen."""

from dataclasses import dataclass

import numpy as np

from eval.rules.base import GridRule, require
from eval.rules.permutation_matrix import one_per_row


# Solutions for each side (sequence A000170 of the OEIS).
COUNTS = {4: 2, 5: 10, 6: 4, 7: 40, 8: 92, 9: 352, 10: 724, 11: 2680, 12: 14200}


@dataclass(frozen=True)
class Queens(GridRule):
    name = "queens"

    def __post_init__(self):
        require(self.side in COUNTS, f"queens: side is {self.side}; give a number from 4 to 12")

    @property
    def count(self) -> int:
        return COUNTS[self.side]

    @property
    def complexity(self) -> int:
        # A cell is one with probability 1 / side on average.
        return 1

    @property
    def constraint_size(self) -> int:
        return self.side

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        """Rows, columns, then the diagonals of both directions."""
        grids = strings.reshape(-1, self.side, self.side)
        diagonals = [
            np.trace(board, offset, axis1=1, axis2=2) <= 1
            for board in (grids, grids[:, :, ::-1])
            for offset in range(1 - self.side, self.side)
        ]
        return np.concatenate([grids.sum(axis=2) == 1, grids.sum(axis=1) == 1, np.stack(diagonals, axis=1)], axis=1)

    def _enumerate(self) -> np.ndarray:
        columns = np.arange(self.side, dtype=np.int8)
        placed = columns[:, None]
        for row in range(1, self.side):
            free = np.ones((len(placed), self.side), dtype=bool)
            for earlier in range(row):
                step = np.abs(placed[:, earlier, None] - columns)
                free &= (step != 0) & (step != row - earlier)
            board, column = np.nonzero(free)
            placed = np.concatenate([placed[board], columns[column][:, None]], axis=1)
        return one_per_row(placed)

"""A relation and a grid that shows it: the first symbol says how the two objects on the grid lie to each other.

Symbols: 0 empty cell, 1 first object, 2 second object; 3 left of, 4 right of, 5 above, 6 below. A string is one
relation symbol and then the `side` x `side` cells, row by row. "Left of" asks for a smaller column, whatever the rows.
With a next-token model the relation is a prompt: the small counterpart of text-conditioned spatial relations.
"""

from dataclasses import dataclass

import numpy as np

from eval.rules.base import Rule, require


LEFT, RIGHT, ABOVE, BELOW = RELATIONS = (3, 4, 5, 6)


@dataclass(frozen=True)
class SpatialRelation(Rule):
    side: int
    name = "spatial_relation"

    def __post_init__(self):
        require(2 <= self.side <= 8, f"spatial_relation: side is {self.side}; give a number from 2 to 8")

    @property
    def vocabulary(self) -> int:
        return 7

    @property
    def shape(self) -> tuple[int, ...]:
        return (1 + self.side**2,)

    @property
    def count(self) -> int:
        """Four relations, two ordered lines out of `side`, and any place on each of the two lines."""
        return 4 * (self.side * (self.side - 1) // 2) * self.side**2

    @property
    def complexity(self) -> int:
        # The first symbol is never a cell's.
        return 1

    @property
    def constraint_size(self) -> int:
        return 1 + self.side**2

    def constraints(self, strings: np.ndarray) -> np.ndarray:
        """The relation comes first; one first object; one second object; no relation in a cell; the relation holds."""
        relation, cells = strings[:, 0], strings[:, 1:]
        one_each = [(cells == symbol).sum(axis=1) == 1 for symbol in (1, 2)]
        row, column = zip(*(divmod((cells == symbol).argmax(axis=1), self.side) for symbol in (1, 2)), strict=True)
        holds = np.select(
            [relation == LEFT, relation == RIGHT, relation == ABOVE, relation == BELOW],
            [column[0] < column[1], column[0] > column[1], row[0] < row[1], row[0] > row[1]],
            default=False,
        )
        parts = [np.isin(relation, RELATIONS), *one_each, (cells < LEFT).all(axis=1)]
        return np.stack([*parts, holds & one_each[0] & one_each[1]], axis=1)

    def _enumerate(self) -> np.ndarray:
        cells = self.side**2
        relation, first, second = (index.ravel() for index in np.indices((len(RELATIONS), cells, cells)))
        strings = np.zeros((len(relation), 1 + cells), dtype=np.int8)
        every = np.arange(len(relation))
        strings[:, 0] = relation + LEFT
        strings[every, 1 + first] = 1
        strings[every, 1 + second] = 2
        return strings[self.valid(strings)]

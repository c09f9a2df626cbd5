"""A shuffle that needs no list: which number stands at any place of a seeded order, worked out for that place alone.

An epoch's order of a million rows would be an array of a million numbers in every process. Here each place is sent
through a small network of keyed steps, each of which can be undone (Luby & Rackoff 1988), so that no number comes twice
and none is missing; nothing is kept. Notebook 06 trains in such orders. Left out: what is shuffled (dataset.py).
"""

from __future__ import annotations

from math import isqrt

import numpy as np

ROUNDS = 8
SMALL = 4096  # up to here a list costs less than the steps do, and is exactly uniform


class Permutation:
    """The numbers 0 … size - 1 in an order that depends on `size` and the whole numbers in `key` alone.

    `Permutation(n, seed, epoch)(places)` gives the numbers at `places`, an int64 array of any shape, as one of that
    shape. The same on every machine; memory and time depend on how many places are asked for, not on `size`.
    """

    def __init__(self, size: int, *key: int) -> None:
        self.size = size
        self.height = isqrt(max(size - 1, 0)) + 1  # a grid of height × width has `size` cells, or barely more
        self.width = -(-size // self.height)
        self.keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)
        self.listed = None
        if size <= SMALL:
            self.listed = np.argsort(scrambled(np.arange(size, dtype=np.uint64), self.keys[0]))

    def __call__(self, places: np.ndarray) -> np.ndarray:
        if self.listed is not None:
            return self.listed[places]
        numbers = self._steps(np.asarray(places, np.uint64))
        while (outside := numbers >= self.size).any():  # on along the circle of the grid's cells, until inside again
            numbers[outside] = self._steps(numbers[outside])
        return numbers.astype(np.int64)

    def _steps(self, cells: np.ndarray) -> np.ndarray:
        """Where the steps send each cell of the grid; different cells to different ones."""
        row, column = np.divmod(np.atleast_1d(cells), np.uint64(self.width))
        for one, other in self.keys.reshape(-1, 2):
            row = (row + scrambled(column, one)) % np.uint64(self.height)
            column = (column + scrambled(row, other)) % np.uint64(self.width)
        return (row * np.uint64(self.width) + column).reshape(np.shape(cells))


def scrambled(numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    """Whole numbers of 64 bits that look random, one for each number and key (the last steps of splitmix64)."""
    found = numbers ^ key
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return found ^ (found >> np.uint64(31))

"""Which rows are kept out of training, and how rows, segments and tokens are numbered in what remains.

A part of the corpus is made of runs: stretches of rows that lie together in the file, between two held-out rows, say. A
table of runs is written once, when the corpus is encoded, and stays on disk; to find a row of a part is to find its
run. Taught in notebook 02. Left out: the corpus itself (encoding.py), rows as a model reads them (dataset.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

HELD_OUT_SHARE = 1000  # one row in a thousand
ROWS, SEGMENTS, TOKENS = 0, 1, 2  # what a table of runs counts, and in this order
_CHUNK = 1 << 16


class Split:
    """A part of the corpus as runs: `table` is (runs + 1, 6) int64, the last line holding the ends.

    Its columns: where a run begins in the corpus, as row, segment and token; then how many rows, segments and tokens
    of this part stand before it.
    """

    def __init__(self, table: np.ndarray) -> None:
        self.first, self.before = table[:, :3], table[:, 3:]
        self.rows, self.segments, self.tokens = self.before[-1].tolist()

    def run_of(self, what: int, numbers: np.ndarray | int) -> np.ndarray:
        """Which run each row, segment or token of this part lies in."""
        return np.searchsorted(self.before[:, what], numbers, side="right") - 1

    def where(self, what: int, numbers: np.ndarray | int) -> np.ndarray:
        """Where rows, segments or tokens of this part stand in the corpus, of the same shape as `numbers`."""
        run = self.run_of(what, numbers)
        return self.first[run, what] + (numbers - self.before[run, what])


class Rows(Sequence):
    """The row numbers of a part, from 0 and in order; a sequence that keeps no list. Slices are sequences too."""

    def __init__(self, split: Split, places: range | None = None) -> None:
        self.split = split
        self.places = range(split.rows) if places is None else places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Rows(self.split, self.places[index])
        return int(self.split.where(ROWS, self.places[index]))

    def chunks(self) -> Iterator[np.ndarray]:
        """The numbers as int64 arrays of at most 65,536, one after the other."""
        for start in range(0, len(self), _CHUNK):
            places = self.places[start : start + _CHUNK]
            yield self.split.where(ROWS, np.arange(places.start, places.stop, places.step))


def held_out_limit(text_hash: np.ndarray) -> int:
    """Below which hash of its text, (rows,) uint32, a row is held out: one in a thousand.

    A row's fate depends on its text alone, so equal rows go the same way and a longer corpus keeps the choice. In a
    small corpus, where that would be almost none, the rows with the smallest hashes: 8, or a tenth.
    """
    limit, chosen, smallest = 2**32 // HELD_OUT_SHARE, 0, np.zeros(0, np.int64)
    at_least = min(8, len(text_hash) // 10)
    for start in range(0, len(text_hash), _CHUNK):
        part = text_hash[start : start + _CHUNK].astype(np.int64)
        chosen += int((part < limit).sum())
        smallest = np.sort(np.concatenate([smallest, part]))[:8]
    return limit if chosen >= at_least else int(smallest[at_least - 1]) + 1


def whole(offsets: np.ndarray, segments: np.ndarray) -> Split:
    """The whole corpus as a part of one run. `offsets` (rows + 1,) and `segments` (segments + 1,) as in EncodedCorpus.

    What stands before the first `<s>` belongs to no segment, and is left out of the count of tokens.
    """
    ends = _bounds(np.array([0, len(offsets) - 1]), offsets, segments)
    return Split(np.hstack([ends, ends - ends[0]]))


def write_splits(
    offsets: np.ndarray,
    segments: np.ndarray,
    text_hash: np.ndarray,
    train: Callable[[np.ndarray], object],
    held_out: Callable[[np.ndarray], object],
) -> None:
    """Hand the tables of the two parts to `train` and `held_out`, some lines at a time: (lines, 6) int64."""
    limit = held_out_limit(text_hash)
    begin, end = _bounds(np.array([0, len(text_hash)]), offsets, segments)
    out = np.zeros(3, np.int64)  # rows, segments and tokens held out so far
    train(np.hstack([begin, out])[None])
    for start in range(0, len(text_hash), _CHUNK):
        rows = np.flatnonzero(text_hash[start : start + _CHUNK].astype(np.int64) < limit) + start
        firsts, lasts = (_bounds(rows + more, offsets, segments) for more in (0, 1))
        sums = out + np.cumsum(lasts - firsts, axis=0)
        held_out(np.hstack([firsts, sums - (lasts - firsts)]))
        train(np.hstack([lasts, lasts - begin - sums]))
        out = sums[-1] if len(rows) else out
    held_out(np.hstack([end, out])[None])
    train(np.hstack([end, end - begin - out])[None])


def _bounds(rows: np.ndarray, offsets: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Where rows begin, as (rows, 3) int64: row, segment, token. The row after the last begins at the end."""
    segment = np.searchsorted(segments, offsets[rows])
    return np.stack([rows, segment, segments[segment]], axis=1)

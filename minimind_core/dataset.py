"""Two ways to cut training rows from encoded text: padded, as the seed does, and packed, without padding.

Both give (X, Y, loss_mask): what the model reads, what it should say next, and where that counts. Taught in notebooks
02 (padding, the mask) and 06 (packing). Nothing here grows with the corpus: rows and blocks are found when they are
asked for. Left out: reading and encoding text (corpus.py, encoding.py), parts and orders (splits.py, shuffle.py), and
batches (batches.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from .encoding import ADDED_BOS, ADDED_EOS, EncodedCorpus, encode_corpus
from .errors import ConfigError
from .shuffle import Permutation
from .splits import SEGMENTS, TOKENS, Rows
from .tokenizer import BOS_ID, EOS_ID, PAD_ID

# B batch · T tokens

NEIGHBOURS = 2048  # segments that are laid anew among each other; a smaller corpus is one neighbourhood
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class PretrainDataset(Dataset):
    """One row of text per item, padded to `max_length`: X, Y, loss_mask, each int64 of length max_length - 1.

    `as_minimind=True` gives MiniMind's rows to the id: a second `<s>` and `</s>` around the row, cut at max_length, the
    mask taken from the padding id. The default adds only missing markers, keeps the closing `</s>` of a row that is
    cut, and masks by length, so that a literal `<unk>` stays in the loss. `split` is 'all', 'train' (without the held
    out rows) or 'held_out'.
    """

    def __init__(
        self,
        path: str | Path | EncodedCorpus,
        tokenizer: Tokenizer,
        max_length: int = 512,
        as_minimind: bool = False,
        split: str = "all",
    ) -> None:
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 2:
            raise ConfigError(f"max_length={max_length!r}: 2 or more, since X and Y are one token apart.")
        self.corpus = path if isinstance(path, EncodedCorpus) else encode_corpus(path, tokenizer)
        self.max_length = max_length
        self.as_minimind = as_minimind
        self.split = split
        self.rows = Rows(self.corpus.split(split))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        X, Y, mask = self.batch([index])
        return X[0], Y[0], mask[0]

    def batch(self, items: Sequence[int]) -> Batch:
        """X, Y, loss_mask of several items, each (B, T) int64, T = max_length - 1; X and Y are views of one array."""
        padded = np.full((len(items), self.max_length), PAD_ID, np.int64)
        lengths = np.zeros((len(items), 1), np.int64)
        for place, index in enumerate(items):
            ids = self.ids(index)
            length = lengths[place] = min(len(ids), self.max_length)
            padded[place, :length] = ids[:length]
            if length < len(ids) and not self.as_minimind:
                padded[place, -1] = EOS_ID
        mask = padded != PAD_ID if self.as_minimind else np.arange(self.max_length) < lengths
        ids, mask = torch.from_numpy(padded), torch.from_numpy(mask[:, 1:].astype(np.int64))
        return ids[:, :-1], ids[:, 1:], mask

    def tokens(self) -> int:
        """How many tokens an epoch is trained on, padding not counted."""
        total = 0
        for rows in self.rows.chunks():
            lengths = self.corpus.offsets[rows + 1] - self.corpus.offsets[rows]
            if self.as_minimind:  # two markers are added, whatever a row has
                added = self.corpus.added[rows]
                lengths = lengths + 2 - (added & ADDED_BOS) // ADDED_BOS - (added & ADDED_EOS) // ADDED_EOS
            total += int(lengths.clip(max=self.max_length).sum()) - len(rows)
        return total

    def corpus_rows(self, index: int) -> list[int]:
        """Which row of the corpus (numbered from 1) an item is, as a list of one."""
        return [int(self.rows[index]) + 1]

    def ids(self, index: int) -> np.ndarray:
        """The row's ids before cutting and padding, (length,) int64."""
        row = int(self.rows[index])
        ids = self.corpus.row(row)
        if not self.as_minimind:  # blanks outside the outer markers are left out
            return ids[np.argmax(ids == BOS_ID) : len(ids) - np.argmax(ids[::-1] == EOS_ID)]
        added = int(self.corpus.added[row])
        bare = ids[bool(added & ADDED_BOS) : len(ids) - bool(added & ADDED_EOS)]
        return np.concatenate([[BOS_ID], bare, [EOS_ID]])


class PackedDataset(Dataset):
    """Blocks of `block_length` tokens cut from all text laid end to end: no padding, every position is trained on.

    Item i is X, Y, loss_mask, each int64 of length block_length; the mask is all ones. The first epoch keeps the file's
    order; `set_epoch(e)` lays the segments (`<s>…</s>`) in a new, seeded order for each later one, so that a model that
    meets them often cannot learn which unrelated segment follows which. Segments in a block see each other, as they do
    in a row.

    A segment moves within a neighbourhood of 2,048, whose borders move from epoch to epoch. So a block is found by
    looking at one neighbourhood or two, whatever the corpus's size, and no order of all segments is ever written down.
    """

    def __init__(
        self,
        path: str | Path | EncodedCorpus,
        tokenizer: Tokenizer,
        block_length: int = 511,
        split: str = "all",
        seed: int = 1337,
    ) -> None:
        if isinstance(block_length, bool) or not isinstance(block_length, int) or block_length < 1:
            raise ConfigError(f"block_length={block_length!r}: 1 or more tokens.")
        self.corpus = path if isinstance(path, EncodedCorpus) else encode_corpus(path, tokenizer)
        self.block_length = block_length
        self.seed = seed
        self.split = split
        self.parts = self.corpus.split(split)
        self.total = self.parts.tokens
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Lay the segments in this epoch's order, which depends on the seed and the epoch alone."""
        self.epoch, self.shift = epoch, 0
        self._last: tuple[int, tuple[np.ndarray, np.ndarray]] | None = None
        if epoch and self.parts.segments > NEIGHBOURS:
            self.shift = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]) % NEIGHBOURS

    def __len__(self) -> int:
        return max(1, self.total // self.block_length)

    def __getitem__(self, index: int) -> Batch:
        X, Y, mask = self.batch([index])
        return X[0], Y[0], mask[0]

    def batch(self, items: Sequence[int]) -> Batch:
        """X, Y, loss_mask of several blocks, each (B, T) int64, T = block_length; X and Y are views of one array."""
        blocks = np.empty((len(items), self.block_length + 1), np.int64)
        for block, index in zip(blocks, items, strict=True):
            if not 0 <= index < len(self):
                raise IndexError(f"block {index} of {len(self)}")
            filled = 0
            for positions in self._positions(index * self.block_length, len(block)):
                block[filled : filled + len(positions)] = self.corpus.ids[positions.start : positions.stop]
                filled += len(positions)
        ids = torch.from_numpy(blocks)
        return ids[:, :-1], ids[:, 1:], torch.ones(len(items), self.block_length, dtype=torch.int64)

    def corpus_rows(self, index: int) -> list[int]:
        """Which rows of the corpus (numbered from 1) a block of this epoch takes its text from, sorted."""
        first = index * self.block_length
        rows = set()
        for positions in self._positions(first, min(self.block_length + 1, self.total - first)):
            ends = np.searchsorted(self.corpus.offsets, [positions.start, positions.stop - 1], side="right")
            rows |= set(range(ends[0], ends[1] + 1))
        return sorted(rows)

    def _positions(self, start: int, length: int) -> Iterator[range]:
        """Where `length` tokens of this epoch's text from `start` on stand in the corpus, as ranges in order.

        Past its end, the text goes on at its beginning.
        """
        lay = self._lay_anew if self.epoch else self._lay
        while length:
            start %= self.total
            for positions in lay(start, length):
                yield positions
                start, length = start + len(positions), length - len(positions)

    def _lay(self, start: int, length: int) -> Iterator[range]:
        """The rest of the run that `start` lies in, `length` tokens at most."""
        run = int(self.parts.run_of(TOKENS, start))
        end = int(self.parts.before[run + 1, TOKENS])
        first = int(self.parts.first[run, TOKENS]) + start - int(self.parts.before[run, TOKENS])
        yield range(first, first + min(length, end - start))

    def _lay_anew(self, start: int, length: int) -> Iterator[range]:
        """The rest of the neighbourhood that `start` lies in, `length` tokens at most, in this epoch's order."""
        run = int(self.parts.run_of(TOKENS, start))
        token = self.parts.first[run, TOKENS] + start - self.parts.before[run, TOKENS]
        segment = np.searchsorted(self.corpus.segments, token, side="right") - 1
        number = int(self.parts.before[run, SEGMENTS] + segment - self.parts.first[run, SEGMENTS])
        stops, ends = self._neighbourhood((number + self.shift) // NEIGHBOURS)
        first, last = np.searchsorted(ends, [start, start + length - 1], side="right")
        for stop, end in zip(stops[first : last + 1].tolist(), ends[first : last + 1].tolist(), strict=True):
            taken = min(length, end - start)
            yield range(stop - end + start, stop - end + start + taken)
            start, length = start + taken, length - taken

    def _neighbourhood(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Where its segments end, in this epoch's order: in the corpus, and in this epoch's text. Both int64."""
        if self._last and self._last[0] == number:
            return self._last[1]
        first = max(0, number * NEIGHBOURS - self.shift)
        after = min(self.parts.segments, (number + 1) * NEIGHBOURS - self.shift)
        runs = self.parts.run_of(SEGMENTS, np.array([first, after - 1])).tolist()
        bounds = []
        for run in range(runs[0], runs[1] + 1):
            before, following = self.parts.before[run : run + 2, SEGMENTS].tolist()
            here = int(self.parts.first[run, SEGMENTS]) - before
            bounds.append(self.corpus.segments[max(first, before) + here : min(after, following) + here + 1])
        starts, stops = (np.concatenate([part[side] for part in bounds]) for side in (slice(-1), slice(1, None)))
        begin = int(self.parts.before[runs[0], TOKENS] + starts[0] - self.parts.first[runs[0], TOKENS])
        order = Permutation(len(starts), self.seed, self.epoch, number)(np.arange(len(starts)))
        found = stops[order], begin + np.cumsum((stops - starts)[order])
        self._last = number, found
        return found

"""Two ways to cut training rows from encoded text: padded, as the seed does, and packed, without padding.

Both give (X, Y, loss_mask): what the model reads, what it should say next, and where that counts. Taught in notebooks
02 (padding, the mask) and 06 (packing). Left out: reading and encoding text (corpus.py, encoding.py).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset, Sampler

from .encoding import ADDED_BOS, ADDED_EOS, EncodedCorpus, encode_corpus
from .errors import ConfigError
from .tokenizer import BOS_ID, EOS_ID, PAD_ID

# B batch · T tokens


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
        self.rows = rows_of(self.corpus, split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ids = self.ids(index)
        length = min(len(ids), self.max_length)
        padded = torch.full((self.max_length,), PAD_ID, dtype=torch.int64)
        padded[:length] = torch.from_numpy(ids[:length])
        if self.as_minimind:
            mask = (padded != PAD_ID).to(torch.int64)
        else:
            if length < len(ids):
                padded[-1] = EOS_ID
            mask = (torch.arange(self.max_length) < length).to(torch.int64)
        return padded[:-1], padded[1:], mask[1:]

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
        starts = self.corpus.segments
        lengths = np.diff(starts, append=self.corpus.offsets[-1]).astype(np.int32)
        if split != "all":
            kept = np.zeros(len(self.corpus), bool)
            kept[rows_of(self.corpus, split)] = True
            row_of = np.searchsorted(self.corpus.offsets, starts, side="right") - 1
            starts, lengths = starts[kept[row_of]], lengths[kept[row_of]]
        self.segments = (starts, lengths)
        self.total = int(lengths.sum(dtype=np.int64))
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Lay the segments in this epoch's order, which depends on the seed and the epoch alone."""
        starts, lengths = self.segments
        if epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(starts))
            starts, lengths = starts[order], lengths[order]
        self.starts, self.ends = starts, np.cumsum(lengths, dtype=np.int64)

    def __len__(self) -> int:
        return max(1, self.total // self.block_length)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        block = torch.from_numpy(self._read(index * self.block_length, self.block_length + 1))
        return block[:-1], block[1:], torch.ones(self.block_length, dtype=torch.int64)

    def _read(self, start: int, length: int) -> np.ndarray:
        """`length` ids of the stream from `start` on; past its end it goes on at its beginning."""
        found = []
        while length:
            start %= self.total
            segment = int(np.searchsorted(self.ends, start, side="right"))
            left = int(self.ends[segment]) - start
            take = min(length, left)
            following = int(self.segments_end(segment))
            found.append(self.corpus.tokens[following - left : following - left + take])
            start, length = start + take, length - take
        return np.concatenate(found).astype(np.int64)

    def corpus_rows(self, index: int) -> list[int]:
        """Which rows of the corpus (numbered from 1) a block of this epoch takes its text from, sorted."""
        first = index * self.block_length
        ends = np.searchsorted(self.ends, [first, min(first + self.block_length, self.total - 1)], side="right")
        starts = self.starts[ends[0] : ends[1] + 1]
        return np.unique(np.searchsorted(self.corpus.offsets, starts, side="right")).tolist()

    def segments_end(self, segment: int) -> int:
        """Where a segment of this epoch's order ends in the corpus."""
        before = int(self.ends[segment - 1]) if segment else 0
        return int(self.starts[segment]) + int(self.ends[segment]) - before


def rows_of(corpus: EncodedCorpus, split: str) -> np.ndarray:
    """Numbers of the rows of a split: 'all', 'train' or 'held_out', (rows,) int64."""
    if split == "all":
        return np.arange(len(corpus))
    if split not in ("train", "held_out"):
        raise ConfigError(f"split={split!r}: allowed are all, train, held_out.")
    rows = np.flatnonzero(corpus.held_out() == (split == "held_out"))
    if not len(rows):
        raise ConfigError(
            f"{corpus.path.name} has only {len(corpus)} rows, too few to hold any out: give --valid_path."
        )
    return rows


class EpochBatches(Sampler[list]):
    """Which rows make up each micro-batch of an epoch: in order or in a seeded shuffle, from any micro-batch on.

    Yields lists of row numbers. The order depends on (seed, epoch) alone, so a resumed run meets the same rows.
    `whole_only` leaves out a last batch with fewer rows than the others, whose gradient would be noisier. With `world`
    processes each takes every world-th row of a batch that is `world` times as long.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 1337,
        whole_only: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.rows, self.batch_size, self.shuffle, self.seed = rows, batch_size, shuffle, seed
        if whole_only and rows > batch_size * world:
            self.used = rows - rows % (batch_size * world)
        else:
            self.used = rows
        self.rank, self.world = rank, world
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Go to an epoch, and in it to micro-batch `first_batch`."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        return -(-self.used // (self.batch_size * self.world))

    def order(self) -> np.ndarray:
        """The rows in this epoch's order, (rows,) int64."""
        if self.shuffle:
            return np.random.default_rng([self.seed, self.epoch, 1]).permutation(self.rows)
        return np.arange(self.rows)

    def batch(self, order: np.ndarray, number: int) -> list[int]:
        """Rows of micro-batch `number` that this process takes; empty where a last batch has fewer than processes."""
        step = self.batch_size * self.world
        start = number * step
        return order[start : min(start + step, self.used)][self.rank :: self.world].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order()
        for number in range(self.first_batch, len(self)):
            yield self.batch(order, number)


def batch_loader(rows: Dataset, batches: EpochBatches, num_workers: int = 0, pin_memory: bool = False) -> DataLoader:
    """Batches (X, Y, loss_mask), each (B, T) int64, in the order of `batches`; (0, T) where there is no row to take.

    Draws nothing from torch's random numbers, so that a resumed run meets those that an undisturbed one would.
    """
    return DataLoader(
        rows,
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=partial(stacked, width=rows[0][0].shape[0]),
        worker_init_fn=leave_signals_to_the_run,
        generator=torch.Generator(),
    )


def stacked(rows: list[tuple[torch.Tensor, ...]], width: int) -> tuple[torch.Tensor, ...]:
    """Rows of three (T,) tensors as three (B, T) ones; `width` is T, for a batch of no rows."""
    if not rows:
        return tuple(torch.zeros(0, width, dtype=torch.int64) for _ in range(3))
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def leave_signals_to_the_run(worker: int) -> None:
    """A Ctrl-C reaches loading processes too; they go on serving, so that the run can end as it wants to."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

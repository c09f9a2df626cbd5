"""Which rows make up each micro-batch, in an order that can be entered anywhere, and the loader that brings them.

Whole batches are read at once, and an order is worked out place by place (shuffle.py), so that neither costs more on a
larger corpus. Taught in notebook 06. Left out: how a row is cut from the text (dataset.py).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .dataset import Batch
from .shuffle import Permutation

# B batch · T tokens


class EpochBatches(Sampler[list]):
    """Which rows make up each micro-batch of an epoch: in order or in a seeded shuffle, from any micro-batch on.

    Yields lists of row numbers. The order depends on (seed, epoch) alone, so a resumed run meets the same rows; each
    batch is worked out by itself, so that no list of all rows is kept.
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
        self._order = Permutation(self.rows, self.seed, epoch, 1)

    def __len__(self) -> int:
        return -(-self.used // (self.batch_size * self.world))

    def batch(self, number: int) -> list[int]:
        """Rows of micro-batch `number` that this process takes; empty where a last batch has fewer than processes."""
        step = self.batch_size * self.world
        places = np.arange(number * step, min((number + 1) * step, self.used))[self.rank :: self.world]
        return (self._order(places) if self.shuffle else places).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.batch, range(self.first_batch, len(self)))


def batch_loader(rows: Dataset, batches: EpochBatches, num_workers: int = 0) -> DataLoader:
    """Batches (X, Y, loss_mask), each (B, T) int64, in the order of `batches`; (0, T) where there is no row to take.

    Draws nothing from torch's random numbers, so that a resumed run meets those that an undisturbed one would.
    """
    return DataLoader(
        _Batches(rows),
        sampler=batches,
        batch_size=None,  # an item is a batch already
        collate_fn=_as_it_is,
        num_workers=num_workers,
        worker_init_fn=leave_signals_to_the_run,
        generator=torch.Generator(),
    )


class _Batches(Dataset):
    """Whole batches of a dataset as items: `[3, 1, 4]` gives rows 3, 1 and 4 as three (B, T) tensors."""

    def __init__(self, rows: Dataset) -> None:
        self.rows, self.width = rows, rows[0][0].shape[0]

    def __getitem__(self, items: list[int]) -> Batch:
        if items and hasattr(self.rows, "batch"):
            return self.rows.batch(items)
        return stacked([self.rows[item] for item in items], self.width)


def _as_it_is(batch: Batch) -> Batch:
    return batch


def stacked(rows: list[Batch], width: int) -> Batch:
    """Rows of three (T,) tensors as three (B, T) ones; `width` is T, for a batch of no rows."""
    if not rows:
        return tuple(torch.zeros(0, width, dtype=torch.int64) for _ in range(3))
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def leave_signals_to_the_run(worker: int) -> None:
    """A Ctrl-C reaches loading processes too; they go on serving, so that the run can end as it wants to."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

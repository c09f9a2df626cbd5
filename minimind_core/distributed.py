"""Several processes that train one model, started by torchrun: who am I, who saves, how sums are taken over all.

Every process reads its own rows and adds its gradients to the others' before each update. Losses are divided by the
number of tokens in all processes' micro-batches, so the sum of gradients is that of one process with the whole batch.
Without torchrun everything here does nothing. Taught in notebook 06. Left out: DistributedDataParallel, which averages
gradients as if every process had as many tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import CourseError

PATIENCE = timedelta(minutes=30)  # how long processes wait for one that judges, saves or encodes


@dataclass(frozen=True)
class World:
    """This process's place: `rank` of `size`, `local_rank` on its machine; `parent` is the process that started it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    parent: int = 0

    @property
    def is_orphan(self) -> bool:
        """Whether torchrun was killed and left this process behind."""
        return self.parent != 0 and os.getppid() != self.parent

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints, logs and saves."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def counted(self, loss_mask: Tensor) -> tuple[Tensor, Tensor | float]:
        """Tokens that count in all processes' micro-batches, and this one's share of their rows; loss_mask (B, T)."""
        if self.size == 1:
            return loss_mask.sum(), 1.0
        both = self.total(torch.stack([loss_mask.sum(), loss_mask.new_tensor(len(loss_mask))]))
        return both[0], len(loss_mask) / both[1]

    def add_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its sum over all processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def gathered(self, value: Any) -> list[Any]:
        """Every process's `value`, in order of rank."""
        found = [value]
        if self.size > 1:
            found = [None] * self.size
            dist.all_gather_object(found, value)
        return found

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What `make()` gives on the main process, for all; it may be on a disk that others cannot see.

        A CourseError that it raises ends the others without a word: the main process says it.
        """
        if self.size == 1:
            return make()
        found: list[Any] = [None, False]
        if self.is_main:
            try:
                found = [make(), False]
            except CourseError:
                dist.broadcast_object_list([None, True])
                raise
        dist.broadcast_object_list(found)
        if found[1]:
            raise SystemExit(2)
        return found[0]


@contextmanager
def join_world(device_type: str) -> Iterator[World]:
    """Join the processes that torchrun started (nccl on cuda, gloo else), or be the only one; leaves cleanly."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield World()
        return
    world = World(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")), os.getppid())
    if device_type == "cuda":
        torch.cuda.set_device(world.local_rank)
        mine = torch.device("cuda", world.local_rank)
        dist.init_process_group("nccl", timeout=PATIENCE, device_id=mine)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield world
        dist.barrier()  # nobody leaves while another is still at work
    finally:
        dist.destroy_process_group()

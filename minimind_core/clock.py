"""A run's clocks: pace, time left, memory, and when to save. Apart from the trainer, to be read and tested alone."""

from __future__ import annotations

import sys
import time

import torch


class Clock:
    """Time spent training, with judging and saving left out, and what that says of the time left."""

    WARMUP = 5  # micro-steps that are slower than the rest: buffers are made, kernels chosen

    def __init__(self, micro_step: int) -> None:
        self.first = self.micro_step = micro_step
        self.start = self.last_update = time.perf_counter()
        self.warm: float | None = None

    def tick(self) -> None:
        """A micro-step is done."""
        self.micro_step += 1
        if self.micro_step - self.first == self.WARMUP:
            self.warm = time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Leave out `seconds` that were spent on something else."""
        self.start += seconds
        self.last_update += seconds
        if self.warm is not None:
            self.warm += seconds

    def elapsed(self) -> float:
        """Seconds of training so far."""
        return time.perf_counter() - self.start

    def rate(self, tokens: int) -> float:
        """Tokens per second since the last call."""
        now = time.perf_counter()
        rate, self.last_update = tokens / max(now - self.last_update, 1e-9), now
        return rate

    def left(self, total_steps: int) -> float:
        """Seconds left, from the pace since the first few micro-steps."""
        done = self.micro_step - self.first
        if self.warm is not None and done > self.WARMUP:
            pace = (time.perf_counter() - self.warm) / (done - self.WARMUP)
        else:
            pace = self.elapsed() / max(done, 1)
        return pace * (total_steps - self.micro_step)


class SaveClock:
    """When the next save is due: at a given interval of micro-steps, else as often as saving may cost.

    Without an interval all that is written along the way takes at most SHARE of the time. `first_cost` is a guess of
    what the first save takes, in seconds; later ones are measured.
    """

    SHARE = 0.02
    LEAST_SECONDS = 20.0  # between two saves, however cheap they are

    def __init__(self, interval: int | None, first_cost: float) -> None:
        self.interval, self.cost = interval, first_cost
        self.spent = 0.0
        self.saved_at = 0.0

    def is_due(self, before: int, now: int, elapsed: float) -> bool:
        """After an update that took the run from micro-step `before` to `now`, `elapsed` seconds into the training."""
        if self.interval:
            return now // self.interval > before // self.interval
        return elapsed - self.saved_at >= self.LEAST_SECONDS and self.spent + self.cost <= self.SHARE * elapsed

    def saved(self, seconds: float, elapsed: float) -> None:
        """A save took `seconds`."""
        self.cost, self.saved_at = seconds, elapsed
        self.spent += seconds

    def snapshot(self, seconds: float) -> None:
        """Something else was written, which took `seconds`."""
        self.spent += seconds


def peak_memory_mib(device: torch.device) -> int:
    """Most memory used so far, in MiB: on the GPU, or by this process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(used / 2**20 if sys.platform == "darwin" else used / 2**10)
    except ImportError:  # Windows
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 2**20)

"""What a run shows on a terminal, and can do without: where there is none, or none any more, the run goes on."""

from __future__ import annotations

import os
import sys

from tqdm import tqdm


def tell(text: str) -> None:
    """Print a line. When nobody takes it any more (a closed terminal, `| head`), this and later ones are dropped."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open as long as the process


class Progress:
    """tqdm over `total` micro-steps from `done` on, written to stderr; `shown=False` draws nothing.

    Other work counts in another `unit` (for "B", bytes, as MB and MB/s) and says `what` it is; it is drawn when it
    has taken `after` seconds.
    """

    def __init__(
        self, total: int, done: int, shown: bool, unit: str = "step", what: str | None = None, after: float = 0
    ) -> None:
        self.bar = None
        if shown:
            self._survive(lambda: self._open(total, done, unit, what, after))

    def _open(self, total: int, done: int, unit: str, what: str | None, after: float) -> None:
        large = unit == "B"  # as MB, and seldom: a log file keeps every drawing
        self.bar = tqdm(
            total=total,
            initial=done,
            desc=what,
            unit=unit,
            unit_scale=large,
            mininterval=1 if large else 0.1,
            delay=after,
            dynamic_ncols=True,
            leave=False,
        )

    def step(self, steps: int = 1) -> None:
        """One more micro-step is done, or `steps` of the unit."""
        if self.bar is not None:
            self._survive(lambda: self.bar.update(steps))

    def close(self) -> None:
        if self.bar is not None:
            self._survive(self.bar.close)
        self.bar = None

    def _survive(self, draw) -> None:
        try:
            draw()
        except (OSError, ValueError):  # the terminal was closed
            self.bar = None

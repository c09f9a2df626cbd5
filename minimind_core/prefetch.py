"""Batches ahead of their time: a thread makes the next ones and sends them to the GPU while this one is computed.

Used where the device works on its own (a GPU); a CPU that computes has no hands free. Left out: loading processes,
which `--num_workers` adds behind it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator

AHEAD = 2  # batches that wait, ready


def ahead(batches: Iterable, prepare: Callable) -> Iterator:
    """`prepare(batch)` of each batch in order, AHEAD of them made in a thread before they are asked for.

    What the thread raises is raised here, in its place among the batches. Closing the iterator ends the thread.
    """
    ready: queue.Queue = queue.Queue(AHEAD)
    closed = threading.Event()

    def put(item: tuple) -> bool:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put((prepare(batch), None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield batch
    finally:
        closed.set()
        thread.join(timeout=10)

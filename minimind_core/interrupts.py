"""Ctrl-C, the stop button, SIGTERM and a closed terminal ask a run to stop; a second one interrupts it at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
ONE_WISH_SECONDS = 1.0  # torchrun and a terminal may both pass one Ctrl-C on


@contextmanager
def gentle_stop(
    is_stopping: Callable[[], bool], stop: Callable[[], None], is_saving: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """While inside, the first of SIGNALS calls `stop()`; a later one raises KeyboardInterrupt when `is_stopping()`.

    A save is never interrupted: while `is_saving()` a later signal does nothing, since what it wants is under way.
    A signal that is ignored stays ignored: that is how nohup keeps a run alive. Signals reach the main thread only; in
    another one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked_at = 0.0

    def ask(number, frame):
        nonlocal asked_at
        now = time.monotonic()
        if not is_stopping():
            asked_at = now
            stop()
        elif now - asked_at > ONE_WISH_SECONDS and not is_saving():
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def undisturbed_by_children() -> Iterator[None]:
    """While inside, the death of a loading process raises nothing: torch's loader does so at any line, even in a save.

    Does nothing outside the main thread and on Windows, where there is no such signal.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)

"""Writing a text in a thread, so that the page hears a click meanwhile; knows nothing of widgets (continuation.py).

A kernel that is busy hears no click in many front ends. Left out: choosing tokens (generation.py).
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from ..errors import CourseError
from ..generation import encode_prompt, generate
from ..model import MiniMindLM
from ..tokenizer import EOS_ID, TextStream

SECONDS_BETWEEN_LOOKS = 0.05  # a fast GPU writes more tokens a second than a browser can draw


@dataclass(frozen=True)
class Progress:
    """How a continuation stands. `state`: 'writing', 'ended' (at `</s>`), 'full', 'stopped' or 'failed'."""

    prompt: str
    text: str = ""
    ids: tuple[int, ...] = ()
    seconds: float = 0.0
    state: str = "writing"
    error: str = ""

    @property
    def tokens(self) -> int:
        """How many tokens were written, a closing `</s>` included."""
        return len(self.ids)


def write(
    model: MiniMindLM, tokenizer: Tokenizer, prompt: str, stop: threading.Event | None = None, **settings: Any
) -> Iterator[Progress]:
    """Continue a text; yields how it stands at the start and after every token, last of all how it came to its end.

    `settings` are those of `generate`. Once `stop` is set, no more tokens are taken. Never raises: an error is a state.
    """
    started, stream = time.perf_counter(), TextStream(tokenizer)
    text, ids, state, error = "", (), "full", ""
    yield Progress(prompt)
    try:
        for token in generate(model, encode_prompt(tokenizer, prompt), stream=True, **settings):
            if stop is not None and stop.is_set():
                state = "stopped"
                break
            text, ids = text + stream.push(token), (*ids, token)
            if token == EOS_ID:
                state = "ended"
            yield Progress(prompt, text, ids, time.perf_counter() - started)
        if state != "stopped":
            text += stream.flush()
    except Exception as problem:  # shown in the widget: an error in a thread would be lost
        state = "failed"
        error = str(problem) if isinstance(problem, CourseError) else f"{type(problem).__name__}: {problem}"
    yield Progress(prompt, text, ids, time.perf_counter() - started, state, error)


class Writer:
    """Writes one text at a time in a thread, and hands `show` what there is to see.

    `show` is called from that thread: at the start, about 20 times a second, and once at the end; all the while `lock`
    is held, so whoever holds it sees nothing change. `after`, without the lock, may then take its time over the text.
    """

    def __init__(
        self,
        model: MiniMindLM,
        tokenizer: Tokenizer,
        show: Callable[[Progress], None],
        after: Callable[[], None] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.show, self.after = model, tokenizer, show, after
        self.lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def running(self) -> bool:
        """Whether a thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, prompt: str, **settings: Any) -> None:
        """Begin a text. One that is still being written gives way; its thread ends before the new one computes."""
        with self.lock:
            self.forget()
            work = (self._work, self._stop, self._thread, (self.model, self.tokenizer, prompt), settings)
            # The context says which notebook the messages belong to; a bare thread has none, and some kernels mind.
            self._thread = threading.Thread(target=contextvars.copy_context().run, args=work, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Let the text end where it is; what it came to is still shown."""
        self._stop.set()

    def forget(self) -> None:
        """Stop, and show nothing more of this text."""
        with self.lock:
            self._stop.set()
            self._stop = threading.Event()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the thread to end; False when it has not after that time."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.running

    def _work(
        self, stop: threading.Event, before: threading.Thread | None, what: tuple[Any, ...], settings: dict[str, Any]
    ) -> None:
        if before is not None:
            before.join()
        shown = 0.0
        for progress in write(*what, stop, **settings):
            now = time.perf_counter()
            if progress.state == "writing" and progress.tokens and now - shown < SECONDS_BETWEEN_LOOKS:
                continue
            shown = now
            with self.lock:
                if stop is not self._stop:  # somebody has begun another text or cleared this one
                    return
                self.show(progress)
        if self.after is not None:
            self.after()

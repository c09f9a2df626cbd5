"""The widget of lesson 07: a prompt, six sliders, and a text that grows while the Stop button still answers.

A kernel that is busy hears no click, so the text is written in a thread of its own. The thinking is in `write` and
`Writer`, which know nothing of widgets. Everything shown is escaped: prompts and generated text are untrusted. Left
out: choosing tokens (generation.py).
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets as widgets
from tokenizers import Tokenizer

from ..errors import CourseError
from ..eval_model import PROMPTS
from ..generation import encode_prompt, generate
from ..model import MiniMindLM
from ..plots.style import CARD, INK, RED
from ..tokenizer import EOS_ID, TextStream

SECONDS_BETWEEN_LOOKS = 0.05  # a fast GPU writes more tokens a second than a browser can draw


@dataclass(frozen=True)
class Progress:
    """How a continuation stands. `state`: 'writing', 'ended' (at `</s>`), 'full', 'stopped' or 'failed'."""

    prompt: str
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    state: str = "writing"
    error: str = ""


def write(
    model: MiniMindLM, tokenizer: Tokenizer, prompt: str, stop: threading.Event | None = None, **settings: Any
) -> Iterator[Progress]:
    """Continue a text; yields how it stands at the start and after every token, last of all how it came to its end.

    `settings` are those of `generate`. Once `stop` is set, no more tokens are taken. Never raises: an error is a state.
    """
    started, stream = time.perf_counter(), TextStream(tokenizer)
    text, tokens, state, error = "", 0, "full", ""
    yield Progress(prompt)
    try:
        for token in generate(model, encode_prompt(tokenizer, prompt), stream=True, **settings):
            if stop is not None and stop.is_set():
                state = "stopped"
                break
            text, tokens = text + stream.push(token), tokens + 1
            if token == EOS_ID:
                state = "ended"
            yield Progress(prompt, text, tokens, time.perf_counter() - started)
        if state != "stopped":
            text += stream.flush()
    except Exception as problem:  # shown in the widget: an error in a thread would be lost
        state = "failed"
        error = str(problem) if isinstance(problem, CourseError) else f"{type(problem).__name__}: {problem}"
    yield Progress(prompt, text, tokens, time.perf_counter() - started, state, error)


class Writer:
    """Writes one text at a time in a thread, and hands `show` what there is to see.

    `show` is called from that thread: at the start, about 20 times a second, and once at the end.
    """

    def __init__(self, model: MiniMindLM, tokenizer: Tokenizer, show: Callable[[Progress], None]) -> None:
        self.model, self.tokenizer, self.show = model, tokenizer, show
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """Whether a thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, prompt: str, **settings: Any) -> None:
        """Begin a text. One that is still being written gives way; its thread ends before the new one computes."""
        self.forget()
        work = (self._work, self._stop, self._thread, prompt, settings)
        # The context says which notebook the messages belong to; a bare thread has none, and some kernels mind.
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the text end where it is; what it came to is still shown."""
        self._stop.set()

    def forget(self) -> None:
        """Stop, and show nothing more of this text."""
        with self._lock:
            self._stop.set()
            self._stop = threading.Event()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the thread to end; False when it has not after that time."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.running

    def _work(
        self, stop: threading.Event, before: threading.Thread | None, prompt: str, settings: dict[str, Any]
    ) -> None:
        if before is not None:
            before.join()
        shown = 0.0
        for progress in write(self.model, self.tokenizer, prompt, stop, **settings):
            now = time.perf_counter()
            if progress.state == "writing" and progress.tokens and now - shown < SECONDS_BETWEEN_LOOKS:
                continue
            shown = now
            with self._lock:
                if stop is self._stop:  # nobody has begun another text or cleared this one
                    self.show(progress)


def status_line(progress: Progress) -> str:
    """What a progress comes to in words: how it ended, how many tokens, how fast."""
    ended = {
        "writing": "writing …",
        "ended": "the model ended the text itself, with </s>",
        "full": "all new tokens used",
        "stopped": "stopped",
        "failed": "failed",
    }[progress.state]
    if not progress.tokens:
        return ended
    speed = f", {progress.tokens / progress.seconds:.0f} a second" if progress.seconds > 0 else ""
    return f"{ended} · {progress.tokens} tokens in {progress.seconds:.1f} s{speed}"


def progress_html(progress: Progress | None) -> str:
    """A card with the prompt on blue, the continuation behind it and a status line; None: a word on what to do."""
    style = (
        f"background-color:{CARD};color:{INK};border:1px solid #CCCCCC;border-radius:4px;padding:10px 12px;"
        "max-width:760px;min-height:120px;font-size:15px;line-height:1.7;white-space:pre-wrap;overflow-wrap:anywhere"
    )
    if progress is None:
        return f'<div style="{style}">Press Continue: the text appears here, token by token.</div>'
    small = f"background-color:{CARD};color:#555555;font-size:12px;margin-top:8px"
    prompt = f'<span style="background-color:#D6E8F5;color:{INK};padding:1px 2px">{escape(progress.prompt)}</span>'
    cursor = "▌" if progress.state == "writing" else ""
    error = ""
    if progress.error:
        error = (
            f'<div style="background-color:{CARD};color:{RED}"><b>That did not work.</b> {escape(progress.error)}</div>'
        )
    status = f'<div role="status" style="{small}">{escape(status_line(progress))}</div>'
    return f'<div style="{style}">{prompt}{escape(progress.text)}{cursor}{error}{status}</div>'


def setting_sliders() -> dict[str, widgets.Widget]:
    """The six sliders, by the name that `generate` gives each setting."""
    shape = {
        "style": {"description_width": "130px"},
        "layout": widgets.Layout(width="370px"),
        "continuous_update": False,
    }
    whole, real = widgets.IntSlider, widgets.FloatSlider
    return {
        "max_new_tokens": whole(100, 1, 500, description="new tokens", tooltip="most tokens to add", **shape),
        "temperature": real(
            0.7, min=0, max=2, step=0.05, description="temperature", tooltip="0: always the likeliest", **shape
        ),
        "top_p": real(0.9, min=0.05, max=1, step=0.05, description="top-p", tooltip="1: off", **shape),
        "top_k": whole(0, 0, 100, description="top-k (0: off)", tooltip="0: off", **shape),
        "repetition_penalty": real(
            1.0, min=1, max=2, step=0.05, description="repetition penalty", tooltip="1: off", **shape
        ),
        "seed": whole(42, 0, 100, description="seed", tooltip="the same seed draws the same text", **shape),
    }


def continuation_widget(model: MiniMindLM, tokenizer: Tokenizer, prompts: Sequence[str] = PROMPTS) -> widgets.VBox:
    """A prompt with suggestions, sliders, Continue, Stop and Clear, and the text as it is written.

    Continue (or Enter in the prompt) while a text is being written begins anew with what the widget then says.
    """
    prompt = widgets.Text(
        value=prompts[0] if prompts else "",
        description="Prompt",
        placeholder="the beginning of a text; may be empty",
        layout=widgets.Layout(width="100%", max_width="760px"),
        style={"description_width": "60px"},
    )
    suggestions = [widgets.Button(description=text, tooltip="use as the prompt") for text in prompts]
    sliders = setting_sliders()
    go = widgets.Button(description="Continue", button_style="primary", tooltip="continue the prompt")
    halt = widgets.Button(description="Stop", disabled=True, tooltip="end the text where it is")
    clear = widgets.Button(description="Clear", tooltip="stop, and empty the page")
    page = widgets.HTML(progress_html(None))

    def show(progress: Progress) -> None:
        halt.disabled = progress.state != "writing"
        page.value = progress_html(progress)

    writer = Writer(model, tokenizer, show)

    def begin(*_: object) -> None:
        writer.start(prompt.value, **{name: slider.value for name, slider in sliders.items()})

    def empty(*_: object) -> None:
        writer.forget()
        halt.disabled, page.value = True, progress_html(None)

    go.on_click(begin)
    prompt.on_msg(lambda _, content, buffers: begin() if content.get("event") == "submit" else None)
    halt.on_click(lambda _: writer.stop())
    clear.on_click(empty)
    for button in suggestions:
        button.layout = widgets.Layout(width="auto")
        button.on_click(lambda pressed: setattr(prompt, "value", pressed.description))
    wrapped = widgets.Layout(flex_flow="row wrap", max_width="780px")
    return widgets.VBox(
        [
            prompt,
            widgets.HBox(suggestions, layout=wrapped),
            widgets.HBox(list(sliders.values()), layout=wrapped),
            widgets.HBox([go, halt, clear]),
            page,
        ]
    )

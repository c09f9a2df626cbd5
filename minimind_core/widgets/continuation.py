"""The widget of lesson 07: a prompt, a choice of models, six sliders, and a text that grows while Stop still answers.

Afterwards each token can be coloured by its probability, with what else the model thought of. The thinking is in plain
functions and in writer.py, the models in model_choice.py. Everything shown is escaped: prompts and generated text are
untrusted.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from tokenizers import Tokenizer

from ..eval_model import PROMPTS
from ..model import MiniMindLM
from ..plots.style import CARD, INK, RED
from .model_choice import ModelChoice
from .parts import Panel, button, card_style, error_card, fill, looks, prompt_field, row, typed
from .probabilities import Judged, alternatives_html, coloured_html, judged, legend_html
from .writer import Progress, Writer

KEPT = 6  # earlier texts that stay in sight
PAGE = card_style("min-height:120px;font-size:15px;line-height:1.7;white-space:pre-wrap")
PROMPT_STYLE = f"background-color:#D6E8F5;color:{INK};padding:1px 2px"
SMALL = f"background-color:{CARD};color:#555555;font-size:12px"


# --- the text ---------------------------------------------------------------------------------------------------------


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
    tokens = "token" if progress.tokens == 1 else "tokens"
    return f"{ended} · {progress.tokens} {tokens} in {progress.seconds:.1f} s{speed}"


def progress_html(progress: Progress | None, body: str | None = None) -> str:
    """A card with the prompt on blue, the continuation behind it and a status line; None: a word on what to do.

    `body` is HTML for the continuation in place of its plain text.
    """
    if progress is None:
        return f'<div style="{PAGE}">Press Continue: the text appears here, token by token.</div>'
    prompt = f'<span style="{PROMPT_STYLE}">{escape(progress.prompt)}</span>'
    cursor, role = ("▌", "") if progress.state == "writing" else ("", ' role="status"')
    error = ""
    if progress.error:
        error = (
            f'<div style="background-color:{CARD};color:{RED}"><b>That did not work.</b> {escape(progress.error)}</div>'
        )
    status = f'<div{role} style="{SMALL};margin-top:8px">{escape(status_line(progress))}</div>'
    text = escape(progress.text) if body is None else body
    return f'<div style="{PAGE}">{prompt}{text}{cursor}{error}{status}</div>'


def history_html(earlier: Sequence[tuple[str, Progress]]) -> str:
    """Earlier texts with what they were made with, newest first, folded; empty when there are none."""
    if not earlier:
        return ""
    lines = "".join(
        f'<div style="margin:6px 0"><span style="{PROMPT_STYLE}">{escape(progress.prompt)}</span>'
        f'{escape(progress.text)}<div style="{SMALL}">{escape(made)} · {escape(status_line(progress))}</div></div>'
        for made, progress in reversed(earlier)
    )
    style = card_style("font-size:14px;line-height:1.6;white-space:pre-wrap")
    return f'<details><summary>Earlier texts ({len(earlier)})</summary><div style="{style}">{lines}</div></details>'


# --- the widget -------------------------------------------------------------------------------------------------------


def setting_sliders() -> dict[str, widgets.Widget]:
    """The six sliders, by the name that `generate` gives each setting."""
    whole, real = widgets.IntSlider, widgets.FloatSlider
    quiet: dict[str, Any] = {"continuous_update": False}
    return {
        "max_new_tokens": whole(100, 1, 500, description="new tokens", tooltip="most tokens to add", **quiet, **wide()),
        "temperature": real(
            0.7,
            min=0,
            max=2,
            step=0.05,
            description="temperature",
            tooltip="0: always the likeliest",
            **quiet,
            **wide(),
        ),
        "top_p": real(0.9, min=0.05, max=1, step=0.05, description="top-p", tooltip="1: off", **quiet, **wide()),
        "top_k": whole(0, 0, 100, description="top-k (0: off)", tooltip="0: off", **quiet, **wide()),
        "repetition_penalty": real(
            1.0, min=1, max=2, step=0.05, description="repetition penalty", tooltip="1: off", **quiet, **wide()
        ),
        "seed": whole(42, 0, 100, description="seed", tooltip="the same seed draws the same text", **quiet, **wide()),
    }


def wide() -> dict[str, Any]:
    """Looks of a slider with a long name."""
    return looks("130px")


def made_with(settings: Mapping[str, Any], name: str = "") -> str:
    """Settings in a line, for the list of earlier texts."""
    words = [f"temperature {settings['temperature']:g}", f"top-p {settings['top_p']:g}", f"seed {settings['seed']}"]
    if settings["top_k"]:
        words.append(f"top-k {settings['top_k']}")
    if settings["repetition_penalty"] != 1:
        words.append(f"penalty {settings['repetition_penalty']:g}")
    return " · ".join([*([name] if name else []), *words])


class ContinuationBox:
    """The widgets of a continuation and what they do; `panel` is what is shown.

    Continue (or Enter in the prompt) while a text is being written begins anew with what the widget then says. Clicks
    and the writer's thread take turns: whatever changes the page holds the writer's lock.
    """

    def __init__(
        self,
        model: MiniMindLM,
        tokenizer: Tokenizer,
        prompts: Sequence[str],
        files: Mapping[str, Path] | None = None,
    ) -> None:
        self.now: Progress | None = None
        self.made = ""
        self.earlier: list[tuple[str, Progress]] = []
        self.tokens: list[Judged] = []
        self.writer = Writer(model, tokenizer, self.show, self._colour)
        self._judging = threading.Lock()
        self.prompt = prompt_field(
            prompts[0] if prompts else "", live=True, placeholder="the beginning of a text; may be empty"
        )
        suggestions = [button(text, "use as the prompt", self._suggest(text)) for text in prompts]
        self.models = ModelChoice(model, tokenizer, files, self._take, lambda problem: self._say(error_card(problem)))
        self.sliders = setting_sliders()
        self.go = button("Continue", "continue the prompt; Enter in the prompt does the same", self.begin, "primary")
        self.halt = button("Stop", "end the text where it is", self.writer.stop)
        self.halt.disabled = True
        clear = button("Clear", "stop, and empty the page and the list of earlier texts", self.clear)
        self.colours = widgets.ToggleButton(
            False, description="Probabilities", tooltip="colour each token by its probability",
            layout=widgets.Layout(width="auto"),
        )  # fmt: skip
        self.place = widgets.IntSlider(1, 1, 1, description="token", **looks("60px", "500px"))
        self.message, self.page, self.legend, self.others, self.history = (widgets.HTML() for _ in range(5))
        self._say("")
        self.page.value = progress_html(None)
        self.place.layout.display = "none"
        self.prompt.on_msg(lambda _, content, buffers: self.begin() if content.get("event") == "submit" else None)
        self.colours.observe(lambda _: self._colour(), "value")
        self.place.observe(lambda _: self._point(), "value")
        self.panel = Panel(
            [
                self.prompt,
                row(*suggestions),
                self.models.dropdown,
                self.message,
                row(*self.sliders.values()),
                row(self.go, self.halt, clear, self.colours),
                self.page,
                self.legend,
                self.place,
                self.others,
                self.history,
            ]
        )
        self.panel.layout.max_width = "780px"

    def _suggest(self, text: str):
        return lambda: setattr(self.prompt, "value", text)

    def _say(self, html: str) -> None:
        """A message below the models; "" takes it away."""
        self.message.value, self.message.layout.display = html, None if html else "none"

    def _take(self, model: MiniMindLM, tokenizer: Tokenizer) -> None:
        """Another model takes over, on an empty page."""
        with self.writer.lock:
            self._end()
            self._empty()
            self.writer.model, self.writer.tokenizer = model, tokenizer

    def begin(self) -> None:
        """Write a text with what the widget says now."""
        settings = {name: slider.value for name, slider in self.sliders.items()}
        prompt = typed(self.prompt.value)
        with self.writer.lock:
            self._end()
            self.made = made_with(settings, self.models.name)
            self.writer.start(prompt, **settings)
            self.show(Progress(prompt))  # the thread may have to wait for the one before it
        self.models.refresh()

    def _end(self) -> None:
        """No more of the text on the page, which becomes an earlier one; where it was being written, it has stopped."""
        self.writer.forget()
        if self.now is not None and self.now.ids:
            kept = replace(self.now, state="stopped") if self.now.state == "writing" else self.now
            self.earlier = [*self.earlier, (self.made, kept)][-KEPT:]
            self.history.value = history_html(self.earlier)
        self.now = None
        self._uncolour()
        self._say("")

    def _empty(self) -> None:
        self.page.value, self.halt.disabled = progress_html(None), True

    def show(self, progress: Progress) -> None:
        """Called by the writer, which holds its lock, as the text grows."""
        self.now = progress
        self.halt.disabled = progress.state != "writing"
        self.page.value = progress_html(progress)

    def _uncolour(self) -> None:
        self.tokens, self.legend.value, self.others.value = [], "", ""
        self.place.layout.display = "none"

    def _colour(self) -> None:
        """A text that has ended, plain or in colours, as wanted; called by a click or by the writer's thread.

        Judging takes a while, and nobody has to wait for it: what it was for is looked at again afterwards.
        """
        with self.writer.lock:
            now, model, tokenizer = self.now, self.writer.model, self.writer.tokenizer
            if now is None or now.state == "writing":
                return
            self._uncolour()
            self.page.value = progress_html(now)
            if not self.colours.value or not now.ids:
                return
        tokens, legend = [], legend_html()
        try:
            with self._judging:
                tokens = judged(model, tokenizer, now)
        except Exception as problem:
            legend = error_card(problem)
        with self.writer.lock:
            if self.now is not now or not self.colours.value:
                return
            self.tokens, self.legend.value = tokens, legend
            if tokens:
                self.place.max, self.place.layout.display = len(tokens), None
                self._point()

    def _point(self) -> None:
        """The chosen token gets a frame, and its alternatives a table."""
        with self.writer.lock:
            now, number = self.now, self.place.value - 1
            if now is not None and number < len(self.tokens):
                fill(self.page, lambda: progress_html(now, coloured_html(self.tokens, number)))
                fill(self.others, lambda: alternatives_html(self.tokens[number], number))

    def clear(self) -> None:
        """Stop, and begin with an empty page."""
        with self.writer.lock:
            self._end()
            self._empty()
            self.earlier, self.history.value = [], ""
        self.models.refresh()


def continuation_widget(
    model: MiniMindLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str] = PROMPTS,
    files: Mapping[str, Path] | None = None,
) -> Panel:
    """A prompt with suggestions, a choice of models, sliders, Continue, Stop and Clear, and the text as it is written.

    `files`: weights files by their labels, besides the model that is given; default: those in out/, looked at again
    with every text.
    """
    return ContinuationBox(model, tokenizer, prompts, files).panel

"""The merge walker of lesson 02: byte pair encoding one merge at a time, over a text that you may change.

The thinking is in plain functions (`merge_steps`, `step_view`), the widget only passes slider and text to them. Left
out: training on a corpus, which a library does (tokenizer.py).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import ipywidgets as widgets

from ..plots.corpus import Safe, card, table
from ..plots.tokens import chip, readable
from ..tokenizer import SPECIAL_TOKENS, token_bytes, train_tokenizer
from .parts import Panel, area, fill, looks, typed

MOST_MERGES = 300
MOST_CHARACTERS = 2_000
SHOW_AT_MOST = 400  # tokens as boxes
NEWEST = "#FFE066"  # background of the token that was merged last
# The course's tokenizer merges only within such a stretch: letters, digits or marks (a space may lead), or spaces.
WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
Pair = tuple[bytes, bytes]


@dataclass(frozen=True)
class Step:
    """The text after some merges: its words as tokens' bytes, the pair merged last, and how often that occurred."""

    words: tuple[tuple[bytes, ...], ...]
    merged: Pair | None = None
    times: int = 0

    @property
    def tokens(self) -> int:
        """How many tokens the text has now."""
        return sum(map(len, self.words))

    def pairs(self) -> Counter[Pair]:
        """How often each pair of neighbours occurs in the text, within words."""
        return Counter(pair for word in self.words for pair in pairwise(word))


def merge_steps(text: str, most: int = MOST_MERGES) -> list[Step]:
    """The states of a text from its bytes on, each after one more merge of byte pair encoding; at most `most` merges.

    Ends when no pair occurs twice. The most frequent pair is merged, of equals the one with the smaller ids, as
    `train_tokenizer` does. Markers are split off first; more than MOST_CHARACTERS are not looked at.
    """
    base = train_tokenizer([""], 256 + len(SPECIAL_TOKENS))
    ids = {token_bytes(base, i): i for i in range(len(SPECIAL_TOKENS), base.get_vocab_size())}
    parts = re.split("|".join(map(re.escape, SPECIAL_TOKENS)), text[:MOST_CHARACTERS])
    words = tuple(
        tuple(bytes([byte]) for byte in word.encode("utf-8")) for part in parts for word in WORD.findall(part)
    )
    steps = [Step(words)]
    while len(steps) <= most and (pairs := steps[-1].pairs()):
        pair, times = min(pairs.items(), key=lambda item: (-item[1], ids[item[0][0]], ids[item[0][1]]))
        if times < 2:
            break
        ids.setdefault(pair[0] + pair[1], len(ids) + len(SPECIAL_TOKENS))
        words = tuple(_merged(word, pair) for word in words)
        steps.append(Step(words, pair, times))
    return steps


def _merged(word: tuple[bytes, ...], pair: Pair) -> tuple[bytes, ...]:
    """A word with `pair` as one token wherever it occurs, from left to right."""
    out: list[bytes] = []
    old = False  # whether the last token was there before
    for token in word:
        if old and (out[-1], token) == pair:
            out[-1], old = pair[0] + pair[1], False
        else:
            out.append(token)
            old = True
    return tuple(out)


def spelled(pair: Pair) -> str:
    """A pair as a person reads it: `⟨e5⟩ + ⟨8d⟩`."""
    return " + ".join(readable(piece).replace(" ", "␣").replace("\n", "⏎") for piece in pair)


def step_words(steps: list[Step], number: int) -> str:
    """What happened at a step and comes next, in words: the text equivalent of `step_view`."""
    step = steps[number]
    told = f"{number} of {len(steps) - 1} merges: {steps[0].tokens} bytes are {step.tokens} tokens"
    if step.merged:
        new = readable(b"".join(step.merged)).replace(" ", "␣").replace("\n", "⏎")
        told += f" · merged: {spelled(step.merged)} → {new}, {step.times}×"
    if number + 1 < len(steps):
        return f"{told} · next: {spelled(steps[number + 1].merged)}, {steps[number + 1].times}×"
    return f"{told} · no pair occurs twice" if max(step.pairs().values(), default=0) < 2 else told


def step_view(steps: list[Step], number: int) -> str:
    """The text after `number` merges as HTML: boxes (the newest on yellow), and the pairs that wait, next first."""
    step, boxes, shown = steps[number], [], 0
    new = b"".join(step.merged) if step.merged else None
    for word in step.words:
        for token in word[: SHOW_AT_MOST - shown]:
            box = chip(readable(token), shown, token.hex(" "), NEWEST if token == new else None)
            boxes.append(f"<b>{box}</b>" if token == new else box)
            shown += 1
        boxes.append("&nbsp; ")
    more = f"<br>The first {SHOW_AT_MOST} tokens are shown." if step.tokens > shown else ""
    told = escape(step_words(steps, number)).replace(" · ", "<br>")
    page = card(Safe(f"<b>{told}</b><br>{''.join(boxes)}{more}")).data
    after = steps[number + 1].merged if number + 1 < len(steps) else None
    waiting = sorted(step.pairs().items(), key=lambda item: (item[0] != after, -item[1]))[:5]
    rows = [(spelled(pair), f"{times}×") for pair, times in waiting]
    return page + (table(("most frequent pairs now", "how often"), rows).data if rows else "")


def merge_walker(text: str) -> Panel:
    """A text field, a slider over the merges, and the text as it stands then; arrow keys move the slider."""
    field = area(text)
    slider = widgets.IntSlider(0, 0, 1, description="merges", **looks("60px", "520px"))
    page = widgets.HTML()
    steps: list[Step] = []

    def draw(*_: object) -> None:
        fill(page, lambda: step_view(steps, min(slider.value, len(steps) - 1)))

    def read(*_: object) -> None:
        steps[:] = merge_steps(typed(field.value))
        slider.max = len(steps) - 1  # takes the value along where it would lie behind the end
        draw()

    field.observe(read, "value")
    slider.observe(draw, "value")
    read()
    return Panel([field, slider, page])

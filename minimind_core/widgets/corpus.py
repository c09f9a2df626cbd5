"""The row browser of lesson 01: walk through a corpus by number or by a word that is looked for.

The thinking is in plain functions (`read_some`, `find_rows`, `row_view`), the widget only passes clicks to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets

from ..corpus import iter_texts, marker_edition
from ..plots.corpus import card, row_html
from .parts import Panel, button, fill, looks, row

READ_AT_MOST = 2_000  # rows; a browser is for looking, and a full corpus has a million


def read_some(path: str | Path, limit: int = READ_AT_MOST) -> list[str]:
    """The first rows of a corpus, at most `limit`, with the first edition's markers."""
    return list(iter_texts(path, limit))


def find_rows(texts: Sequence[str], query: str) -> list[int]:
    """Numbers (from 0) of the rows that hold `query`; an empty query is in all of them."""
    return [number for number, text in enumerate(texts) if query in text]


def next_row(found: Sequence[int], now: int, step: int = 1) -> int:
    """The row of `found` after `now` (before it for step -1), starting over at the end; `now` where none is found."""
    if not found:
        return now
    if step > 0:
        return next((number for number in found if number > now), found[0])
    return next((number for number in reversed(found) if number < now), found[-1])


def row_view(texts: Sequence[str], number: int, query: str = "") -> str:
    """Row `number` as HTML, with a line of facts above it and what was looked for marked; all text is escaped."""
    if not 0 <= number < len(texts):
        return card(f"There is no row {number}; they are numbered 0 to {len(texts) - 1}.").data
    text = texts[number]
    facts = (
        f"row {number} · {len(text)} characters · {len(text.encode('utf-8'))} bytes · markers: {marker_edition(text)}"
    )
    if query:
        found = find_rows(texts, query)
        here = "this one too" if query in text else "not this one"
        facts += f" · “{query}” stands in {len(found)} of {len(texts)} rows, {here}"
    return row_html(text, facts, query).data


def row_browser(path: str | Path, limit: int = READ_AT_MOST) -> Panel:
    """A browser over the first rows of a corpus: a slider, a search field, two buttons for the finds, and the row."""
    texts = read_some(path, limit)
    number = widgets.IntSlider(0, 0, len(texts) - 1, description="Row", **looks("40px", "380px"))
    query = widgets.Text(
        description="Find", placeholder="a word, then Enter", continuous_update=False, **looks("40px", "230px")
    )
    page = widgets.HTML()

    def draw(*_: object) -> None:
        fill(page, lambda: row_view(texts, number.value, query.value.strip()))

    def jump(step: int) -> None:
        number.value = next_row(find_rows(texts, query.value.strip()), number.value, step)

    def search(*_: object) -> None:
        found = find_rows(texts, query.value.strip())
        if not found or number.value in found:
            draw()
        else:
            jump(1)  # the slider's change draws

    before = button("◀ find", "the row before this one that holds the word", lambda: jump(-1))
    after = button("find ▶", "the next row that holds the word", lambda: jump(1))
    number.observe(draw, "value")
    query.observe(search, "value")
    draw()
    return Panel([row(number, query, before, after), page])

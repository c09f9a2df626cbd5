"""The token explorer of lesson 02: type a text, see its pieces, ids and bytes under one tokenizer or another."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets as widgets
from tokenizers import Tokenizer

from ..plots.corpus import table
from ..plots.tokens import hex_bytes, tokens_html
from ..tokenizer import pieces, token_bytes
from .parts import Panel, area, fill, looks, typed

SHOW_AT_MOST = 400  # tokens as boxes
LIST_AT_MOST = 40  # tokens as lines of the table


def facts_of(tokenizer: Tokenizer, text: str) -> tuple[list[int], str]:
    """A text's ids, and one line about them: characters, bytes, tokens, and characters per token."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    size = len(text.encode("utf-8"))
    each = f" · {len(text) / len(ids):.2f} characters per token" if ids else ""
    return ids, f"{len(text)} characters · {size} bytes · {len(ids)} tokens{each}"


def explorer_view(tokenizer: Tokenizer, text: str) -> str:
    """Coloured pieces and a table of piece, id and bytes for `text`, as HTML; all text is escaped."""
    ids, facts = facts_of(tokenizer, text)
    if len(ids) > SHOW_AT_MOST:
        facts += f" · the first {SHOW_AT_MOST} are shown"
    boxes = tokens_html(tokenizer, ids[:SHOW_AT_MOST], with_ids=False, title=facts).data
    listed = ids[:LIST_AT_MOST]
    rows = [
        (place, piece.replace(" ", "␣").replace("\n", "⏎"), token, hex_bytes(token_bytes(tokenizer, token)))
        for place, (token, piece) in enumerate(zip(listed, pieces(tokenizer, listed), strict=True))
    ]
    caption = f"The first {LIST_AT_MOST} of {len(ids)} tokens" if len(ids) > LIST_AT_MOST else ""
    return boxes + (table(("position", "piece", "id", "bytes"), rows, caption).data if rows else "")


def token_explorer(tokenizers: Mapping[str, Tokenizer], text: str = "") -> Panel:
    """A text field and a choice of tokenizers (by name); pieces, ids and bytes follow as you type."""
    field = area(text)
    choice = widgets.Dropdown(
        options=list(tokenizers), value=list(tokenizers)[-1], description="Tokenizer", **looks("70px", "320px")
    )
    page = widgets.HTML()

    def draw(*_: object) -> None:
        fill(page, lambda: explorer_view(tokenizers[choice.value], typed(field.value)))

    field.observe(draw, "value")
    choice.observe(draw, "value")
    draw()
    return Panel([field, choice, page])

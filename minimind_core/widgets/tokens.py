"""Two widgets of lesson 02, both on a text that is typed: the token explorer and the mask viewer.

The explorer shows pieces, ids and bytes under one tokenizer or another, the viewer what counts in a row of that text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import ipywidgets as widgets
from tokenizers import Tokenizer

from ..dataset import Batch, PretrainDataset
from ..encoding import encode_corpus
from ..errors import CorpusError
from ..plots.corpus import table
from ..plots.tokens import hex_bytes, mask_html, tokens_html
from ..tokenizer import pieces, token_bytes
from .parts import Panel, area, fill, looks, row, typed

LOADERS = {"this course": False, "as MiniMind": True}

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


def item_of(tokenizer: Tokenizer, text: str, max_length: int, as_minimind: bool) -> tuple[Batch, int]:
    """X, Y and loss_mask, each (max_length - 1,), of a row with this text, and the row's tokens before it is cut.

    The text goes the way of any corpus: written to a file, read, encoded, cut. CorpusError if it is no row.
    """
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "typed.jsonl"
        file.write_text(json.dumps({"text": text}), encoding="utf-8")
        try:
            corpus = encode_corpus(file, tokenizer, cache=Path(folder) / "cache")
        except CorpusError as problem:  # without the name of a file that is gone
            raise CorpusError(str(problem).partition("line 1: ")[2] or str(problem)) from None
        data = PretrainDataset(corpus, tokenizer, max_length, as_minimind=as_minimind)
        return data[0], len(data.ids(0))


def mask_view(tokenizer: Tokenizer, text: str, max_length: int, loader: str) -> str:
    """The mask over `text` as HTML (all text is escaped), with a line that counts. `loader` is a key of LOADERS."""
    (X, Y, mask), length = item_of(tokenizer, text, max_length, LOADERS[loader])
    counts, cut = int(mask.sum()), max(0, length - max_length)
    end = length - cut - 1  # positions that ask for a token of the row; behind them stands padding
    left_out = f" · {end - counts} inside the text do not" if end > counts else ""
    title = f"{len(Y)} positions: {counts} count{left_out} · padding: {len(Y) - end} · cut off the row: {cut} tokens"
    return mask_html(tokenizer, X.tolist(), Y.tolist(), mask.tolist(), title).data


def mask_viewer(tokenizer: Tokenizer, text: str) -> Panel:
    """A text field, `max_length` and the loader; the row that a model would train on follows as you type."""
    field = area(text)
    length = widgets.IntSlider(  # every change writes and encodes a small file, so not at each tick
        32, 4, 96, description="max_length", continuous_update=False, **looks("90px", "400px")
    )
    choice = widgets.Dropdown(options=list(LOADERS), description="Loader", **looks("60px", "260px"))
    page = widgets.HTML()

    def draw(*_: object) -> None:
        fill(page, lambda: mask_view(tokenizer, typed(field.value), length.value, choice.value))

    for part in (field, length, choice):
        part.observe(draw, "value")
    draw()
    return Panel([field, row(length, choice), page])

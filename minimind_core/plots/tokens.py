"""Pictures of lesson 02: bytes, coloured tokens, X beside Y, padded rows and packed blocks, losses.

HTML where text is read, matplotlib where amounts are compared; each sets its own colours and escapes its text. Left
out: encoding and cutting rows (tokenizer.py, dataset.py), and what can be clicked (widgets/tokens.py).
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from IPython.display import HTML
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from tokenizers import Tokenizer

from ..dataset import Batch
from ..tokenizer import BOS_ID, SPECIAL_TOKENS, pieces, token_bytes
from .corpus import PALE, Safe, card, table
from .style import BLUE, GREEN, GREY, INK, ORANGE, subplots

COUNTS, IGNORED = "#CFEBDF", "#DADADA"  # backgrounds of positions inside and outside the loss
PADDING = "#3A3A3A"  # in images: far from every other colour in lightness too


def chip(text: str, number: int, title: str = "", background: str | None = None) -> Safe:
    """One token as a coloured box; neighbours differ in colour. `title` shows under the mouse.

    On IGNORED, the background of what does not count, it is struck through and its edge dashed.
    """
    colour, ink = background or PALE[number % len(PALE)], INK
    if text in SPECIAL_TOKENS and not background:
        colour, ink = "#4A4A4A", "#FFFFFF"
    visible = text.replace("\n", "⏎").replace(" ", "␣")
    edge = "1px dashed #222222;text-decoration:line-through" if background == IGNORED else "1px solid #999999"
    style = f"background-color:{colour};color:{ink};padding:1px 3px;margin:1px;border:{edge}"
    return Safe(f'<span style="{style}" title="{escape(title)}">{escape(visible)}</span> ')


def hex_bytes(raw: bytes | None) -> str:
    """Bytes as a person writes them, `e5 b1 b1`; a dash for special tokens, which stand for no bytes."""
    return " ".join(f"{byte:02x}" for byte in raw) if raw is not None else "–"


def bytes_html(text: str) -> HTML:
    """A table of a text's characters: the character, its Unicode number, its bytes and how many they are.

    Emoji and other characters of four bytes are named: many machines have no font for them and would draw a box.
    """
    rows = []
    for character in text:
        raw = character.encode("utf-8")
        boxes = Safe("".join(chip(f"{byte:02x}", n) for n, byte in enumerate(raw)))
        seen = character.replace(" ", "␣") if len(raw) < 4 else _named(character)
        rows.append((seen, f"U+{ord(character):04X}", boxes, len(raw)))
    return table(("character", "number", "bytes in UTF-8", "how many"), rows)


def _named(character: str) -> Safe:
    return Safe(f"<i>({escape(unicodedata.name(character, 'no name').lower())})</i>")


def tokens_html(tokenizer: Tokenizer, ids: Iterable[int], with_ids: bool = True, title: str = "") -> HTML:
    """Ids as coloured pieces in a row, each with its id below the mouse, and as small print beside it if `with_ids`."""
    ids = [int(i) for i in ids]
    boxes = []
    for number, (token, piece) in enumerate(zip(ids, pieces(tokenizer, ids), strict=True)):
        box = chip(piece, number, f"id {token} · {hex_bytes(token_bytes(tokenizer, token))}")
        small = f'<span style="color:#555555;font-size:10px">{token}</span> ' if with_ids else ""
        boxes.append(box + small)
    return card(Safe((f"<b>{escape(title)}</b><br>" if title else "") + "".join(boxes)))


def readable(raw: bytes) -> str:
    """Bytes as text where they are whole characters, else as `⟨e5⟩⟨b1⟩`."""
    return raw.decode("utf-8", "bytes in brackets")


def _in_brackets(error: UnicodeError) -> tuple[str, int]:
    return "".join(f"⟨{byte:02x}⟩" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("bytes in brackets", _in_brackets)


def counted(tokenizer: Tokenizer, ids: Sequence[int], mask: Sequence[int]) -> Safe:
    """Tokens in a row, green where the mask is 1, grey and struck through where it is 0; for a cell of a table."""
    ids, mask = [int(i) for i in ids], [int(m) for m in mask]
    boxes = zip(pieces(tokenizer, ids), ids, mask, strict=True)
    return Safe("".join(chip(piece, 0, f"id {token}", COUNTS if m else IGNORED) for piece, token, m in boxes))


def xy_html(tokenizer: Tokenizer, X: Sequence[int], Y: Sequence[int], mask: Sequence[int], around: int = 6) -> HTML:
    """X, Y and the mask side by side, a line a position: the beginning, the end of the text and the first padding."""
    X, Y, mask = ([int(v) for v in values] for values in (X, Y, mask))
    last = max((place for place, counts in enumerate(mask) if counts), default=0)
    shown = sorted({*range(min(around, len(X))), *range(max(0, last - 2), min(len(X), last + 4)), len(X) - 1})
    rows, before = [], -1
    for place in shown:
        if place > before + 1:
            rows.append(("⋮", "⋮", "⋮", "⋮"))
        colour = COUNTS if mask[place] else IGNORED
        read, say = (chip(pieces(tokenizer, [v])[0], 0, f"id {v}", colour) + f" {v}" for v in (X[place], Y[place]))
        rows.append((place, Safe(read), Safe(say), mask[place]))
        before = place
    return table(("position", "X: the model reads", "Y: it should say", "loss_mask: does it count?"), rows)


def mask_html(tokenizer: Tokenizer, X: Sequence[int], Y: Sequence[int], mask: Sequence[int], title: str) -> HTML:
    """The mask over a text, a column a position: what the model reads, what it should say (as in `counted`), the mask.

    Without its tags a column is a line of three words.
    """
    small = "color:#555555;font-size:11px"
    columns = [f'<div style="{small}">Each column: X, what is read · Y, what should be said (boxed) · loss_mask</div>']
    for place, (read, say, counts) in enumerate(zip(X, Y, mask, strict=True)):
        above, below = (pieces(tokenizer, [int(token)])[0] for token in (read, say))
        boxed = chip(below, 0, f"position {place}: id {int(say)}", COUNTS if counts else IGNORED)
        lines = (escape(above.replace(" ", "␣").replace("\n", "⏎")), int(counts))
        read_line, mask_line = (f'<span style="display:block;{small}">{line}</span>' for line in lines)
        style = "display:inline-block;text-align:center;margin:3px 1px"
        columns.append(f'<div style="{style}">{read_line} {boxed}{mask_line}</div>')
    return card(Safe(f"<div><b>{escape(title)}</b></div>" + "".join(columns)))


SIZES = "vocabulary, tokens (logarithmic scale)"


def compression(sizes: Sequence[int], curves: dict[str, Sequence[float]]) -> Figure:
    """Characters per token against the size of the vocabulary; `curves` has a value for each of `sizes`, by name."""
    figure, axes = subplots(figsize=(9, 3.2))
    for (name, values), marker in zip(curves.items(), "os^", strict=False):
        axes.plot(sizes, values, marker=marker, label=name)
    axes.set(xscale="log", xlabel=SIZES, ylabel="characters per token", ylim=(0, None))
    axes.set_title("What a bigger vocabulary gains")
    axes.legend()
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    return figure


def vocabulary_costs(costs: dict[int, tuple[int, int]], mark: int = 6400) -> Figure:
    """The share of the model that is its embedding, against the size of the vocabulary; beside points, its millions.

    `costs` gives for each vocabulary (parameters of the embedding, of the whole model); `mark` is MiniMind's.
    """
    figure, axes = subplots(figsize=(9, 3.2))
    shares = {size: 100 * embedding / whole for size, (embedding, whole) in costs.items()}
    axes.plot(list(shares), list(shares.values()), color=BLUE, marker="o")
    for size, share in shares.items():
        label = f"{share:.0f} % · {costs[size][0] / 1e6:.1f} M"
        if size == mark or share > 20:
            axes.annotate(label + (" (MiniMind)" if size == mark else ""), (size, share), (-8, 2),
                          textcoords="offset points", ha="right")  # fmt: skip
    axes.set(xscale="log", xlabel=SIZES, ylabel="embedding, % of the model", ylim=(0, 100))
    axes.set_title("What it costs, in a model of MiniMind's width")
    ticks: list[int] = []
    for size in shares:  # those too close to the one before would overlap
        ticks += [size] if not ticks or size > 1.5 * ticks[-1] else []
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axes.minorticks_off()
    return figure


def segment_numbers(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Which segment each position belongs to, 1 to 6 over and over; 0 for padding. (lines, T) → (lines, T).

    The number changes at each `<s>` and goes on over the end of a line, so a segment that is cut in two keeps it.
    """
    begun = np.cumsum(ids == BOS_ID).reshape(ids.shape)
    return np.where(mask > 0, 1 + (begun - 1) % 6, 0)


def packed_against_padded(padded: Batch, packed: Batch) -> Figure:
    """Two batches (X, Y, loss_mask) of the same text: colours change at every `<s>`, padding is dark."""
    colours = ListedColormap([PADDING, "#8FBFE0", "#F2B08F", "#8FD3B8", "#EBD27E", "#CDA6CD", "#C9C9C9"])
    figure, panels = subplots(2, 1, figsize=(9, 4.2), sharex=True)
    for axes, (X, _, loss_mask), name, line in zip(
        panels, (padded, packed), ("padded", "packed"), ("row", "block"), strict=True
    ):
        ids, mask = np.asarray(X), np.asarray(loss_mask)
        image = segment_numbers(ids, mask)
        axes.imshow(image, aspect="auto", interpolation="nearest", cmap=colours, norm=BoundaryNorm(range(8), 7))
        axes.vlines(np.nonzero(ids == BOS_ID)[1] - 0.5, np.nonzero(ids == BOS_ID)[0] - 0.5,
                    np.nonzero(ids == BOS_ID)[0] + 0.5, color=INK, linewidth=0.7)  # fmt: skip
        used = int((mask > 0).sum())
        axes.set(ylabel=line, title=f"{name}: {used:,} of {mask.size:,} positions count ({used / mask.size:.0%})")
        axes.grid(visible=False)
    panels[1].set(xlabel="position, tokens (a line: <s>; dark: padding; a colour: one segment, colours repeat)")
    return figure


def loss_by_position(losses: Sequence[float], mask: Sequence[int], title: str) -> Figure:
    """One row's loss at each position, in nats: text green, padding grey, and both means as lines across."""
    losses, counts = np.asarray(losses), np.asarray(mask) > 0
    place = np.arange(len(losses))
    figure, axes = subplots(figsize=(9, 3.2))
    axes.plot(place[counts], losses[counts], ".", color=GREEN, markersize=4, label="counts (mask 1)")
    axes.plot(place[~counts], losses[~counts], "x", color=GREY, markersize=4, label="padding (mask 0)")
    for value, colour, style, label in (
        (losses[counts].mean(), INK, "-", "mean of what counts"),
        (losses.mean(), ORANGE, "--", "mean of all positions"),
    ):
        axes.axhline(value, color=colour, linestyle=style, label=f"{label}: {value:.2f}")
    axes.set(xlabel="position in the row, tokens", ylabel="-log p(right token), nats", title=title)
    axes.set(ylim=(-0.3, 1.1 * losses.max()))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return figure


def mask_matters(with_mask: dict[str, list[float]], without: dict[str, list[float]]) -> Figure:
    """Two short runs, losses in nats per token after 0, 1, 2, … updates, the gaps at the end drawn in.

    On the left the run without the mask, what it reports beside its loss on the text; on the right both on the text.
    """
    figure, panels = subplots(1, 2, figsize=(9, 3.6), sharey=True)
    below = (
        (
            "One run, two means: the report flatters",
            without["reported"],
            ":",
            ORANGE,
            "without the mask, as it reports",
        ),
        ("Two runs, on the text alone", with_mask["text"], "--", GREEN, "with the mask, on the text"),
    )
    for axes, (title, values, style, colour, label) in zip(panels, below, strict=True):
        axes.plot(without["text"], color=ORANGE, label="without the mask, on the text")
        axes.plot(values, style, color=colour, label=label)
        end, high, low = len(values) - 1, without["text"][-1], values[-1]
        axes.plot([end + 0.7] * 2, [high, low], color=INK, marker="_", linewidth=1)
        axes.annotate(f"{high - low:.2f}", (end + 1.2, (high + low) / 2), va="center")
        axes.set(xlabel="updates", title=title, xlim=(None, end + 5), ylim=(0, None))
        axes.legend(loc="lower left")
    panels[0].set(ylabel="loss, nats per token")
    return figure

"""Pictures of lesson 01: rows as a person reads them, how long they are, which characters they are made of.

Figures come from matplotlib, cards and tables are HTML with their own colours, so that both read the same in a light
and a dark theme. All text from a corpus is escaped. Left out: reading and counting (corpus.py), and what can be clicked
(widgets/corpus.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from ..checks.corpus import padding_share
from ..corpus import CorpusReport, existing_file, iter_rows, normalise_markers, split_segments
from ..errors import CorpusError
from ..paths import shown
from .style import BLUE, CARD, CYCLE, GREEN, GREY, INK, ORANGE, drawable, subplots

PALE = ("#D6E8F5", "#FBE0CF", "#CFEBDF", "#F6EBC4", "#EBDCEB", "#E3E3E3")  # backgrounds under dark text
MARKER = re.compile(r"</?s>|<unk>|<\|im_(?:start|end)\|>")
_FONT = "font-family:sans-serif;font-size:14px;line-height:1.7"


class Safe(str):
    """A string that is HTML already; anything else is escaped before it is shown."""


def as_html(value: object) -> str:
    """`value` as HTML: escaped unless it is Safe."""
    return value if isinstance(value, Safe) else escape(str(value))


def card(content: object) -> HTML:
    """A light card with dark text, the same in both themes; `content` is escaped unless it is Safe."""
    style = f"background-color:{CARD};color:{INK};padding:10px;border:1px solid #CCCCCC;max-width:900px;{_FONT}"
    return HTML(f'<div style="{style}">{as_html(content)}</div>')


def badge(text: str, background: str = "#4A4A4A", colour: str = "#FFFFFF") -> Safe:
    """A short coloured label, used for markers and verdicts."""
    style = f"background-color:{background};color:{colour};padding:0px 4px;font-family:monospace;font-size:12px"
    return Safe(f'<span style="{style}">{as_html(text)}</span>')


def table(header: Sequence[object], rows: Iterable[Sequence[object]], caption: str = "") -> HTML:
    """A table with its own colours; cells are escaped unless they are Safe."""
    cell = f"background-color:{CARD};color:{INK};text-align:left;padding:3px 8px;border:1px solid #CCCCCC;{_FONT}"
    head = cell.replace(CARD, "#E4E7EA") + ";font-weight:bold"
    lines = ["<tr>" + "".join(f'<th scope="col" style="{head}">{as_html(c)}</th>' for c in header) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f'<td style="{cell}">{as_html(c)}</td>' for c in row) + "</tr>")
    if caption:
        lines.insert(0, f'<caption style="{cell};caption-side:top"><b>{escape(caption)}</b></caption>')
    return HTML(f'<table style="border-collapse:collapse">{"".join(lines)}</table>')


def with_marked(text: str, query: str = "") -> Safe:
    """Text as HTML: markers as dark labels, every find of `query` on yellow, all else escaped."""
    found = '<b style="background-color:#FFE066;color:#222222">'
    parts = []
    for part in re.split(f"({MARKER.pattern})", text):
        if MARKER.fullmatch(part):
            parts.append(badge(part))
        elif query:
            around = [escape(piece) for piece in part.split(query)]
            parts.append(f"{found}{escape(query)}</b>".join(around))
        else:
            parts.append(escape(part))
    return Safe("".join(parts).replace("\n", "<br>"))


def row_html(text: str, title: str = "", query: str = "") -> HTML:
    """One row as a person reads it: a paragraph for each segment, with its length in characters."""
    paragraphs = []
    for number, segment in enumerate(split_segments(text)):
        style = f"background-color:{PALE[number % len(PALE)]};color:{INK};padding:4px 8px;margin:4px 0px"
        label = badge(f"{number + 1} · {len(segment)}")
        paragraphs.append(f'<div style="{style}">{label} {with_marked(segment, query)}</div>')
    return card(Safe((f"<b>{escape(title)}</b>" if title else "") + "".join(paragraphs)))


def bytes_per_character(text: str) -> Figure:
    """How many of a text's characters take 1, 2, 3 or 4 bytes in UTF-8, with some of each kind."""
    kinds = {size: Counter(c for c in text if len(c.encode("utf-8")) == size) for size in (1, 2, 3, 4)}
    figure, axes = subplots(figsize=(9, 2.6))
    totals = [sum(kind.values()) for kind in kinds.values()]
    axes.barh([f"{size} byte{'s' if size > 1 else ''}" for size in kinds], totals, color=CYCLE[: len(kinds)])
    for place, (kind, total) in enumerate(zip(kinds.values(), totals, strict=True)):
        some = " ".join(drawable(c) if c != " " else "␣" for c, _ in kind.most_common(10))
        axes.text(total + max(totals) * 0.01, place, f"{total}   {some}", va="center")
    axes.set(xlim=(0, max(totals) * 1.45), xlabel="characters in the row", title="Bytes a character takes in UTF-8")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return figure


def bricks(texts: Sequence[str], numbers: Sequence[int] | None = None, about: int = 512) -> Figure:
    """Rows as walls: a brick is a segment, as wide as its characters, markers and the space behind it included.

    A line stands at `about` characters; `numbers` are the rows' numbers, 0, 1, 2 … if left out.
    """
    figure, axes = subplots(figsize=(9, 0.6 + 0.32 * len(texts)))
    for place, text in enumerate(texts):
        left = 0
        for number, brick in enumerate(re.findall(r"<s>.*?</s>\s*", text, re.DOTALL) or [text]):
            colour = PALE[number % len(PALE)]
            axes.barh(place, len(brick), left=left, color=colour, edgecolor=INK, linewidth=0.8, height=0.75)
            axes.text(left + len(brick) / 2, place, str(len(brick)), ha="center", va="center", fontsize=8)
            left += len(brick)
    axes.axvline(about, color=ORANGE, linestyle="--", linewidth=1.5)
    axes.annotate(f"{about}", (about, -0.55), (5, 0), textcoords="offset points", color=ORANGE)
    axes.set(
        xlabel="characters; a brick has its two markers and the space behind it, so up to 8 more than its segment",
        ylabel="row",
        yticks=range(len(texts)),
        yticklabels=range(len(texts)) if numbers is None else numbers,
        title="Unrelated segments, laid end to end to rows of about 512 characters",
    )
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return figure


def length_histograms(reports: dict[str, CorpusReport]) -> Figure:
    """Lengths of rows in characters and in bytes, and of segments in characters, for one corpus or several."""
    figure, panels = subplots(1, 3, figsize=(9, 3.1), sharey=False)
    kinds = {
        "characters": "characters a row",
        "utf8_bytes": "bytes a row",
        "segment_lengths": "characters a segment, no markers",
    }
    for axes, (field, label) in zip(panels, kinds.items(), strict=True):
        values = {name: np.asarray(getattr(report, field)) for name, report in reports.items()}
        bins = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=24)
        for (name, lengths), colour in zip(values.items(), CYCLE, strict=False):
            share = np.full(len(lengths), 100 / len(lengths))
            axes.hist(lengths, bins=bins, weights=share, color=colour, alpha=0.75, label=name)
            axes.axvline(np.median(lengths), color=INK, linestyle="--", linewidth=1.2)
        axes.set(xlabel=label)
    panels[0].set(ylabel="share, %")
    if len(reports) > 1:
        panels[0].legend(fontsize=8)
    figure.suptitle("How long rows and segments are (dashed: the median)", x=0.01, ha="left", fontsize=12)
    return figure


def cut_share(lengths: Sequence[int], max_length: int) -> float:
    """The share of tokens, 0 to 1, that stand behind `max_length` in their row: cut off, so never asked for.

    A row's first token is left out of the total, as nobody asks for it anyway.
    """
    return sum(max(0, length - max_length) for length in lengths) / sum(length - 1 for length in lengths)


def token_lengths(lengths: dict[str, Sequence[int]], max_lengths: Sequence[int]) -> Figure:
    """Tokens a row, a histogram for each corpus, and for each max_length a line with its shares of padding and cut.

    The shares are those of the first corpus.
    """
    figure, axes = subplots(figsize=(9, 3.2))
    most = max(*max_lengths, *(max(values) for values in lengths.values()))
    for (name, values), colour in zip(lengths.items(), CYCLE, strict=False):
        share = np.full(len(values), 100 / len(values))
        axes.hist(values, bins=np.linspace(0, most, 65), weights=share, color=colour, alpha=0.75, label=name)
    axes.margins(y=0.5)
    for length in max_lengths:
        axes.axvline(length, color=ORANGE, linestyle="--", linewidth=1.4)
        first = next(iter(lengths.values()))
        label = f"cut at {length}:\n{padding_share(first, length):.1%} padding\n{cut_share(first, length):.1%} cut off"
        axes.annotate(label, (length, 0.97), (-4, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
                      ha="right", va="top", fontsize=9)  # fmt: skip
    axes.set(xlabel="tokens a row", ylabel="share of the rows, %", xlim=(0, most * 1.02))
    axes.set_title("Rows left of a line are filled up to it, rows right of it are cut there")
    if len(lengths) > 1:
        axes.legend(loc="center left", fontsize=8)
    return figure


def zipf(counts: Counter) -> Figure:
    """Characters by rank and how often each occurs, and what share of the text the first ranks cover."""
    ordered = counts.most_common()
    rank = np.arange(1, len(ordered) + 1)
    times = np.array([count for _, count in ordered])
    figure, (left, right) = subplots(1, 2, figsize=(9, 3.6))
    left.loglog(rank, times, color=BLUE, label="characters of this corpus")
    left.loglog(rank, times[0] / rank, color=GREY, linestyle=":", label="Zipf's law: first count ÷ rank")
    last = 0
    for place in (0, 1, 4, 19, 99, 499, 1999):
        if place < len(ordered) and place >= last:
            left.plot(rank[place], times[place], "o", color=ORANGE, markersize=5)
            left.annotate(drawable(ordered[place][0]), (rank[place], times[place]), (4, 5), textcoords="offset points")
            last = place
    left.set(xlabel="rank of the character", ylabel="times it occurs")
    left.set_title("A few characters are most of the text")
    left.set_ylim(0.7, times[0] * 2.5)
    left.legend(loc="lower left", fontsize=8)
    covered = 100 * times.cumsum() / times.sum()
    right.semilogx(rank, covered, color=GREEN)
    half = int(np.searchsorted(covered, 50))
    right.plot(rank[half], covered[half], "o", color=ORANGE)
    label = f"half of the text:\n{rank[half]} characters"
    right.annotate(label, (rank[half], 50), (-8, 4), textcoords="offset points", ha="right")
    right.set(xlabel="number of most frequent characters", ylabel="share of the text covered, %", ylim=(0, 103))
    right.set_title("How far the frequent ones reach")
    return figure


def rows_along(path: str | Path, points: int = 400) -> list[tuple[float, str]]:
    """Rows from `points` places spread evenly over a file, as (position from 0 to 1, text), without reading the rest.

    Jumps to a byte, skips to the next line and reads that one; so a file of gigabytes takes no longer than a small one.
    """
    path = existing_file(path)
    size = path.stat().st_size
    first = next(iter(iter_rows(path, limit=1)))[1]  # also says what is wrong with a file that is no corpus
    rows, seen = [(0.0, first)], set()
    with open(path, "rb") as file:
        for start in np.linspace(0, size, points, endpoint=False, dtype=np.int64):
            file.seek(int(start))
            file.readline()
            place = file.tell()
            raw = file.readline()
            if raw.strip() and place not in seen:
                seen.add(place)
                rows.append((place / size, _one_text(path, place, raw)))
    return rows


def _one_text(path: Path, place: int, raw: bytes) -> str:
    try:
        return normalise_markers(json.loads(raw)["text"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CorpusError(f'{shown(path)}, the line at byte {place:,}: no {{"text": "…"}} in UTF-8 there.') from None


def along_the_file(files: dict[str, Sequence[tuple[float, str]]]) -> Figure:
    """Segments a row and characters a row against the place in the file, a colour a file; shows which are sorted.

    `files`: name → (position from 0 to 1, text of the row there), as `rows_along` gives them.
    """
    figure, both = subplots(1, 2, figsize=(9, 3.4))
    for (name, rows), colour, sign in zip(files.items(), CYCLE, "ox^v", strict=False):
        place = [100 * where for where, _ in rows]
        for axes, values in zip(
            both, ([len(split_segments(t)) for _, t in rows], [len(t) for _, t in rows]), strict=True
        ):
            axes.plot(place, values, sign, color=colour, alpha=0.5, markersize=4, label=name)
    for axes, label in zip(both, ("segments a row", "characters a row"), strict=True):
        axes.set(xlabel="place in the file, %", ylabel=label)
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    both[0].legend(loc="lower left", fontsize=9)
    figure.suptitle("Is the end of the file like its beginning?", x=0.01, ha="left", fontsize=12)
    return figure

"""Pictures of lesson 01's hunt for near copies: two texts side by side, and how alike all pairs are.

Left out: finding the pairs, which the notebook does by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from html import escape

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from .corpus import Safe, table
from .style import BLUE, INK, ORANGE, subplots

_CHANGED = f"background-color:#FBE0CF;color:{INK};text-decoration:underline"


def differences(one: str, other: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Each text as stretches (text, whether the other has it in the same order too); joined, they are the text."""
    stretches: tuple[list, list] = ([], [])
    for what, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        for side, piece in zip(stretches, (one[a:b], other[c:d]), strict=True):
            if piece:
                side.append((piece, what == "equal"))
    return stretches


def pairs_table(
    pairs: Iterable[tuple[float, str, str]], names: tuple[str, str] = ("one", "the other"), caption: str = ""
) -> HTML:
    """(similarity from 0 to 1, one text, other text) as a table; what one has and the other lacks is underlined.

    `names` say what stands in the two columns of texts.
    """
    rows = []
    for similarity, one, other in pairs:
        sides = (Safe("".join(map(_stretch, side))) for side in differences(one, other))
        rows.append((f"{similarity:.2f}", *sides))
    return table(("similarity", f"{names[0]} (what the other lacks is underlined)", names[1]), rows, caption)


def _stretch(part: tuple[str, bool]) -> str:
    text, same = part
    return escape(text) if same else f'<u style="{_CHANGED}">{escape(text)}</u>'


def similarities(own: Sequence[float], planted: Sequence[float], threshold: float = 0.5) -> Figure:
    """How many pairs have which similarity (0 to 1), on a logarithmic scale: the corpus's own and the planted ones."""
    figure, axes = subplots(figsize=(9, 3.2))
    counts, edges = zip(*(np.histogram(values, bins=20, range=(0, 1)) for values in (own, planted)), strict=True)
    middle, width = edges[0][:-1] + 0.025, 0.045
    axes.bar(middle, counts[0], width, color=BLUE, label="pairs of the sample")
    axes.bar(middle, counts[1], width, bottom=counts[0], color=ORANGE, hatch="//", label="pairs with a hidden copy")
    axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.2)
    axes.annotate(
        f" {threshold:g}: read these by eye →", (threshold, 0.97), xycoords=("data", "axes fraction"), va="top"
    )
    axes.set(yscale="log", xlim=(0, 1), ylim=(0.6, 3 * max(1, *counts[0])))
    axes.set(xlabel="Jaccard similarity of two segments", ylabel="pairs that meet")
    axes.set_title("Chance likeness ends early, copies stand apart")
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.85))
    return figure

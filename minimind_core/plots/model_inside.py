"""More pictures of lesson 03: what goes on inside. One look, match by distance, cache, gates, the stream, kinds.

Every function returns a closed Figure, as in plots/model.py, which draws the parts themselves. Left out: computing,
which the notebook does by hand or widgets/model.py reads out of a model.
"""

# T tokens · L layers · E experts · F width inside a feed-forward · Dh per head

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from .model import pale, short
from .style import BLUE, GREEN, GREY, INK, ORANGE, drawable, subplots

LIGHT = "#BBBBBB"


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def plot_one_look(labels: list[str], scores: Tensor, shares: Tensor, values: Tensor, found: Tensor) -> Figure:
    """How the last of T tokens looks at all of them: scores (T,), shares (T,), values (T, Dh), and the mix, (Dh,)."""
    names, tokens = [short(label, 12) for label in labels], range(len(labels))
    fig, axes = subplots(1, 3, figsize=(9.0, 0.9 + 0.5 * len(labels)), sharey=True)
    for ax, numbers, colour, title in (
        (axes[0], _array(scores), GREY, "score: query · key"),
        (axes[1], _array(shares), BLUE, "share: softmax"),
    ):
        bars = ax.barh(tokens, numbers, height=0.6, color=pale(colour, 0.3))
        ax.bar_label(bars, [f"{number:.2f}" for number in numbers], padding=3, fontsize=9)
        ax.margins(x=0.25)
        ax.set_title(title, fontsize=10)
        ax.set_xticks([])
        ax.axvline(0, color=INK, linewidth=0.8)
    rows = np.vstack((_array(values), _array(found)[None]))
    axes[2].set(xlim=(-0.5, rows.shape[1] - 0.5), xticks=[])
    axes[2].set_title("value, and their mix", fontsize=10)
    for row, line in enumerate(rows):
        for column, number in enumerate(line):
            mix = {"fontweight": "bold"} if row == len(labels) else {}
            axes[2].text(column, row, f"{number:.2f}", ha="center", va="center", fontsize=10, **mix)
    axes[2].axhspan(len(labels) - 0.4, len(labels) + 0.4, color=pale(ORANGE), zorder=0)
    axes[0].set_yticks(range(len(rows)), [*names, "what it gets"])
    for ax in axes:
        ax.grid(False)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    fig.suptitle(f"{names[-1]} looks at {len(labels)} tokens", fontsize=12, x=0.01, ha="left")
    return fig


def plot_match_by_distance(matches: dict[str, Tensor], unlike: Tensor) -> Figure:
    """How well a query fits a key at each distance, 1 at distance 0: thin as it is, thick as the mean around it.

    `matches` has one curve (distances,) for each name, of a vector with itself; `unlike` (pairs, distances) are pairs
    of random vectors.
    """
    fig, ax = subplots(figsize=(9.0, 3.6))
    last = unlike.shape[1] - 1
    distances = np.arange(1, last + 1)
    centres = np.unique(np.geomspace(1, last, 240).astype(int))
    for number, curve in enumerate(unlike):
        label = "random pairs" if number == 0 else None
        ax.plot(centres, _around(_array(curve), centres), color=LIGHT, linewidth=1, label=label, zorder=3)
    for (name, curve), colour, style in zip(matches.items(), (BLUE, ORANGE, GREEN), ("-", "--", ":"), strict=False):
        values = _array(curve)
        ax.plot(distances, values[1:], color=pale(colour, 0.7), linewidth=0.7, zorder=1)
        ax.plot(centres, _around(values, centres), style, color=colour, label=name, zorder=4)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(
        xscale="log", xlabel="distance in tokens", ylabel="match", title="Twin vectors match less, the further apart"
    )
    ax.set(xlim=(1, last))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    handles, _ = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color=pale(BLUE, 0.7), linewidth=0.7, label="thin and pale: not smoothed"))
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return fig


def _around(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The mean of `values` from a tenth below each centre to a tenth above it."""
    sums = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    low = np.ceil(centres / 1.1).astype(int)
    high = np.minimum(np.floor(centres * 1.1).astype(int), len(values) - 1) + 1
    return (sums[high] - sums[low]) / (high - low)


def plot_cache_growth(mib_a_token: dict[int, float], weights_mib: float, longest: int) -> Figure:
    """Memory of one text's cache over its length, for each number of key/value heads, beside what the weights take."""
    fig, ax = subplots(figsize=(9.0, 3.3))
    tokens = np.array([0, longest])
    ax.axhline(weights_mib, color=GREY, linestyle="--")
    ax.text(0.01 * longest, 1.03 * weights_mib, "all weights", ha="left", va="bottom", color=INK, fontsize=9)
    for (heads, mib), colour in zip(mib_a_token.items(), (BLUE, ORANGE, GREEN), strict=False):
        ax.plot(tokens, mib * tokens, color=colour)
        ax.annotate(
            f"cache, {heads} key/value heads",
            (0.72 * longest, 0.72 * longest * mib),
            (-6, 6),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=colour,
        )
        meet = weights_mib / mib
        if meet <= longest:
            ax.plot([meet], [weights_mib], "o", color=colour, markersize=7)
            ax.annotate(
                f"{meet:,.0f} tokens", (meet, weights_mib), (7, -13), textcoords="offset points", fontsize=9, color=INK
            )
    ax.set(xlabel="tokens in the text", ylabel="MiB in 16 bits", title="Weights stay, a cache grows with every token")
    ax.set(xlim=(0, longest), ylim=(0, None))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return fig


def plot_gates(opened: Tensor) -> Figure:
    """silu beside relu over the inputs that there are, and how often each input occurs; `opened` (…, F) is w1's."""
    values = _array(opened).ravel()
    reach = max(4.0, float(np.abs(values).max()))
    inputs = np.linspace(-reach, reach, 400)
    fig, (top, below) = subplots(2, 1, figsize=(9.0, 4.6), height_ratios=(2, 1), sharex=True)
    top.plot(inputs, np.maximum(inputs, 0), "--", color=ORANGE, label="relu: 0 below 0")
    top.plot(inputs, inputs / (1 + np.exp(-inputs)), color=BLUE, label="silu: bends, and dips a little below 0")
    top.axhspan(-0.1, 0.1, color="#E9E9E4", zorder=0, label="nearly shut")
    top.set(ylabel="gate", title="silu is relu with a soft bend", ylim=(-0.6, min(reach, 4)))
    top.legend(loc="upper left")
    below.hist(
        values, bins=np.linspace(-reach, reach, 121), weights=np.full(len(values), 100 / len(values)), color=BLUE
    )
    below.set(xlabel="what w1 gives", ylabel="% of gates", xlim=(-reach, reach))
    return fig


def plot_stream(sizes: dict[str, Tensor]) -> Figure:
    """The stream's size after each block, and what each part adds; sizes (L + 1, T), (L, T), (L, T) by name.

    Names are `stream`, `attention` and `feed-forward`; lines and bars are means over the tokens, the band holds the
    middle half of them.
    """
    stream = _array(sizes["stream"])
    layers = np.arange(len(stream) - 1)
    fig, (left, right) = subplots(1, 2, figsize=(9.0, 3.5), sharey=True)
    places = np.arange(len(stream))
    low, high = np.quantile(stream, (0.25, 0.75), axis=1)
    left.fill_between(places, low, high, color=pale(BLUE, 0.75), label="the middle half of the tokens")
    left.plot(places, stream.mean(1), "o-", color=BLUE, label="mean")
    left.set_xticks(places, ["emb.", *map(str, layers)])
    left.set(xlabel="after the embedding, after block …", ylabel="root mean square", title="The stream grows")
    left.legend(loc="lower right")
    for name, colour, shift, hatch in (("attention", ORANGE, -0.2, None), ("feed-forward", GREEN, 0.2, "//")):
        look = {"color": pale(colour, 0.3), "hatch": hatch, "edgecolor": "white"}
        right.bar(layers + shift, _array(sizes[name]).mean(1), width=0.38, label=name, **look)
    right.set_xticks(layers)
    right.set(xlabel="block", title="What each part adds to it", ylim=(0, None))
    right.grid(axis="x", visible=False)
    right.legend(loc="upper right")
    return fig


def plot_kinds(shares: dict[str, Tensor], kinds: list[str]) -> Figure:
    """Which share of its work each kind of token gives each expert; {model: (kinds, E)}, each row adding up to 1."""
    fig, axes = subplots(1, len(shares), figsize=(9.0, 1.3 + 0.42 * len(kinds)), sharey=True)
    for ax, (name, table) in zip(np.atleast_1d(axes), shares.items(), strict=True):
        values = 100 * _array(table)
        image = ax.imshow(values, vmin=0, vmax=50, aspect="auto")
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                ax.text(
                    column,
                    row,
                    f"{value:.0f}",
                    ha="center",
                    va="center",
                    color=INK if value > 28 else "white",
                    fontsize=9,
                )
        ax.grid(False)
        ax.set_xticks(range(values.shape[1]))
        ax.set(xlabel="expert", title=name)
    np.atleast_1d(axes)[0].set_yticks(range(len(kinds)), [drawable(kind) for kind in kinds])
    fig.colorbar(image, ax=axes, label="% of the kind's work", extend="max" if values.max() > 50 else "neither")
    return fig

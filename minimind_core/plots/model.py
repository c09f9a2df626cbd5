"""Pictures of lesson 03's parts: norms, rotary pairs, masks, grouped heads, experts, where weights sit.

Every function returns a closed Figure, so that a notebook shows it once, as the last line of a cell. Left out: what the
pictures are made from, which the notebook computes or widgets/model.py reads out of a model; the map of the whole model
(model_map.py), what goes on inside (model_inside.py), and where heads look (attention.py).
"""

# T tokens · S tokens including the cache · L layers · K key/value heads · E experts · Dh per head

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch, Rectangle
from torch import Tensor

from ..layers import rotary_angles
from .style import BLUE, CYCLE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, drawable, subplots


def short(label: str, length: int = 4) -> str:
    """A token's label cut to `length` characters, as this machine can draw it."""
    cut = label if len(label) <= length else label[: length - 1] + "…"
    return drawable(cut).replace("$", r"\$")  # two bare dollars would start a formula


def pale(colour: str, share: float = 0.65) -> tuple[float, float, float]:
    """`colour` mixed with `share` of white: a background that dark text stays readable on."""
    return tuple(share + (1 - share) * part for part in to_rgb(colour))


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def token_axis(ax: Axes, labels: list[str], axis: str = "x", size: int = 8) -> None:
    """Tokens as the ticks of an axis, cut short and in a font that has them."""
    names = [short(label) for label in labels]
    if axis == "x":
        ax.set_xticks(range(len(labels)), names, rotation=90, fontsize=size)
    else:
        ax.set_yticks(range(len(labels)), names, fontsize=size)


def plot_norms(before: Tensor, after: Tensor, labels: list[str]) -> Figure:
    """Root mean square of each token's vector before and after RMSNorm; both (T, D)."""
    fig, ax = subplots()
    for vectors, name, colour in ((before, "before", ORANGE), (after, "after RMSNorm", BLUE)):
        size = _array(vectors.float().pow(2).mean(-1).sqrt())
        ax.plot(size, "o", markersize=5, color=colour, label=name)
    ax.set(yscale="log", ylabel="root mean square", title="Vectors of any size go in, vectors of size 1 come out")
    token_axis(ax, labels)
    ax.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return fig


def plot_rotary_pairs(head_dim: int, theta: float, positions: int = 8) -> Figure:
    """Four of a head's pairs as arrows on a circle, one arrow per position from 0 on: the first pair is the fastest.

    Arrows carry their position where there is room, else the first and the last of them, else none.
    """
    cos, sin = rotary_angles(head_dim, positions, theta)
    pairs = sorted({0, head_dim // 16, head_dim // 8, head_dim // 2 - 1})
    fig, axes = subplots(1, len(pairs), figsize=(9.0, 2.9))
    shades = colormaps.get_cmap("cividis")(np.linspace(0, 0.9, positions))
    for ax, pair in zip(np.atleast_1d(axes), pairs, strict=True):
        turn = float(np.degrees(theta ** (-2 * pair / head_dim)))
        ax.add_patch(Circle((0, 0), 1, fill=False, color="#CCCCCC"))
        for position in reversed(range(positions)):
            end = float(cos[position, pair]), float(sin[position, pair])
            ax.annotate("", end, (0, 0), arrowprops={"arrowstyle": "-|>", "color": shades[position], "lw": 1.6})
            apart = turn > 12 or (turn * positions > 10 and position in (0, positions - 1))  # room for a number
            if apart:
                ax.text(1.17 * end[0], 1.17 * end[1], str(position), ha="center", va="center", fontsize=8)
        ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal", xticks=[], yticks=[])
        ax.set_title(f"pair {pair}: {turn:.3g}° a token", fontsize=10)
        ax.set_xlabel(f"elements {2 * pair} and {2 * pair + 1}", fontsize=9)
    fig.suptitle(f"The same pair of numbers at positions 0 to {positions - 1}", fontsize=12, x=0.01, ha="left")
    return fig


def plot_rotary_distance(scores: Tensor) -> Figure:
    """One query and one key, turned to every pair of positions; `scores` (query position, key position)."""
    scores = _array(scores)
    fig, (left, right) = subplots(1, 2, figsize=(9.0, 3.4), width_ratios=(1, 1.35))
    image = left.imshow(scores)
    left.grid(False)
    left.set(xlabel="position of the key", ylabel="position of the query", title="Equal along every diagonal")
    fig.colorbar(image, ax=left, label="q · k")
    starts = [0, len(scores) // 4, len(scores) // 2]
    for start, mark, size in zip(starts, ("o", "s", "."), (9, 5, 4), strict=True):
        distance = range(len(scores) - starts[-1])
        values = [float(scores[start + step, start]) for step in distance]
        right.plot(distance, values, mark, markersize=size, fillstyle="none", label=f"key at {start}")
    right.plot(distance, values, color="#CCCCCC", linewidth=1, zorder=1)
    right.set(xlabel="distance in tokens", title="Only the distance counts")
    right.xaxis.get_major_locator().set_params(integer=True)
    fig.legend(loc="outside lower right", ncols=3)
    return fig


def plot_masks(square: Tensor, cached: Tensor, labels: list[str]) -> Figure:
    """Two causal masks, True where a row's token may look: a whole text (T, T), and new tokens after a cache (T, S)."""
    fig, axes = subplots(1, 2, figsize=(9.0, 3.7), width_ratios=(square.shape[1], cached.shape[1]))
    for ax, mask in zip(axes, (square, cached), strict=True):
        ax.set_anchor("NW")
        rows, span = mask.shape
        ax.imshow(_array(mask), cmap=ListedColormap(["#E9E9E4", pale(BLUE, 0.35)]), vmin=0, vmax=1)
        for row in range(rows):
            for column in range(span):
                ax.text(column, row, "✓" if mask[row, column] else "·", ha="center", va="center", color=INK)
        ax.grid(False)
        token_axis(ax, labels[:span])
        token_axis(ax, labels[span - rows : span], "y")
        ax.set(xlabel="looked at", ylabel="looks")
    axes[0].set_title("A whole text: the lower triangle")
    axes[1].set_title(f"{span - rows} tokens in the cache, {rows} new ones")
    return fig


def plot_grouped_heads(n_heads: int, n_kv_heads: int, cache_mib: dict[int, float]) -> Figure:
    """Which query heads share which key/value head, and the cache's size by number of key/value heads."""
    fig, (left, right) = subplots(1, 2, figsize=(9.0, 3.0), width_ratios=(1.5, 1))
    group = n_heads // n_kv_heads
    for head in range(n_heads):
        kv = head // group
        centre = kv * group + (group - 1) / 2
        left.plot([head, centre], [0.83, 0.2], color=CYCLE[kv % len(CYCLE)], linewidth=1.4)
        left.text(head, 1, f"Q{head}", ha="center", va="center", bbox=_badge(kv), fontsize=9)
        left.text(centre, 0, f"K{kv} V{kv}", ha="center", va="center", bbox=_badge(kv), fontsize=9)
    left.set(
        xlim=(-0.6, n_heads - 0.4), ylim=(-0.3, 1.3), title=f"{n_heads} query heads share {n_kv_heads} key/value heads"
    )
    left.axis("off")
    names = [str(heads) for heads in cache_mib]
    colours = [BLUE if heads == n_kv_heads else "#BBBBBB" for heads in cache_mib]
    bars = right.bar(names, cache_mib.values(), color=colours, width=0.6)
    right.bar_label(bars, [f"{mib:.3g}" for mib in cache_mib.values()], fontsize=9)
    right.set(xlabel="key/value heads", ylabel="MiB a text", title="Cache: half the heads, half the memory")
    right.grid(axis="x", visible=False)
    return fig


def _badge(number: int) -> dict:
    colour = CYCLE[number % len(CYCLE)]
    return {"boxstyle": "round,pad=0.3", "facecolor": pale(colour), "edgecolor": colour}


def plot_parameters(tables: dict[str, dict[str, int]]) -> Figure:
    """Where parameters sit: one stacked bar per model, from {model: {part: count}}; parts named `idle…` are hatched."""
    parts = list(dict.fromkeys(part for table in tables.values() for part in table))
    colours = dict(zip(parts, [BLUE, ORANGE, GREEN, SKY, PURPLE, GREY, "#999933"], strict=False))
    fig, ax = subplots(figsize=(9.0, 0.9 + 0.85 * len(tables)))
    for row, table in enumerate(tables.values()):
        left = 0.0
        for part, count in table.items():
            ax.barh(row, count / 1e6, left=left, color=pale(colours[part], 0.25), edgecolor="white", hatch=_hatch(part))
            if count / 1e6 > 2.5:
                ax.text(left + count / 2e6, row, f"{count / 1e6:.1f}", ha="center", va="center", fontsize=9)
            left += count / 1e6
        ax.text(left + 0.8, row, f"{sum(table.values()):,}", va="center", fontsize=9)
    widest = max(sum(table.values()) for table in tables.values()) / 1e6
    ax.set_yticks(range(len(tables)), list(tables))
    ax.set(xlim=(0, widest * 1.17), xlabel="million parameters", title="Most weights sit in the feed-forwards")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    handles = [
        Patch(facecolor=pale(colours[part], 0.25), hatch=_hatch(part), edgecolor="white", label=part) for part in parts
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(parts), fontsize=9)
    return fig


def _hatch(part: str) -> str | None:
    return "///" if part.startswith("idle") else None


def plot_routing(routing: Tensor, labels: list[str], layer: int) -> Figure:
    """Which experts each token goes to in one layer, and each one's share; `routing` (L, T, E), 0 where not chosen."""
    weights = _array(routing[layer])
    tokens, experts = weights.shape
    fig, (left, right) = subplots(1, 2, figsize=(9.4, 1.5 + 0.42 * experts), width_ratios=(6, 1), sharey=True)
    for expert in range(experts):
        colour = CYCLE[expert % len(CYCLE)]
        for token in range(tokens):
            weight = float(weights[token, expert])
            face = (*to_rgb(colour), 0.15 + 0.75 * weight) if weight else "#F0F0EC"
            left.add_patch(Rectangle((token - 0.46, expert - 0.42), 0.92, 0.84, facecolor=face))
        share = float((weights[:, expert] > 0).sum() / (weights > 0).sum())
        right.barh(expert, 100 * share, color=pale(colour, 0.3), height=0.7)
    left.set(xlim=(-0.7, tokens - 0.3), ylim=(experts - 0.4, -0.6), ylabel="stronger: more weight")
    left.set_title(f"Layer {layer}: where each token goes")
    left.set_yticks(range(experts), [f"expert {expert}" for expert in range(experts)], fontsize=9)
    left.grid(False)
    token_axis(left, labels)
    right.axvline(100 / experts, color=INK, linewidth=1, linestyle="--")
    right.set(xlabel="% of work", title="Load")
    right.grid(axis="y", visible=False)
    return fig


def plot_load_history(histories: dict[str, Tensor]) -> Figure:
    """Each expert's share of the work over the updates of a run, stacked; (updates, E) for each run."""
    fig, axes = subplots(1, len(histories), figsize=(9.0, 3.0), sharey=True)
    for ax, (name, history) in zip(np.atleast_1d(axes), histories.items(), strict=True):
        shares = 100 * _array(history)
        colours = [pale(CYCLE[expert % len(CYCLE)], 0.3) for expert in range(shares.shape[1])]
        labels = [f"expert {expert}" for expert in range(shares.shape[1])]
        ax.stackplot(range(len(shares)), shares.T, colors=colours, labels=labels, edgecolor="white", linewidth=1)
        below = 0.0
        narrowest = shares[-4:].min(0)  # along the width of a number
        for expert, share in enumerate(shares[-4:].mean(0)):
            if narrowest[expert] > 9:  # else the band is lower than its number; the legend has its colour
                ax.text(len(shares) - 1.3, below + share / 2, str(expert), ha="right", va="center", fontweight="bold")
            below += share
        ax.set(xlabel="update", title=name, ylim=(0, 100), xlim=(0, len(shares) - 1))
    np.atleast_1d(axes)[0].set_ylabel("% of the work, stacked")
    fig.suptitle("Without the auxiliary loss, two experts do most of the work", fontsize=12, x=0.01, ha="left")
    handles, names = np.atleast_1d(axes)[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=len(names))
    return fig


def plot_cost(costs: dict[str, dict[str, float]]) -> Figure:
    """Dense against experts: a panel per measure, a bar per model, from {measure: {model: value}}."""
    fig, axes = subplots(1, len(costs), figsize=(9.0, 2.6))
    for ax, (measure, values) in zip(np.atleast_1d(axes), costs.items(), strict=True):
        bars = ax.bar(list(values), values.values(), color=[BLUE, ORANGE], width=0.6)
        ax.bar_label(bars, [f"{value:.3g}" for value in values.values()], fontsize=9)
        ax.margins(y=0.18)
        ax.set_title(measure, fontsize=10)
        ax.grid(axis="x", visible=False)
    fig.suptitle("Experts add more parameters than work", fontsize=12, x=0.01, ha="left")
    return fig

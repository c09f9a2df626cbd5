"""Pictures of lesson 03: where heads look, each share beside what it would be if a token looked at all alike.

The n-th token can look at n tokens, so its even share is 1/n: large for the first tokens, small for late ones. Divided
by it, a head's habits show. Every function returns a closed Figure. Left out: reading the maps out of a model
(widgets/model.py).
"""

# T tokens · L layers · H query heads

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from .model import token_axis
from .style import BLUE, GREEN, INK, ORANGE, subplots

SCALE = "times an even share"


def times_even(maps: Tensor) -> Tensor:
    """Shares of attention as multiples of an even share; (…, T, T) → (…, T, T), 1 everywhere if all is even."""
    return maps * torch.arange(1, maps.shape[-1] + 1, device=maps.device)[:, None]


def _doublings(maps: Tensor) -> np.ndarray:
    """log2 of `times_even`, blank (nan) where no token may look: 1 is twice an even share, -1 half of it."""
    logs = times_even(maps).float().clamp(min=2**-10).log2().cpu().numpy()
    return np.where(np.tri(logs.shape[-1], dtype=bool), logs, np.nan)


def _reach(doublings: np.ndarray) -> float:
    """Where the colours end: all but few shares lie within, and the scale is between 2 and 16 times either way."""
    known = np.abs(doublings[~np.isnan(doublings)])
    return float(np.clip(np.quantile(known, 0.98), 1, 4))


def _colours() -> Colormap:
    less_to_more = ["#003A5C", BLUE, "white", ORANGE, "#8F3D00"]
    return LinearSegmentedColormap.from_list("times even", less_to_more, N=33).with_extremes(bad="#DDDDD8")


def _draw(ax: Axes, doublings: np.ndarray, reach: float) -> AxesImage:
    ax.grid(False)
    return ax.imshow(doublings, cmap=_colours(), vmin=-reach, vmax=reach, interpolation="nearest")


def _legend(figure: Figure, image: AxesImage, axes: object, reach: float) -> None:
    bar = figure.colorbar(image, ax=axes, label=SCALE, extend="both", shrink=0.8)
    powers = range(-int(reach), int(reach) + 1)
    bar.set_ticks(powers, labels=[f"{2**power}" if power >= 0 else f"1/{2**-power}" for power in powers])


def plot_attention_grid(maps: Tensor, starts: list[int] | None = None) -> Figure:
    """Every head of every layer as a small picture of who looks at whom; `maps` (L, H, T, T).

    `starts` are the tokens that begin a segment: a thin line is drawn around each segment's own square.
    """
    layers, heads = maps.shape[:2]
    size = max(7.2 / max(heads, 4), 1.1)  # inches; a token of a hundred should not be less than a pixel
    figure, axes = subplots(layers, heads, figsize=(1.8 + size * heads, 0.6 + size * layers), squeeze=False)
    figure.set_layout_engine("compressed")  # square panels that keep their labels
    doublings = _doublings(maps)
    reach, edges = _reach(doublings), [*(starts or []), maps.shape[-1]]
    for layer in range(layers):
        for head in range(heads):
            ax = axes[layer, head]
            image = _draw(ax, doublings[layer, head], reach)
            for start, end in pairwise(edges):
                ax.plot([start - 0.5, start - 0.5, end - 0.5], [start - 0.5, end - 0.5, end - 0.5], color=INK, lw=0.6)
            ax.set(xticks=[], yticks=[])
            if head == 0:
                ax.set_ylabel(f"layer {layer}", fontsize=9)
            if layer == 0:
                ax.set_title(f"head {head}", fontsize=9, loc="center")
    words = "Who looks at whom (rows look, columns are looked at; grey: the future)"
    figure.suptitle(words, fontsize=12, x=0.01, ha="left")
    _legend(figure, image, axes, reach)
    return figure


def plot_attention(maps: Tensor, labels: list[str], layer: int, head: int, token: int | None = None) -> Figure:
    """One head: a row is how a token shares its attention out; `token` is the row to mark. `maps` (L, H, T, T)."""
    figure, ax = subplots(figsize=(7.4, 6.4))
    doublings = _doublings(maps[layer, head])
    reach, size = _reach(doublings), 7 if len(labels) < 50 else 6
    image = _draw(ax, doublings, reach)
    token_axis(ax, labels, size=size)
    token_axis(ax, labels, "y", size=size)
    if token is not None:
        ax.axhspan(token - 0.5, token + 0.5, fill=False, edgecolor=GREEN, linewidth=2.2)
    ax.set(xlabel="looked at", ylabel="looks", title=f"Layer {layer}, head {head}: orange, more than an even share")
    _legend(figure, image, ax, reach)
    return figure

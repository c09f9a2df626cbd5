"""Pictures of lesson 04's little runs: first updates, weight decay, batch size against rate.

Each function draws what a run left behind (training.Hooks) or numbers that it is given, and returns the Figure.
Schedules themselves are drawn in schedule.py; left out: training (training.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from ..training import Hooks
from .schedule import smoothed
from .style import BLUE, CYCLE, GREY, INK, ORANGE, subplots

STYLES = ("-", "--", "-.", ":")


def typical_move(optimizer: torch.optim.Optimizer) -> float:
    """How far AdamW's last update moved a typical weight, as a multiple of the rate: the median of |m̂| / (√v̂ + ε).

    Weight decay's pull is left out. 1 after a first update; less where gradients do not agree on a direction.
    """
    found = []
    for group in optimizer.param_groups:
        first, second = group["betas"]
        for state in (optimizer.state[parameter] for parameter in group["params"] if optimizer.state[parameter]):
            step = float(state["step"])
            mean = state["exp_avg"] / (1 - first**step)
            square = state["exp_avg_sq"] / (1 - second**step)
            found.append((mean.abs() / (square.sqrt() + group["eps"])).flatten())
    return torch.cat(found).median().item()


def length_of_matrices(model: nn.Module) -> float:
    """The length (Euclidean norm) of all of a model's matrices, taken as one long vector."""
    squares = [parameter.detach().square().sum() for parameter in model.parameters() if parameter.dim() >= 2]
    return torch.stack(squares).sum().sqrt().item()


def best_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Where a parabola through losses over the logarithm of their rates is lowest: a best rate between those tried.

    Where it has no lowest point among them, the best one that was tried.
    """
    square, slope, _ = np.polyfit(np.log(rates), losses, 2)
    found = float(np.exp(-slope / (2 * square))) if square > 0 else np.nan
    return found if min(rates) <= found <= max(rates) else rates[int(np.argmin(losses))]


def first_updates(found: Mapping[str, Mapping[str, Hooks]], warmup_steps: int) -> Figure:
    """Loss (nats, each micro-batch) and gradient norm of a run's first updates, one column per key of `found`.

    `found`: column's name → run's name → its hooks. The end of the warm-up is a grey line.
    """
    figure, axes = subplots(2, len(found), sharex=True, sharey="row", figsize=(9, 5.0), squeeze=False)
    for (name, pair), (top, bottom) in zip(found.items(), axes.T, strict=True):
        for (kind, hooks), colour, style in zip(pair.items(), (ORANGE, BLUE), ("--", "-"), strict=False):
            updates = np.arange(1, len(hooks.losses) + 1)
            top.plot(updates, hooks.losses, style, color=colour, label=f"{kind} warm-up")
            bottom.plot(updates, hooks.grad_norms, style, color=colour)
        for panel in (top, bottom):
            panel.axvline(warmup_steps, color=GREY, linewidth=1, linestyle=(0, (6, 3)))
        top.set_title(name)
        bottom.set_xlabel(f"update (warm-up ends after {warmup_steps})")
    axes[0, 0].set_ylabel("loss (nats per token)")
    axes[1, 0].set_ylabel("gradient norm")
    axes[0, -1].legend(loc="upper right")
    return figure


def weight_decays(found: Mapping[str, Hooks], lengths: Mapping[str, float], before: float) -> Figure:
    """Losses of runs (nats, mean of the last 9 micro-steps), and beside them how long their weights are at the end.

    `found`: name → hooks; `lengths`: the same names → length of the model's matrices; `before`: their length untrained.
    """
    figure, (left, right) = subplots(1, 2, figsize=(9, 3.8), width_ratios=(5, 4))
    for (name, hooks), colour, style in zip(found.items(), cycle(CYCLE), cycle(STYLES), strict=False):
        left.plot(smoothed(hooks.losses), style, color=colour, label=name)
    left.set(xlabel="update", ylabel="loss (nats), mean of the last 9", title="Too strong a pull, and nothing is kept")
    left.legend(loc="lower left", title="weight decay")
    names = list(lengths)
    bars = right.barh(names, list(lengths.values()), color=[c for c, _ in zip(CYCLE, names, strict=False)], height=0.6)
    right.bar_label(bars, fmt="%.1f", padding=4)
    right.axvline(before, color=INK, linestyle="--", linewidth=1.2, label=f"untrained: {before:.1f}")
    right.set(xlabel="length of all matrices at the end", ylabel="weight decay", title="How long the weights are")
    right.set_xlim(right=1.2 * max(*lengths.values(), before))
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)  # else the line runs through it
    return figure


def batch_against_rate(sizes: Sequence[int], rates: Sequence[float], losses: Sequence[Sequence[float]]) -> Figure:
    """A table in colours of losses (nats), `losses[i][j]` of batch size i at rate j; each row's lowest is framed.

    A row's colours show how far each loss lies above the lowest of that row: rows are read one by one, since a big
    batch makes fewer updates of the same tokens.
    """
    table = np.asarray(losses, float)
    above = table - table.min(axis=1, keepdims=True)
    figure, axes = subplots(figsize=(9, 0.9 + 0.85 * len(sizes)))
    image = axes.imshow(above, cmap="cividis_r", aspect="auto", vmin=0)
    for i, j in np.ndindex(*table.shape):
        dark = above[i, j] > 0.55 * above.max()
        axes.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color="white" if dark else INK, fontsize=12)
    for i, j in enumerate(table.argmin(axis=1)):
        frame = {"fill": False, "edgecolor": ORANGE, "linewidth": 3.5}
        axes.add_patch(Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, **frame))
    axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axes.set_yticks(range(len(sizes)), [f"{size}" for size in sizes])
    axes.set(xlabel="learning rate", ylabel="rows in a batch", title="The lowest loss of each batch size, framed")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="above the row's\nlowest (nats)")
    return figure

"""Pictures of lesson 04: learning rates over a run, what one update does, and how real runs take a rate.

Each function draws numbers that it is given, or a schedule of schedule.py, and returns the Figure. Left out: training
(training.py) and what can be clicked (widgets/schedule.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from ..schedule import SCHEDULES, get_lr, learning_rate
from ..training import Hooks
from .style import BLUE, CYCLE, GREEN, GREY, INK, ORANGE, PURPLE, RED, subplots

POINTS = 600  # points of a drawn curve; more than a screen shows


def steps_to_draw(total: int) -> np.ndarray:
    """At most POINTS whole steps from 0 to `total`, both ends included."""
    return np.unique(np.linspace(0, total, min(total, POINTS) + 1).round().astype(int))


def smoothed(values: Sequence[float], window: int = 9) -> np.ndarray:
    """Mean of each value and the ones before it, `window` in all; as long as `values`."""
    sums = np.cumsum(np.r_[0.0, np.asarray(values, float)])
    ends = np.arange(1, len(sums))
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _thousands(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def moves(gradient: Tensor, change: Tensor, lr: float) -> Figure:
    """Two histograms of absolute values on one logarithmic axis: gradients (any shape), and the changes of weights."""
    figure, (top, bottom) = subplots(2, 1, sharex=True, figsize=(9, 4.2))
    bins = lr * 10 ** (np.arange(-60.5, 34) / 10)  # the learning rate lies in the middle of one
    for axes, values, colour, name in (
        (top, gradient, BLUE, "gradients: any size"),
        (bottom, change, ORANGE, "moves: nearly all of one size, the learning rate"),
    ):
        found = values.detach().abs().flatten().cpu().numpy()
        axes.hist(found[found > 0].clip(bins[0], bins[-1]), bins=bins, color=colour)
        axes.set_title(name)
        axes.set_ylabel("weights")
    bottom.axvline(lr, color=INK, linestyle="--", label=f"learning rate {lr:g}")
    bottom.legend(loc="upper left")
    bottom.set(xscale="log", xlabel="absolute value (logarithmic)")
    return figure


def one_update(rates: Sequence[float], after: Sequence[float], before: float) -> Figure:
    """Loss of one row after a single update, over the rate of that update; `before` is the loss without it (nats).

    The line ends at the upper edge where a loss lies far above `before`; a triangle there has its value beside it.
    """
    figure, axes = subplots(figsize=(9, 3.4))
    top = before + 1.5 * (before - min(after))
    axes.plot(rates, after, "o-", color=BLUE, label="after one update")  # the axis cuts it
    axes.axhline(before, color=GREY, linestyle="--", label="before")
    best = int(np.argmin(after))
    axes.plot(rates[best], after[best], "o", color=ORANGE, markersize=11, label=f"lowest, at {rates[best]:.2g}")
    for rate, loss in zip(rates, after, strict=True):
        if loss > top:
            axes.plot(rate, top, "^", color=BLUE, markersize=9)
            beside = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"{loss:.1f}", (rate, top), **beside)
    axes.set(
        xscale="log",
        xlim=(rates[0] / 2, rates[-1] * 3),
        ylim=(min(after) - 0.2, top + 0.1),
        xlabel="learning rate of the update (logarithmic)",
        ylabel="loss of our row (nats)",
        title="One update: too short a move changes little, too long a move makes it worse",
    )
    axes.legend(loc="lower left")
    return figure


def seed_curve(total: int, lr: float, marks: Sequence[int] = ()) -> Figure:
    """The seed's schedule over a run of `total` micro-steps, with the rate written beside each marked step."""
    steps = steps_to_draw(total)
    figure, axes = subplots(figsize=(9, 3.8))
    axes.axhline(lr, color=GREY, linestyle="--", linewidth=1)
    for height, name in ((lr, "lr"), (lr / 10, "lr/10")):
        axes.text(1.01, height, name, color=INK, va="center", transform=axes.get_yaxis_transform())
    axes.axhline(lr / 10, color=GREY, linestyle="--", linewidth=1)
    axes.plot(steps, [get_lr(int(step), total, lr) for step in steps], color=BLUE)
    for step in marks:
        rate = get_lr(step, total, lr)
        below = step > 0.8 * total or 0.8 * lr < rate < lr  # keeps clear of the curve and of the dashed lines
        axes.plot(step, rate, "o", color=ORANGE)
        axes.annotate(
            f"step {step:,}: {rate:.6f}",
            (step, rate),
            xytext=(-4, -14) if below else (8, 6),
            textcoords="offset points",
            ha="right" if below else "left",
        )
    axes.set(
        xlabel="micro-step",
        ylabel="learning rate",
        ylim=(0, 1.22 * lr),
        title="The seed's rate: from 1.1 · lr along half a cosine to lr/10",
    )
    _thousands(axes)
    return figure


def micro_steps_and_updates(total: int, accumulation: int, lr: float) -> Figure:
    """A short run's micro-steps with the seed's rates; those that an update uses are ringed and numbered."""
    hooks = Hooks(total, lr=lr, accumulation_steps=accumulation)
    rates = np.array([hooks.learning_rate(0, step) for step in range(total)])
    used = [step for step in range(total) if hooks.closes_window(step)]
    figure, axes = subplots(figsize=(9, 3.6))
    for start in range(0, total, accumulation):
        short = start + accumulation > total
        if short or start % (2 * accumulation) == 0:
            colour, alpha, label = (ORANGE, 0.25, "the short window") if short else (GREY, 0.1, None)
            end = min(start + accumulation, total)
            axes.axvspan(start - 0.5, end - 0.5, color=colour, alpha=alpha, linewidth=0, label=label)
    axes.plot(rates, "o", color=BLUE, markersize=4, label="set before a micro-step")
    ring = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": ORANGE, "markeredgewidth": 2}
    axes.plot(used, rates[used], "o", label="used by an update (numbered)", **ring)
    for number, step in enumerate(used, 1):
        axes.annotate(f"{number}", (step, rates[step]), xytext=(0, 11), textcoords="offset points", ha="center")
    axes.set(
        xlabel="micro-step (each band is one accumulation window)",
        ylabel="learning rate",
        ylim=(0, 1.3 * lr),
        title=f"A run of {total} micro-steps: the rate is set {total} times and used {len(used)} times",
    )
    axes.legend(loc="lower left")
    return figure


def shapes(total: int, lr: float, warmup_steps: int = 0) -> Figure:
    """Every schedule of SCHEDULES over one run, with a common warm-up."""
    steps = steps_to_draw(total)
    figure, axes = subplots(figsize=(9, 3.8))
    risen = f"warm-up over {warmup_steps / total:.0%}" if warmup_steps else "no warm-up"
    for name, style, colour in zip(SCHEDULES, cycle(("-", "--", "-", "-.", ":")), cycle(CYCLE), strict=False):
        rates = [learning_rate(name, int(step), total, lr, warmup_steps) for step in steps]
        axes.plot(steps, rates, style, color=colour, label=name, linewidth=2.4 if style == ":" else 1.8)
    axes.set(
        xlabel="micro-step",
        ylabel="learning rate",
        ylim=(0, 1.2 * lr),
        title=f"Different shapes, one lr, {risen}",
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title="schedule")
    _thousands(axes)
    return figure


def design(name: str, lr: float, total: int, warmup_steps: int) -> Figure:
    """One schedule as designed, above the seed's with the same peak and length, which is drawn pale."""
    steps = steps_to_draw(total)
    figure, axes = subplots(figsize=(8.2, 3.2))
    axes.plot(
        steps, [get_lr(int(step), total, lr) for step in steps], color=GREY, linewidth=1, label="seed, to compare"
    )
    rates = [learning_rate(name, int(step), total, lr, warmup_steps) for step in steps]
    axes.fill_between(steps, rates, color=BLUE, alpha=0.12)
    axes.plot(steps, rates, color=BLUE, label=name)
    if warmup_steps:
        axes.axvline(warmup_steps, color=ORANGE, linestyle="--", linewidth=1, label="end of warm-up")
    axes.set(
        xlabel="micro-step", ylabel="learning rate", ylim=(0, 1.2 * lr), title=f"{name}, peak {lr:.2g}, {total:,} steps"
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    _thousands(axes)
    return figure


def runs(
    found: Mapping[str, Hooks],
    title: str,
    log_rate: bool = False,
    ceiling: float | None = None,
    shelf: float | None = None,
) -> Figure:
    """Losses of real runs (nats, mean of the last 9 micro-steps) above, their learning rates below.

    `found`: name → the hooks that a run left behind. `ceiling` cuts the upper axis, and curves that pass it get a note;
    `shelf` is a loss to compare with, drawn as a grey line.
    """
    figure, (top, bottom) = subplots(2, 1, sharex=True, figsize=(9, 5.2), height_ratios=(5, 3))
    for (name, hooks), colour, style in zip(
        found.items(), (BLUE, ORANGE, GREEN, RED, PURPLE), ("-", "--", "-.", ":", "-"), strict=False
    ):
        mean = smoothed(hooks.losses)
        top.plot(mean, style, color=colour, label=name)
        if ceiling is not None and mean.max() > ceiling:
            back = int(np.flatnonzero(mean > ceiling)[-1])  # the note stands to the right of where the curve comes back
            beside = {"xytext": (10, -9), "textcoords": "offset points", "va": "center"}
            top.annotate(f"▲ {name}: up to {mean.max():.1f}", (back, ceiling), color=colour, **beside)
        bottom.plot(hooks.lrs, style, color=colour)
    if shelf is not None:
        top.axhline(shelf, color=GREY, linestyle=(0, (6, 3)), linewidth=1.2, label="token frequencies")
    top.set(ylabel="loss (nats per token),\nmean of the last 9 updates", title=title)
    if ceiling is not None:
        top.set_ylim(top=ceiling)
    bottom.set(ylabel="learning rate", xlabel="update")
    if log_rate:
        bottom.set_yscale("log")
    else:
        bottom.set_ylim(bottom=0)
    top.legend(loc="upper left", bbox_to_anchor=(1, 1), title="run")
    return figure


def sweep(rates: Sequence[float], losses: Sequence[float], marks: Mapping[str, float]) -> Figure:
    """Loss over the rate while the rate rises in one run; `marks`: name → rate, drawn as vertical lines with names."""
    figure, axes = subplots(figsize=(9, 3.6))
    axes.plot(rates, losses, ".", color=GREY, markersize=4, label="update")
    mean = smoothed(losses)
    low, start = mean.min(), losses[0]
    axes.plot(rates, mean, color=BLUE, label="mean of the last 9")
    for name, rate in marks.items():
        axes.axvline(rate, color=ORANGE, linestyle="--")
        axes.text(rate, start + 1.4, f"{name}: {rate:.2g} ", rotation=90, ha="right", va="top", fontsize=9)
    if mean.max() > start + 1.5:
        leaves = rates[int(np.flatnonzero(mean > start + 1.5)[0])]
        beside = {"xytext": (-8, 0), "textcoords": "offset points", "ha": "right", "va": "top"}
        axes.annotate(f"▲ up to {mean.max():.0f}", (leaves, start + 1.4), color=BLUE, **beside)
    axes.set(
        xscale="log",
        ylim=(low - 0.3, start + 1.5),
        xlabel="learning rate, rising through the run (logarithmic)",
        ylabel="loss (nats per token)",
        title="A sweep: where does the loss fall, and where does it break out?",
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def rates_of_updates(found: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Lists of rates, one number per update, over the update's number."""
    figure, axes = subplots(figsize=(9, 3))
    for (name, rates), style in zip(found.items(), ("-", "--"), strict=False):
        axes.plot(rates, style, label=name)
    axes.set(xlabel="update", ylabel="learning rate", title=title)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left")
    _thousands(axes)
    return figure

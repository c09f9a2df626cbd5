"""Pictures of a run (lesson 06): curves that grow while it trains, and what its metrics file says afterwards."""

from __future__ import annotations

import math
import time
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..config import PROFILES, RECIPES
from ..paths import SAMPLE
from ..plan import RunPlan
from ..run_status import RunStatus
from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, mosaic, subplots


def split_metrics(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Metrics lines of updates, and those of held-out losses."""
    return [r for r in rows if "loss" in r], [r for r in rows if "held_out_loss" in r]


# Training loss, smoothed, of the laptop profile's run on the sample: share of the run, lowest and highest. Around what
# the usual seed gives, an eighth to either side, more where it falls steeply.
SAMPLE_BAND = (
    (0, 6.93, 9.01),
    (0.02, 6.48, 8.42),
    (0.05, 5.74, 7.46),
    (0.1, 4.99, 6.48),
    (0.15, 4.23, 5.50),
    (0.2, 3.75, 4.87),
    (0.3, 3.20, 4.16),
    (0.4, 2.59, 3.58),
    (0.5, 1.86, 2.96),
    (0.6, 1.11, 1.76),
    (0.7, 0.64, 1.15),
    (0.8, 0.43, 0.77),
    (0.9, 0.33, 0.59),
    (1, 0.27, 0.48),
)


def reference_band(plan: RunPlan) -> np.ndarray | None:
    """Where the smoothed training loss of this run should lie: (n, 3), update, lowest, highest; None where no such run
    was measured, that is for all but the unchanged laptop profile on the sample.
    """
    usual = PROFILES["laptop"]
    unchanged = (plan.model, plan.train.batch_size, plan.train.epochs, plan.train.learning_rate) == (
        usual.model, usual.train.batch_size, usual.sample_epochs, usual.train.learning_rate,
    )  # fmt: skip
    if not unchanged or plan.corpus.path != SAMPLE or plan.recipe != RECIPES["fast"]:
        return None
    return np.array(SAMPLE_BAND) * (plan.updates, 1, 1)


def share_inside(rows: list[dict[str, Any]], band: np.ndarray) -> float:
    """Share of a run's updates whose smoothed training loss lies in the band."""
    updates = split_metrics(rows)[0]
    steps, losses = [row["step"] for row in updates], np.array(smoothed([row["loss"] for row in updates]))
    low, high = (np.interp(steps, band[:, 0], band[:, side]) for side in (1, 2))
    return float(((low <= losses) & (losses <= high)).mean())


def training_figure(
    rows: list[dict[str, Any]],
    bigram: float | None = None,
    total: int | None = None,
    band: np.ndarray | None = None,
) -> Figure:
    """Loss and held-out loss (nats per token), learning rate, gradient norm, tokens/s and memory (MiB) by updates.

    `bigram` draws the baseline's held-out loss, `total` fixes the axis to the whole run's length, `band` (n, 3) is
    where the training loss should lie.
    """
    updates, held_out = split_metrics(rows)
    places, ratios = [["main", "rate", "norm"], ["main", "speed", "memory"]], [2.4, 1, 1]
    figure, axes_of = mosaic(places, figsize=(10.5, 4.2), gridspec_kw={"width_ratios": ratios})
    main, rate, norm, speed, memory = (axes_of[name] for name in ("main", "rate", "norm", "speed", "memory"))
    steps = [r["step"] for r in updates]
    if band is not None:
        name = "training loss of an earlier run ± leeway"
        main.fill_between(band[:, 0], band[:, 1], band[:, 2], color=SKY, alpha=0.25, lw=0, label=name)
    main.plot(steps, [r["loss"] for r in updates], color=BLUE, alpha=0.3, linewidth=0.8, label="each update")
    main.plot(steps, smoothed([r["loss"] for r in updates]), color=BLUE, label="training loss, smoothed")
    if held_out:
        main.plot(
            [r["step"] for r in held_out], [r["held_out_loss"] for r in held_out], "o-", color=ORANGE, ms=3.5,
            label="held-out loss",
        )  # fmt: skip
        best = min(held_out, key=lambda r: r["held_out_loss"])
        if best is not held_out[-1] or len(held_out) == 1:  # while it falls the label would lie across the curves
            main.annotate(
                f"lowest {best['held_out_loss']:.2f}", (best["step"], best["held_out_loss"]), (0, 14),
                textcoords="offset points", ha="center", color=ORANGE, fontsize=9,
            )  # fmt: skip
    if bigram is not None:
        main.axhline(bigram, color=GREY, linestyle="--", linewidth=1.2, label="bigram model, held out")
    main.set(title="Loss", xlabel="update", ylabel="nats per token")
    main.legend(loc="upper right", fontsize=9)
    rate.plot(steps, [r["lr"] for r in updates], color=GREEN)
    rate.set(title="Learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    norm.plot(steps, [r["grad_norm"] for r in updates], color=PURPLE, linewidth=1)
    norm.axhline(1.0, color=GREY, linestyle="--", linewidth=1, label="cut to this")
    norm.legend(loc="upper left", fontsize=8)
    norm.set(title="Gradient norm")
    if updates and max(r["grad_norm"] for r in updates) > 5:
        norm.set_yscale("log")
    speeds = [r.get("tokens_per_s", math.nan) for r in updates]
    speed.plot(steps, speeds, color=SKY, linewidth=1)
    speed.set(title="Tokens a second", xlabel="update", ylim=(0, _most(speeds)))
    held = [r.get("memory") or math.nan for r in updates]
    memory.plot(steps, held, color=ORANGE)
    memory.set(title="Memory, MiB", xlabel="update", ylim=(0, _most(held)))
    for axes in axes_of.values():
        axes.set_xlim(0, total or None)
    return figure


def _most(values: list[float]) -> float | None:
    """The upper end of an axis that begins at 0: above nearly all values, as a few may be far out."""
    known = sorted(value for value in values if math.isfinite(value) and value > 0)
    return 1.25 * known[int(0.98 * (len(known) - 1))] if known else None


def smoothed(values: list[float], share: float = 0.9) -> list[float]:
    """Running mean with the start's bias taken out, as Adam does with its moments."""
    mean, out = 0.0, []
    for count, value in enumerate(values, 1):
        mean = share * mean + (1 - share) * value
        out.append(mean / (1 - share**count))
    return out


class LiveCurves:
    """A status line, and with `pictures` curves below it, renewed in place while a run goes on; for `wait_for`.

    The line is renewed every `every` seconds; the curves as well, unless drawing them would take more than a twentieth
    of the time. For notebooks whose front end shows no widgets; a dashboard shows more.
    """

    def __init__(self, band: np.ndarray | None = None, pictures: bool = True, every: float = 2.0) -> None:
        self.band, self.pictures, self.every = band, pictures, every
        self.shown_at = self.drawn_at = -math.inf
        self.drawing_took = 0.0
        self.picture = self.line = None

    def __call__(self, status: RunStatus) -> None:
        """Show how a run stands, in place of the last time."""
        from IPython.display import display

        now, ended = time.perf_counter(), not status.is_going
        if now - self.shown_at < self.every and not ended:
            return
        self.shown_at = now
        text = {"text/plain": status.line()}
        if self.line is None:
            self.line = display(text, raw=True, display_id=True)
        else:
            self.line.update(text, raw=True)
        if not self.pictures or not status.rows or (now - self.drawn_at < 20 * self.drawing_took and not ended):
            return
        figure = training_figure(status.rows, total=status.updates, band=self.band)
        if self.picture is None:
            self.picture = display(figure, display_id=True)
        else:
            self.picture.update(figure)
        self.drawn_at = time.perf_counter()
        self.drawing_took = self.drawn_at - now


def singular_values_figure(before: np.ndarray, after: np.ndarray) -> Figure:
    """Singular values of a gradient, and of the update that Muon makes of it, largest first."""
    figure, axes = subplots(figsize=(7.5, 3.2))
    axes.semilogy(before / before[0], color=BLUE, label="gradient, divided by its largest")
    axes.semilogy(after, color=ORANGE, linestyle="--", label="Muon's update")
    axes.set(
        title="A gradient pushes a few directions; Muon pushes all alike", xlabel="direction", ylabel="singular value"
    )
    axes.legend()
    return figure


def comparison_figure(
    curves: dict[str, list[dict[str, Any]]], title: str = "The same model, nearly as many tokens, two recipes"
) -> Figure:
    """Held-out loss against tokens trained on, one curve per run."""
    figure, axes = subplots(figsize=(7.5, 3.2))
    for (name, rows), style in zip(curves.items(), cycle(("-", "--", ":", "-."))):
        held_out = split_metrics(rows)[1]
        axes.plot(
            [r["tokens"] / 1000 for r in held_out],
            [r["held_out_loss"] for r in held_out],
            f"o{style}",
            ms=4,
            label=name,
        )
    axes.set(title=title, xlabel="thousand tokens", ylabel="held-out loss")
    axes.legend()
    return figure

"""Pictures of lesson 07: next-token probabilities before and after each setting, loops, times, losses.

Functions take plain numbers and return a closed Figure, or HTML with its own colours and escaped text. Left out: how
the numbers come about (generation.py, evaluation.py) and what can be clicked (widgets/).
"""

# T tokens

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import BLUE, CARD, CYCLE, GREEN, GREY, INK, ORANGE, RED, drawable, subplots

QUIET = "#B8B8B8"  # what there is to compare with
SCALES = (0.01, 0.1, 0.25, 0.5, 1.0)  # what a full bar may stand for, so that bars don't rescale at every touch


def scale_for(*probabilities: Sequence[float]) -> float:
    """The smallest of SCALES that holds every probability given."""
    highest = max((float(p) for row in probabilities for p in row), default=0.0)
    return next((scale for scale in SCALES if highest <= scale), SCALES[-1])


def plot_next_tokens(
    labels: Sequence[str], probabilities: Sequence[float], title: str, truth: int | None = None
) -> Figure:
    """Bars of the likeliest next tokens, the likeliest on top; `truth` numbers the one that really follows."""
    figure, axes = subplots(figsize=(9.0, 0.6 + 0.29 * len(labels)))
    colours = [ORANGE if number == truth else BLUE for number in range(len(labels))]
    axes.barh(range(len(labels)), probabilities, color=colours)
    for number, value in enumerate(probabilities):
        axes.text(value, number, f" {value:.1%}", va="center", fontsize=9)
    _token_axis(axes, labels)
    axes.set_xlim(0, scale_for(probabilities) * 1.08)
    axes.set(xlabel="probability of being next", title=title)
    return figure


def plot_settings(labels: Sequence[str], before: Sequence[float], after: Mapping[str, Sequence[float]]) -> Figure:
    """A panel per setting: grey bars before, blue bars after, a red × at tokens that may not be drawn any more.

    All panels have one scale. Under its title each says which token moved most, and how far.
    """
    figure, panels = subplots(1, len(after), figsize=(9.6, 1.1 + 0.27 * len(labels)), sharey=True)
    rows = np.arange(len(labels))
    limit = max(np.ceil(20 * max(*before, *(max(values) for values in after.values()))), 1) / 20  # in steps of 0.05
    for axes, (name, values) in zip(np.atleast_1d(panels), after.items(), strict=True):
        values = np.asarray(values)
        most = int(np.abs(values - before).argmax())
        axes.barh(rows - 0.2, before, height=0.36, color=QUIET, label="before")
        axes.barh(rows + 0.2, values, height=0.36, color=BLUE, label="after")
        axes.plot(np.full(int((values == 0).sum()), 0.02 * limit), rows[values == 0] + 0.2, "x", color=RED, ms=5)
        axes.set_xlim(0, limit * 1.06)
        axes.set_xticks([0, limit / 2, limit], ["0", f"{limit / 2:.3g}", f"{limit:.3g}"])
        axes.set_xlabel("probability")
        axes.set_title(f"{name}\n{drawable(labels[most])}: {before[most]:.3f} → {values[most]:.3f}", fontsize=10)
    handles, names = np.atleast_1d(panels)[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9)
    _token_axis(np.atleast_1d(panels)[0], labels)
    return figure


def plot_repetition(texts: Mapping[str, Sequence[int]]) -> Figure:
    """A panel per text of ids: a dot where token i equals token j. A loop is a set of slanted lines."""
    figure, panels = subplots(1, len(texts), figsize=(9.0, 3.4))
    for axes, (name, ids) in zip(np.atleast_1d(panels), texts.items(), strict=True):
        ids = np.asarray(ids)
        axes.imshow(ids[:, None] == ids[None, :], cmap="Blues", interpolation="nearest", vmin=0, vmax=1.2)
        axes.set_title(f"{name}\n{repeated_share(ids):.0%} of its 4-token runs repeat", fontsize=10)
        axes.set(xlabel="token number")
        axes.grid(False)
    np.atleast_1d(panels)[0].set_ylabel("token number")
    return figure


def repeated_share(ids: Sequence[int], span: int = 4) -> float:
    """Share of a text's runs of `span` tokens that stood in it before; 0 for texts that are too short."""
    runs = [tuple(int(i) for i in ids[start : start + span]) for start in range(len(ids) - span + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def plot_step_times(seconds: Mapping[str, Sequence[float]], window: int = 8) -> Figure:
    """Milliseconds that each new token took, a line per way (the second dashed): medians over `window` tokens."""
    figure, axes = subplots()
    highest = 0.0
    for number, ((name, values), colour) in enumerate(zip(seconds.items(), CYCLE, strict=False)):
        values = 1000 * np.asarray(values)
        middle = [np.median(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]
        axes.plot(range(1, len(values) + 1), values, ".", color=colour, alpha=0.25, ms=3)
        axes.plot(range(1, len(values) + 1), middle, "--" if number % 2 else "-", color=colour, label=name)
        highest = max(highest, *middle)  # single spikes may leave the picture
    axes.set(xlabel="number of the new token", ylabel="milliseconds", ylim=(0, 1.2 * highest))
    axes.set_title("What does one more token cost?")
    axes.legend(loc="upper left")
    return figure


def plot_held_out(bars: Mapping[str, float]) -> Figure:
    """Mean losses beside each other, in nats per token: a guess, a bigram model, this model, this one on the sample."""
    figure, axes = subplots(figsize=(7.2, 3.4))
    drawn = axes.bar(range(len(bars)), list(bars.values()), color=[GREY, ORANGE, BLUE, GREEN][: len(bars)], width=0.6)
    axes.bar_label(drawn, fmt="%.2f", padding=2, fontsize=10)
    axes.set_xticks(range(len(bars)), list(bars), fontsize=10)
    axes.set(ylabel="nats per token", title="Mean loss: lower is better")
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    return figure


def tokens_by_loss(texts: Mapping[str, tuple[Sequence[str], Sequence[float]]], worst: float) -> HTML:
    """Texts by caption, as (pieces, losses): tokens on white (loss 0) to orange (loss `worst`), each over its loss."""
    box = f"display:inline-block;text-align:center;margin:2px;padding:2px 4px;border:1px solid #DDDDDD;color:{INK}"
    parts = []
    for caption, (pieces, losses) in texts.items():
        parts.append(f'<div style="background-color:{CARD};color:{INK};margin-top:4px"><b>{escape(caption)}</b></div>')
        for piece, loss in zip(pieces, losses, strict=True):
            share = min(max(float(loss) / worst, 0.0), 1.0)
            red, green, blue = (round(255 + share * (end - 255)) for end in (245, 166, 92))
            shown = escape(piece.replace("\n", "⏎").replace(" ", "␣"))
            parts.append(
                f'<span style="{box};background-color:rgb({red},{green},{blue})">{shown}<br>'
                f'<span style="color:{INK};font-size:11px">{float(loss):.1f}</span></span>'
            )
    style = f"background-color:{CARD};color:{INK};padding:8px;border:1px solid #CCCCCC;max-width:820px;font-size:14px"
    return HTML(f'<div style="{style};line-height:1.3">{"".join(parts)}</div>')


def bars_html(
    labels: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    summary: str = "",
    scale: float | None = None,
    colours: str = "grey before, blue after the settings",
) -> str:
    """Two bars for each token, before (grey) and after (blue), with their numbers; dropped tokens are crossed out.

    `colours` says below the bars what the two stand for.
    """
    scale = scale or scale_for(before, after)
    cell = f"background-color:{CARD};color:{INK};border:none;padding:1px 6px;font-size:13px;text-align:left"
    head = f"{cell};width:170px;font-weight:normal"
    rows = []
    for label, old, new in zip(labels, before, after, strict=True):
        shown = escape(label.replace("\n", "⏎").replace(" ", "␣"))
        name = f'<s style="color:{RED}">{shown}</s>' if new == 0 else shown
        bars = "".join(
            f'<div style="background-color:{colour};width:{100 * min(value / scale, 1):.1f}%;height:{height}px"></div>'
            for value, colour, height in ((old, QUIET, 5), (new, BLUE, 9))
        )
        numbers = f"{old:.1%} → {new:.1%}" if new else f"{old:.1%} → dropped"
        rows.append(
            f'<tr style="background-color:{CARD}"><th scope="row" style="{head}">{name}</th>'
            f'<td style="{cell};width:380px">{bars}</td><td style="{cell};white-space:nowrap">{numbers}</td></tr>'
        )
    style = (
        f"background-color:{CARD};color:{INK};border:1px solid #CCCCCC;border-radius:4px;padding:8px;max-width:760px"
    )
    note = f"a full bar is {scale:.0%}; {escape(colours)}"
    return (
        f'<div style="{style}"><div role="status" style="{cell}">{escape(summary)}</div>'
        f'<table style="border-collapse:collapse;width:100%;margin:4px 0">{"".join(rows)}</table>'
        f'<div style="{cell};color:#555555;font-size:12px">{note}</div></div>'
    )


def _token_axis(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [drawable(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)

"""Held-out loss taken apart (lesson 07): by place in row and segment, by kind of token, by the age of the model.

The pictures take plain numbers and return a closed Figure. What sorts the tokens and what finds the snapshots of a run
stands here too, since nothing else needs it. Left out: the losses themselves (evaluation.py).
"""

# T tokens

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tokenizers import Tokenizer

from ..checkpoint import load_run
from ..errors import CourseError
from ..model import MiniMindLM
from ..paths import out_dir, shown
from ..runs import RunOnDisk, list_runs
from ..tokenizer import pieces
from . import token_kinds
from .style import BLUE, GREY, ORANGE, subplots
from .token_kinds import CHARACTER, OTHER, PART, PUNCTUATION, WORD

MARKER = "markers and spaces"
KINDS = (WORD, CHARACTER, PART, OTHER, PUNCTUATION, MARKER)


# --- places ---------------------------------------------------------------------------------------------------------


def plot_by_place(places: Mapping[str, np.ndarray], losses: np.ndarray, guess: float) -> Figure:
    """Mean loss by how many tokens were read before, a curve per unit; the dashed line is what a guess costs.

    `places` says for "row", "segment" how many tokens of it stood before each token (n,); `losses` (n,) and `guess` are
    nats. Leave out what should not count, such as markers.
    """
    figure, axes = subplots(figsize=(9.0, 3.6))
    highest = guess
    for (unit, read), marker, colour in zip(places.items(), "so^", (ORANGE, BLUE, GREY), strict=False):
        centres, means = loss_by_position(read, losses)
        axes.plot(centres, means, marker=marker, ms=4, color=colour, label=f"counted from the {unit}'s beginning")
        highest = max(highest, means.max())
    axes.axhline(guess, color=GREY, linestyle="--", linewidth=1.2, label="a guess among all tokens (ln V)")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(xlabel="tokens read before (each gridline doubles)", ylabel="nats per token")
    axes.set_title("Does it help to have read more?")
    axes.set_ylim(0, 1.12 * highest)  # from 0: otherwise small bumps look like effects
    axes.legend(fontsize=9, loc="lower right")
    return figure


def loss_by_position(positions: np.ndarray, losses: np.ndarray, least: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Mean losses in bins of positions 1, 2, 3–4, 5–8, 9–16 …; a bin of fewer than `least` tokens joins the next.

    Too few at the end join the last bin. Position 1 is a token that has one before it. Returns the bins' geometric
    centres and means.
    """
    positions = np.maximum(positions, 1)
    number = np.ceil(np.log2(positions)).astype(int)
    bins, waiting = [], np.zeros(len(number), dtype=bool)
    for i in range(number.max() + 1):
        waiting = waiting | (number == i)
        if waiting.sum() >= least:
            bins.append(waiting)
            waiting = np.zeros(len(number), dtype=bool)
    if waiting.any():
        bins[-1:] = [bins[-1] | waiting] if bins else [waiting]
    centres = [np.exp(np.log(positions[each]).mean()) for each in bins]
    return np.array(centres), np.array([losses[each].mean() for each in bins])


# --- kinds of tokens ------------------------------------------------------------------------------------------------


def kind_of(tokenizer: Tokenizer, token_id: int) -> str:
    """Which of KINDS a token is."""
    kind = token_kinds.token_kind(pieces(tokenizer, [token_id])[0])
    return MARKER if kind in (token_kinds.MARKER, token_kinds.BLANK) else kind


class Part(NamedTuple):
    """A group of tokens: how many, their mean loss, that loss by the bytes of their text (nan without text)."""

    tokens: int
    nats_per_token: float
    nats_per_byte: float


def by_group(
    groups: Sequence[str], losses: np.ndarray, utf8_bytes: np.ndarray, hardest_first: bool = True
) -> dict[str, Part]:
    """Losses by group; groups, losses (nats) and bytes are all (T,). The hardest per token first, else as they come."""
    groups, parts = np.asarray(groups), {}
    for name in dict.fromkeys(groups.tolist()):
        mine = groups == name
        count, total, length = int(mine.sum()), float(losses[mine].sum()), int(utf8_bytes[mine].sum())
        parts[name] = Part(count, total / count, total / length if length else float("nan"))
    return dict(sorted(parts.items(), key=lambda item: -item[1].nats_per_token)) if hardest_first else parts


def plot_parts(kinds: Mapping[str, Part], places: Mapping[str, Part]) -> Figure:
    """Bars of losses, by token on the left and by byte of text on the right: kinds above, places in a segment below."""
    heights = (max(len(kinds), 1), max(len(places), 1) + 0.5)
    figure, panels = subplots(2, 2, figsize=(9.6, 5.0), width_ratios=(1.25, 1), height_ratios=heights)
    for row, parts in zip(panels, (kinds, places), strict=True):
        _bars(row[0], {name: part.nats_per_token for name, part in parts.items()}, BLUE, parts)
        _bars(row[1], {name: part.nats_per_byte for name, part in parts.items()}, ORANGE)
        row[1].set_yticklabels([])
    panels[0, 0].set(title="By kind of token")
    panels[0, 1].set(title="The same by byte of text")
    panels[1, 0].set(title="By place in its segment, without markers", xlabel="nats per token (how many)")
    panels[1, 1].set(title="The same by byte of text", xlabel="nats per byte")
    return figure


def _bars(axes: Axes, values: Mapping[str, float], colour: str, parts: Mapping[str, Part] | None = None) -> None:
    """Bars with their numbers, the first on top; `parts` adds how many tokens each stands for."""
    rows, longest = range(len(values)), max((v for v in values.values() if v == v), default=1.0)
    axes.barh(rows, list(values.values()), color=colour, height=0.62)
    for row, (name, value) in enumerate(values.items()):
        count = f" ({parts[name].tokens:,})" if parts else ""
        axes.text(value if value == value else 0, row, f" {value:.2f}{count}" if value == value else " (no text)",
                  va="center", fontsize=9)  # fmt: skip
    axes.set_yticks(rows, list(values), fontsize=9)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlim(0, longest * (1.6 if parts else 1.3))
    axes.grid(axis="y", visible=False)


# --- models of different age ----------------------------------------------------------------------------------------


class Age(NamedTuple):
    """A model after so many updates, 0 with chance weights; `best` if none of its run did better on held-out rows."""

    updates: int
    model: MiniMindLM
    best: bool = False


def models_by_age(model: MiniMindLM, note: str = "") -> list[Age]:
    """A model at every age that can be had, youngest first: with chance weights, its run's snapshots, as it is now.

    Among the snapshots are the run's best weights, where it kept them. `note` is what `quick_model` says of the model
    and names its run. Without a run, or one that kept no snapshots, two ages are left: before training, and now.
    Snapshots that can't be read or belong to another run are passed over.
    """
    device, run = next(model.parameters()).device, _run_named(note)
    now = run.facts["step"] if run else 1
    with torch.random.fork_rng(devices=[]):  # making a model draws numbers; those of the caller stay as they were
        torch.manual_seed(0)
        found = {0: MiniMindLM(model.config).eval().to(device)}
        for path in sorted((run.folder / "snapshots").glob("*.pth")) if run else []:
            try:
                younger, _, facts = load_run(path, device)
            except CourseError:
                continue
            same = all(facts.get(key) == run.facts.get(key) for key in ("model", "tokenizer_sha256"))
            if same and 0 < facts.get("step", 0) < now:
                found.setdefault(facts["step"], younger)  # the best weights may be a snapshot, too
    best = run.facts.get("best_step") if run else None
    return [Age(step, its, 0 < step == best) for step, its in [*sorted(found.items()), (now, model)]]


def _run_named(note: str) -> RunOnDisk | None:
    """The run whose weights file a note of `quick_model` begins with."""
    for run in [*list_runs(), *list_runs(out_dir() / "quick")]:
        if run.facts.get("step") and note.startswith((f"{shown(run.weights)}:", f"{shown(run.weights)},")):
            return run
    return None


def plot_ages(
    updates: Sequence[int], held_out: Sequence[float], row: Sequence[float], bigram: float | None = None
) -> Figure:
    """Two curves over a model's ages: loss on held-out rows (its lowest point is marked) and on our row, in nats.

    The dashed line is what a bigram model reaches on the held-out rows.
    """
    figure, axes = subplots(figsize=(9.0, 3.4))
    places, best = np.arange(len(updates)), int(np.argmin(held_out))
    axes.plot(places, held_out, "o-", color=ORANGE, label="held-out rows")
    axes.plot(places, row, "s-", color=BLUE, label="our row")
    if bigram is not None:
        axes.axhline(bigram, color=GREY, linestyle="--", linewidth=1.2, label="bigram model, held-out rows")
    axes.plot(best, held_out[best], "o", ms=13, mfc="none", color=ORANGE, mew=1.8)
    axes.annotate(
        f"lowest: {held_out[best]:.2f}", (best, held_out[best]), (0, -20), textcoords="offset points", ha="center",
        fontsize=10,
    )  # fmt: skip
    axes.set_xticks(places, [f"{number:,}" for number in updates])
    axes.set(xlabel="updates so far (not to scale)", ylabel="nats per token", title="The same model at several ages")
    axes.set_ylim(0, 1.12 * max(*held_out, *row))
    axes.margins(x=0.08)
    axes.legend(loc="lower left")
    axes.axhline(0, color=GREY, linewidth=0.8)
    return figure

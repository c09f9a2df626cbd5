"""Pictures of lesson 05: what 16 bits hold, where gradients vanish, and what an update is made of.

Figures come from matplotlib, tables and listings are HTML with their own colours. Left out: the loop itself
(training.py), the choice of formats (precision.py), and what can be clicked (widgets/precision.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import cycle
from unittest import mock

import numpy as np
import torch
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .. import precision
from ..training import Hooks
from .style import BLUE, CARD, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY, YELLOW, subplots

# bits of exponent and fraction; a sign bit comes on top
FORMATS = {"float32": (8, 23), "float16": (5, 10), "bfloat16": (8, 7)}
TO_ZERO, SUBNORMAL, OVERFLOW = 2.0**-25, 2.0**-14, 65520.0  # float16: up to / below / from here on


def ranges(gradient: Tensor) -> Figure:
    """Above: how far each format reaches in powers of two, over the middle 98% of a gradient. Below: steps behind 1."""
    figure, (top, bottom) = subplots(2, 1, figsize=(9, 4.6))
    sizes = gradient.abs().flatten().cpu().double().numpy()
    low, high = np.quantile(np.log2(sizes[sizes > 0]), (0.01, 0.99))
    top.axvspan(low, high, color=GREY, alpha=0.35, linewidth=0, label="middle 98% of our row's gradient")
    for height, (name, colour) in enumerate(zip(FORMATS, (BLUE, ORANGE, GREEN), strict=True)):
        facts = torch.finfo(precision.DTYPES[name])
        smallest, normal, largest = (np.log2(x) for x in (facts.smallest_normal * facts.eps, facts.tiny, facts.max))
        top.barh(height, largest - normal, left=normal, color=colour, height=0.55)
        top.barh(height, normal - smallest, left=smallest, color=colour, alpha=0.35, height=0.55)
        ticks = np.arange(round((16 / 128) / facts.eps) + 1) * facts.eps + 1 if facts.bits == 16 else []
        if name == "float32":
            bottom.barh(height, 16 / 128, left=1, color=colour, height=0.5)  # too dense to draw one by one
        else:
            bottom.vlines(ticks, height - 0.25, height + 0.25, color=colour, linewidth=1.2)
    top.set(
        title="Range: float16 is narrow (pale: subnormal numbers)",
        xlabel="power of two",
        yticks=range(3),
        yticklabels=FORMATS,
    )
    top.legend(loc="upper right", bbox_to_anchor=(1, 1.22))
    bottom.set(
        title="Precision: every number that each format has from 1 to 1.125",
        xlabel="value",
        xlim=(0.998, 1.127),
        yticks=range(3),
        yticklabels=FORMATS,
    )
    for axes in (top, bottom):
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
    return figure


def lost(values: Tensor, scale: float) -> tuple[float, float]:
    """Shares of the non-zero `values` that, times `scale`, become 0 and become infinite in float16."""
    sizes = values.detach().abs().flatten().cpu().double() * scale
    sizes = sizes[sizes > 0]
    return (sizes <= TO_ZERO).double().mean().item(), (sizes >= OVERFLOW).double().mean().item()


def underflow(groups: Mapping[str, Tensor], scales: Sequence[float]) -> Figure:
    """Histograms of gradients times each scale, a panel per scale, over the zones of float16; all named in place."""
    figure, panels = subplots(len(scales), 1, sharex=True, figsize=(9, 1.2 + 1.9 * len(scales)), squeeze=False)
    edges = np.arange(-48, 26)
    zones = (
        ("becomes 0", edges[0], np.log2(TO_ZERO), RED, 0.18),
        ("subnormal", np.log2(TO_ZERO), np.log2(SUBNORMAL), YELLOW, 0.3),
        ("keeps all its digits", np.log2(SUBNORMAL), np.log2(OVERFLOW), CARD, 0.0),
        ("becomes inf", np.log2(OVERFLOW), edges[-1], PURPLE, 0.25),
    )
    for axes, scale in zip(panels[:, 0], scales, strict=True):
        for words, start, end, colour, alpha in zones:
            axes.axvspan(start, end, color=colour, alpha=alpha, linewidth=0)
            place = axes.get_xaxis_transform()  # x in powers of two, y from 0 to 1
            axes.text((start + end) / 2, 0.97, words, transform=place, ha="center", va="top", fontsize=9)
        said = []
        for (name, values), colour in zip(groups.items(), (BLUE, ORANGE), strict=False):
            sizes = values.detach().abs().flatten().cpu().double().numpy() * scale
            powers = np.log2(sizes[sizes > 0]).clip(edges[0] + 0.5, edges[-1] - 0.5)
            share = np.full(len(powers), 100 / len(powers))
            heights, _, _ = axes.hist(powers, bins=edges, weights=share, color=colour, alpha=0.75)
            axes.text(edges[heights.argmax()] + 0.5, heights.max(), name, ha="center", va="bottom", fontsize=9)
            zero, infinite = lost(values, scale)
            said.append(f"{name}: {zero:.1%} become 0" + (f", {infinite:.1%} inf" if infinite else ""))
        axes.set(ylabel="share (%)", title=f"scale {scale:g} · " + " · ".join(said), xlim=(edges[0], edges[-1]))
        axes.set_ylim(top=1.35 * axes.dataLim.y1)
    panels[-1, 0].set_xlabel("power of two of the absolute value")
    return figure


def scaler_life(history: Sequence[Mapping[str, float]]) -> Figure:
    """The scale of each step, skipped steps crossed, and losses below. Keys of an entry: scale, skipped, loss."""
    figure, (top, bottom) = subplots(2, 1, sharex=True, figsize=(9, 4.2), height_ratios=(3, 2))
    scales = [entry["scale"] for entry in history]
    skipped = [step for step, entry in enumerate(history) if entry["skipped"]]
    top.step(range(len(scales)), scales, where="mid", color=BLUE)
    top.plot(
        skipped,
        [scales[step] for step in skipped],
        "X",
        color=RED,
        markersize=10,
        label="gradient not finite: step skipped",
    )
    top.set_yscale("log", base=2)
    top.set(
        ylabel="scale (log.)",
        title=f"A scaler feels its way: {len(skipped)} of {len(scales)} steps skipped",
        ylim=(min(scales) / 2, max(scales) * 4),
    )
    top.legend(loc="upper right")
    bottom.plot([entry["loss"] for entry in history], color=GREEN)
    bottom.set(xlabel="step", ylabel="loss (nats)")
    return figure


def device_table() -> HTML:
    """What pick_dtype answers to each wish, here and on pretended devices, with a scaler or not, and what to do."""
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    on_cpu = {True: "try bfloat16 and time it", False: "leave it at auto; 16 bits gain nothing"}
    devices = (
        ("this CPU", cpu, precision.cpu_has, None, on_cpu[precision.cpu_has("bfloat16")]),
        ("a CPU with bfloat16", cpu, lambda name: name == "bfloat16", None, on_cpu[True]),
        ("a CPU without", cpu, lambda name: False, None, on_cpu[False]),
        ("GPU, RTX 4090", cuda, precision.cpu_has, (8, 9), "bfloat16: no scaler, no skipped steps"),
        ("GPU, T4 (2018)", cuda, precision.cpu_has, (7, 5), "leave it at auto; look at skipped steps"),
    )
    cell = f"background-color:{CARD};color:{INK};border:1px solid #CCCCCC;padding:3px 10px;text-align:left"
    wishes = (("auto", "seed"), ("auto", "fast"), ("bfloat16", "fast"), ("float16", "fast"))
    head = ("--dtype on", "auto, seed recipe", "auto, fast recipe", "bfloat16", "float16", "what to do")
    lines = ["<tr>" + "".join(f'<th style="{cell}">{words}</th>' for words in head) + "</tr>"]
    for name, device, has, capability, advice in devices:
        cells = [f'<th style="{cell}">{name}</th>']
        for asked, recipe in wishes:
            with (
                mock.patch.object(precision, "cpu_has", has),
                mock.patch.object(torch.cuda, "get_device_capability", lambda *_, answer=capability: answer),
            ):
                dtype, _ = precision.pick_dtype(asked, device, recipe)
            colour = {"float32": "#E3E3E3", "float16": "#FBE0CF", "bfloat16": "#CFEBDF"}[str(dtype)[6:]]
            scaler = " + scaler" if dtype == torch.float16 else ""
            cells.append(f'<td style="{cell};background-color:{colour}">{str(dtype)[6:]}{scaler}</td>')
        lines.append(f'<tr>{"".join(cells)}<td style="{cell}">{advice}</td></tr>')
    return HTML(f'<table style="border-collapse:collapse;font-size:13px">{"".join(lines)}</table>')


def equal_gradients(pairs: Mapping[str, tuple[Tensor, Tensor]], shown: int = 2000) -> Figure:
    """One panel per pair (gradient of the big batch, accumulated gradient): on the diagonal they are equal."""
    figure, panels = subplots(1, len(pairs), figsize=(9, 3.4), squeeze=False)
    for axes, (name, (big, small)) in zip(panels[0], pairs.items(), strict=True):
        every = max(1, big.numel() // shown)
        x, y = (part.detach().flatten()[::every].cpu().numpy() for part in (big, small))
        edge = np.quantile(np.abs(x), 0.995)
        axes.plot([-edge, edge], [-edge, edge], color=GREY, linewidth=1)
        axes.plot(x, y, ".", color=BLUE, markersize=3, alpha=0.5)
        axes.set(title=name, xlim=(-edge, edge), ylim=(-edge, edge), xlabel="one big batch", xticks=[0], yticks=[0])
    panels[0, 0].set_ylabel("accumulated")
    return figure


def windows(iter_per_epoch: int, accumulation: int) -> Figure:
    """An epoch's micro-steps as numbered boxes, a colour per accumulation window, its divisor written above."""
    hooks = Hooks(iter_per_epoch, accumulation_steps=accumulation)
    figure, axes = subplots(figsize=(9, 1.7))
    colours = cycle((SKY, YELLOW))
    for step in range(iter_per_epoch):
        if step % accumulation == 0:
            colour, size = next(colours), hooks.window(step)
            axes.text(step + size / 2, 1.25, f"each loss / {size}", ha="center")
        axes.add_patch(Rectangle((step, 0), 0.94, 1, color=colour))
        axes.text(step + 0.47, 0.5, str(step), ha="center", va="center", fontsize=9)
        if hooks.closes_window(step):
            axes.text(step + 0.47, -0.3, "▲", ha="center", va="center", fontsize=9)
            axes.text(step + 0.47, -0.75, "update", ha="center", va="center", fontsize=9)
    axes.set(
        xlim=(-0.5, iter_per_epoch + 0.5),
        ylim=(-1.0, 1.8),
        title=f"{iter_per_epoch} micro-batches, {accumulation} to an update: the last window is short",
    )
    axes.axis("off")
    return figure


def clipping(norms: Sequence[float], limit: float) -> Figure:
    """Gradient norms of a run before clipping, and what clipping leaves of them."""
    figure, axes = subplots(figsize=(9, 3))
    kept = np.minimum(norms, limit)
    axes.fill_between(range(len(norms)), kept, norms, color=ORANGE, alpha=0.3, label="cut off")
    axes.plot(norms, color=ORANGE, label="before clipping")
    axes.plot(kept, "--", color=BLUE, label="after")
    axes.set(
        xlabel="update",
        ylabel="gradient norm",
        title=f"Clipping shortens the long ones to {limit:g} and leaves the rest",
    )
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def memory(bars: Mapping[str, Mapping[str, float]]) -> Figure:
    """Stacked horizontal bars: name of the bar → part → bytes; the scale is in GiB. The first bar's parts are named."""
    figure, axes = subplots(figsize=(9, 1.6 + 0.7 * len(bars)))
    most = max(sum(parts.values()) for parts in bars.values()) / 2**30
    colours = cycle((BLUE, SKY, YELLOW, ORANGE))
    shades = {part: next(colours) for part in dict.fromkeys(part for parts in bars.values() for part in parts)}
    narrow = [part for part, size in next(iter(bars.values())).items() if size / 2**30 < 0.3 * most]
    for row, parts in enumerate(bars.values()):
        left = 0.0
        for part, size in parts.items():
            width = size / 2**30
            axes.barh(row, width, left=left, color=shades[part], height=0.6, edgecolor="white")
            if row == 0 and part in narrow:  # its name stands above, the first one highest
                above = -0.5 - 0.3 * (len(narrow) - 1 - narrow.index(part))
                axes.vlines(left + width / 2, above, -0.3, color=INK, linewidth=0.8)
                axes.text(left + width / 2 + 0.006 * most, above, part, va="center", fontsize=9)
            elif row == 0:
                axes.text(left + width / 2, row, part, ha="center", va="center", fontsize=9)
            left += width
        axes.text(left, row, f" {left:.1f} GiB", va="center")
    axes.set(
        yticks=range(len(bars)),
        yticklabels=bars,
        xlabel="GiB",
        title="Where the memory of a training step goes (estimated)",
    )
    axes.set_xlim(right=1.15 * most)
    axes.set_ylim(len(bars) - 0.5, -0.7 - 0.3 * len(narrow))
    axes.grid(axis="y", visible=False)
    return figure


LOOP_NOTES = (  # a note to each piece of train_epoch
    "What it needs. ctx is the autocast context, hooks is asked and told what differs between runs.",
    "One micro-step per batch. A resumed run starts counting where it stopped.",
    "Lesson 04: the rate is set before every micro-step; the optimizer reads it when it steps.",
    "Forward, in 16 bits where that pays. tokens: counted tokens of this micro-step, in all processes. The loss is "
    "divided by the true size of the window. aux_loss keeps experts evenly busy (lesson 03) and is 0 without experts; "
    "share is this process's part of the rows, 1 where there is one process.",
    "Backward, scaled. .grad adds up from micro-step to micro-step. Then the run may log.",
    "The window is full, or the epoch ends: add what other processes have, divide by the scale, then clip.",
    "The optimizer steps, unless a gradient is not finite; the scaler draws its conclusions.",
    "Gradients go, memory is free, and only now may a run be saved.",
    "A gentle way out, between two micro-steps.",
)


def listing(function: Callable, notes: Sequence[str]) -> HTML:
    """A function's source without its docstring, cut at blank lines, a note beside each piece.

    Raises ValueError when there are not as many notes as pieces: then the notes are of another version.
    """
    source = inspect.getsource(function).rstrip()
    before, _, after = source.split('"""', 2)
    pieces = [before.rstrip(), *after.strip("\n").split("\n\n")]
    if len(pieces) != len(notes):
        raise ValueError(f"{function.__name__} has {len(pieces)} pieces, there are {len(notes)} notes.")
    colours = f"background-color:{CARD};color:{INK}"
    code_style = f"{colours};margin:0;font-size:12px;line-height:1.45;white-space:pre;flex:0 0 600px"
    code_style += ";max-width:100%;overflow-x:auto"
    note_style = f"{colours};font-size:13px;line-height:1.5;flex:1 1 200px;border-left:3px solid {SKY};padding-left:8px"
    row_style = f"{colours};display:flex;flex-wrap:wrap;gap:6px 14px;padding:7px 10px;border-bottom:1px solid #CCCCCC"
    rows = [
        f'<div style="{row_style}"><pre style="{code_style}">{escape(piece)}</pre>'
        f'<div style="{note_style}">{escape(note)}</div></div>'
        for piece, note in zip(pieces, notes, strict=True)
    ]
    return HTML(f'<div style="{colours};max-width:900px;border:1px solid #CCCCCC">{"".join(rows)}</div>')

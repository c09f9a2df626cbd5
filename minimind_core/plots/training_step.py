"""Lesson 05's second half: a spike and what stays of it, and what forward keeps for backward, measured part by part.

Left out: what a plan will need of memory before it runs (preflight.py), and the loop itself (training.py).
"""

# B batch · T tokens · K key/value heads · Dh per head

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, autograd

from ..config import ModelConfig
from ..model import MiniMindLM
from ..precision import autocast_context
from ..training import masked_cross_entropy
from .style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, YELLOW, subplots

PARTS = ("SwiGLU", "scores", "attention, its shares", "attention, the rest", "norms", "token ids")


def _part(module: str, tensor: Tensor, model: MiniMindLM, batch: int) -> str:
    """The part that a tensor belongs to which was kept while `module` ("" for the loss) was at work on `batch` rows."""
    name = module.rpartition(".")[2]
    if not module or name == "output":
        return "scores"
    if "feed_forward" in module:
        return "SwiGLU"
    if name == "attention":
        square = tensor.dim() == 4 and tensor.shape[-1] == tensor.shape[-2]  # (B, H, T, T), torch's plain way
        blocks = tensor.dim() == 3 and tensor.shape[-1] != model.config.head_dim  # (B·K, some rows, T), blockwise.py
        weights = square or (blocks and not tensor.is_complex() and tensor.shape[0] != batch)
        return "attention, its shares" if weights else "attention, the rest"
    if ".attention." in module:
        return "attention, the rest"
    return "token ids" if name == "tok_embeddings" else "norms"


def kept_by_part(
    model: MiniMindLM, batch: Sequence[Tensor], context: AbstractContextManager | None = None
) -> dict[str, int]:
    """Bytes that forward and loss keep for backward, by part of the model, most first; `batch` is (X, Y, loss_mask).

    Counted are distinct pieces of memory that are no parameters. `context` may be an autocast context: the copies that
    it makes of weights are then among the bytes. X, Y and loss_mask are each (B, T) int64.
    """
    X, Y, mask = batch
    seen = {p.untyped_storage().data_ptr(): None for p in model.parameters()}
    found, at_work = dict.fromkeys(PARTS, 0), [""]

    def remember(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in seen:
            seen[memory.data_ptr()] = memory  # held here, so that no other tensor gets the same address
            found[_part(at_work[-1], tensor, model, len(X))] += memory.nbytes()
        return tensor

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: at_work.append(name)))
            handles.append(module.register_forward_hook(lambda *_: at_work.__delitem__(-1)))
    try:
        with context or nullcontext(), autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            masked_cross_entropy(model(X).logits, Y, mask)
    finally:
        for handle in handles:
            handle.remove()
    return {part: size for part, size in sorted(found.items(), key=lambda entry: -entry[1]) if size}


def peak_memory(config: ModelConfig, rows: int, dtype: torch.dtype, device: torch.device) -> int | None:
    """Most bytes that torch held on a GPU at any time of one forward and backward of a new model; elsewhere None.

    `rows` rows of the longest length; weights and gradients are among the bytes, an optimizer is not.
    """
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_allocated(device)
    model = MiniMindLM(config).to(device)
    ids = torch.zeros(rows, config.max_seq_len - 1, dtype=torch.int64, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    with autocast_context(device, dtype):
        loss = masked_cross_entropy(model(ids).logits, ids, torch.ones_like(ids))
    loss.backward()
    return torch.cuda.max_memory_allocated(device) - held


def kept_over_rows(kept: Mapping[int, Mapping[str, float]], estimated: Mapping[int, float], fixed: float) -> Figure:
    """Stacked bars of what forward keeps (bytes by part), a bar per number of rows; `estimated` bytes as marks.

    `fixed` is what weights, gradients and the optimizer take whatever the rows: a line.
    """
    figure, axes = subplots(figsize=(9, 3.8))
    colours = dict(zip(PARTS, (BLUE, SKY, ORANGE, YELLOW, GREEN, PURPLE), strict=True))
    totals: list[float] = []
    for place, parts in enumerate(kept.values()):
        bottom = 0.0
        for part in PARTS:
            size = parts.get(part, 0) / 2**20
            if size and part != "token ids":  # too small to be seen
                axes.bar(place, size, bottom=bottom, color=colours[part], width=0.55, edgecolor="white", linewidth=0.6)
                if place == len(kept) - 1:  # the last bar names its parts
                    axes.text(place + 0.38, bottom + size / 2, part, va="center", fontsize=9)
            bottom += size
        totals.append(bottom)
    marks = np.array([estimated[rows] for rows in kept]) / 2**20
    places = np.arange(len(kept))
    axes.hlines(marks, places - 0.34, places + 0.34, color=INK, linewidth=2, label="estimated beforehand")
    axes.axhline(fixed / 2**20, color=GREY, linestyle="--", label="weights, gradients, two means")
    axes.set(
        xticks=places,
        xticklabels=[f"{n} row{'s' * (n > 1)}\n{total:.1f} MiB" for n, total in zip(kept, totals, strict=True)],
        ylabel="MiB",
        title="What forward keeps for backward grows with the rows",
        ylim=(0, 1.12 * max(*marks, *totals)),
        xlim=(-0.5, len(kept) + 0.4),
    )
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left")
    return figure


def spike(runs: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], at: int) -> Figure:
    """Runs with a spike in update `at`: a column per optimizer, losses (nats) above, lengths of moves below.

    runs: optimizer → name of the run → "losses" and "moves", a number per update each. Losses that leave the panel
    (inf and nan too) are marked at its upper edge.
    """
    figure, panels = subplots(2, len(runs), sharex=True, figsize=(9, 4.8), squeeze=False)
    looks = ((GREY, "-", 3.5), (ORANGE, "-", 1.8), (BLUE, "--", 1.6))
    for (upper, lower), (optimizer, by_name) in zip(panels.T, runs.items(), strict=True):
        first = next(iter(by_name.values()))["losses"]
        low, high = min(first) - 0.15, max(first) + 0.25
        marked = False
        for (name, run), (colour, line, width) in zip(by_name.items(), looks, strict=False):
            losses = np.asarray(run["losses"], float)
            away = ~(losses < high)
            upper.plot(np.where(away, np.nan, losses), line, color=colour, linewidth=width, label=name)
            if away.any():
                marked = True
                upper.plot(np.flatnonzero(away), np.full(away.sum(), high), "^", color=colour, clip_on=False)
            lower.plot(np.where(np.isfinite(run["moves"]), run["moves"], np.nan), line, color=colour, linewidth=width)
        until_then = [move for run in by_name.values() for move in run["moves"][: at + 1]]
        for axes in (upper, lower):
            axes.axvline(at, color=INK, linestyle=":", linewidth=1)
        note = " (▲ off the panel, or nan)" if marked else ""
        upper.set(title=f"{optimizer}: loss{note}", ylim=(low, high))
        lower.set(title="length of each move (logarithmic)", xlabel="update", yscale="log")
        lower.set_ylim(np.nanmin([run["moves"] for run in by_name.values()]) / 1.5, 4 * max(until_then))
    panels[0, 0].set_ylabel("nats")
    panels[1, 0].set_ylabel("norm of the change")
    figure.legend(*panels[0, -1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure

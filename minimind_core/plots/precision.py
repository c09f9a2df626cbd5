"""Pictures of lesson 05: what number formats can hold, where gradients underflow, how a scaler lives."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from .style import BLUE, GREEN, GREY, ORANGE, RED

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def smallest(dtype: torch.dtype) -> float:
    """The smallest positive number of a format, subnormal numbers included."""
    info = torch.finfo(dtype)
    return info.tiny * info.eps


def ranges_figure() -> Figure:
    """From the smallest to the largest number of each format, on a scale of powers of ten."""
    figure, axes = plt.subplots(figsize=(9, 2.6))
    for row, dtype in enumerate(FORMATS.values()):
        info = torch.finfo(dtype)
        low, normal, high = (np.log10(x) for x in (smallest(dtype), info.tiny, info.max))
        axes.plot([low, normal], [row, row], color=ORANGE, linewidth=7, solid_capstyle="butt")
        axes.plot([normal, high], [row, row], color=BLUE, linewidth=7, solid_capstyle="butt")
        axes.text(high + 0.6, row, f"{-np.log10(info.eps):.1f} digits", va="center", fontsize=9)
    axes.set_yticks(range(len(FORMATS)), list(FORMATS))
    axes.set(title="bfloat16 reaches as far as float32; float16 does not", xlabel="power of ten", xlim=(-47, 46))
    axes.set_ylim(-0.6, len(FORMATS) - 0.4)
    axes.invert_yaxis()
    plt.close(figure)
    return figure


def gradient_figure(sizes: dict[str, np.ndarray]) -> Figure:
    """Histograms of log10 |gradient| (powers of ten, one array per name), with the zone where float16 gives 0."""
    figure, axes = plt.subplots(figsize=(9, 3.2))
    limit = np.log10(smallest(torch.float16) / 2)
    for (name, values), color in zip(sizes.items(), (BLUE, ORANGE, GREEN), strict=False):
        axes.hist(values, bins=80, range=(-20, 2), alpha=0.55, color=color, label=name)
    axes.axvspan(-20, limit, color=RED, alpha=0.12)
    axes.text(-19.7, axes.get_ylim()[1] * 0.9, "float16 rounds to 0", color=RED, va="top")
    axes.set(title="A scaler moves gradients out of the zone where they vanish", xlabel="log10 of the gradient's size",
             ylabel="number of weights")  # fmt: skip
    axes.legend()
    plt.close(figure)
    return figure


def scaler_figure(scales: list[float], skipped: list[int]) -> Figure:
    """A scaler's factor over its steps, with the steps that were skipped."""
    figure, axes = plt.subplots(figsize=(9, 2.8))
    axes.step(range(len(scales)), scales, where="post", color=BLUE)
    for step in skipped:
        axes.axvline(step, color=RED, linestyle="--")
    axes.set_yscale("log", base=2)
    axes.set(title="A scaler halves at an overflow (dashed: step skipped), doubles when all goes well", xlabel="step",
             ylabel="factor")  # fmt: skip
    plt.close(figure)
    return figure


def bars_figure(title: str, values: dict[str, float], unit: str) -> Figure:
    """Named horizontal bars with their values written behind them."""
    figure, axes = plt.subplots(figsize=(9, 0.55 * len(values) + 1.1))
    names = list(values)
    axes.barh(names, [values[n] for n in names], color=BLUE, height=0.6)
    for row, name in enumerate(names):
        axes.text(values[name], row, f" {values[name]:,.4g}", va="center", color=GREY, fontsize=9)
    axes.invert_yaxis()
    axes.set(title=title, xlabel=unit)
    axes.margins(x=0.15)
    plt.close(figure)
    return figure

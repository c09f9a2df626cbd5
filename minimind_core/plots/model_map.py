"""The first picture of lesson 03: the whole model as one line of boxes. What they do is the lesson's own matter."""

# B batch · T tokens · D model width · V vocabulary

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ..config import ModelConfig
from .model import pale
from .style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, subplots


def plot_model_map(config: ModelConfig, batch: int, tokens: int) -> Figure:
    """The whole model as one line of boxes, with the shape of what goes from each to the next."""
    B, T, D, V = batch, tokens, config.dim, config.vocab_size
    fig, ax = subplots(figsize=(9.4, 2.6))
    ax.set(xlim=(0, 11.3), ylim=(0.35, 3.1))
    ax.set_title(f"From ids to a loss: one embedding, {config.n_layers} blocks, one output")
    ax.axis("off")

    def box(x: float, width: float, text: str, colour: str) -> None:
        ax.add_patch(
            FancyBboxPatch((x, 1.1), width, 0.8, boxstyle="round,pad=0.02", facecolor=pale(colour), edgecolor=colour)
        )
        ax.text(x + width / 2, 1.5, text, ha="center", va="center", fontsize=8.5)

    def arrow(start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
        style = f"arc3,rad={bend}"
        ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=INK, connectionstyle=style))

    ax.add_patch(
        FancyBboxPatch((2.55, 0.75), 5.0, 1.95, boxstyle="round,pad=0.02", facecolor="#F2F2EC", edgecolor=GREY)
    )
    ax.text(5.05, 0.5, f"block × {config.n_layers}: ({B}, {T}, {D}) in, ({B}, {T}, {D}) out", ha="center", fontsize=8.5)
    inside = "experts" if config.use_moe else "SwiGLU"
    boxes = (
        (0.05, 0.65, "ids", GREY),
        (1.15, 1.0, "embedding", BLUE),
        (2.75, 0.8, "RMSNorm", GREY),
        (3.75, 0.95, "attention", ORANGE),
        (5.3, 0.8, "RMSNorm", GREY),
        (6.3, 0.8, inside, GREEN),
        (7.75, 0.8, "RMSNorm", GREY),
        (8.8, 0.75, "output", BLUE),
        (10.1, 1.1, "cross-entropy", PURPLE),
    )
    for x, width, text, colour in boxes:
        box(x, width, text, colour)
    for plus in (5.0, 7.35):
        ax.text(plus, 1.5, "+", ha="center", va="center", fontsize=15, fontweight="bold")
    starts = (0.72, 2.17, 3.57, 4.72, 5.1, 6.12, 7.12, 7.45, 8.57, 9.57)
    ends = (1.13, 2.73, 3.73, 4.9, 5.28, 6.28, 7.25, 7.73, 8.78, 10.08)
    for start, end in zip(starts, ends, strict=True):
        arrow((start, 1.5), (end, 1.5))
    arrow((2.62, 1.52), (5.0, 1.68), -0.45)
    arrow((5.17, 1.52), (7.35, 1.68), -0.45)
    ax.text(5.05, 2.5, "what a part finds is added to the stream", ha="center", fontsize=8, color=GREY)
    for x, text in ((0.9, f"({B}, {T})"), (2.3, f"({B}, {T}, {D})"), (9.75, f"({B}, {T}, {V})"), (10.65, "one number")):
        ax.text(x, 0.5 if x > 10 else 2.85, text, ha="center", fontsize=8.5, color=BLUE)
        if x < 10:
            ax.plot([x, x], [1.55, 2.8], color=BLUE, linewidth=0.6, linestyle=":")
    ax.plot([10.65, 10.65], [0.68, 1.08], color=BLUE, linewidth=0.6, linestyle=":")
    return fig

"""Widgets of lesson 04: type a step and read its learning rate; design a schedule with sliders.

The thinking is in `rate_words`, `design_words` and plots/schedule.py; the widgets hand them numbers.
"""

from __future__ import annotations

import ipywidgets as widgets
import numpy as np

from ..plots.schedule import design
from ..schedule import SCHEDULES, get_lr, learning_rate
from .parts import Panel, fill, image, looks, png, row, text_card


def rate_words(step: int, total: int, lr: float, accumulation: int = 8) -> str:
    """The seed's rate at a micro-step as its log prints it, as a share of lr, and which update the step belongs to."""
    if total < 1 or not 0 <= step <= total:
        raise ValueError(f"step {step} of {total}: a step lies between 0 and the total, which is 1 or more.")
    rate = get_lr(step, total, lr)
    updates = -(-total // accumulation)
    update = min(step // accumulation + 1, updates)
    return (
        f"lr:{rate:.12f}   as the seed's log prints it\n"
        f"{rate / lr:.4f} · lr, after {step / total:.2%} of the run\n"
        f"gradients of this step go into update {update:,} of {updates:,} (at {accumulation} micro-steps an update)"
    )


def rate_reader(total: int = 44160, lr: float = 5e-4, step: int = 44100) -> Panel:
    """Three fields: micro-step, total, lr; below them the rate."""
    at = widgets.BoundedIntText(step, 0, total, description="micro-step", **looks("90px", "210px"))
    of = widgets.BoundedIntText(total, 1, 10_000_000, description="of", **looks("90px", "210px"))
    peak = widgets.BoundedFloatText(lr, min=1e-8, max=10, step=1e-4, description="lr", **looks("90px", "210px"))
    page = widgets.HTML()

    def draw(*_: object) -> None:
        fill(page, lambda: text_card(rate_words(at.value, of.value, peak.value)))

    def resize(*_: object) -> None:
        at.max = of.value  # takes the step along where it would lie behind the end
        draw()

    at.observe(draw, "value")
    peak.observe(draw, "value")
    of.observe(resize, "value")
    draw()
    return Panel([row(at, of, peak), page])


def design_words(name: str, lr: float, total: int, warmup_steps: int) -> str:
    """A schedule in five lines: its first, highest, last and mean rate, and how far AdamW can move a weight with it."""
    updates = -(-total // 8)
    rates = np.array([learning_rate(name, step, total, lr, warmup_steps) for step in range(total)])
    highest = int(rates.argmax())
    return (
        f"first    {rates[0]:.3g}\n"
        f"highest  {rates[highest]:.3g}, at micro-step {highest:,}\n"
        f"last     {rates[-1]:.3g}\n"
        f"mean     {rates.mean():.3g}, {rates.mean() / lr:.2f} of the peak\n"
        f"farthest {rates.mean() * updates:.3g}: the mean rate times {updates:,} updates, of 8 micro-steps each"
    )


def schedule_designer(total: int = 44160, lr: float = 5e-4) -> Panel:
    """Sliders for peak, warm-up, length, and a choice of shape; a picture and its text equivalent follow them."""
    shape = widgets.Dropdown(options=list(SCHEDULES), value="cosine", description="shape", **looks())
    peak = widgets.FloatLogSlider(lr, min=-5, max=0, step=0.05, description="peak", readout_format=".2g", **looks())
    share = widgets.IntSlider(5, 0, 50, description="warm-up, %", **looks())
    length = widgets.IntSlider(total, 480, 2 * total, 480, description="micro-steps", **looks())
    picture, words = image(), widgets.HTML()

    def draw(*_: object) -> None:
        warmup_steps = round(share.value / 100 * length.value)
        chosen = (shape.value, peak.value, length.value, warmup_steps)

        def make() -> str:
            picture.value = png(design(*chosen))
            return text_card(design_words(*chosen))

        fill(words, make)

    for control in (shape, peak, share, length):
        if control is not shape:
            control.continuous_update = False
        control.observe(draw, "value")
    draw()
    return Panel([row(shape, peak, share, length), picture, words])

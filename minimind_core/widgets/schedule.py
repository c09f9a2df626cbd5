"""Widgets of lesson 04: type a step and read its learning rate; design a schedule with sliders.

The thinking is in `rate_words`, `design_words` and plots/schedule.py; the widgets hand them numbers.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from html import escape

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from ..plots.schedule import design
from ..plots.style import CARD, INK, RED
from ..schedule import SCHEDULES, get_lr, learning_rate


def shown_card(text: str, colour: str = INK) -> str:
    """Text (escaped, line breaks kept) on a light card that reads the same in both themes."""
    style = (
        f"background-color:{CARD};color:{colour};border:1px solid #CCCCCC;padding:8px 12px;max-width:760px;"
        "font-family:monospace;font-size:13px;line-height:1.6;white-space:pre-wrap"
    )
    return f'<div style="{style}">{escape(text)}</div>'


def guarded(show: Callable[[str], None], make: Callable[[], str]) -> None:
    """Show the text that `make` returns on a card, or the error that it raised, in red: errors must not vanish."""
    try:
        show(shown_card(make()))
    except Exception as error:  # whatever it is, the learner has to see it
        show(shown_card(f"{type(error).__name__}: {error}", RED))


def png(figure: Figure) -> bytes:
    """A figure as PNG bytes, for an Image widget."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=96)
    return buffer.getvalue()


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


def rate_reader(total: int = 44160, lr: float = 5e-4, step: int = 44100) -> widgets.VBox:
    """Three fields: micro-step, total, lr; below them the rate."""
    layout = widgets.Layout(width="210px")
    wide = {"description_width": "90px"}
    at = widgets.BoundedIntText(step, 0, total, description="micro-step", layout=layout, style=wide)
    of = widgets.BoundedIntText(total, 1, 10_000_000, description="of", layout=layout, style=wide)
    peak = widgets.BoundedFloatText(lr, min=1e-8, max=10, step=1e-4, description="lr", layout=layout, style=wide)
    page = widgets.HTML()

    def draw(*_: object) -> None:
        guarded(lambda html: setattr(page, "value", html), lambda: rate_words(at.value, of.value, peak.value))

    def resize(*_: object) -> None:
        at.max = of.value  # takes the step along where it would lie behind the end
        draw()

    at.observe(draw, "value")
    peak.observe(draw, "value")
    of.observe(resize, "value")
    draw()
    return widgets.VBox([widgets.HBox([at, of, peak], layout=widgets.Layout(flex_flow="row wrap")), page])


def design_words(name: str, lr: float, total: int, warmup_steps: int) -> str:
    """A schedule in four lines: its first, highest, last and mean rate."""
    rates = np.array([learning_rate(name, step, total, lr, warmup_steps) for step in range(total)])
    highest = int(rates.argmax())
    return (
        f"first    {rates[0]:.3g}\n"
        f"highest  {rates[highest]:.3g}, at micro-step {highest:,}\n"
        f"last     {rates[-1]:.3g}\n"
        f"mean     {rates.mean():.3g}, which is {rates.mean() / lr:.2f} of the peak: how far all updates go together"
    )


def schedule_designer(total: int = 44160, lr: float = 5e-4) -> widgets.VBox:
    """Sliders for peak, warm-up, length, and a choice of shape; a picture and its text equivalent follow them."""
    layout = widgets.Layout(width="380px")
    wide = {"description_width": "110px"}
    shape = widgets.Dropdown(options=list(SCHEDULES), value="cosine", description="shape", layout=layout, style=wide)
    peak = widgets.FloatLogSlider(
        lr, min=-5, max=0, step=0.05, description="peak", readout_format=".2g", layout=layout, style=wide
    )
    share = widgets.IntSlider(5, 0, 50, description="warm-up, %", layout=layout, style=wide)
    length = widgets.IntSlider(total, 480, 2 * total, 480, description="micro-steps", layout=layout, style=wide)
    picture, words = widgets.Image(format="png"), widgets.HTML()
    picture.layout.max_width = "790px"

    def draw(*_: object) -> None:
        warmup_steps = round(share.value / 100 * length.value)
        chosen = (shape.value, peak.value, length.value, warmup_steps)

        def make() -> str:
            picture.value = png(design(*chosen))
            return design_words(*chosen)

        guarded(lambda html: setattr(words, "value", html), make)

    for control in (shape, peak, share, length):
        if control is not shape:
            control.continuous_update = False
        control.observe(draw, "value")
    draw()
    rows = [
        widgets.HBox(pair, layout=widgets.Layout(flex_flow="row wrap")) for pair in ((shape, peak), (share, length))
    ]
    return widgets.VBox([*rows, picture, words])

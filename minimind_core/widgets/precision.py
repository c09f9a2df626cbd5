"""Widgets of lesson 05: type a number and see its bits; move a loss scale and see which gradients survive float16.

The thinking is in `number_html`, `scale_words` and plots/precision.py; the widgets hand them numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import ipywidgets as widgets
import torch
from torch import Tensor

from ..plots.precision import FORMATS, lost, underflow
from ..plots.style import CARD, INK
from ..precision import DTYPES
from .parts import Panel, button, error_card, fill, image, looks, png, row, text_card

_BIT_COLOURS = ("#F6C7C7", "#CFE6C9", "#CFE0F5")  # sign, exponent, fraction; backgrounds under dark text
MOST_POINTS = 100_000  # of a gradient in the widget's histogram; the shares are of all of it


def stored(value: float, name: str) -> tuple[float, str]:
    """What a format makes of a number: the number that is kept, and its bits, sign first."""
    number = torch.tensor(value, dtype=torch.float64).to(DTYPES[name])
    width = 1 + sum(FORMATS[name])
    pattern = number.view(torch.int32 if width == 32 else torch.int16).item() & (2**width - 1)
    return number.item(), f"{pattern:0{width}b}"


def number_html(value: float) -> str:
    """A table of what the three formats make of a number: kept value, relative error, bits in colour."""
    cell = f"background-color:{CARD};color:{INK};border:1px solid #CCCCCC;padding:3px 10px;text-align:left"
    head = "".join(
        f'<th style="{cell}">{words}</th>' for words in ("format", "keeps", "relative error", "sign exponent fraction")
    )
    lines = [f"<tr>{head}</tr>"]
    for name, (exponent, _) in FORMATS.items():
        kept, bits = stored(value, name)
        parts = (bits[:1], bits[1 : 1 + exponent], bits[1 + exponent :])
        coloured = " ".join(
            f'<span style="background-color:{colour};color:{INK};padding:1px 2px">{part}</span>'
            for part, colour in zip(parts, _BIT_COLOURS, strict=True)
        )
        cells = (name, f"{kept:.9g}", _error(value, kept), coloured)
        lines.append("<tr>" + "".join(f'<td style="{cell}">{content}</td>' for content in cells) + "</tr>")
    caption = f'<caption style="{cell};caption-side:top"><b>{value:.12g}</b></caption>'
    style = "border-collapse:collapse;font-family:monospace;font-size:13px;margin-bottom:8px"
    return f'<table style="{style}">{caption}{"".join(lines)}</table>'


def _error(value: float, kept: float) -> str:
    if kept == value:
        return "none"
    if not math.isfinite(kept):
        return "too large"
    return "all of it is lost" if kept == 0 else f"{abs(kept - value) / abs(value):.1e}"


def read_number(text: str) -> float:
    """A finite number as a person types it: 0.1, 1e-8, 2**-24. Raises ValueError that says what is understood."""
    base, power, exponent = text.replace("^", "**").partition("**")
    try:
        value = float(base) ** float(exponent) if power else float(base)
    except (ValueError, OverflowError, ZeroDivisionError):
        value = math.nan
    if isinstance(value, complex) or not math.isfinite(value):
        raise ValueError(f"{text!r} is not understood; type a number such as 0.1, 1e-8, 257 or 2**-24.")
    return value


def inspected(text: str) -> str:
    """The table of the number that `text` says, as HTML, or a red card that says what is wrong."""
    try:
        return number_html(read_number(text))
    except ValueError as error:
        return error_card(error)


def number_inspector(value: str = "0.1") -> Panel:
    """A field for a number, buttons for instructive ones, and what the three formats make of it."""
    field = widgets.Text(value, description="number", continuous_update=False, **looks("60px", "260px"))
    page = widgets.HTML(inspected(value))
    field.observe(lambda _: setattr(page, "value", inspected(field.value)), "value")
    buttons = [
        button(number, f"show {number}", lambda number=number: setattr(field, "value", number))
        for number in ("0.1", "257", "65519", "65520", "1e-8", "2**-24")
    ]
    return Panel([row(field, *buttons), page])


def scale_words(groups: Mapping[str, Tensor], power: int) -> str:
    """What a loss scale of 2**power saves and spoils, a line for each group of gradients."""
    lines = [f"scale 2^{power} = {2.0**power:g}"]
    for name, values in groups.items():
        zero, infinite = lost(values, 2.0**power)
        there = int(values.count_nonzero())
        lines.append(f"{name}: {zero:.2%} become 0, {infinite * there:,.0f} of {there:,} become inf")
        if infinite:
            lines.append("    one inf is enough: the scaler throws the whole step away and halves the scale")
    return "\n".join(lines)


def thinned(values: Tensor, most: int = MOST_POINTS) -> Tensor:
    """At most `most` of the values, evenly spaced, for a picture."""
    flat = values.detach().flatten().cpu()
    return flat[:: max(1, -(-len(flat) // most))]


def scale_slider(groups: Mapping[str, Tensor], power: int = 0) -> Panel:
    """A slider for the power of two of the loss scale, the histogram of scaled gradients, and the shares in words."""
    slider = widgets.IntSlider(power, -4, 32, description="scale 2^", continuous_update=False, **looks("70px", "480px"))
    small = {name: thinned(values) for name, values in groups.items()}
    picture, words = image(), widgets.HTML()

    def draw(*_: object) -> None:
        def make() -> str:
            picture.value = png(underflow(small, [2.0**slider.value]))
            return text_card(scale_words(groups, slider.value))

        fill(words, make)

    slider.observe(draw, "value")
    draw()
    return Panel([slider, picture, words])

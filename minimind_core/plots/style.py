"""One look for every figure: readable on light and dark pages, safe for colour-blind eyes, with Chinese glyphs drawn.

Figures are opaque light cards, so that they read the same in JupyterLab's dark theme. Colours are Okabe and Ito's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..fonts import chinese_font

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072B2", "#D55E00", "#009E73", "#CC3311", "#AA4499", "#56B4E9", "#E6B800",
)  # fmt: skip
GREY, INK, CARD = "#777777", "#222222", "#FBFBF8"
CYCLE = [BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW, GREY]

_in_use = False  # whether this session has been given the course's style


def use_course_style() -> None:
    """Set matplotlib's defaults for this session: the card, the colours, sizes, and a font with Chinese glyphs."""
    global _in_use
    _in_use, font = True, chinese_font()
    matplotlib.rcParams.update(
        {
            "figure.figsize": (9.0, 3.6),
            "figure.dpi": 96,
            "figure.facecolor": CARD,
            "figure.constrained_layout.use": True,
            "savefig.facecolor": CARD,
            "axes.facecolor": "white",
            "axes.edgecolor": GREY,
            "axes.labelcolor": INK,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.unicode_minus": False,
            "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.7,
            "lines.linewidth": 1.8,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "legend.frameon": False,
            "image.cmap": "cividis",
            "font.family": ["DejaVu Sans", font] if font else ["DejaVu Sans"],
        }
    )


def _new_figure(figsize: tuple[float, float] | None) -> Figure:
    if not _in_use:  # a dashboard without a lesson's `setup`; whoever chose another style since then keeps it
        use_course_style()
    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def subplots(rows: int = 1, columns: int = 1, figsize: tuple[float, float] | None = None, **how: Any) -> tuple:
    """A figure and its axes (one, or an array), as `pyplot.subplots` makes them, but known to nobody else.

    JupyterLab may answer a widget in a thread of its own, and pyplot's list of open figures is shared by all threads.
    """
    figure = _new_figure(figsize)
    return figure, figure.subplots(rows, columns, **how)


def mosaic(places: list[list[str]], figsize: tuple[float, float] | None = None, **how: Any) -> tuple:
    """A figure and its axes by name, laid out as `pyplot.subplot_mosaic` does, but known to nobody else."""
    figure = _new_figure(figsize)
    return figure, figure.subplot_mosaic(places, **how)


@cache
def _signs(font: str | None) -> frozenset[int]:
    """Code points that the figures' fonts can draw."""
    found: set[int] = set()
    for name in ("DejaVu Sans", font):
        if name:
            found |= set(font_manager.get_font(font_manager.findfont(name)).get_charmap())
    return frozenset(found)


def drawable(text: str) -> str:
    """`text` as this machine can draw it, with · for each sign that no font has (an emoji, or all Chinese).

    Also shows blanks and line breaks, which would be invisible in a label.
    """
    text = text.replace("\n", "⏎").replace(" ", "␣") if text.strip() != text or "\n" in text else text
    signs = _signs(chinese_font())
    return "".join(sign if ord(sign) in signs else "·" for sign in text)

"""One look for every figure: readable on light and dark pages, safe for colour-blind eyes, with Chinese glyphs drawn.

Figures are opaque light cards, so that they read the same in JupyterLab's dark theme. Colours are Okabe and Ito's.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072B2", "#D55E00", "#009E73", "#CC3311", "#AA4499", "#56B4E9", "#E6B800",
)  # fmt: skip
GREY, INK, CARD = "#777777", "#222222", "#FBFBF8"
CYCLE = [BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW, GREY]

CHINESE_FONTS = (
    "Noto Sans CJK SC", "Source Han Sans SC", "Source Han Sans CN", "Microsoft YaHei", "PingFang SC",
    "Hiragino Sans GB", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei", "Heiti SC", "Noto Sans SC",
    "Noto Sans CJK JP", "Noto Sans CJK TC", "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip


@cache
def chinese_font() -> str | None:
    """The name of a font that draws Chinese: this machine's, else the one that a dependency brings, else None."""
    have = {font.name for font in font_manager.fontManager.ttflist}
    for name in CHINESE_FONTS:
        if name in have:
            return _in_bold_too(name)
    spec = importlib.util.find_spec("notojp_matplotlib")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    for path in sorted(folder.rglob("*.otf")) if folder else []:
        font_manager.fontManager.addfont(path)
        return _in_bold_too(font_manager.FontProperties(fname=path).get_name())
    return None


def _in_bold_too(name: str) -> str:
    """Let a font that comes in one weight serve for bold text as well; matplotlib would warn at every such label."""
    entries = [font for font in font_manager.fontManager.ttflist if font.name == name]
    if not any(str(font.weight) in ("bold", "600", "700", "800", "900") for font in entries):
        font_manager.fontManager.ttflist.append(replace(entries[0], weight=700))
    return name


def use_course_style() -> None:
    """Set matplotlib's defaults for this session: the card, the colours, sizes, and a font with Chinese glyphs."""
    font = chinese_font()
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


def drawable(text: str) -> str:
    """`text` as this machine can draw it: unchanged with a Chinese font, else with · for each Chinese character.

    Also shows blanks and line breaks, which would be invisible in a label.
    """
    text = text.replace("\n", "⏎").replace(" ", "␣") if text.strip() != text or "\n" in text else text
    if chinese_font():
        return text
    return "".join("·" if ord(character) > 0x2E80 else character for character in text)

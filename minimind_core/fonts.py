"""A font that draws Chinese: one of this machine, else one that a package brings; for plots, and for the doctor."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path

from matplotlib import font_manager

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

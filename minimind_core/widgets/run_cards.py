"""What the dashboard of lesson 06 says of a run, as HTML cards: its state, its numbers, and what it wrote by the way.

Plain functions of a RunStatus; all text is escaped, since a run's model wrote some of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..plots.style import INK
from ..run_status import STATES, RunStatus
from .parts import card_style

COLOURS = {  # of states; dark enough for white letters
    "none": "#6E6E6E", "starting": "#B84F00", "running": "#007A58", "stopped": "#B84F00", "complete": "#007A58",
    "dead": "#B3261E",
}  # fmt: skip


def state_html(status: RunStatus, price_per_hour: float = 0.0) -> str:
    """A card: the run's name, its state in colour and in words, why it ended, a bar, and its numbers."""
    badge = f"background-color:{COLOURS[status.state]};color:#FFFFFF;padding:1px 8px;border-radius:3px"
    parts = [
        f'<div role="status"><b>{escape(status.weights.stem)}</b> &nbsp;'
        f'<span style="{badge}">{escape(STATES[status.state])}</span> {escape(status.why)}</div>'
    ]
    if status.updates:
        share = min(1.0, status.step / status.updates)
        parts.append(
            '<div style="background-color:#E0E0E0;height:8px;margin:6px 0;border-radius:4px">'
            f'<div style="background-color:{COLOURS[status.state]};width:{share:.1%};height:8px;border-radius:4px">'
            "</div></div>"
        )
    cell = f"color:{INK};display:inline-block;min-width:150px;padding:2px 14px 2px 0"
    parts += [
        f'<span style="{cell}"><span style="color:#555555;font-size:12px">{escape(name)}</span> '
        f"<b>{escape(value)}</b></span>"
        for name, value in status.numbers(price_per_hour).items()
    ]
    return f'<div style="{card_style("font-size:14px;line-height:1.6")}">{" ".join(parts)}</div>'


def samples_html(samples: Sequence[tuple[int, str, str]]) -> str:
    """The same prompt continued after some updates, a line for each; all text is escaped. Empty without samples."""
    if not samples:
        return ""
    mark = f"background-color:#D6E8F5;color:{INK};padding:1px 2px"
    lines = "".join(
        f'<div><span style="color:#555555;font-size:12px">update {step:,}</span> '
        f'<span style="{mark}">{escape(prompt)}</span>{escape(text)}</div>'
        for step, prompt, text in samples
    )
    return f'<div style="{card_style("font-size:14px;line-height:1.6")}">{lines}</div>'

"""The dashboard of lesson 06: watches a run by its files, whoever started it, and can start, stop and resume it.

Nothing is lost when the page or the kernel goes: the run lives in a process of its own, and a new dashboard reads its
whole history. The thinking is in run_status.py and in plain functions here that tests call. What a run's model wrote is
untrusted and escaped.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets

from ..plan import RunPlan
from ..plots.run import comparison_figure, reference_band, training_figure
from ..plots.style import GREEN, GREY, INK, ORANGE, RED
from ..preflight import spoken_time
from ..run_status import STATES, RunStatus, log_tail, status_of
from ..runs import RunOnDisk, all_runs, attach, resume_run, start_run, stop_run
from .parts import Panel, button, card_style, error_card, fill, image, looks, png, row, text_card

COLOURS = {
    "none": GREY, "starting": ORANGE, "running": GREEN, "stopped": ORANGE, "complete": GREEN, "dead": RED,
}  # fmt: skip
DRAW_AT_MOST = 0.05  # share of the time that pictures may take


def numbers_of(status: RunStatus, price_per_hour: float = 0.0) -> dict[str, str]:
    """What the dashboard's table says, by name; only what is known yet."""
    last, look, found = status.last, status.look, {}
    if not last:
        return {}
    found["update"] = f"{last['step']:,}" + (f" of {status.updates:,}" if status.updates else "")
    found["loss"] = f"{last['loss']:.3f}"
    if last.get("aux_loss"):
        found["cross-entropy + auxiliary"] = f"{last['ce']:.3f} + {last['aux_loss']:.3f}"
    if look:
        found["held-out loss"] = f"{look['held_out_loss']:.3f} (update {look['step']:,})"
    found["learning rate"] = f"{last['lr']:.2e}"
    found["gradient norm"] = f"{last['grad_norm']:.2f}"
    found["tokens/s"] = f"{status.tokens_per_s:,.0f}"
    found["memory, MiB"] = f"{last['memory']:,}"
    found["trained for"] = spoken_time(status.seconds)
    if status.is_going and status.seconds_left is not None:
        found["left"] = spoken_time(status.seconds_left)
    if price_per_hour:
        found["cost so far"] = f"{status.seconds / 3600 * price_per_hour:.2f}"
        if status.is_going and status.seconds_left is not None:
            whole = status.seconds + status.seconds_left
            found["cost in the end"] = f"about {whole / 3600 * price_per_hour:.2f}"
    return found


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
        for name, value in numbers_of(status, price_per_hour).items()
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


def what_can_be_done(status: RunStatus, has_plan: bool) -> tuple[str, bool, bool]:
    """The first button's text, whether it can be pressed, and whether Stop can be."""
    if status.state == "none":
        return "Start", has_plan, False
    if status.state == "complete":
        return "Complete", False, False
    if status.is_going:
        return "Resume", False, True
    return "Resume", has_plan or bool(status.started), False


def beside(runs: Mapping[str, RunOnDisk], names: Sequence[str], status: RunStatus) -> dict[str, list[dict[str, Any]]]:
    """Metrics of this run and of the chosen ones, by name, for `comparison_figure`; runs without looks are left out."""
    curves = {status.weights.stem: status.rows} | {name: runs[name].metrics() for name in names if name in runs}
    return {name: rows for name, rows in curves.items() if any("held_out_loss" in line for line in rows)}


class Dashboard:
    """The widgets of a dashboard, and the thread that keeps them up to date; `panel` is what is shown.

    `look()` reads the run's files once and shows what they say. `close()` ends the thread; the run goes on.
    """

    _open: ClassVar[dict[Path, Dashboard]] = {}

    def __init__(self, weights: Path, plan: RunPlan | None, price_per_hour: float, every: float) -> None:
        self.weights, self.plan, self.every = weights, plan, every
        self.band = reference_band(plan) if plan is not None else None
        self.status: RunStatus | None = None
        self._drawn: tuple[int, bool] | None = None
        self._next_picture = 0.0
        self._png: bytes | None = None
        self._lock, self._closed = threading.Lock(), threading.Event()
        self.state, self.samples, self.log, self.message = (widgets.HTML() for _ in range(4))
        self.picture, self.comparison = image(), image()
        self.comparison.layout.display = "none"
        self.go = button("Start", "start this run, or go on with it, in a process of its own", self.begin, "primary")
        self.halt = button("Stop", "end the run after the step it is in; what it learned is saved", self.stop)
        self.price = widgets.BoundedFloatText(
            price_per_hour, min=0, max=1e6, step=0.1, description="price per hour", **looks("100px", "190px")
        )
        self.others = widgets.SelectMultiple(options=[], description="beside", rows=3, **looks("60px", "420px"))
        self.price.observe(lambda _: self.look(), "value")
        self.others.observe(lambda _: self._compare(), "value")
        self.panel = Panel(
            [
                self.state,
                row(self.go, self.halt, self.price),
                self.message,
                self.picture,
                self.samples,
                self.log,
                row(self.others),
                self.comparison,
            ],
            picture=lambda: self._png,
        )
        self._runs = all_runs(weights.parent)
        self.others.options = [name for name, run in self._runs.items() if run.weights != weights]
        self.others.layout.display = None if self.others.options else "none"
        self.look()

    def watch(self) -> None:
        """Look every few seconds from now on, in a thread; an older dashboard of the same run in this kernel rests."""
        older = Dashboard._open.pop(self.weights, None)
        if older is not None:
            older.close()
            older.message.value = text_card("This run is watched by a dashboard that was opened later.")
        Dashboard._open[self.weights] = self
        threading.Thread(target=contextvars.copy_context().run, args=(self._watch,), daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self.every):
            self.look()

    def look(self) -> None:
        """Read the run's files and show what they say."""
        with self._lock:
            try:
                self._show(status_of(self.weights))
            except Exception as problem:
                self.message.value = error_card(problem)

    def _show(self, status: RunStatus) -> None:
        self.status = status
        self.state.value = state_html(status, self.price.value)
        text, may_go, may_stop = what_can_be_done(status, self.plan is not None)
        self.go.description, self.go.disabled, self.halt.disabled = text, not may_go, not may_stop
        self.samples.value = samples_html(status.samples())
        tail = log_tail(self.weights)
        self.log.value = text_card("\n".join(tail)) if tail else ""
        drawn = (len(status.rows), status.is_going)
        if status.rows and drawn != self._drawn and (time.monotonic() > self._next_picture or not status.is_going):
            started = time.monotonic()
            self._png = png(training_figure(status.rows, total=status.updates, band=self.band))
            self.picture.value, self._drawn = self._png, drawn
            took = time.monotonic() - started
            self._next_picture = time.monotonic() + took / DRAW_AT_MOST

    def begin(self) -> None:
        """Start the run, or go on with it."""

        def act() -> str:
            if self.plan is not None:
                start_run(self.plan)
            else:
                resume_run(self.weights)
            return ""

        fill(self.message, act)
        self.look()

    def stop(self) -> None:
        """Ask the run to stop."""

        def act() -> str:
            stop_run(self.weights)
            return text_card("Asked to stop: it ends after the step it is in, and saves.")

        fill(self.message, act)
        self.look()

    def _compare(self) -> None:
        def act() -> str:
            status = self.status or status_of(self.weights)
            curves = beside(self._runs, self.others.value, status)
            self.comparison.layout.display = None if self.others.value and curves else "none"
            if not self.others.value:
                return ""
            lacking = set(self.others.value) - set(curves)
            if curves:
                self.comparison.value = png(comparison_figure(curves, "Held-out loss of these runs"))
            words = [f"{name}: lowest held-out loss {lowest(rows):.3f}" for name, rows in curves.items()]
            words += [f"{name}: never looked at held-out rows" for name in sorted(lacking)]
            return text_card("\n".join(words))

        fill(self.message, act)


def lowest(rows: Sequence[Mapping[str, Any]]) -> float:
    """The lowest held-out loss of a run's metrics lines."""
    return min(line["held_out_loss"] for line in rows if "held_out_loss" in line)


def dashboard(run: RunPlan | RunOnDisk | str | None = None, price_per_hour: float = 0.0, every: float = 2.0) -> Panel:
    """A dashboard of a run: of a plan, which it can start as well; of one in out/, by its name; or of the newest.

    It attaches to what is there, going or ended, and reads all of its history. `every`: seconds between two looks.
    Raises CheckpointError, with a list of what there is, for a name that is not there.
    """
    if isinstance(run, RunPlan):
        board = Dashboard(run.weights, run, price_per_hour, every)
    else:
        found = run if isinstance(run, RunOnDisk) else attach(run)
        board = Dashboard(found.weights, None, price_per_hour, every)
    board.watch()
    board.panel.dashboard = board  # for those who want to look by hand
    return board.panel

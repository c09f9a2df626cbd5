"""The dashboard of lesson 06: watches a run by its files, whoever started it, and can start, stop and resume it.

Nothing is lost when the page or the kernel goes: the run lives in a process of its own, and a new dashboard reads its
whole history. The thinking is in run_status.py and in plain functions here that tests call. What a run's model wrote is
untrusted and escaped.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets

from ..checkpoint import run_folder
from ..plan import RunPlan
from ..plots.run import comparison_figure, reference_band, training_figure
from ..run_state import state_files
from ..run_status import RunStatus, log_tail, status_of
from ..runs import RunOnDisk, all_runs, attach, resume_run, run_of, start_run, stop_run
from .parts import Panel, button, error_card, fill, image, looks, png, row, text_card
from .run_cards import samples_html, state_html

LISTS_EVERY = 30.0  # seconds between two looks for other runs
DRAW_AT_MOST = 0.05  # share of the time that pictures may take


def what_can_be_done(status: RunStatus, has_plan: bool, ours: bool = True) -> tuple[str, bool, bool, bool]:
    """The first button's text, whether it can be pressed, whether Stop can be, and whether Start anew is offered.

    `ours` is False where the run that lies there is not the plan's: then Resume goes on with that one, and Start anew
    begins the plan's.
    """
    anew = has_plan and not ours and not status.is_going
    if status.state == "none":
        return "Start", has_plan, False, False
    if status.state == "complete":
        return "Complete", False, False, anew
    if status.is_going:
        return "Resume", False, True, False
    return "Resume", (has_plan and ours) or bool(status.started), False, anew


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
        self._said = ""  # what the message is about: "look", "stop" or an act that failed
        self._ours, self._known = True, None
        self._runs: dict[str, RunOnDisk] = {}
        self._lists_again = 0.0
        self.state, self.samples, self.log, self.message, self.lowest = (widgets.HTML() for _ in range(5))
        self.picture, self.comparison = image(), image()
        self.comparison.layout.display = "none"
        self.go = button("Start", "start this run, or go on with it, in a process of its own", self.begin, "primary")
        self.halt = button("Stop", "end the run after the step it is in; what it learned is saved", self.stop)
        self.anew = button("Start anew", "begin the run of this notebook; the one here is moved aside", self.begin_anew)
        self.price = widgets.BoundedFloatText(
            price_per_hour, min=0, max=1e6, step=0.1, description="price per hour", **looks("100px", "190px")
        )
        self.wandb = widgets.Checkbox(
            plan is not None and plan.train.use_wandb, description="wandb", indent=False, **looks("0px", "90px")
        )
        self.others = widgets.SelectMultiple(options=[], description="beside", rows=3, **looks("60px", "420px"))
        self.price.observe(lambda _: self.look(), "value")
        self.others.observe(lambda _: self._compare(), "value")
        self.panel = Panel(
            [
                self.state,
                row(self.go, self.halt, self.anew, self.price, self.wandb),
                self.message,
                self.picture,
                self.samples,
                self.log,
                row(self.others),
                self.lowest,
                self.comparison,
            ],
            picture=lambda: self._png,
        )
        self.look()
        if plan is None and self.status is not None:
            self.wandb.value = str(self.status.started.get("flags", {}).get("use_wandb")) == "True"

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
                self._list_others()
                if self._said == "look" or (self._said == "stop" and not self.status.is_going):
                    self._say("", "")
            except Exception as problem:
                self._say(error_card(problem), "look")

    def _say(self, html: str, about: str) -> None:
        self.message.value, self._said = html, about

    def _show(self, status: RunStatus) -> None:
        before, self.status = self.status, status
        if before is not None and before.is_going and not status.is_going:
            self._lists_again = 0.0
        self.state.value = state_html(status, self.price.value)
        text, may_go, may_stop, anew = what_can_be_done(status, self.plan is not None, self._is_ours(status))
        self.go.description, self.go.disabled, self.halt.disabled = text, not may_go, not may_stop
        self.anew.layout.display = None if anew else "none"
        self.samples.value = samples_html(status.samples())
        tail = log_tail(self.weights, begins=status.state == "starting" and not status.rows)
        self.log.value = text_card("\n".join(tail)) if tail else ""
        drawn = (len(status.rows), status.is_going)
        if not status.rows and self._png is not None:  # a run that begins anew
            self._png, self._drawn, self._next_picture, self.picture.value = None, None, 0.0, b""
        if status.rows and drawn != self._drawn and self._is_due(status):
            started = time.monotonic()
            self._png = png(training_figure(status.rows, total=status.updates, band=self.band))
            self.picture.value, self._drawn = self._png, drawn
            took = time.monotonic() - started
            self._next_picture = time.monotonic() + took / DRAW_AT_MOST

    def _is_due(self, status: RunStatus) -> bool:
        """Whether it is time for another picture: at times, at the end, and while a young run's curves still double."""
        if not status.is_going or time.monotonic() > self._next_picture:
            return True
        return self._drawn is not None and len(status.rows) >= 2 * self._drawn[0]

    def _is_ours(self, status: RunStatus) -> bool:
        """Whether the run that lies there is the plan's, or has nothing that could be lost."""
        if self.plan is None or status.is_going:
            return True
        known = (status.state, len(status.rows), status.facts.get("saved_by"))
        if known != self._known:
            kept = self.weights.is_file() or any(state_files(run_folder(self.weights)))
            self._ours, self._known = run_of(self.plan) is not None or not kept, known
        return self._ours

    def _list_others(self) -> None:
        """The runs that can stand beside this one, anew every half minute and when this one ends."""
        if time.monotonic() < self._lists_again:
            return
        self._lists_again = time.monotonic() + LISTS_EVERY
        self._runs = all_runs(self.weights.parent)
        names, chosen = [name for name, run in self._runs.items() if run.weights != self.weights], self.others.value
        if names != list(self.others.options):
            self.others.options = names
            self.others.value = [name for name in chosen if name in names]
        self.others.layout.display = None if names else "none"

    def begin(self) -> None:
        """Start the run, or go on with what lies there."""

        def act() -> None:
            if self.plan is not None and self._is_ours(status_of(self.weights)):
                start_run(self._wanted())
            else:
                resume_run(self.weights, use_wandb=self.wandb.value)

        self._do(act)

    def begin_anew(self) -> None:
        """Start the plan's run in place of the one that lies there, which is moved aside."""
        self._do(lambda: start_run(self._wanted(), fresh=True))

    def _wanted(self) -> RunPlan:
        return replace(self.plan, train=replace(self.plan.train, use_wandb=self.wandb.value))

    def stop(self) -> None:
        """Ask the run to stop."""
        self._do(lambda: stop_run(self.weights), "Asked to stop: it ends after the step it is in, and saves.")

    def _do(self, act: Callable[[], Any], words: str = "") -> None:
        """Do something to the run; what went wrong, or `words`, is the message."""
        try:
            act()
            self._say(text_card(words) if words else "", "stop")
        except Exception as problem:
            self._say(error_card(problem), "act")
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

        fill(self.lowest, act)


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

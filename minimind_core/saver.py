"""When a run saves, what, and what it says when the disk refuses: the trainer's side of run_files.py.

State is taken after optimizer updates only, so no half accumulation needs keeping. In the functions below `run` is a
trainer.Trainer.
"""

from __future__ import annotations

import copy
import secrets
import time
from pathlib import Path
from typing import Any

from . import run_state
from .checkpoint import read_facts, unwrapped
from .clock import SaveClock
from .errors import CheckpointError, TrainingError
from .model import MiniMindLM
from .paths import shown
from .run_files import RunFiles

DISK_BYTES_PER_SECOND = 300e6  # a guess, for the time of the first save
SNAPSHOT_SHARES = (0.05, 0.15, 0.35, 0.65)


class Saver:
    """Saves a run as it goes: state and weights when they are due, a few snapshots, and the best weights so far."""

    def __init__(self, files: RunFiles, parameters: int, updates: int, interval: int | None) -> None:
        self.files = files
        self.saved_step = -1
        self.token = secrets.token_hex(8)  # whose save it is; another trainer may have gone on with this run since
        self.known: str | None = None  # the token of the save that lies on the disk, as far as this trainer knows
        self.snapshots = {max(1, round(updates * share)) for share in SNAPSHOT_SHARES}
        self.best: tuple[MiniMindLM, dict[str, Any]] | None = None  # in memory until the next save
        self._interval, self._first_cost = interval, 4 * 4 * parameters / DISK_BYTES_PER_SECOND
        self.start()

    def start(self) -> None:
        """The run begins, or goes on: its clock starts at 0."""
        self.clock = SaveClock(self._interval, self._first_cost)

    def keep_best(self, run: Any) -> None:
        """Remember these weights as the best so far; they are written with the next save, unless outdone before."""
        if self.files.active:
            self.best = (copy.deepcopy(unwrapped(run.model)).to("cpu"), run_state.facts_of(run))

    def after_update(self, run: Any, micro_step_before: int) -> None:
        """Write what is due after an update that is not the last."""
        if run.step in self.snapshots:
            self._snapshot(f"step-{run.step:08d}", run.model, run_state.facts_of(run))
        elapsed = run.clock.elapsed()
        if self.files.active and self.clock.is_due(micro_step_before, run.micro_step, elapsed):
            self.save(run)

    def save(self, run: Any) -> None:
        """Weights, facts and the state to resume from, and the best weights; takes the time that it costs."""
        if self.saved_step == run.step:
            return
        if not run.weights_are_finite():
            run.say(f"The weights of update {run.step} are not finite and were not saved; the save before is kept.")
            return
        started, outer, run.saving = time.perf_counter(), run.saving, True  # no signal interrupts what follows
        try:
            if self.best is not None and self._snapshot("best", *self.best):
                self.best = None
            if self.files.save(run.model, run_state.facts_of(run), run.step, run_state.state_of(run)):
                self.saved_step, self.known = run.step, self.token
        finally:
            run.saving = outer
        seconds = time.perf_counter() - started
        run.clock.pause(seconds)
        self.clock.saved(seconds, run.clock.elapsed())

    def _snapshot(self, name: str, model: MiniMindLM, facts: dict[str, Any]) -> bool:
        started = time.perf_counter()
        written = self.files.snapshot(name, model, facts)
        self.clock.snapshot(time.perf_counter() - started)
        return written

    def resumed(self, run: Any) -> None:
        """The run goes on from a state: what lies beside it is known, and saved if it is of the same update."""
        facts = facts_on_disk(run.plan.weights)
        there = run.plan.weights.is_file() and facts.get("step") == run.step
        self.saved_step, self.known = run.step if there else -1, facts.get("saved_by")

    def refuse_if_gone_on(self, run: Any) -> None:
        """TrainingError when another trainer has saved this run since this one did: it would be overwritten."""
        found = facts_on_disk(run.plan.weights).get("saved_by")
        if self.files.active and found != self.known and run.plan.weights.is_file():
            raise TrainingError(
                f"{shown(run.plan.weights)} was saved by another trainer since: this one would overwrite what that one "
                "learned. Make a new one with resume=True (--resume) to go on from there."
            )

    def is_saved(self, run: Any) -> bool:
        """Whether the last update is on the disk, or is another process's to put there."""
        return self.saved_step == run.step or not self.files.active

    def finish(self, run: Any, whole: bool) -> str:
        """Save for the last time, unless an update was interrupted (`whole` is False); says where the weights are."""
        try:
            if whole:
                self.save(run)
        finally:
            self.files.close()
        if self.is_saved(run):
            return f"weights in {shown(self.files.weights)}"
        kept = f"NOT saved; {shown(self.files.weights)} and the states beside it are those of an earlier save"
        if whole and run.weights_are_finite():
            rescued = self.files.rescue(run.model, run_state.facts_of(run))
            kept += f", but its weights are in {rescued}" if rescued else ", and no other folder took its weights"
        return kept


def facts_on_disk(weights: Path) -> dict[str, Any]:
    """config.json of a weights file; nothing where it is missing or broken."""
    try:
        return read_facts(weights) or {}
    except CheckpointError:
        return {}

"""How a run stands, from its files alone: going, stopped, complete, or dead and why; what it has reached, what is left.

So it does not matter who started it, or whether that process is still there. Taught in notebook 06. Left out: starting
and stopping runs (runs.py), and pictures.
"""

from __future__ import annotations

import json
import math
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .checkpoint import read_facts, run_folder
from .errors import CheckpointError
from .memory import oom_kills, total_memory
from .paths import shown
from .preflight import spoken_time
from .run_files import STARTED
from .run_lock import lock_holder
from .run_state import state_files
from .supervisor import LastStart, in_words, last_start
from .tracking import read_metrics

STATES = {
    "none": "not started",
    "starting": "starting",
    "running": "running",
    "stopped": "stopped",
    "complete": "complete",
    "dead": "died",
}
INTERRUPTED = 130  # the status of a run that was asked to stop
STAMPS_ARE_WHOLE = 1.0  # seconds by which a moment may be later than its stamp in a log
NOTED_WITHIN = 3.0  # seconds in which the end of a process is written down
WINDOW = 50  # updates that speed and time left are taken from


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment. `state` is one of STATES; `why` says how it ended, where it did not end well."""

    weights: Path
    state: str
    why: str = ""
    updates: int | None = None  # of the whole run; None before it is known
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    started: dict[str, Any] = field(default_factory=dict, repr=False)  # flags that start the same run, and its length
    facts: dict[str, Any] = field(default_factory=dict, repr=False)  # config.json of the last save

    @property
    def is_going(self) -> bool:
        """Whether a process is at work on it."""
        return self.state in ("starting", "running")

    @property
    def last(self) -> dict[str, Any]:
        """The metrics line of the last update; empty before the first."""
        return next((row for row in reversed(self.rows) if "loss" in row), {})

    @property
    def look(self) -> dict[str, Any]:
        """The line of the last look at the held-out rows; empty before the first."""
        return next((row for row in reversed(self.rows) if "held_out_loss" in row), {})

    @property
    def step(self) -> int:
        """Updates made."""
        return self.last.get("step", 0)

    @property
    def seconds(self) -> float:
        """Seconds of training so far; looks and saves are not counted."""
        return self.last.get("time", 0.0)

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training that are left at the pace of the last updates; None where that is not known."""
        recent = [row for row in self.rows if "loss" in row][-WINDOW:]
        if not self.updates or len(recent) < 2:
            return None
        pace = (recent[-1]["time"] - recent[0]["time"]) / (recent[-1]["step"] - recent[0]["step"])
        return max(0.0, pace * (self.updates - self.step))

    @property
    def tokens_per_s(self) -> float:
        """Median speed of the last updates."""
        recent = sorted(row["tokens_per_s"] for row in self.rows[-WINDOW:] if "tokens_per_s" in row)
        return recent[len(recent) // 2] if recent else math.nan

    def samples(self, most: int = 5) -> list[tuple[int, str, str]]:
        """Update, prompt and continuation of some looks from the first to the last, evenly; the text is untrusted."""
        found = [(row["step"], *row["sample"]) for row in self.rows if len(row.get("sample") or ()) == 2]
        if len(found) <= most:
            return found
        return [found[round(place * (len(found) - 1) / (most - 1))] for place in range(most)]

    def numbers(self, price_per_hour: float = 0.0) -> dict[str, str]:
        """What is known of it in numbers, by name: for people to read, on a card or in a line."""
        last, look, found = self.last, self.look, {}
        if not last:
            return {}
        found["update"] = f"{last['step']:,}" + (f" of {self.updates:,}" if self.updates else "")
        found["loss"] = f"{last['loss']:.3f}"
        if last.get("aux_loss"):
            found["cross-entropy + auxiliary"] = f"{last['ce']:.3f} + {last['aux_loss']:.3f}"
        if look:
            found["held-out loss"] = f"{look['held_out_loss']:.3f} (update {look['step']:,})"
        found["learning rate"] = f"{last['lr']:.2e}"
        found["gradient norm"] = f"{last['grad_norm']:.2f}"
        found["tokens/s"] = f"{self.tokens_per_s:,.0f}"
        found["memory, MiB"] = f"{last['memory']:,}"
        found["trained for"] = spoken_time(self.seconds)
        left = self.seconds_left if self.is_going else None
        if left is not None:
            found["left"] = spoken_time(left)
        if price_per_hour:
            found["cost so far, of training alone"] = f"{self.seconds / 3600 * price_per_hour:.2f}"
            if left is not None:
                found["cost in the end"] = f"about {(self.seconds + left) / 3600 * price_per_hour:.2f}"
        return found

    def line(self, price_per_hour: float = 0.0) -> str:
        """All of it in a line of text."""
        state = STATES[self.state] + (f": {self.why}" if self.why else "")
        return " · ".join([state, *(f"{name} {value}" for name, value in self.numbers(price_per_hour).items())])


def status_of(weights: str | Path) -> RunStatus:
    """How the run of a weights file stands. Never raises for what a run may leave behind; `why` then says it."""
    weights = Path(weights)
    folder = run_folder(weights)
    holder = lock_holder(folder)  # before the files are read: what ends meanwhile still counts as going
    began, started = _newest_start(weights)
    begins = _begins(began, started, holder)
    if begins and began.flags().get("resume", "True") != "True":
        return RunStatus(weights, "starting")  # what lies here, another run's, will be moved aside
    broken = ""
    try:
        rows, facts = read_metrics(folder / "metrics.jsonl"), read_facts(weights) or {}
    except CheckpointError as error:
        rows, facts, broken = [], {}, str(error)
    updates = started.get("updates") or facts.get("updates")
    complete = bool(facts.get("complete")) and (not updates or facts.get("step", 0) >= updates)
    state, why = "none", ""
    if holder is not None:
        state, why = "starting" if begins else "running", broken
    elif began and began.is_going:
        state = "starting" if begins else "running"  # it may be about to end
    elif broken:
        state, why = "dead", broken
    elif complete and not weights.is_file():
        state, why = "dead", "its weights are gone, and no state is left to write them from"
        if state_files(folder):
            state, why = "stopped", "its weights are gone; Resume writes them again from its last state"
    elif complete and not (began and began.status not in (0, None)):
        state = "complete"
    elif _was_asked(folder, began):
        state = "stopped"
    elif rows or began:
        state, why = "dead", _reason(weights, began, rows, str(started.get("device", "cpu")))
    return RunStatus(weights, state, why, updates, rows, started, facts)


def _begins(began: LastStart | None, started: dict[str, Any], holder: str | None) -> bool:
    """Whether the log's last start is at work and has not yet written down what it is (started.json).

    It may hold the lock by then: it reads what it resumes, and compiles, before it writes.
    """
    if began is None or not began.is_going or holder not in (None, "?", str(began.pid)):
        return False
    return not (_is_of(started, began) and started["began"] >= began.began - STAMPS_ARE_WHOLE)


def _is_of(started: dict[str, Any], began: LastStart) -> bool:
    """Whether started.json was written by that process, or by one that it started (torchrun's, or a launcher's)."""
    return began.pid in (started.get("process"), started.get("parent"))


def _newest_start(weights: Path) -> tuple[LastStart | None, dict[str, Any]]:
    """The start that a run's log tells of, unless the run was started again without that log; and started.json.

    Waits for the line on how a process ended, where that is about to be written.
    """
    until = time.monotonic() + NOTED_WITHIN
    while (began := last_start(log_file(weights))) and not began.is_going and began.will_be_noted:
        if time.monotonic() > until:
            break
        time.sleep(0.02)
    started = _started(run_folder(weights))
    last_word = (began.ended or began.began) + STAMPS_ARE_WHOLE if began else 0.0
    if began and started.get("process") and not _is_of(started, began) and started["began"] > last_word:
        began = None
    return began, started


def log_file(weights: str | Path) -> Path:
    """Where a run in a process of its own writes what it says: out/pretrain_512.log. It outlives the run's folder."""
    return Path(weights).with_suffix(".log")


def log_tail(weights: str | Path, lines: int = 8, begins: bool = False) -> list[str]:
    """The last lines of what a run said: of train.log, or before there is one, of its process; untrusted text.

    `begins`: a train.log that lies there is that of another run, which will be moved aside.
    """
    with suppress(OSError):
        text = (run_folder(weights) / "train.log").read_text(encoding="utf-8", errors="replace")
        if text.strip() and not begins:
            return text.rstrip().split("\n")[-lines:]
    began = last_start(log_file(weights))
    return began.said.rstrip().split("\n")[-lines:] if began and began.said.strip() else []


def _started(folder: Path) -> dict[str, Any]:
    """What a run wrote down when it began: `flags` and `updates`; nothing where that is missing or broken."""
    with suppress(OSError, ValueError):
        found = json.loads((folder / STARTED).read_text(encoding="utf-8"))
        whole = isinstance(found, dict) and isinstance(found.get("flags"), dict)
        if whole and isinstance(found.get("updates"), int) and isinstance(found.get("began", 0.0), (int, float)):
            return {"began": 0.0} | found
    return {}


def _was_asked(folder: Path, began: LastStart | None) -> bool:
    if began is not None and began.status is not None:
        return began.status == INTERRUPTED
    with suppress(OSError):
        said = (folder / "train.log").read_text(encoding="utf-8", errors="replace").rstrip().split("\n")
        return said[-1].startswith("Stopped after update")
    return False


def _reason(weights: Path, began: LastStart | None, rows: list[dict[str, Any]], device: str) -> str:
    """Why a run that nobody asked to stop is gone, as far as files tell."""
    if began is not None and began.status is not None and began.status >= 0:
        said = [line for line in began.said.split("\n") if line.strip()]
        errors = [line for line in said if line.startswith("error: ") or "; NOT saved" in line]
        nothing = f"it ended with {in_words(began.status)} and said nothing"
        return (errors or said or [nothing])[-1].removeprefix("error: ")
    where = f"the whole log is {shown(log_file(weights))}"
    if began is not None and began.status is not None:
        killed = in_words(began.status)
        why = f"it was ended from outside ({killed})"
        if began.status == -getattr(signal, "SIGKILL", 9):
            held, there = max((row.get("memory") or 0 for row in rows), default=0), total_memory() / 2**20
            guess = "by a person, or by the system for memory"
            if not device.startswith("cuda"):  # there `memory` is the card's
                guess = "most likely for want of memory" if held > there / 2 else guess
                guess += f": it held {held:,.0f} MiB, this machine has {there:,.0f}"
            why += f", {guess}"
            if killed_for_memory := oom_kills():
                why += f"; the system has ended {killed_for_memory} processes here for want of memory"
        elif began.status == -getattr(signal, "SIGBUS", 7):
            why += ", mostly since /dev/shm or the disk is full"
        return f"{why}; {where}"
    with suppress(OSError, psutil.Error):
        files = (run_folder(weights) / "metrics.jsonl", log_file(weights))
        last_sign = max(path.stat().st_mtime for path in files if path.exists())
        if psutil.Process(1).create_time() > last_sign:
            return "the machine or container was started anew since its last sign of life"
    return "it ended without a word: killed, or its machine went away"

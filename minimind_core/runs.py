"""Runs on disk: list what lies in out/, start a run in a process of its own, wait for it, stop it, go on with it.

Everything is read from the run's files alone (run_status.py), so a run that was started in a terminal is seen as well.
Taught in notebooks 06 and 07.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from .checkpoint import read_facts, run_folder
from .config import ModelConfig
from .errors import CheckpointError, TrainingError
from .paths import PROJECT, out_dir, shown, writing
from .plan import RunPlan
from .run_files import STARTED
from .run_lock import lock_holder, stop_file
from .run_status import RunStatus, log_file, status_of
from .supervisor import last_start
from .tracking import read_metrics

STARTS_WITHIN = 60.0  # seconds for a small process to write its first line, on a busy machine
DECIDES = {  # settings that make a run another run; a batch may be cut in other pieces
    *(field.name for field in fields(ModelConfig)), "recipe", "data_path", "tokenizer", "epochs", "max_steps",
    "learning_rate", "seed",
}  # fmt: skip
_STARTED: list[subprocess.Popen] = []


@dataclass(frozen=True)
class RunOnDisk:
    """A run found in out/: its weights file (which may not be written yet), its facts and its metrics file."""

    weights: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """pretrain_512 for out/pretrain_512.pth."""
        return self.weights.stem

    @property
    def folder(self) -> Path:
        """The folder beside the weights."""
        return run_folder(self.weights)

    def metrics(self) -> list[dict[str, Any]]:
        """All metrics lines so far."""
        return read_metrics(self.folder / "metrics.jsonl")

    def is_alive(self) -> bool:
        """Whether a process holds this run's lock now."""
        return lock_holder(self.folder) is not None

    def __str__(self) -> str:
        facts = self.facts
        if not facts:
            return f"{shown(self.weights)}: no weights yet"
        model = ModelConfig.from_dict(facts["model"])
        judged = facts.get("held_out_loss")
        held_out = f", held-out loss {judged:.3f}" if judged is not None else ""
        size = f"{self.weights.stat().st_size / 1e6:.0f} MB, " if self.weights.exists() else ""
        state = "complete" if facts.get("complete") else "not complete"
        return (
            f"{shown(self.weights)}: {size}dim {model.dim} × {model.n_layers} layers"
            f"{', experts' if model.use_moe else ''}, {facts.get('step', '?')} updates ({state})"
            f"{held_out}, saved {facts.get('saved_at', '?')}"
        )


def list_runs(folder: str | Path | None = None) -> list[RunOnDisk]:
    """The runs in a folder (default out/), newest first."""
    folder = Path(folder) if folder else out_dir()
    names = {p.with_suffix(".pth") for p in folder.glob("pretrain_*") if p.is_dir() or p.suffix == ".pth"}
    found = []
    for weights in names:
        try:
            found.append(RunOnDisk(weights, read_facts(weights) or {}))
        except CheckpointError:
            continue
    return sorted(found, key=lambda run: run.weights.stat().st_mtime if run.weights.exists() else 0, reverse=True)


def run_of(plan: RunPlan) -> RunOnDisk | None:
    """The run on disk that this plan would go on with (`facts["complete"]` says whether it is done), or None."""
    facts = read_facts(plan.weights) if plan.weights.exists() else None
    if not facts or facts.get("identity") != plan.identity():
        return None
    return RunOnDisk(plan.weights, facts)


def is_complete(plan: RunPlan) -> bool:
    """Whether this plan's run is on disk and done."""
    run = run_of(plan)
    return run is not None and bool(run.facts.get("complete"))


# --- runs in a process of their own ---------------------------------------------------------------------------------


def start_run(plan: RunPlan, fresh: bool = False) -> RunOnDisk:
    """Start a plan's run in a process that outlives the notebook, or go on with it where it was.

    The command is `python -m minimind_core.train_pretrain` with every setting spelt out. With `fresh` it begins anew;
    so it does where another run lies in its place, which is moved aside. Raises TrainingError when it is going already.
    """
    resume = not fresh and run_of(plan) is not None
    return _launch(plan.weights, plan.flags() | {"resume": resume})


def begin_or_attach(plan: RunPlan, fresh: bool = False) -> bool:
    """Start a plan's run unless it is going already, in which case it is left alone; whether it was started now.

    TrainingError when another run, with other settings, is going in its place.
    """
    status = status_of(plan.weights)
    if not status.is_going:
        start_run(plan, fresh)
        return True
    theirs, ours = status.started.get("flags", {}), plan.flags()
    differ = [
        f"--{name} {theirs[name]}" for name in ours if name in theirs and name in DECIDES and theirs[name] != ours[name]
    ]
    if differ and status.state == "running":
        raise TrainingError(
            f"{shown(plan.weights)} is being trained by another run ({', '.join(differ)}). Stop that one, wait for it, "
            "or choose another --out_dir."
        )
    return False


def resume_run(weights: str | Path) -> RunOnDisk:
    """Go on with the run of a weights file, in a process of its own, with the settings that it was started with."""
    weights = Path(weights)
    flags = status_of(weights).started.get("flags")
    if not flags:
        raise CheckpointError(
            f"{shown(weights)}: what this run was started with is not known (its {STARTED} is missing), so it cannot "
            "be resumed from here; use `python -m minimind_core.train_pretrain --resume` with its flags."
        )
    return _launch(weights, flags | {"out_dir": str(weights.resolve().parent), "resume": True})


def _launch(weights: Path, flags: dict[str, Any]) -> RunOnDisk:
    """A process for these flags, behind a supervisor that writes down how it ends (supervisor.py)."""
    status = status_of(weights)
    if status.is_going:
        raise TrainingError(
            f"{shown(weights)} is being trained already ({status.line()}). Watch it, or stop it first; another "
            "run needs another --out_dir."
        )
    log = log_file(weights)
    command = [sys.executable, "-m", "minimind_core.train_pretrain"]
    for name, value in flags.items():
        if value is not None:
            command += [f"--{name}", str(value)]
    with writing(weights.parent):
        weights.parent.mkdir(parents=True, exist_ok=True)
        stop_file(run_folder(weights)).unlink(missing_ok=True)
        log.touch()
    before = log.stat().st_size
    process = subprocess.Popen(
        [sys.executable, "-m", "minimind_core.supervisor", str(log.resolve()), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        cwd=PROJECT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    _STARTED.append(process)  # or it would be waited for at the end of this one, with a warning
    until = time.monotonic() + STARTS_WITHIN
    while log.stat().st_size <= before and process.poll() is None:
        if time.monotonic() > until:
            raise TrainingError(f"the run did not start within {STARTS_WITHIN:.0f} s; see {shown(log)}.")
        time.sleep(0.02)
    return RunOnDisk(weights, {})


def stop_run(weights: str | Path) -> None:
    """Ask a run to end after the micro-step that it is in, whoever started it; what it has learned is saved.

    TrainingError when no process is at work on it.
    """
    weights = Path(weights)
    if not status_of(weights).is_going:
        raise TrainingError(f"{shown(weights)}: no process trains this run, so there is nothing to stop.")
    with writing(weights.parent):
        stop_file(run_folder(weights)).touch()


def kill_run(weights: str | Path) -> bool:
    """End a run's process at once, as a machine that goes away would; what was not saved is lost.

    False when there was no such process.
    """
    weights = Path(weights)
    status, began = status_of(weights), last_start(log_file(weights))
    holder = lock_holder(run_folder(weights)) or (began.pid if began and status.state == "starting" else "")
    if not str(holder).isdigit():
        return False
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(holder))
        process.kill()
        process.wait(timeout=30)
    until = time.monotonic() + STARTS_WITHIN  # for the supervisor's last line
    while time.monotonic() < until and began and (now := last_start(log_file(weights))) and now.status is None:
        time.sleep(0.02)
    return True


def wait_for(
    weights: str | Path, updates: int | None = None, show: Callable[[RunStatus], None] | None = None, every: float = 1.0
) -> RunStatus:
    """Wait until a run has ended, or has made so many updates and been saved since; how it then stands.

    `show` gets the status every so often. TrainingError, with the reason, for a run that died. An interrupt (the stop
    button of the notebook) ends the waiting and not the run.
    """
    try:
        while True:
            status = status_of(weights)
            if show is not None:
                show(status)
            if status.state == "dead":
                raise TrainingError(f"{shown(weights)}: the run died: {status.why}")
            if not status.is_going or (updates is not None and _saved_at(weights) >= updates):
                return status
            time.sleep(every)
    except KeyboardInterrupt:
        raise TrainingError(
            "no longer waiting; the run goes on by itself. Its dashboard stops it, and this cell waits again."
        ) from None


def _saved_at(weights: str | Path) -> int:
    """Updates of the last save; 0 before the first."""
    try:
        return (read_facts(weights) or {}).get("step") or 0
    except CheckpointError:
        return 0


# --- finding runs -----------------------------------------------------------------------------------------------------


def all_runs(folder: str | Path | None = None) -> dict[str, RunOnDisk]:
    """Runs in a folder (default out/) and those that were moved aside there, by name, newest first."""
    folder = Path(folder) if folder else out_dir()
    found = {run.name: run for run in list_runs(folder)}
    for aside in sorted((folder / "previous").glob("*"), reverse=True):
        found |= {f"{run.name}, put aside {aside.name}": run for run in list_runs(aside)}
    return found


def attach(name: str | None = None, folder: str | Path | None = None) -> RunOnDisk:
    """The run of that name (default: the newest), running or not. Raises CheckpointError with a list when not there."""
    runs = list_runs(folder)
    for run in runs:
        if name is None or run.name == name:
            return run
    raise CheckpointError(f"no run{f' named {name}' if name else ''}. {what_is_there(folder)}")


def what_is_there(folder: str | Path | None = None) -> str:
    """A sentence that lists the runs in a folder, for messages."""
    folder = Path(folder) if folder else out_dir()
    runs = [run for run in list_runs(folder) if run.weights.exists()]
    if not runs:
        return f"{shown(folder)} has no model yet: `python -m minimind_core.train_pretrain` makes one."
    return f"{shown(folder)} has: " + "; ".join(str(run) for run in runs) + "."

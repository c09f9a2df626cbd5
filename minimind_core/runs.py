"""Runs in processes of their own: start one, wait for it, stop it, kill it, go on with it.

Everything is read from the run's files alone (run_status.py), so a run that was started in a terminal is seen as well.
Taught in notebook 06. Left out: which runs there are (runs_on_disk.py, whose names are here as well).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil

from .checkpoint import run_folder
from .config import ModelConfig
from .errors import CheckpointError, TrainingError
from .paths import PROJECT, shown, writing
from .plan import RunPlan
from .run_files import STARTED
from .run_lock import lock_holder, stop_file, wish_to_stop
from .run_status import RunStatus, log_file, status_of
from .runs_on_disk import RunOnDisk, all_runs, attach, is_complete, list_runs, run_of, what_is_there  # noqa: F401
from .supervisor import last_start

STARTS_WITHIN = 60.0  # seconds for a small process to write its first line, on a busy machine
DECIDES = {  # settings that make a run another run, besides the rows of an update: these may be cut in other pieces
    *(field.name for field in fields(ModelConfig)), "recipe", "data_path", "tokenizer", "epochs", "max_steps",
    "learning_rate", "grad_clip", "warmup_iters", "seed",
}  # fmt: skip
NO_LONGER = "no longer waiting; the run goes on by itself. Its dashboard stops it, and this cell waits again."
_STARTED: list[subprocess.Popen] = []


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
    began, theirs = last_start(log_file(plan.weights)), status.started.get("flags", {})
    if status.state == "starting":  # its folder still holds what an earlier run was started with
        theirs = began.flags() if began else {}
    differ = _differences(theirs, plan.flags()) if theirs else []
    if differ:
        raise TrainingError(
            f"{shown(plan.weights)} is being trained by another run ({', '.join(differ)}). Stop that one, wait for it, "
            "or choose another --out_dir."
        )
    return False


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """The flags of a run that make it another one than ours, as they were given."""
    differ = sorted(name for name in DECIDES if str(theirs.get(name)) != str(ours.get(name)))
    if _rows_of_an_update(theirs) != _rows_of_an_update(ours):
        differ += ["batch_size", "accumulation_steps"]
    return [f"--{name} {theirs[name]}" if name in theirs else f"without --{name}" for name in differ]


def _rows_of_an_update(flags: dict[str, Any]) -> int | None:
    with suppress(KeyError, ValueError):
        return int(flags["batch_size"]) * int(flags["accumulation_steps"])
    return None


def resume_run(weights: str | Path, use_wandb: bool | None = None) -> RunOnDisk:
    """Go on with the run of a weights file, in a process of its own, with the settings that it was started with.

    Whether its numbers go to wandb as well may be decided anew.
    """
    weights = Path(weights)
    flags = status_of(weights).started.get("flags")
    if not flags:
        raise CheckpointError(
            f"{shown(weights)}: what this run was started with is not known (its {STARTED} is missing), so it cannot "
            "be resumed from here; use `python -m minimind_core.train_pretrain --resume` with its flags."
        )
    mirror = {} if use_wandb is None else {"use_wandb": use_wandb}
    return _launch(weights, flags | mirror | {"out_dir": str(weights.resolve().parent), "resume": True})


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
    if log.stat().st_size <= before:
        raise TrainingError(f"the run was not started, since {shown(log)} cannot be written. Is the disk full?")
    return RunOnDisk(weights, {})


def stop_run(weights: str | Path) -> None:
    """Ask a run to end after the micro-step that it is in, whoever started it; what it has learned is saved.

    TrainingError when no process is at work on it.
    """
    weights = Path(weights)
    if not status_of(weights).is_going:
        raise TrainingError(f"{shown(weights)}: no process trains this run, so there is nothing to stop.")
    with writing(weights.parent):
        wish_to_stop(run_folder(weights))


def kill_run(weights: str | Path) -> bool:
    """End a run's process at once, as a machine that goes away would; what was not saved is lost.

    False when there was no such process. TrainingError when there is one that may not be ended from here.
    """
    weights = Path(weights)
    status, began = status_of(weights), last_start(log_file(weights))
    holder = lock_holder(run_folder(weights)) or (began.pid if began and status.state == "starting" else "")
    if not str(holder).isdigit():
        return False
    try:
        process = psutil.Process(int(holder))
        if not any("python" in word or "minimind" in word for word in process.cmdline()):
            raise TrainingError(
                f"{shown(weights)}: its lock names process {holder}, which is {process.name()} here: the run is on "
                "another machine or in another container that shares this folder. End it there, or press Stop."
            )
        process.kill()
        process.wait(timeout=30)
    except psutil.NoSuchProcess:
        pass
    except (psutil.AccessDenied, psutil.TimeoutExpired) as error:
        why = type(error).__name__
        raise TrainingError(f"{shown(weights)}: process {holder} could not be ended ({why}). Press Stop.") from None
    until = time.monotonic() + STARTS_WITHIN  # for the supervisor's last line
    while time.monotonic() < until and (now := last_start(log_file(weights))) and now.will_be_noted:
        time.sleep(0.02)
    return True


def wait_for(
    weights: str | Path,
    updates: int | None = None,
    show: Callable[[RunStatus], None] | None = None,
    every: float = 1.0,
    unsaved: int = 0,
) -> RunStatus:
    """Wait until a run has ended, or has saved so many updates since it was started; how it then stands.

    With `unsaved` until it has made that many more since its last save, too. `show` gets the status every so often.
    TrainingError, with the reason, for a run that died. An interrupt (the stop button of the notebook) ends the waiting
    and not the run.
    """
    try:
        while (status := _look(weights, updates, show, unsaved)) is None:
            time.sleep(every)
    except KeyboardInterrupt:
        raise TrainingError(NO_LONGER) from None
    return status


async def wait_beside(
    weights: str | Path, show: Callable[[RunStatus], None] | None = None, every: float = 1.0
) -> RunStatus:
    """As `wait_for`, but what is clicked meanwhile is heard: `await wait_beside(…)` in a notebook's cell.

    A kernel that sleeps in a cell keeps the clicks on its widgets for later; one that awaits does not.
    """
    try:
        while (status := _look(weights, None, show, 0)) is None:
            await asyncio.sleep(every)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise TrainingError(NO_LONGER) from None
    return status


def _look(
    weights: str | Path, updates: int | None, show: Callable[[RunStatus], None] | None, unsaved: int
) -> RunStatus | None:
    """How a run stands, if it is no longer to be waited for."""
    status = status_of(weights)
    if show is not None:
        show(status)
    if status.state == "dead":
        raise TrainingError(f"{shown(weights)}: the run died: {status.why}")
    return status if not status.is_going or (updates is not None and _has_saved(status, updates, unsaved)) else None


def _has_saved(status: RunStatus, updates: int, unsaved: int) -> bool:
    """Whether a running run has saved so many updates itself, and gone on since: what lies there may be older."""
    folder = run_folder(status.weights)
    with suppress(OSError):
        saved, began = ((folder / name).stat().st_mtime_ns for name in ("config.json", STARTED))
        step = status.facts.get("step", 0)
        return status.state == "running" and saved >= began and step >= updates and status.step - step >= unsaved
    return False

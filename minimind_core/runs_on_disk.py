"""The runs that lie in out/, by name and age, and which of them a plan would go on with.

Taught in notebook 07. Left out: how a run stands (run_status.py), starting and stopping it (runs.py).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import read_facts, run_folder
from .config import ModelConfig
from .errors import CheckpointError
from .paths import out_dir, shown
from .plan import RunPlan
from .run_files import STARTED
from .run_lock import lock_holder
from .run_state import read_newest_state, state_files
from .saver import facts_on_disk
from .tracking import read_metrics


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
    return sorted(found, key=_touched, reverse=True)


def _touched(run: RunOnDisk) -> float:
    """When a run last wrote something, in seconds since the epoch: a run that has not saved yet is new as well."""
    times = [0.0]
    for path in (run.weights, run.folder / STARTED, run.folder / "metrics.jsonl"):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def run_of(plan: RunPlan) -> RunOnDisk | None:
    """The run on disk that this plan would go on with (`facts["complete"]` says whether it is done), or None.

    A run whose weights are gone is there as well, as long as a state is left from which they are written again.
    """
    facts, there = facts_on_disk(plan.weights), plan.weights.is_file()
    if not there and not state_files(run_folder(plan.weights)):
        return None
    theirs = facts.get("identity") or _identity_of_state(plan.weights)
    if theirs is None or same_updates(theirs) != same_updates(plan.identity()):
        return None
    return RunOnDisk(plan.weights, facts | {"complete": bool(facts.get("complete")) and there})


def same_updates(identity: dict[str, Any]) -> dict[str, Any]:
    """A run's identity, whatever pieces its updates are cut into: these are fitted to the memory (fitting.py)."""
    kept = {name: value for name, value in identity.items() if name not in ("batch_size", "accumulation_steps")}
    rows = [identity.get(name) for name in ("batch_size", "accumulation_steps")]
    return kept | {"rows of an update": math.prod(rows) if all(isinstance(each, int) for each in rows) else rows}


def _identity_of_state(weights: Path) -> dict[str, Any] | None:
    """What the newest state says that its run is, where config.json is gone; None where that cannot be read."""
    with suppress(CheckpointError):
        state = read_newest_state(run_folder(weights), say=lambda text: None) or {}
        return state["identity"] if isinstance(state.get("identity"), dict) else None
    return None


def is_complete(plan: RunPlan) -> bool:
    """Whether this plan's run is on disk and done."""
    run = run_of(plan)
    return run is not None and bool(run.facts.get("complete"))


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

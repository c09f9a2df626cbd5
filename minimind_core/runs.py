"""Runs on disk: list what lies in out/, pick the newest model, start a run in a process of its own and watch it.

Everything is read from the run's files alone, so a run that was started in a terminal is seen as well. Taught in
notebooks 06 and 07.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import read_facts, run_folder
from .config import ModelConfig
from .errors import CheckpointError
from .paths import PROJECT, out_dir, shown
from .plan import RunPlan
from .run_lock import lock_holder
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


def start_run(**flags: Any) -> subprocess.Popen:
    """Start `python -m minimind_core.train_pretrain` with these flags, in a process that outlives the notebook.

    Its output goes to out/start.log (or `out_dir`/start.log); metrics and state are where every run has them.
    """
    folder = Path(flags.get("out_dir") or out_dir())
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "minimind_core.train_pretrain"]
    for name, value in flags.items():
        if value is not None:
            command += [f"--{name}", str(value)]
    with open(folder / "start.log", "ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=PROJECT
        )


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

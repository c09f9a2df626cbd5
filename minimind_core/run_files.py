"""What a run writes: metrics, log lines, weights, snapshots and states, all in one folder, by the main process alone.

A disk that fails is reported and stops nothing; what was saved before stays whole (files.py). A run that lies in the
way is moved aside, never overwritten.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn
from tqdm import tqdm

from . import checkpoint, run_state
from .errors import CourseError, StorageError
from .files import atomic_write, sweep
from .paths import shown, writing
from .run_lock import CLOCKS_DIFFER, refuse_if_held, run_lock, stop_file, wished_at
from .storage import Keeping, choose_keeping, existing_parent
from .tracking import MetricsLog, read_metrics
from .wandb_mirror import WandbMirror

STARTED = "started.json"


class RunFiles:
    """The files of one run. With `active=False` (any but the main process) nothing is written or printed."""

    def __init__(self, weights: Path, tokenizer: Tokenizer, say: Callable[[str], None], active: bool = True) -> None:
        self.weights, self.tokenizer, self.active, self._say = weights, tokenizer, active, say
        self.folder = checkpoint.run_folder(weights)
        self.keeping = Keeping()
        self.metrics: MetricsLog | None = None
        self.wandb: WandbMirror | None = None
        self.born = time.time()  # a wish to stop that is older was meant for another run
        self._looks_again = 0.0

    def check(self, parameters: int, goes_on: bool) -> None:
        """Raise before anything is computed: another process trains this run, no room, or nothing can be written.

        Sets what will be kept on the disk, and says so when it is less than usual.
        """
        if not self.active:
            return
        refuse_if_held(self.folder)
        with writing(self.folder):
            for path in (self.weights, *(self.folder / name for name in ("config.json", "tokenizer.json"))):
                if path.is_dir():
                    raise StorageError(f"{shown(path)} is a folder, where a file has to be written: move it away.")
            tempfile.TemporaryFile(dir=existing_parent(self.folder)).close()
            self.keeping = choose_keeping(self.folder, parameters, goes_on)
        if self.keeping.note:
            self.say(self.keeping.note)

    def lock(self):
        """A context in which no other process may train this run."""
        return run_lock(self.folder) if self.active else nullcontext()

    def say(self, text: str, log: bool = True) -> None:
        """Print above the progress bar, and keep it in train.log. A terminal that is gone stops nothing."""
        if not self.active:
            return
        try:
            with tqdm.external_write_mode(file=sys.stdout):
                self._say(text)
        except (OSError, ValueError):  # the terminal was closed, or the pipe that took the output
            pass
        if not log:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / "train.log", "a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError:
            pass

    def open(self, resumed_step: int | None) -> None:
        """Begin the metrics file anew, or cut it back to the step that a resumed run goes on from.

        What a killed process left half written is removed. Raises StorageError, before anything is trained, where
        these files cannot be written.
        """
        if not self.active:
            return
        with writing(self.folder):
            sweep(self.weights.parent, self.weights.name)
            sweep(self.folder)
            if resumed_step is None:
                put_aside(self.weights, self.say)
            self.metrics = MetricsLog(self.folder / "metrics.jsonl", resumed_step)
        missing = self.metrics.missing(resumed_step) if resumed_step else 0
        if missing:
            self.say(f"{shown(self.metrics.path)} lacks {missing} of the {resumed_step} updates before this one.")

    def note_start(self, flags: dict[str, Any], updates: int, device: str) -> None:
        """Write down what the run was started with: enough to resume it, and to know its length, before any save.

        And by which process and when, so that it is known whether a log (supervisor.py) tells of this start: some
        launchers stand between, so the process's parent may be the one that the log names.
        """
        if self.active:
            with writing(self.folder):
                who = {"process": os.getpid(), "parent": os.getppid(), "began": self.born, "device": device}
                start = {"flags": flags, "updates": updates} | who
                text = json.dumps(start, ensure_ascii=False, indent=1)
                atomic_write(self.folder / STARTED, text.encode("utf-8"))

    def wants_stop(self) -> bool:
        """Whether somebody asked this run to stop, by a file (run_lock.py), since it began; looked up once a second."""
        if not self.active or time.monotonic() < self._looks_again:
            return False
        self._looks_again = time.monotonic() + 1
        asked = wished_at(self.folder)
        if asked is None:
            return False
        with suppress(OSError):
            stop_file(self.folder).unlink()
        return asked >= self.born - CLOCKS_DIFFER

    def lacks_look(self, step: int) -> bool:
        """Whether the held-out loss of that update is not in the metrics; other processes keep none."""
        if not self.active:
            return False
        if self.metrics is not None:
            return not self.metrics.has_look(step)
        rows = read_metrics(self.folder / "metrics.jsonl")
        return not any(row["step"] == step and "held_out_loss" in row for row in rows)

    def mirror_to_wandb(self, project: str, config: dict[str, Any], resumed: bool = False) -> None:
        """Send the same numbers to wandb from now on."""
        if self.active:
            self.wandb = WandbMirror(project, self.weights.stem, self.folder, config, self.say, resumed)

    def write(self, row: dict[str, Any]) -> None:
        """A line of metrics."""
        if self.metrics is not None:
            self.metrics.write(**row)
            if self.wandb is not None:
                said = {"sample": "".join(row["sample"])} if "sample" in row else {}
                self.wandb.write(**(row | said))

    def save(self, model: nn.Module, facts: dict[str, Any], step: int, state: dict[str, Any]) -> bool:
        """Weights, facts and the state to resume from; False when the disk refused.

        Metrics come first: a state never lies on the disk without the lines of all updates before it.
        """
        if self.metrics is None:
            return False
        try:
            self.metrics.flush()
            checkpoint.save_weights(model, self.weights, facts, self.tokenizer)
            run_state.write_state(self.folder, step, state, self.keeping.states)
            return True
        except (OSError, CourseError) as error:
            self.say(f"Saving update {step} failed: {_reason(error)}. The save before is untouched; training goes on.")
            return False

    def snapshot(self, name: str, model: nn.Module, facts: dict[str, Any]) -> bool:
        """A copy of the weights of this moment, as snapshots/NAME.pth; False when the disk refused."""
        if self.metrics is None:
            return False
        if not self.keeping.snapshots:
            return True
        try:
            path = self.folder / "snapshots" / f"{name}.pth"
            checkpoint.save_weights(model, path, facts | {"snapshot": name}, self.tokenizer)
            return True
        except (OSError, CourseError) as error:
            self.say(f"Snapshot {name} was not saved: {_reason(error)}. Training goes on.")
            return False

    def rescue(self, model: nn.Module, facts: dict[str, Any]) -> Path | None:
        """Weights that a full disk refused, in the system's temporary folder; None when that has no room either."""
        try:
            path = Path(tempfile.mkdtemp(prefix="minimind-")) / self.weights.name
            checkpoint.save_weights(model, path, facts, self.tokenizer)
            return path
        except (OSError, CourseError):
            return None

    def close(self) -> None:
        """Close what is open."""
        for thing in (self.metrics, self.wandb):
            if thing is not None:
                thing.close()
        self.metrics = self.wandb = None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f' ({shown(error.filename)})' if isinstance(error.filename, str) else ''}"
    return str(error).rstrip(".")


def put_aside(weights: Path, say: Callable[[str], None]) -> None:
    """Move a run that is in the way to a folder of its own under `previous/`, and say so; nothing is ever replaced.

    What has neither weights nor a state has nothing to lose, and stays to be written over, with a word too.
    """
    folder = checkpoint.run_folder(weights)
    if not weights.is_file() and not run_state.state_files(folder) and not any(folder.glob("snapshots/*.pth")):
        if (folder / "metrics.jsonl").is_file():
            say(f"A run that ended before its first save lay in {shown(folder)}; it is written over.")
        return
    base = weights.parent / "previous" / time.strftime("%Y-%m-%d-%H%M%S")
    aside, number = base, 1
    while aside.exists():
        number += 1
        aside = base.with_name(f"{base.name}-{number}")
    aside.mkdir(parents=True)
    for thing in (weights, folder):
        if thing.exists():
            thing.rename(aside / thing.name)
    size = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
    say(
        f"An earlier run lay in {shown(weights)}. It was moved to {shown(aside)} ({size / 1e6:,.0f} MB; remove it when "
        "you no longer want it)."
    )

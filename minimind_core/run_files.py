"""What a run writes: metrics, log lines, weights, snapshots and states, all in one folder, by the main process alone.

A disk that fails is reported and stops nothing; what was saved before stays whole (checkpoint.py).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn
from tqdm import tqdm

from . import checkpoint
from .paths import shown
from .tracking import MetricsLog
from .wandb_mirror import WandbMirror


class RunFiles:
    """The files of one run. With `active=False` (any but the main process) nothing is written or printed."""

    def __init__(self, weights: Path, tokenizer: Tokenizer, say: Callable[[str], None], active: bool = True) -> None:
        self.weights, self.tokenizer, self.active, self._say = weights, tokenizer, active, say
        self.folder = checkpoint.run_folder(weights)
        self.metrics: MetricsLog | None = None
        self.wandb: WandbMirror | None = None

    def say(self, text: str) -> None:
        """Print above the progress bar, and keep it in train.log."""
        if not self.active:
            return
        with tqdm.external_write_mode(file=sys.stdout):
            self._say(text)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / "train.log", "a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError:
            pass

    def open(self, resumed_step: int | None) -> None:
        """Begin the metrics file anew, or cut it back to the step that a resumed run goes on from."""
        if not self.active:
            return
        if resumed_step is None:
            put_aside(self.weights, self.say)
        self.metrics = MetricsLog(self.folder / "metrics.jsonl", resumed_step)

    def mirror_to_wandb(self, project: str, config: dict[str, Any]) -> None:
        """Send the same numbers to wandb from now on."""
        if self.active:
            self.wandb = WandbMirror(project, self.weights.stem, self.folder, config, self.say)

    def write(self, row: dict[str, Any]) -> None:
        """A line of metrics."""
        if self.metrics is not None:
            self.metrics.write(**row)
            if self.wandb is not None:
                self.wandb.write(**row)

    def save(self, model: nn.Module, facts: dict[str, Any], step: int, state: dict[str, Any]) -> bool:
        """Weights, facts and the state to resume from; False when the disk refused."""
        if self.metrics is None:
            return False
        try:
            checkpoint.save_weights(model, self.weights, facts, self.tokenizer)
            checkpoint.write_state(self.folder, step, state)
            return True
        except OSError as error:
            self.say(f"Saving failed ({error.strerror or error}); the last checkpoint is untouched, training goes on.")
            return False

    def snapshot(self, name: str, model: nn.Module, facts: dict[str, Any]) -> None:
        """A copy of the weights of this moment, as snapshots/NAME.pth."""
        if self.metrics is None:
            return
        try:
            path = self.folder / "snapshots" / f"{name}.pth"
            checkpoint.save_weights(model, path, facts | {"snapshot": name}, self.tokenizer)
        except OSError as error:
            self.say(f"Snapshot {name} was not saved ({error.strerror or error}); training goes on.")

    def close(self) -> None:
        """Close what is open."""
        for thing in (self.metrics, self.wandb):
            if thing is not None:
                thing.close()
        self.metrics = self.wandb = None


def put_aside(weights: Path, say: Callable[[str], None]) -> None:
    """Move a run that is in the way to `previous/` in the same folder; only the last one is kept there."""
    folder = checkpoint.run_folder(weights)
    if not weights.exists() and not (folder / "metrics.jsonl").exists():
        return
    aside = weights.parent / "previous"
    aside.mkdir(parents=True, exist_ok=True)
    for thing in (weights, folder):
        old = aside / thing.name
        shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
        if thing.exists():
            shutil.move(thing, old)
    say(f"An earlier run lay in {shown(weights)}; it was moved to {shown(aside)}.")

"""Numbers of a run, always in metrics.jsonl beside its weights: one line per optimizer update, one per held-out look.

Taught in notebook 06. Left out: wandb, which shows the same numbers elsewhere (wandb_mirror.py).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .paths import shown


class MetricsLog:
    """Appends dictionaries to a JSON-lines file; lines past `last_step` are cut off first when a run is resumed."""

    def __init__(self, path: str | Path, last_step: int | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if last_step is None else [r for r in read_metrics(self.path) if r["step"] <= last_step]
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        unfinished.write_text("".join(_line(row) for row in kept), encoding="utf-8")
        os.replace(unfinished, self.path)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run

    def write(self, **row: Any) -> None:
        """Add a line; readers see it at once."""
        self.file.write(_line(row))
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All lines of a metrics file, oldest first; a last line that is being written is left out.

    Raises CheckpointError, naming the line, for a file that is not metrics.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip() or number == len(lines):
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise CheckpointError(f"{shown(path)}, line {number}: not a line of metrics: {line[:60]!r}.")
        rows.append(row)
    return rows

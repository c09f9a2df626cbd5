"""Numbers of a run, always in metrics.jsonl beside its weights: one line per optimizer update, one per held-out look.

Taught in notebook 06. Left out: wandb, which shows the same numbers elsewhere (wandb_mirror.py).
"""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .files import atomic_write
from .paths import shown


class MetricsLog:
    """Appends dictionaries to a JSON-lines file; lines past `last_step` are cut off first when a run is resumed.

    A full disk loses nothing: lines wait in memory and are written as soon as there is room. The file holds whole
    lines only, but for one that is being written.
    """

    def __init__(self, path: str | Path, last_step: int | None = None) -> None:
        self.path = Path(path)
        self.kept = [] if last_step is None else [row for row in read_metrics(self.path) if row["step"] <= last_step]
        self.text = bytearray(b"".join(map(_line, self.kept)))  # all lines, should the file be removed meanwhile
        self._begin()
        self.waiting = b""

    def _begin(self) -> None:
        atomic_write(self.path, bytes(self.text))
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
        self.size = self.file.tell()

    def missing(self, last_step: int) -> int:
        """How many of the updates up to `last_step`, from which the run goes on, have no line in the file."""
        return last_step - len({row["step"] for row in self.kept if "lr" in row})

    def has_look(self, step: int) -> bool:
        """Whether the lines from before hold the held-out loss of that update."""
        return any(row["step"] == step and "held_out_loss" in row for row in self.kept)

    def write(self, **row: Any) -> None:
        """Add a line; readers see it at once, or once there is room on the disk."""
        self.waiting += _line(row)
        with suppress(OSError):  # tried again with the next line, and before each save
            self._write_waiting()

    def flush(self) -> None:
        """Put all lines on the disk for good; raises OSError when it refuses.

        Where the file was removed or cut since, it is made again.
        """
        self._write_waiting()
        try:
            there = os.stat(self.path)
            gone = not os.path.samestat(there, os.fstat(self.file.fileno())) or there.st_size < self.size
        except FileNotFoundError:
            gone = True
        if gone:
            self.file.close()
            self._begin()
        os.fsync(self.file.fileno())

    def _write_waiting(self) -> None:
        try:
            written = 0
            while written < len(self.waiting):
                written += self.file.write(self.waiting[written:])
        except OSError:
            self.file.truncate(self.size)  # no half line in the middle of the file
            raise
        self.size += len(self.waiting)
        done, self.waiting = self.waiting, b""
        self.text += done

    def close(self) -> None:
        with suppress(OSError):
            self._write_waiting()
        self.file.close()


def _line(row: dict[str, Any]) -> bytes:
    """A row as JSON; a number that is not finite, which JSON has no word for, as null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return (json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All lines of a metrics file, oldest first; a last line that is not whole, being written, is left out.

    A null, which stands for a number that was not finite, is read as nan. Raises CheckpointError, naming the line, for
    a file that is not metrics.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(f"{shown(path)} cannot be read: {error.strerror or error}.") from None
    rows = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if number == len(lines) and not isinstance(row, dict):
            continue
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise CheckpointError(
                f"{shown(path)}, line {number}: not a line of metrics: {line[:60]!r}. Mend or remove that line."
            )
        rows.append({key: math.nan if value is None else value for key, value in row.items()})
    return rows

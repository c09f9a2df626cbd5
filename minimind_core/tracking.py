"""Numbers of a run: always to metrics.jsonl beside the weights, and to wandb when asked.

One line per optimizer update, one per look at the held-out loss. wandb is a mirror: without a key it writes an offline
run that can be sent later, it never asks anything, and when it fails the run goes on. Taught in notebook 06.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
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


class WandbMirror:
    """The same numbers in wandb, with the optimizer update as its step; silent and harmless when wandb cannot work."""

    def __init__(
        self, project: str, name: str, folder: Path, config: dict[str, Any], say: Callable[[str], None]
    ) -> None:
        self.run = None
        try:
            import wandb

            key = os.environ.get("WANDB_API_KEY") or _key_in_netrc()
            mode = os.environ.get("WANDB_MODE") or ("online" if key else "offline")
            settings = wandb.Settings(silent=True, init_timeout=10, console="off")
            self.run = wandb.init(
                project=project, name=name, dir=str(folder), config=config, mode=mode, settings=settings
            )
            if mode == "offline":
                say(f"wandb: offline (no key); send the run later with: wandb sync {shown(Path(self.run.dir).parent)}")
            elif self.run.url:
                say(f"wandb: {self.run.url}")
        except Exception as error:  # whatever it is, training is worth more than its mirror
            say(f"wandb is not used ({type(error).__name__}); metrics are in {shown(folder / 'metrics.jsonl')}.")

    def write(self, step: int, **values: float) -> None:
        if self.run is not None:
            try:
                self.run.log(values, step=step)
            except Exception:
                self.run = None

    def close(self) -> None:
        if self.run is not None:
            try:
                self.run.finish()
            except Exception:
                self.run = None


def _key_in_netrc() -> bool:
    import netrc

    for name in (".netrc", "_netrc"):
        try:
            return any("wandb" in host for host in netrc.netrc(str(Path.home() / name)).hosts)
        except (OSError, netrc.NetrcParseError):
            continue
    return False

"""The numbers of a run in wandb as well, when asked.

A mirror of metrics.jsonl: without a key it writes an offline run that can be sent later, it never asks anything, and
when it fails the run goes on. Taught in notebook 06.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .paths import shown


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

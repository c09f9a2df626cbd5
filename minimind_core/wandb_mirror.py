"""The numbers of a run in wandb as well, when asked.

A mirror of metrics.jsonl that may fail in any way without touching the run: without a key, a network or an accepted
key it writes an offline run, which `wandb sync` sends later; it asks nothing and waits for nothing longer than a few
seconds. The key, the server's name and the machine's name stay out of what is printed and written. Taught in
notebook 06.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import string
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from .paths import shown
from .wandb_server import (
    FINISH_SECONDS,
    OFFLINE_SECONDS,
    PRIVATE,
    PUBLIC_SERVERS,
    find_server,
    settings_for,
    who_says,
    within,
)

ONLINE_SECONDS = 5  # for going online in all; then the run is an offline one
ROW_SECONDS = 3  # for one row, which takes less than a millisecond where the helper process is well


class WandbMirror:
    """The same numbers in wandb, with the optimizer update as its step; harmless when wandb cannot work.

    With `resumed`, the run goes on under the id that is kept in its folder; else it gets a new one.
    """

    def __init__(
        self,
        project: str,
        name: str,
        folder: Path,
        config: dict[str, Any],
        say: Callable[[str], None],
        resumed: bool = False,
    ) -> None:
        self.run: Any = None
        self._folder, self._say, self._online = folder, say, False
        self._failure: Exception | None = None
        self._last = folder / "wandb" / "last_step.txt"  # a run goes back to its last save; its rows in wandb don't
        self._seen = self._step = _number_in(self._last) if resumed else -1
        self._wandb: ModuleType | None = None
        self._helpers_before = _helpers()
        try:
            with _surroundings():
                import wandb

                self._wandb = wandb
                run_id = _run_id(folder / "wandb" / "run_id.txt", resumed)
                self._start(wandb, project=project, name=name, id=run_id, resume="allow", config=_without_home(config))
        except Exception as error:  # whatever it is, training is worth more than its mirror
            say(f"wandb is not used ({_kind(error)}); metrics are in {shown(folder / 'metrics.jsonl')}.")
            self._shut_down()
        _remove_logs(folder)

    def _start(self, wandb: ModuleType, **what: Any) -> None:
        """Online where the server takes the run within seconds, else offline; says which, and why."""
        server = find_server(wandb)
        started = time.monotonic()
        why = server.why_offline()
        if server.mode == "disabled":
            self._say(f"wandb: disabled ({who_says()}); metrics are in {shown(self._folder / 'metrics.jsonl')}.")
            return
        if not why:
            try:
                self._init(wandb, server.mode, ONLINE_SECONDS - (time.monotonic() - started), what)
                self._online = True
                public = server.url in PUBLIC_SERVERS
                self._say(f"wandb: {self.run.url}" if public else "wandb: sending to the server that is configured.")
                return
            except Exception as error:
                refused = type(error).__name__ == "AuthenticationError"
                why = "the key was not accepted" if refused else "the server did not take the run"
                self._shut_down()
        self._init(wandb, "offline", OFFLINE_SECONDS, what)
        self._say(f"wandb: offline ({why}); send the run later with: {self._sync_command()}")

    def _init(self, wandb: ModuleType, mode: str, seconds: float, what: dict[str, Any]) -> None:
        """`wandb.init`, given up after some seconds; what a failed attempt left is removed."""
        before = set(self._folder.glob("wandb/*"))
        settings = settings_for(wandb, **PRIVATE, init_timeout=max(seconds, 1))
        try:
            self.run = within(
                max(seconds, 1) + 2,
                lambda: wandb.init(dir=str(self._folder), mode=mode, settings=settings, **what),
            )
        except Exception:
            for path in set(self._folder.glob("wandb/*run-*")) - before:
                shutil.rmtree(path, ignore_errors=True)
            raise
        with suppress(AttributeError):  # in a notebook it would keep a copy of every picture that is shown
            wandb.jupyter.Notebook.save_display = lambda *_: None

    def _sync_command(self, *options: str) -> str:
        return " ".join(["wandb sync", *options, shlex.quote(shown(self._folder / "wandb"))])

    def write(self, step: int, **values: Any) -> None:
        """A row at this step; rows of the same step become one.

        What is None is left out, as wandb can't draw it; so are steps that wandb has from before the run was resumed.
        """
        if self.run is None or self._failure or step <= self._seen:
            return
        row = {name: value for name, value in values.items() if value is not None and not name.startswith("_")}
        try:
            within(ROW_SECONDS, lambda: self.run.log(row, step=step))
            if step > self._step:
                self._remember(self._step)  # the row before is complete only now
                self._step = step
        except Exception as error:
            self._failure = error
            self._say(f"wandb stopped working ({_kind(error)}); metrics go on in {shown(self._folder)}.")

    def _remember(self, step: int) -> None:
        with suppress(OSError):
            self._last.write_text(f"{step}\n", encoding="utf-8")

    def close(self) -> None:
        """Send the rest, for some seconds at most, and leave no process behind."""
        run, self.run = self.run, None
        if run is not None and not isinstance(self._failure, TimeoutError):
            try:
                within(FINISH_SECONDS + 3, run.finish)
                self._remember(self._step)
            except Exception:
                if self._online:
                    command = self._sync_command("--include-online")
                    self._say(f"wandb did not get everything in time; send the rest with: {command}")
                elif not self._failure:
                    self._say(f"wandb may lack the last rows; all are in {shown(self._folder / 'metrics.jsonl')}.")
        self._shut_down()
        _remove_logs(self._folder)

    def _shut_down(self) -> None:
        """End the helper process that wandb started for this run; kill it where it does not end."""
        if self._wandb is not None and getattr(self._wandb, "run", None) is None:
            with suppress(Exception):
                within(3, self._wandb.teardown)
        mine = _helpers() - self._helpers_before
        for process in mine:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(mine, timeout=3)


# --- small things -------------------------------------------------------------------------------------------------


@contextmanager
def _surroundings() -> Iterator[None]:
    """What wandb finds and leaves when it starts: no word, no reports to its makers, no search for the notebook.

    It also puts functions of its own in the place of sys.exit and sys.excepthook, which go back to what they were.
    """
    ours = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_NOTEBOOK_NAME": os.curdir}
    if os.environ.get("WANDB_API_KEY"):
        ours["WANDB_API_KEY"] = os.environ["WANDB_API_KEY"].strip()  # wandb refuses a key with a line break
    theirs = {name: os.environ.get(name) for name in ours}
    endings = sys.exit, sys.excepthook
    os.environ.update(ours)
    try:
        yield
    finally:
        sys.exit, sys.excepthook = endings
        for name, value in theirs.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _run_id(path: Path, resumed: bool) -> str:
    """The id kept in the run's folder, for a resumed run; else a new one, which is kept there."""
    with suppress(OSError, UnicodeDecodeError):
        if resumed and re.fullmatch(r"[\w-]{1,64}", kept := path.read_text(encoding="utf-8").strip()):
            return kept
    letters = string.ascii_lowercase + string.digits
    new = os.environ.get("WANDB_RUN_ID") or "".join(secrets.choice(letters) for _ in range(8))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new + "\n", encoding="utf-8")
    return new


def _number_in(path: Path) -> int:
    with suppress(OSError, ValueError):
        return int(path.read_text(encoding="utf-8"))
    return -1


def _without_home(value: Any) -> Any:
    """The same configuration with ~ for the home folder, whose name is often the user's."""
    if isinstance(value, dict):
        return {name: _without_home(item) for name, item in value.items()}
    home = str(Path.home())
    if isinstance(value, str) and (value == home or value.startswith(home + os.sep)):
        return "~" + value[len(home) :]
    return value


def _remove_logs(folder: Path) -> None:
    """wandb's own logs name the server and the machine; an open file goes on being written to, but has no name."""
    for path in folder.glob("wandb/*/logs"):
        shutil.rmtree(path, ignore_errors=True)


def _helpers() -> set[psutil.Process]:
    """The helper processes of wandb that this process has started."""
    found = set()
    with suppress(psutil.Error):
        for process in psutil.Process().children():
            with suppress(psutil.Error):
                if process.name().startswith("wandb-core"):
                    found.add(process)
    return found


def _kind(error: Exception) -> str:
    """What kind of error it is; its text may name the server, so it is not repeated."""
    absent = isinstance(error, ModuleNotFoundError) and error.name == "wandb"
    return "not installed" if absent else type(error).__name__

"""The numbers of a run in wandb as well, when asked.

A mirror of metrics.jsonl that may fail in any way without touching the run: without a key, a network or an accepted
key it writes an offline run, which `wandb sync` sends later; it asks nothing and waits for nothing longer than a few
seconds. The key, the server's name and the machine's name stay out of what is printed and written. Taught in
notebook 06.
"""

from __future__ import annotations

import base64
import json
import netrc
import os
import re
import secrets
import shlex
import shutil
import ssl
import string
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import psutil

from .paths import shown

PROBE_SECONDS = 3  # for the first answer of the server, the look-up of its name included
ONLINE_SECONDS = 5  # for going online in all; then the run is an offline one
OFFLINE_SECONDS = 30  # nothing is waited for here but a busy machine
ROW_SECONDS = 3  # for one row, which takes less than a millisecond where the helper process is well
FINISH_SECONDS = 8  # for sending the rest at the end
PUBLIC_SERVERS = ("https://api.wandb.ai", "https://api.forge.coreweave.com")

# Nothing about the machine, the user or the code belongs into the run; and nothing but this course prints.
PRIVATE = {
    "host": "",
    "username": "",
    "email": "",
    "program": "",
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "label_disable": True,
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_viewer": True,
    "x_save_requirements": False,
    "silent": True,
    "quiet": True,
    "show_errors": False,
    "show_info": False,
    "show_warnings": False,
    "symlink": False,
    "use_dot_wandb": False,
    "sagemaker_disable": True,
    "x_service_wait": 15,
    "x_transaction_log_flush_interval": 1.0,  # what a killed run loses, at most
    "finish_timeout": FINISH_SECONDS,
    "finish_timeout_raises": True,
    "reinit": "create_new",  # a run that the learner has open in the same notebook stays open, and separate
}


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
        server = _find_server(wandb)
        started = time.monotonic()
        why = server.why_offline()
        if server.mode == "disabled":
            self._say(f"wandb: disabled ({_who_says()}); metrics are in {shown(self._folder / 'metrics.jsonl')}.")
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
        settings = _settings(wandb, **PRIVATE, init_timeout=max(seconds, 1))
        try:
            self.run = _within(
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
            _within(ROW_SECONDS, lambda: self.run.log(row, step=step))
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
                _within(FINISH_SECONDS + 3, run.finish)
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
                _within(3, self._wandb.teardown)
        mine = _helpers() - self._helpers_before
        for process in mine:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(mine, timeout=3)


# --- the server and the key ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Server:
    """Where wandb would send a run to, with what, as the environment and wandb's own settings say."""

    mode: str
    url: str
    key: str | None
    token: bool  # a file with an identity token takes the place of a key
    proxies: dict[str, str]

    def why_offline(self) -> str | None:
        """Why the run can't be sent now, in words; None where nothing speaks against it."""
        if self.mode in ("offline", "dryrun"):
            return _who_says()
        if self.mode == "disabled":
            return None
        if not self.key and not self.token:
            return "no key"
        try:
            return _within(PROBE_SECONDS, self._probe)
        except TimeoutError:
            return "the server did not answer in time"

    def _probe(self) -> str | None:
        """Ask the server whose key this is. Only plain answers count: wandb itself may know what is odd."""
        request = urllib.request.Request(
            f"{self.url}/graphql", json.dumps({"query": "query Viewer { viewer { id } }"}).encode()
        )
        request.add_header("Content-Type", "application/json")
        if self.key:
            request.add_header("Authorization", "Basic " + base64.b64encode(f"api:{self.key}".encode()).decode())
        proxies = urllib.request.ProxyHandler({**urllib.request.getproxies(), **self.proxies})
        try:
            with urllib.request.build_opener(_Stay, proxies).open(request, timeout=PROBE_SECONDS) as answer:
                viewer = json.loads(answer.read(100_000))["data"]["viewer"]
            return "the key was not accepted" if self.key and viewer is None else None
        except urllib.error.HTTPError as error:
            if error.code in (401, 403) and self.key:
                return "the key was not accepted"
            return f"the server answers with error {error.code}" if error.code >= 500 else None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                return "the server did not answer in time"
            return None if isinstance(error.reason, ssl.SSLError) else "the server cannot be reached"
        except TimeoutError:
            return "the server did not answer in time"
        except (OSError, HTTPException):
            return "the server cannot be reached"
        except (ValueError, KeyError, TypeError):
            return None


def _who_says() -> str:
    return "as WANDB_MODE says" if os.environ.get("WANDB_MODE") else "as wandb's settings say"


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key is for one server."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _find_server(wandb: ModuleType) -> _Server:
    known: Any = None
    if hasattr(wandb, "setup"):
        known = getattr(_within(OFFLINE_SECONDS, lambda: wandb.setup(_settings(wandb, **PRIVATE))), "settings", None)
    url = (getattr(known, "base_url", None) or os.environ.get("WANDB_BASE_URL") or PUBLIC_SERVERS[0]).rstrip("/")
    return _Server(
        mode=os.environ.get("WANDB_MODE") or getattr(known, "mode", None) or "online",
        url=url,
        key=os.environ.get("WANDB_API_KEY") or getattr(known, "api_key", None) or _key_in_netrc(url),
        token=bool(getattr(known, "identity_token_file", None)),
        proxies={s: p for s in ("http", "https") if (p := getattr(known, f"{s}_proxy", None))},
    )


def _key_in_netrc(url: str) -> str | None:
    """The key that `wandb login` left for this server."""
    home = Path.home()
    paths = [Path(p).expanduser() for p in [os.environ.get("NETRC")] if p] or [home / ".netrc", home / "_netrc"]
    hosts = [urlsplit(url).netloc] + [urlsplit(public).netloc for public in PUBLIC_SERVERS if url in PUBLIC_SERVERS]
    for path in paths:
        with suppress(OSError, netrc.NetrcParseError):
            entries = netrc.netrc(str(path))
            return next((entry[2] for host in hosts if (entry := entries.authenticators(host)) and entry[2]), None)
    return None


# --- small things -------------------------------------------------------------------------------------------------


def _within(seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` gives, or raises; TimeoutError after some seconds, with the work left to a thread of its own."""
    result: dict[str, Any] = {}

    def run() -> None:
        try:
            result["value"] = work()
        except BaseException as error:
            result["error"] = error

    thread = threading.Thread(target=run, daemon=True, name="wandb mirror")
    thread.start()
    thread.join(seconds)
    if not result:
        raise TimeoutError
    if "error" in result:
        error = result["error"]
        raise error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
    return result["value"]


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


def _settings(wandb: ModuleType, **wanted: Any) -> Any:
    """wandb's settings, without those that the installed version does not know."""
    accepted = {}
    for name, value in wanted.items():
        with suppress(Exception):
            wandb.Settings(**{name: value})
            accepted[name] = value
    return wandb.Settings(**accepted)


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

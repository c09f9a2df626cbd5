"""Where wandb would send a run, whether it can be sent now, and with which settings: answered within seconds.

Asked before wandb itself is, which would wait, retry or prompt. Left out: the run (wandb_mirror.py).
"""

from __future__ import annotations

import base64
import json
import netrc
import os
import ssl
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from .hosts import within

PROBE_SECONDS = 3  # for the first answer of the server, the look-up of its name included
OFFLINE_SECONDS = 30  # nothing is waited for here but a busy machine
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


@dataclass(frozen=True)
class Server:
    """Where wandb would send a run to, with what, as the environment and wandb's own settings say."""

    mode: str
    url: str
    key: str | None
    token: bool  # a file with an identity token takes the place of a key
    proxies: dict[str, str]

    def why_offline(self) -> str | None:
        """Why the run can't be sent now, in words; None where nothing speaks against it."""
        if self.mode in ("offline", "dryrun"):
            return who_says()
        if self.mode == "disabled":
            return None
        if not self.key and not self.token:
            return "no key"
        try:
            return within(PROBE_SECONDS, self._probe)
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


def who_says() -> str:
    return "as WANDB_MODE says" if os.environ.get("WANDB_MODE") else "as wandb's settings say"


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key is for one server."""

    def redirect_request(self, *_: Any) -> None:
        return None


def find_server(wandb: ModuleType) -> Server:
    known: Any = None
    if hasattr(wandb, "setup"):
        known = getattr(within(OFFLINE_SECONDS, lambda: wandb.setup(settings_for(wandb, **PRIVATE))), "settings", None)
    url = (getattr(known, "base_url", None) or os.environ.get("WANDB_BASE_URL") or PUBLIC_SERVERS[0]).rstrip("/")
    return Server(
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


def settings_for(wandb: ModuleType, **wanted: Any) -> Any:
    """wandb's settings, without those that the installed version does not know."""
    accepted = {}
    for name, value in wanted.items():
        with suppress(Exception):
            wandb.Settings(**{name: value})
            accepted[name] = value
    return wandb.Settings(**accepted)

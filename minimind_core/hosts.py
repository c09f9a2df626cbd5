"""Does a host answer, within a time that holds whatever the network does? Asked by the doctor (doctor.py).

Anything else that may hang is asked within such a time as well (wandb_server.py).
"""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

HOST_SECONDS = 3.0  # for the first answer of a host, the look-up of its name included


def answer_of(host: str) -> float | str:
    """Seconds until a host says anything, even a refusal; words on why not, after HOST_SECONDS at most.

    The look-up of its name and all its addresses share that time, which urlopen's own limit does not see to.
    """
    started = time.perf_counter()
    try:
        within(HOST_SECONDS, lambda: _ask(host))
    except urllib.error.HTTPError:
        pass  # a refusal is an answer
    except Exception as error:  # whatever a network, a proxy or a stranger on that port comes up with
        late = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
        return f"does not answer within {HOST_SECONDS:.0f} s" if late else "cannot be reached"
    return time.perf_counter() - started


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` gives, or raises; TimeoutError after some seconds, with the work left to a thread of its own."""
    result: dict[str, Any] = {}

    def run() -> None:
        try:
            result["value"] = work()
        except BaseException as error:
            result["error"] = error

    thread = threading.Thread(target=run, daemon=True, name="within some seconds")
    thread.start()
    thread.join(seconds)
    if not result:
        raise TimeoutError
    if "error" in result:
        error = result["error"]
        raise error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
    return result["value"]


def _ask(host: str) -> None:
    request = urllib.request.Request(host, method="HEAD", headers={"User-Agent": "minimind-course"})
    with urllib.request.urlopen(request, timeout=HOST_SECONDS):
        pass

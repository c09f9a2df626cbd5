"""Runs a command and writes into its log when it began and how it ended, which a killed process cannot do itself.

`start_run` (runs.py) puts it in front of a training run, so that the run outlives the notebook and its end has a
reason. It is a small process that sleeps; torch is not loaded here.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(
    r"^== (?:began (?P<began>[\d-]+ [\d:]+)|ended [\d-]+ [\d:]+), process (?P<pid>\d+)"
    r"(?:, status (?P<status>-?\d+))?.*\n?",
    re.MULTILINE,
)
_TIME = "%Y-%m-%d %H:%M:%S"
READ_AT_MOST = 200_000  # bytes from the end of a log


@dataclass(frozen=True)
class LastStart:
    """The last start that a log tells of: the supervisor's process number, what was said since, how it ended.

    `began` is the time in seconds since the epoch. `status` is None while it goes on, or where nobody was left to write
    it down; 0 after a good end, negative for the number of a signal.
    """

    pid: int
    began: float
    status: int | None
    said: str


def main(argv: list[str] | None = None) -> int:
    """`python -m minimind_core.supervisor LOG COMMAND …`: run the command, its output in LOG; returns its status."""
    path, *command = sys.argv[1:] if argv is None else argv
    with open(path, "ab", buffering=0) as log:
        started = time.time()
        try:
            child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        except OSError as error:
            log.write(f"error: {command[0]} could not be started: {error.strerror or error}.\n".encode())
            return 2
        log.write(f"== began {_stamp()}, process {child.pid}: {' '.join(command[1:])}\n".encode())
        _pass_on_signals(child)
        status = child.wait()
        took = time.time() - started
        log.write(f"== ended {_stamp()}, process {child.pid}, status {status}, after {took:.0f} s\n".encode())
    return status


def _stamp() -> str:
    return time.strftime(_TIME)


def _pass_on_signals(child: subprocess.Popen) -> None:
    """What asks this process to end asks the run to end; this one stays to write down how."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: child.send_signal(number))


def last_start(path: str | Path) -> LastStart | None:
    """The start in a log that matters: the last one that has no end yet, else the one that ended last; None if none.

    Of two starts at once, the second is refused within seconds: it is not taken for the end of the first.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(0, Path(path).stat().st_size - READ_AT_MOST))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    lines = list(_LINE.finditer(text))
    begins = {line["pid"]: line for line in lines if line["began"]}
    ends = {line["pid"]: line for line in lines if not line["began"]}
    going = [pid for pid, line in begins.items() if pid not in ends or ends[pid].start() < line.start()]
    ended = [line["pid"] for line in lines if not line["began"] and line["pid"] in begins]
    if not going and not ended:
        return None
    pid = (going or ended)[-1]
    begin, end = begins[pid], None if going else ends[pid]
    said = _LINE.sub("", text[begin.end() : end.start() if end else len(text)])
    began = time.mktime(time.strptime(begin["began"], _TIME))
    return LastStart(int(pid), began, int(end["status"]) if end else None, said)


def in_words(status: int) -> str:
    """A process's status: 'status 2', or the name of the signal that ended it."""
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


if __name__ == "__main__":
    raise SystemExit(main())

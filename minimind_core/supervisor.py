"""Runs a command and writes into its log when it began and how it ended, which a killed process cannot do itself.

`start_run` (runs.py) puts it in front of a training run, so that the run outlives the notebook and its end has a
reason. It is a small process that sleeps; torch is not loaded here.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import psutil

_LINE = re.compile(
    r"^== (?:began (?P<began>[\d-]+ [\d:+-]+), process (?P<starts>\d+)(?:, watched by (?P<watcher>\d+))?: "
    r"(?P<command>.*)"
    r"|ended (?P<ended>[\d-]+ [\d:+-]+), process (?P<ends>\d+), status (?P<status>-?\d+).*)\n?",
    re.MULTILINE,
)
REFUSED = "is being trained by another process"  # said by the second of two starts, which changes nothing
READ_FIRST = 200_000  # bytes from the end of a log; more where no start stands in them
SAID_AT_MOST = 50_000  # characters of what a run said
OUT_OF_SIGHT = 5.0  # seconds by which a process's start may differ from what its log says


@dataclass(frozen=True)
class LastStart:
    """The last start that a log tells of: the process's number, its command, what was said since, how it ended.

    `began` and `ended` are times in seconds since the epoch. `status` is None while it goes on, or where nobody was
    left to write it down; 0 after a good end, negative for the number of a signal.
    """

    pid: int
    watcher: int | None
    command: tuple[str, ...]
    began: float
    ended: float | None = None
    status: int | None = None
    said: str = ""

    @property
    def is_going(self) -> bool:
        """Whether its process lives."""
        return self.status is None and is_process(self.pid, self.began)

    @property
    def will_be_noted(self) -> bool:
        """Whether its process has just ended and the one that watches it is about to write down how."""
        return self.status is None and self.watcher is not None and is_process(self.watcher, self.began)

    def flags(self) -> dict[str, str]:
        """The flags of its command, `--name value` by name."""
        words = list(self.command)
        return {word[2:]: value for word, value in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}


def is_process(pid: int, began: float) -> bool:
    """Whether the process that began then lives, and is not another that got its number since."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - began) < OUT_OF_SIGHT
    return False


def main(argv: list[str] | None = None) -> int:
    """`python -m minimind_core.supervisor LOG COMMAND …`: run the command, its output in LOG; returns its status.

    Where the log cannot be written at the beginning, nothing is run; where it cannot at the end, the run is not hurt.
    """
    path, *command = sys.argv[1:] if argv is None else argv
    with open(path, "ab", buffering=0) as log:
        started = time.time()
        try:
            child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        except OSError as error:
            log.write(f"error: {command[0]} could not be started: {error.strerror or error}.\n".encode())
            return 2
        try:
            words = shlex.join(command[1:])
            _note(log, f"== began {_stamp(time.time())}, process {child.pid}, watched by {os.getpid()}: {words}")
        except OSError:
            child.kill()
            child.wait()
            return 2
        _pass_on_signals(child)
        status = child.wait()
        took = time.time() - started
        with suppress(OSError):
            _note(log, f"== ended {_stamp(time.time())}, process {child.pid}, status {status}, after {took:.0f} s")
    return status


def _note(log: BinaryIO, text: str) -> None:
    """A line of our own. What was said before may have been cut in the middle of a line, by a kill or a full disk."""
    with open(log.name, "rb") as written:
        cut = written.seek(0, os.SEEK_END) > 0 and written.seek(-1, os.SEEK_END) >= 0 and written.read(1) != b"\n"
    line = f"{chr(10) if cut else ''}{text}\n".encode()
    if log.write(line) != len(line):
        raise OSError("the log's disk is full")


def _stamp(seconds: float) -> str:
    """Local time with its distance from UTC: where clocks are set back, an hour comes twice."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()  # local time, where a log says no more


def _pass_on_signals(child: subprocess.Popen) -> None:
    """What asks this process to end asks the run to end; this one stays to write down how."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: _send(child, number))


def _send(child: subprocess.Popen, number: int) -> None:
    with suppress(ValueError, OSError):  # Windows can send few signals
        child.send_signal(number)


def last_start(path: str | Path) -> LastStart | None:
    """The last start in a log that was not refused because another process had the run; None if there is none."""
    starts = _starts(_end_of(path))
    return next((start for start in reversed(starts) if not _was_refused(start)), None)


def _was_refused(start: LastStart) -> bool:
    return start.status == 2 and REFUSED in start.said


def _end_of(path: str | Path) -> str:
    """The end of a log, as much of it as it takes to hold a start that was not refused."""
    size, text = READ_FIRST, ""
    try:
        with open(path, "rb") as file:
            whole = file.seek(0, 2)
            while True:
                file.seek(max(0, whole - size))
                text = file.read(size).decode("utf-8", errors="replace")
                if size >= whole or not all(map(_was_refused, _starts(text))):
                    return text
                size *= 8
    except OSError:
        return ""


def _starts(text: str) -> list[LastStart]:
    """Each start in a log, in its order, with its end where it has one."""
    starts: list[LastStart] = []
    spans: list[tuple[int, int]] = []  # where the text of each start lies
    for line in _LINE.finditer(text):
        if line["began"]:
            watcher = int(line["watcher"]) if line["watcher"] else None
            starts.append(LastStart(int(line["starts"]), watcher, _words(line["command"]), _seconds(line["began"])))
            spans.append((line.end(), len(text)))
            continue
        for place in reversed(range(len(starts))):
            start = starts[place]
            if start.pid == int(line["ends"]) and start.status is None:
                starts[place] = replace(start, ended=_seconds(line["ended"]), status=int(line["status"]))
                spans[place] = (spans[place][0], line.start())
                break
    return [replace(start, said=_said(text, span, spans)) for start, span in zip(starts, spans, strict=True)]


def _said(text: str, span: tuple[int, int], spans: list[tuple[int, int]]) -> str:
    """What stands in a start's span, without the other starts that lie inside of it."""
    at, end = span
    parts = []
    for other_begin, other_end in sorted(other for other in spans if at < other[0] and other[1] < end):
        parts.append(text[at:other_begin])
        at = max(at, other_end)
    return _LINE.sub("", "".join([*parts, text[at:end]]))[-SAID_AT_MOST:]


def _words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError:  # a quote that is not closed: no line of ours
        return ()


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

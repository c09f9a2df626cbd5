"""How much memory a process may really use: the machine's, or less where a container or a job has a limit of its own.

Inside a container psutil counts the host's memory, but the system ends processes at the container's limit. On Linux
that limit stands in the files of the control group that this process is in, of version 1 or 2. Elsewhere, and where
nothing can be read, psutil's numbers hold. No lesson teaches it; the doctor in notebook 01 shows it. Left out: a GPU's
memory (fitting.py), and limits of single processes (`ulimit -v`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc/self/cgroup")
NO_LIMIT = 2**62  # version 1 has no word for "no limit", but a number close to 2**63


@dataclass(frozen=True)
class _Version:
    """What a version of control groups calls its files. `given_back`: lines of memory.stat, the first that is there."""

    below_root: str
    limit: str
    usage: str
    events: str
    given_back: tuple[str, ...]


_V1 = _Version(
    "memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.oom_control",
    ("total_inactive_file", "inactive_file"),
)
_V2 = _Version("", "memory.max", "memory.current", "memory.events", ("inactive_file",))


@dataclass(frozen=True)
class _Group:
    """One control group; a limit of it holds for all groups below it."""

    folder: Path
    version: _Version

    def limit(self) -> int | None:
        """Bytes that it may use; None where it has no limit, or none that can be read."""
        limit = _number(self.folder / self.version.limit)
        return limit if limit is not None and 0 < limit < NO_LIMIT else None

    def left(self) -> int | None:
        """Bytes up to its limit, with what the cache of files can give back at once; None without a limit."""
        limit = self.limit()
        if limit is None:
            return None
        used, facts = _number(self.folder / self.version.usage) or 0, _table(self.folder / "memory.stat")
        cache = next((facts[name] for name in self.version.given_back if name in facts), 0)
        return max(0, limit - max(0, used - cache))


def total_memory() -> int:
    """Bytes of memory that this process and its neighbours may use: the machine's, or the container's limit if less."""
    return container_limit() or psutil.virtual_memory().total


def free_memory() -> int:
    """Bytes of memory that are available: psutil's number, and no more than is left up to the container's limit."""
    left = [left for group in _groups() if (left := group.left()) is not None]
    return min([psutil.virtual_memory().available, *left])


def container_limit() -> int | None:
    """Bytes that a control group, this process's or one above it, allows; None where that is no less than there is."""
    limits = [limit for group in _groups() if (limit := group.limit()) is not None]
    return min(limits) if limits and min(limits) < psutil.virtual_memory().total else None


def oom_kills() -> int:
    """How many processes of this one's control group the system has ended for want of memory; 0 where unknown."""
    for group in _groups():
        kills = _table(group.folder / group.version.events).get("oom_kill")
        if kills is not None:
            return kills
    return 0


def _groups() -> list[_Group]:
    """The control groups whose limits hold for this process: its own first, then those above it, up to the root."""
    try:
        lines = PROC.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found += _from(path, _V2)
        elif "memory" in controllers.split(","):
            found += _from(path, _V1)
    return found


def _from(path: str, version: _Version) -> list[_Group]:
    """The group of that path and those above it. A path that only the host can see is the root here, in a container."""
    base, parts = ROOT / version.below_root, PurePosixPath(path).parts[1:]
    try:
        inside = ".." not in parts and base.joinpath(*parts).is_dir()
    except (OSError, ValueError):
        inside = False
    depths = range(len(parts), -1, -1) if inside else (0,)
    return [_Group(base.joinpath(*parts[:depth]), version) for depth in depths]


def _number(path: Path) -> int | None:
    """The whole number that a file holds; None for 'max', for anything else, and for a file that cannot be read."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """A file of lines `name number`; what is not of that form is passed over."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return {}
    pairs = [line.split() for line in lines]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}

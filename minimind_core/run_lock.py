"""One process per run: a lock beside the run's folder, which the kernel releases however the process ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from .errors import StorageError, TrainingError
from .paths import shown

CLOCKS_DIFFER = 1.0  # seconds between a file's time and this machine's clock
PATIENCE_SECONDS = 1.0  # a notebook that asks who holds a lock holds it itself for a moment
_held: set = set()


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Hold a run's lock. TrainingError when another process holds it, StorageError when it cannot be made."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(_lock_file(folder), "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the run
    except OSError as error:
        raise StorageError(
            f"{shown(folder)} cannot be written ({error.strerror or error}): a run keeps its files there. Choose "
            "another folder with --out_dir or MINIMIND_OUT."
        ) from None
    with file:
        until = time.monotonic() + PATIENCE_SECONDS
        while (taken := _take(file)) is False:
            if time.monotonic() > until:
                refuse_if_held(folder)
            time.sleep(0.05)
        if taken is None:
            refuse_if_held(folder)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
            with suppress(OSError):
                file.truncate(0)


def refuse_if_held(folder: str | Path) -> None:
    """TrainingError when another process trains the run of this folder."""
    holder = lock_holder(folder)
    if holder is not None:
        raise TrainingError(
            f"{shown(folder)} is being trained by another process (number {holder}). Wait for it, stop it, or choose "
            "another --out_dir."
        )


def lock_holder(folder: str | Path) -> str | None:
    """The process number that holds a run's lock, or None when nobody does.

    On a disk that knows no locks, the process that the file names, if it lives on this machine.
    """
    path = _lock_file(Path(folder))
    try:
        with open(path, "r+" if os.name == "nt" else "r", encoding="utf-8") as file:  # it may be another user's
            taken = _take(file, shared=True)
            if taken:
                return None
            holder = file.read().strip()
            if taken is False:
                return holder or "?"
            return holder if holder.isdigit() and _has_written(int(holder), path) else None
    except OSError:
        return None


def _has_written(pid: int, path: Path) -> bool:
    """Whether that process lives and began before the file was written: no other that got its number since."""
    try:
        return psutil.Process(pid).create_time() <= path.stat().st_mtime + CLOCKS_DIFFER
    except (psutil.Error, OSError):
        return False


def stop_file(folder: str | Path) -> Path:
    """A file whose presence asks the run of this folder to stop; it works on every system, and between containers."""
    folder = Path(folder)
    return folder.parent / f".{folder.name}.stop"


def wish_to_stop(folder: str | Path) -> None:
    """Ask the run of this folder to stop. The time stands in the file: a disk's own clock may be another."""
    stop_file(folder).write_text(f"{time.time():.3f}\n", encoding="utf-8")


def wished_at(folder: str | Path) -> float | None:
    """When the run of this folder was asked to stop, in seconds since the epoch; None where nobody asked."""
    wish = stop_file(folder)
    try:
        made, text = wish.stat().st_mtime, wish.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    try:
        return float(text)
    except ValueError:  # made by hand
        return made


def _lock_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _take(file, shared: bool = False) -> bool | None:
    """Take the lock of an open file without waiting; False when another has it, None on a disk that knows no locks."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(1 << 30)  # far from the text, which a locked range would hide from readers
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            finally:
                file.seek(0)
        else:
            import fcntl

            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _close_in_child() -> None:
    """A process that loads data is a copy of this one: without this it would hold the lock on after a kill."""
    for file in _held:
        os.close(file.fileno())
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)

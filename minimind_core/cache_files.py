"""The cache of encoded corpora as folders on disk: whole or not there, checked when opened, swept when left behind.

A folder is made beside its place under a hidden name, `.NAME.PROCESS`, and renamed when it is whole; meta.json in it
keeps size, time stamp and sum of each file. Nothing here knows what the files hold (encoding.py does). No lesson
teaches it: it is what lets notebook 06 start at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil

from .files import UNFINISHED, atomic_write, file_sha256

_MADE_BY, _META = "made_by", "meta.json"
_A_DAY = 24 * 3600


def stamp_of(path: Path) -> list[int]:
    """Size in bytes and time of the last change, in nanoseconds: while both are the same, so is the file."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


class ArrayFile:
    """A new file that arrays are appended to; its sum is taken as it is written, so that it need not be read again."""

    def __init__(self, path: Path) -> None:
        self.path, self.digest = path, hashlib.sha256()
        self.file = open(path, "wb")  # noqa: SIM115 - closed by `with`

    def append(self, array: np.ndarray) -> None:
        data = memoryview(np.ascontiguousarray(array)).cast("B") if array.size else b""
        self.file.write(data)
        self.digest.update(data)

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def facts(self) -> list:
        """Stamp and sum of the file, which must be closed: what meta.json keeps of it."""
        return [stamp_of(self.path), self.digest.hexdigest()]


# --- a folder that is made ------------------------------------------------------------------------------------------


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill with files, renamed to `folder` on leaving; on an error, nothing is left of it.

    Raises OSError where the disk refuses. Where another process was quicker, its folder stays: it is as good.
    """
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    remove(unfinished)
    try:
        unfinished.mkdir(parents=True)
        sweep(folder.parent)
        (unfinished / _MADE_BY).write_text(platform.node(), encoding="utf-8")
        yield unfinished
        (unfinished / _MADE_BY).unlink()
        remove(folder)
        try:
            os.replace(unfinished, folder)
        except OSError:
            if read_meta(folder) is None:
                raise
    finally:
        remove(unfinished)


def sweep(parent: Path) -> list[str]:
    """Remove what killed processes left unfinished in `parent`, and return the names.

    Another machine's processes cannot be looked up: what one of those began is left alone until it has rested for a
    day.
    """
    removed = []
    for path in parent.glob(".*"):
        match = UNFINISHED.fullmatch(path.name)
        if match and path.is_dir() and _is_left_over(path, int(match[2])):
            remove(path)
            removed.append(path.name)
    return removed


def _is_left_over(path: Path, process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        began = path.stat().st_mtime
        rested = time.time() - max([began, *(file.stat().st_mtime for file in path.iterdir())])
        if (path / _MADE_BY).is_file() and (path / _MADE_BY).read_text(encoding="utf-8") != platform.node():
            return rested > _A_DAY
        return psutil.Process(process).create_time() > began + 1  # a later process that got the same number
    except psutil.NoSuchProcess:
        return True
    except (OSError, ValueError, psutil.Error):  # it is being removed, or not ours to judge
        return False


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, or a file that has its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


# --- its facts ------------------------------------------------------------------------------------------------------


def _seal(meta: dict) -> str:
    """A sum over everything else in meta.json: with it, what stands there is what was written."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def read_meta(folder: Path) -> dict | None:
    """What meta.json says of a folder that is whole, or None.

    Files are looked at as the corpus is: read only when size or time stamp differ from those at writing.
    """
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        if meta.pop("seal") != _seal(meta):
            return None
        for name, (stamp, sha256) in meta["files"].items():
            now = stamp_of(folder / name)
            if now != stamp:
                if now[0] != stamp[0] or file_sha256(folder / name) != sha256:
                    return None
                meta["files"][name] = [now, sha256]
                update_meta(folder, meta)
        return meta
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def write_meta(folder: Path, meta: dict) -> None:
    """Write meta.json, whole or not at all. Raises OSError where the disk refuses."""
    atomic_write(folder / _META, json.dumps(meta | {"seal": _seal(meta)}).encode())


def update_meta(folder: Path, meta: dict) -> None:
    """Keep new time stamps, if the disk lets us: they only save work."""
    with suppress(OSError):
        write_meta(folder, meta)

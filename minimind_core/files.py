"""Files that are written whole or not at all, whatever stops the process or fills the disk.

A file is written beside its place under a hidden name, flushed to the disk, and renamed. What a killed process leaves
half done is never taken for the file, and is swept away by the next run. Nothing here knows what the files hold.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to disk, and rename it: readers see the old file or the new, never half."""
    with staged(path, lambda file: file.write(data)):
        pass


@contextmanager
def staged(path: str | Path, write: Callable[[BinaryIO], Any]) -> Iterator[Any]:
    """On entering, let `write(file)` fill a file beside `path`; rename it on leaving. Yields what `write` returned.

    An error in between, in `write` or in the block, leaves `path` as it was and nothing else behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(unfinished, "wb") as file:
            result = write(file)
            file.flush()
            os.fsync(file.fileno())
        yield result
        os.replace(unfinished, path)
        _flush_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut; Windows does so by itself and cannot be asked."""
    if os.name == "nt":
        return
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(number)
    except OSError:  # some network disks cannot
        pass
    finally:
        os.close(number)


UNFINISHED = re.compile(r"\.(.+)\.(\d+)")


def sweep(folder: str | Path, *names: str) -> list[str]:
    """Remove what a killed process left half written: files that `staged` began for `names` in `folder` itself.

    Without names, for any file in it or below. To be called only by the one process that may write there. Returns the
    names of the files removed.
    """
    removed = []
    for path in Path(folder).glob(".*" if names else "**/.*"):
        match = UNFINISHED.fullmatch(path.name)
        if match and path.is_file() and (not names or match[1] in names):
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


class HashedFile:
    """What torch.save may write to: passes bytes on to `file`, keeps their sha256, and remembers the first error.

    torch ends a file even after a failed write, and aborts the process when that fails too. So errors wait here until
    `done()`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.error = file, hashlib.sha256(), None

    def write(self, data) -> int:
        if self.error is None:
            try:
                self.file.write(data)
                self.digest.update(data)
            except BaseException as error:  # an interrupt too: torch would make an error of its own of it
                self.error = error
        return len(data)

    def flush(self) -> None:
        pass

    def done(self) -> bytes:
        """The sha256 of what was written; raises the error that stopped it."""
        if self.error is not None:
            raise self.error
        return self.digest.digest()


def write_torch(value: Any, file: BinaryIO) -> bytes:
    """torch.save to an open file without a copy in memory; returns the sha256 of what it wrote.

    Tensors that share memory (the tied matrix) are stored once.
    """
    hashed = HashedFile(file)
    torch.save(value, hashed)
    return hashed.done()

"""Where things lie: the project's folders, found from this file and movable by two environment variables.

`MINIMIND_DATASET` and `MINIMIND_OUT` move dataset/ and out/ to another disk (on AutoDL: /root/autodl-tmp), for the
notebooks and the command lines alike. `dataset/` keeps serving the sample corpus, which is part of the project. Also
what is said when the system refuses to read or write something.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import CourseError, StorageError

PROJECT = Path(__file__).resolve().parent.parent
SAMPLE = PROJECT / "dataset" / "sample.jsonl"
SAMPLE_VALID = PROJECT / "dataset" / "sample_valid.jsonl"


def dataset_dir() -> Path:
    """The folder that downloads land in: `$MINIMIND_DATASET`, else dataset/ in the project."""
    return Path(os.environ.get("MINIMIND_DATASET") or PROJECT / "dataset")


def out_dir() -> Path:
    """The folder for everything that runs produce: `$MINIMIND_OUT`, else out/ in the project."""
    return Path(os.environ.get("MINIMIND_OUT") or PROJECT / "out")


def shown(path: str | Path) -> str:
    """A path as a learner wants to read it: relative to the project or the working folder where it lies inside.

    Always on one line: a line break or another sign that cannot be printed is shown as it is written in Python.
    """
    path = Path(path)
    for base in (Path("."), PROJECT):
        try:
            path = path.resolve().relative_to(base.resolve())
            break
        except (ValueError, OSError, RuntimeError):  # elsewhere; the working folder is gone; links in a circle
            continue
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(path))


# --- when the system refuses ----------------------------------------------------------------------------------------

_ROOM = "Free some space, or choose another disk with --out_dir or MINIMIND_OUT."
_PLACE = "Choose another folder with --out_dir or MINIMIND_OUT, or change who may write there."
_WAY = "Move it away, or choose another folder with --out_dir or MINIMIND_OUT."
_REASONS = {
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("your share of this disk is used up (its quota)", _ROOM),
    errno.EFBIG: ("the file grew larger than this disk or `ulimit -f` allows", _ROOM),
    errno.EROFS: ("the disk is read-only", _PLACE),
    errno.EACCES: ("permission denied", _PLACE),
    errno.EPERM: ("the system does not permit it", _PLACE),
    errno.EISDIR: ("a folder has the name that a file needs", _WAY),
    errno.ENOTDIR: ("a file has the name that a folder needs", _WAY),
    errno.EEXIST: ("a file has the name that a folder needs", _WAY),
    errno.ENOTEMPTY: ("a folder that is not empty is in the way", _WAY),
    errno.ENAMETOOLONG: ("the name is too long", "Give a shorter one."),
    errno.ELOOP: ("its links lead round in a circle", "Give the file or folder itself."),
    errno.ENOENT: ("it is not there", "Look whether the folder was moved or removed."),
    errno.EMFILE: ("too many files are open", "Raise the limit (`ulimit -n 4096`), or lower --num_workers."),
    errno.ENFILE: ("too many files are open on this machine", "Close other programs, or lower --num_workers."),
    errno.EIO: ("the disk gave an input/output error", "It may be failing: copy what you need, and use another disk."),
    errno.ESTALE: ("the network disk has lost it", "Mount the disk again."),
}


def refusal(error: OSError) -> tuple[str, str] | None:
    """Why the system refused something with files, in plain words, and what to do; None for faults of other kinds."""
    return _REASONS.get(error.errno)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn the system's refusal to write `path`, or something in it, into a StorageError that says what to do."""
    try:
        yield
    except CourseError:
        raise
    except OSError as error:
        reason, what_to_do = refusal(error) or (error.strerror or str(error), _ROOM)
        raise StorageError(f"{shown(path)} cannot be written: {reason}. {what_to_do}") from None


@contextmanager
def reading(path: str | Path, kind: type[CourseError]) -> Iterator[None]:
    """Turn the system's refusal to read `path` into an error of that kind; nothing else is changed."""
    try:
        yield
    except CourseError:
        raise
    except OSError as error:
        known = {errno.EACCES: "permission denied: change who may read it", errno.EISDIR: "it is a folder"}
        reason = known.get(error.errno) or (refusal(error) or (error.strerror or str(error),))[0]
        raise kind(f"{shown(path)} could not be read: {reason}.") from None

"""Room on disk and in shared memory: what a run needs, what there is, and what it does without when there is less."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from .errors import StorageError
from .paths import shown

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Keeping:
    """What a run keeps on disk: how many states, and whether snapshots; `note` says why when it is less than usual."""

    states: int = 2
    snapshots: bool = True
    note: str | None = None


def existing_parent(path: str | Path) -> Path:
    """The nearest folder above `path`, or it itself, that exists and may be looked at."""
    path = Path(path).resolve()
    while not os.path.exists(path):  # False, too, where one may not look
        path = path.parent
    return path


def free_bytes(path: str | Path) -> int:
    """Free bytes on the disk that `path` is on, or would be."""
    return shutil.disk_usage(existing_parent(path)).free


def disk_needed(parameters: int, keeping: Keeping | None = None) -> int:
    """Bytes that a run writes at most, in float32: weights, states of three copies each, snapshots.

    Each kind of file is counted once more than it is kept, since the new one is written before the old one goes.
    """
    keeping = keeping or Keeping()
    copies = 2 + 3 * (keeping.states + 1) + 6 * keeping.snapshots
    return 4 * parameters * copies


def choose_keeping(folder: str | Path, parameters: int, goes_on: bool = False) -> Keeping:
    """What a run of that many parameters can keep in `folder`; StorageError when it could not even save its state.

    What lies there is counted as room when the run goes on (`goes_on`), since it replaces that as it goes; a new run
    moves it aside.
    """
    folder = Path(folder)
    own = [path.stat().st_size for path in folder.rglob("*") if path.is_file()] if goes_on else []
    free = free_bytes(folder) + sum(own)
    if free >= disk_needed(parameters):
        return Keeping()
    least = Keeping(states=1, snapshots=False)
    sizes = f"{free / 1e6:,.0f} MB are free for {shown(folder)}"
    if free < disk_needed(parameters, least):
        raise StorageError(
            f"too little disk: {sizes}, and a run of {parameters / 1e6:.1f}M parameters needs "
            f"{disk_needed(parameters, least) / 1e6:,.0f} MB to save itself. Free some space, or choose another disk "
            "with --out_dir or MINIMIND_OUT."
        )
    note = f"Disk: {sizes}, {disk_needed(parameters) / 1e6:,.0f} would be comfortable: one state is kept, no snapshots."
    return Keeping(1, False, note)


def loading_processes(asked: int, batch_bytes: int) -> tuple[int, str | None]:
    """How many processes may load batches, and a note when /dev/shm, through which they hand them over, is too small.

    Each keeps two batches ready and hands one over.
    """
    if not asked or not SHARED_MEMORY.is_dir():
        return asked, None
    free, needed = shutil.disk_usage(SHARED_MEMORY).free, 3 * asked * batch_bytes + (1 << 20)
    if free >= needed:
        return asked, None
    return 0, (
        f"Loading: {SHARED_MEMORY} has {free / 1e6:.1f} MB free, {asked} loading processes need {needed / 1e6:.1f}: "
        "batches are loaded in the training process (in a container, docker run --shm-size=8g gives more)."
    )

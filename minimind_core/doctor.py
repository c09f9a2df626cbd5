"""Is this machine ready? What the course needs of it, looked at one by one, each with a word on what to do.

`python -m minimind_core.preflight` prints it, and so does notebook 01. Left out: what one run needs (preflight.py).
"""

from __future__ import annotations

import os
import platform
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
import torch

from .download import MAIN_HOST, MIRROR_HOST, MODELSCOPE_HOST
from .fonts import chinese_font
from .lessons import LESSONS
from .paths import dataset_dir, out_dir, shown
from .precision import describe_device, pick_device, pick_dtype
from .storage import SHARED_MEMORY, free_bytes

MARKS = {"good": "✔", "note": "·", "bad": "✘"}
MEASURED_AT = 130e9  # operations a second of the machine on which the lessons' minutes were measured
HOST_SECONDS = 3.0
DATA_BYTES, OUT_BYTES = 3.2e9, 2.5e9  # the full corpus; its tokens, and a full run with its states


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `verdict` is good, note (worth knowing) or bad (something will not work)."""

    name: str
    verdict: str
    words: str

    def __str__(self) -> str:
        return f"{MARKS[self.verdict]} {self.name}: {self.words}"


def examine(network: bool = True) -> list[Finding]:
    """Everything that the course needs of a machine; hosts are not asked if `MINIMIND_OFFLINE` is set. Some seconds."""
    network = network and not os.environ.get("MINIMIND_OFFLINE")
    return [
        *_software(),
        *_device(),
        *_room(),
        *(_hosts((MAIN_HOST, MIRROR_HOST, MODELSCOPE_HOST)) if network else ()),
        *lessons_here(),
    ]


def _software() -> Iterable[Finding]:
    good = sys.version_info >= (3, 10)
    what = "" if good else "; the course needs 3.10 or newer"
    yield Finding(
        "Python",
        "good" if good else "bad",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}{what}",
    )
    old = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 6)
    yield Finding(
        "torch", "bad" if old else "good", torch.__version__ + ("; the course needs 2.6 or newer" if old else "")
    )
    versions, missing = [], []
    for name in ("jupyterlab", "ipykernel", "ipywidgets", "jupyterlab_widgets"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    words = ", ".join(versions)
    if missing:
        words += f"; missing in this Python: {', '.join(missing)} (make setup installs them)"
    yield Finding("notebooks and widgets", "bad" if missing else "good", words)
    yield _front_end()
    yield _font()


def _front_end() -> Finding:
    """Whether the JupyterLab of this Python can draw widgets; another one may be in use, which only a look shows."""
    place = Path(sys.prefix) / "share/jupyter/labextensions/@jupyter-widgets/jupyterlab-manager/package.json"
    if place.is_file():
        return Finding("widgets in JupyterLab", "good", "its part for widgets is installed")
    return Finding(
        "widgets in JupyterLab",
        "note",
        "its part for widgets is not in this Python. If JupyterLab runs on another one, ipywidgets has to be installed "
        "there; reload the page afterwards",
    )


def _font() -> Finding:
    name = chinese_font()
    if name:
        return Finding("Chinese in plots", "good", name)
    return Finding(
        "Chinese in plots", "note", "no font with Chinese signs: dots stand for them (apt install fonts-noto-cjk)"
    )


def _device() -> Iterable[Finding]:
    device = pick_device()
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        verdict = "good" if total > 7e9 else "note"
        yield Finding(
            "device",
            verdict,
            f"{describe_device(device)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB of its memory free",
        )
    else:
        yield Finding("device", "note", f"{describe_device(device)}: small models in minutes, the full one in days")
    yield Finding("numbers", "good", pick_dtype("auto", device)[1])


def _room() -> Iterable[Finding]:
    memory = psutil.virtual_memory()
    needed = max(lesson.laptop_gigabytes or 0 for lesson in LESSONS) * 1e9
    verdict = "good" if memory.available > 2 * needed else "note" if memory.available > needed else "bad"
    what = "" if verdict == "good" else f"; the largest notebook takes {needed / 1e9:.1f} GB, so close other programs"
    yield Finding("memory", verdict, f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f}{what}")
    for name, folder, needs, variable in (
        ("dataset", dataset_dir(), DATA_BYTES, "MINIMIND_DATASET"),
        ("out", out_dir(), OUT_BYTES, "MINIMIND_OUT"),
    ):
        free = free_bytes(folder)
        enough = free > needs
        what = "" if enough else f"; the full corpus needs {needs / 1e9:.1f}, {variable} names another disk"
        yield Finding(
            f"disk for {name}", "good" if enough else "note", f"{free / 1e9:.1f} GB free ({shown(folder)}){what}"
        )
    if SHARED_MEMORY.is_dir():
        free = free_bytes(SHARED_MEMORY)
        words = f"{free / 1e9:.1f} GB free"
        if free < 2.5e8:
            words += "; loading processes share batches there: leave --num_workers away"
        yield Finding(str(SHARED_MEMORY), "good" if free >= 2.5e8 else "note", words)


def _hosts(hosts: Iterable[str]) -> list[Finding]:
    """Whether the hosts of the corpus answer, all asked at once."""
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(answers_in, hosts))
    found = []
    for host, seconds in zip(hosts, answers, strict=True):
        name = host.split("//")[-1]
        if seconds is None:
            found.append(Finding(name, "note", f"does not answer within {HOST_SECONDS:.0f} s"))
        else:
            found.append(Finding(name, "good", f"answers in {seconds:.1f} s"))
    if all(seconds is None for seconds in answers):
        found.append(
            Finding("network", "note", "no host of the corpus answers: the lessons run on the sample, which is here")
        )
    return found


def answers_in(host: str) -> float | None:
    """Seconds until a host says anything, even a refusal; None when it does not."""
    started = time.perf_counter()
    request = urllib.request.Request(host, method="HEAD", headers={"User-Agent": "minimind-course"})
    try:
        with urllib.request.urlopen(request, timeout=HOST_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # a refusal is an answer
    except (OSError, ValueError):
        return None
    return time.perf_counter() - started


def operations_a_second() -> float:
    """What this CPU multiplies matrices with, in operations a second; a tenth of a second of measuring."""
    a, best = torch.ones(512, 512), 0.0
    for _ in range(12):
        started = time.perf_counter()
        a @ a
        best = max(best, 2 * 512**3 / (time.perf_counter() - started))
    return best


def lessons_here() -> list[Finding]:
    """For each notebook: whether it fits into memory, and about how long it computes in the laptop profile."""
    slower = max(0.3, MEASURED_AT / operations_a_second())
    free, found = psutil.virtual_memory().available, []
    for lesson in LESSONS:
        minutes, needs = (lesson.laptop_minutes or 0) * slower, (lesson.laptop_gigabytes or 0) * 1e9
        fits = free > 1.2 * needs
        words = f"about {minutes:.1f} min on this CPU, {needs / 1e9:.1f} GB of memory"
        found.append(
            Finding(
                f"notebook {lesson.number:02d}",
                "good" if fits else "bad",
                words + ("" if fits else ": more than is free"),
            )
        )
    return found

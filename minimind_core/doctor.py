"""Is this machine ready? What the course needs of it, looked at one by one, each with a word on what to do.

`python -m minimind_core.preflight` prints it, and so does notebook 01. Left out: what one run needs (preflight.py).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
import torch

from .download import PUBLISHED, DownloadError, sources
from .fonts import chinese_font
from .full_run import PARAMETERS, TOKENS, Card, full_run_on
from .hosts import answer_of
from .lessons import LESSONS
from .memory import container_limit, free_memory, oom_kills, total_memory
from .paths import dataset_dir, out_dir, shown
from .precision import describe_device, pick_device, pick_dtype
from .storage import SHARED_MEMORY, disk_needed, existing_parent, free_bytes

MARKS = {"good": "✔", "note": "·", "bad": "✘"}
MEASURED_AT = 130e9  # operations a second of the machine on which the lessons' minutes were measured
CORPUS = PUBLISHED["pretrain_hq"]
DATA_BYTES = 1.05 * CORPUS.about  # the corpus, whose size is known to 5 %
ENCODED_BYTES = 2.4 * TOKENS  # 16 bits for each token, and an index of rows and segments
OUT_BYTES = ENCODED_BYTES + disk_needed(PARAMETERS)
LEAST_BYTES = 2e8  # what the lessons write when they run on the sample


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
    device, card = _device()
    return [
        *_software(),
        *device,
        _memory(),
        *_disks(),
        *(_hosts() if network else ()),
        *lessons_here(card),
    ]


def _software() -> Iterable[Finding]:
    good = sys.version_info >= (3, 10)
    what = "" if good else "; the course needs 3.10 or newer"
    yield Finding(
        "Python",
        "good" if good else "bad",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}{what}",
    )
    old = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 6)
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


def _device() -> tuple[list[Finding], Card | None]:
    """The device that notebooks and runs take by themselves, and the format of numbers there."""
    device = pick_device()
    if device.type != "cuda":
        words = f"{describe_device(device)}: small models in minutes, the full one in days{card_out_of_sight()}"
        return [Finding("device", "note", words), Finding("numbers", "good", pick_dtype("auto", device)[1])], None
    try:
        name = describe_device(device)
        compute_a_little(device)
        free, total = torch.cuda.mem_get_info(device)
        card = Card(torch.cuda.get_device_name(device), free)
        words = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB of its memory free"
        if free < total / 2:
            words += "; something else uses the rest (nvidia-smi shows what)"
        return [Finding("device", "good" if free > total / 2 else "note", words), numbers_on_card(device)], card
    except (RuntimeError, AssertionError) as error:  # torch's words for a driver, a build or a card that do not fit
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        words = f"torch finds a card and cannot compute on it ({reason}). docs/rented-gpu.md says which torch suits it"
        return [Finding("device", "bad", f"{words}; without a card: `CUDA_VISIBLE_DEVICES= make lab`")], None


def compute_a_little(device: torch.device) -> None:
    """Multiply two small matrices; RuntimeError where torch has no code for this card, or it has no memory left."""
    a = torch.ones(16, 16, device=device)
    float((a @ a).sum())


def card_out_of_sight() -> str:
    """Words on an NVIDIA card that seems to be in this machine although torch sees none; empty without a sign of it."""
    if not shutil.which("nvidia-smi"):
        return ""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ". CUDA_VISIBLE_DEVICES hides the cards of this machine"
    if torch.version.cuda is None:
        return ". This machine has an NVIDIA driver, but torch is a build without CUDA: docs/rented-gpu.md"
    return (
        ". This machine has an NVIDIA driver, but torch sees no card: nvidia-smi shows if there is one, and if the "
        f"driver knows CUDA {torch.version.cuda}, which this torch was built for"
    )


def numbers_on_card(device: torch.device) -> Finding:
    """Which format runs compute in on this card, and what follows where it lacks bfloat16."""
    dtype, why = pick_dtype("auto", device)
    if dtype != torch.float16:
        return Finding("numbers", "good", why)
    why += ". The model is the same; an update whose gradients overflow is left out (notebook 05)"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 7:
        why += f". At compute capability {major}.{minor} 16 bits are not quicker than 32, and nothing is compiled"
    return Finding("numbers", "note", why)


def _memory() -> Finding:
    """Memory for programs: the machine's, or what a container is allowed."""
    free, limit = free_memory(), container_limit()
    needed = max(lesson.laptop_gigabytes or 0 for lesson in LESSONS) * 1e9
    verdict = "good" if free > 2 * needed else "note" if free > 1.2 * needed else "bad"
    words = f"{free / 2**30:.1f} GiB free of {total_memory() / 2**30:.1f}"
    if limit:
        words += f", the limit of this container (the machine has {psutil.virtual_memory().total / 2**30:.1f})"
    if verdict != "good":
        words += f"; the largest notebook takes {needed / 1e9:.1f} GB, so close other programs and notebooks"
    if kills := oom_kills():
        verdict = "note" if verdict == "good" else verdict
        words += f"; for want of it the system has ended {kills} process{'es' * (kills > 1)} here so far"
    return Finding("memory", verdict, words)


def _disks() -> Iterable[Finding]:
    """Room for the full corpus and a full run, less what lies there already, and in shared memory."""
    data, out = dataset_dir(), out_dir()
    corpus = max(0.0, DATA_BYTES - lying((data / ".download" / CORPUS.name).rglob("*")))
    if os.path.isfile(data / CORPUS.local_name):  # False, too, where one may not look
        corpus = 0.0
    results = OUT_BYTES - min(ENCODED_BYTES, lying((out / "cache").glob(f"{CORPUS.name}-*/*")))
    if corpus and existing_parent(data).stat().st_dev == existing_parent(out).stat().st_dev:
        corpus = results = corpus + results
    yield Finding("disk for dataset", *room_for(data, corpus, 0.0, "MINIMIND_DATASET"))
    yield Finding("disk for out", *room_for(out, results, LEAST_BYTES, "MINIMIND_OUT"))
    if SHARED_MEMORY.is_dir():
        free = free_bytes(SHARED_MEMORY)
        words = f"{free / 1e9:.1f} GB free"
        if free < 2.5e8:
            words += "; loading processes share batches there: leave --num_workers away"
        yield Finding(str(SHARED_MEMORY), "good" if free >= 2.5e8 else "note", words)


def room_for(folder: Path, needs: float, least: float, variable: str) -> tuple[str, str]:
    """Verdict and words on a folder: `needs` bytes are still to come on its disk, without `least` no lesson works."""
    free = free_bytes(folder)
    words = f"{free / 1e9:.1f} GB free ({shown(folder)})"
    if free < least:
        return "bad", f"{words}; even runs on the sample take {least / 1e9:.1f}, {variable} names another disk"
    if needs and not os.access(existing_parent(folder), os.W_OK | os.X_OK):
        return "bad" if least else "note", f"{words}; nothing can be written there, {variable} names another folder"
    if free < needs:
        return "note", f"{words}; the full corpus needs {needs / 1e9:.1f} on this disk, {variable} names another one"
    return "good", words


def lying(paths: Iterable[Path]) -> int:
    """Bytes of those files that are there."""
    total = 0
    for path in paths:
        with suppress(OSError):  # a download or an encoding may be at work there
            total += path.stat().st_size * path.is_file()
    return total


def _hosts() -> list[Finding]:
    """Whether the hosts that the download would ask answer, all asked at once."""
    try:
        asked = sources(None)
    except DownloadError as error:
        return [Finding("network", "bad", str(error))]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(answer_of, [source.host for source in asked]))
    found = []
    for source, answer in zip(asked, answers, strict=True):
        late = isinstance(answer, str)
        found.append(Finding(source.label, *(("note", answer) if late else ("good", f"answers in {answer:.1f} s"))))
    if all(isinstance(answer, str) for answer in answers):
        found.append(
            Finding("network", "note", "no host of the corpus answers: the lessons run on the sample, which is here")
        )
    return found


def operations_a_second() -> float:
    """What this CPU multiplies matrices with, in operations a second; a tenth of a second of measuring."""
    a, best = torch.ones(512, 512), 0.0
    for _ in range(12):
        started = time.perf_counter()
        a @ a
        best = max(best, 2 * 512**3 / (time.perf_counter() - started))
    return best


def lessons_here(card: Card | None = None) -> list[Finding]:
    """For each notebook whether it fits into memory, and about how long it computes; for 06 also on the card.

    Minutes on a card are those that were measured on an RTX 4090; where there are none yet, the line says so.
    """
    slower, free, found = max(0.3, MEASURED_AT / operations_a_second()), free_memory(), []
    for lesson in LESSONS:
        minutes, needs = (lesson.laptop_minutes or 0) * slower, (lesson.laptop_gigabytes or 0) * 1e9
        verdict = "good" if free > 1.2 * needs else "bad"
        words = f"about {minutes:.1f} min on this CPU, {needs / 1e9:.1f} GB of memory"
        if verdict == "bad":
            words += ": more than is free"
        if card:
            on_card = f"{lesson.gpu_minutes:.1f} min on an RTX 4090" if lesson.gpu_minutes else "not measured yet"
            if lesson.name == "06_pretraining" and os.environ.get("MINIMIND_PROFILE", "gpu") == "gpu":
                fits, full_run = full_run_on(card)
                verdict, on_card = "bad" if "bad" in (fits, verdict) else "good", on_card + full_run
            words = f"on a card {on_card}; in the laptop profile {words}"
        found.append(Finding(f"notebook {lesson.number:02d}", verdict, words))
    return found

"""What the benchmarks share: a clock that waits for the GPU, peak memory, the machine's name, and where results go."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from minimind_core.precision import describe_device, pick_device

RESULTS = Path(__file__).resolve().parent / "results"


def results(name: str) -> Path:
    """The file that keeps the figures of one benchmark."""
    return RESULTS / f"{name}.json"


def write(path: str | Path, facts: dict) -> None:
    """Add `facts` to a result file, part by part; those of parts that were not measured again stay."""
    path = Path(path)
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known | facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {path}")


def now() -> float:
    """Seconds; on a GPU after all that was asked of it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory(device: torch.device) -> int:
    """The most bytes held so far: of the GPU by torch, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent held before this process began
        return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    facts = psutil.Process().memory_info()
    return getattr(facts, "peak_wset", facts.rss)


def machine() -> dict[str, str]:
    """The machine in words, and the day."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return {
        "device": describe_device(pick_device()),
        "processor": f"{name}, {psutil.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def fresh(script: str, arguments: list[str]) -> int:
    """The whole number that a benchmark prints last when it runs in a process of its own."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])

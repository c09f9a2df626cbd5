"""Which device and number format a run uses, and the two objects that mixed precision needs: autocast and a scaler.

One function picks each and says why. Taught in notebook 05.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from .config import RECIPES
from .errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(asked: str = "auto") -> torch.device:
    """cuda where there is one, else cpu; mps only when asked for. Raises ConfigError for a device that isn't there."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise ConfigError(f"device={asked!r}: allowed are auto, cpu, cuda, cuda:0, mps.") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            have = f"this machine has {count}" if count else _why_no_cuda()
            raise ConfigError(f"device={asked!r}: {have}. Use --device cpu, or leave it out.")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device='mps': no Apple GPU that torch can use here. Use --device cpu, or leave it out.")
    elif device.type not in ("cpu", "mps"):
        raise ConfigError(f"device={asked!r}: allowed are auto, cpu, cuda, cuda:0, mps.")
    return device


def run_device(asked: str, processes: int = 1, local_rank: int = 0) -> tuple[torch.device, str | None]:
    """The device of a run, and a note when a GPU was asked for and there is none: then it is the CPU.

    Of several processes on one machine each takes a GPU of its own. Raises ConfigError when there are too few, and for
    one that is named by its number and isn't there.
    """
    if asked in ("cuda", "cuda:0") and not (torch.cuda.is_available() and torch.cuda.device_count()):
        return torch.device("cpu"), f"NO GPU: {asked} was asked for, but {_why_no_cuda()}. The CPU is used instead."
    if asked == "mps" and not torch.backends.mps.is_available():
        return torch.device("cpu"), "NO GPU: mps was asked for, but torch finds no Apple GPU. The CPU is used instead."
    device = pick_device(asked)
    if device.type != "cuda" or processes == 1:
        return device, None
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(
            f"process {local_rank} on this machine has no GPU of its own: there {'is' if count == 1 else 'are'} "
            f"{count}. Start {count} at most (--nproc_per_node), or give --device cpu."
        )
    return torch.device("cuda", local_rank), None


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return "the installed torch is a build without CUDA"
    return "torch finds no NVIDIA GPU (is the driver running? does nvidia-smi list it?)"


def describe_device(device: torch.device) -> str:
    """One line: the GPU's name and memory, or the CPU's threads."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if device.type == "mps":
        return "Apple GPU (mps)"
    return f"CPU, {torch.get_num_threads()} threads"


def pick_dtype(asked: str, device: torch.device, recipe: str = "fast") -> tuple[torch.dtype, str]:
    """The format of the forward pass and a word on why.

    'auto' is the recipe's format on a GPU, float32 elsewhere. What a device lacks falls back: bfloat16 to float16 on
    older GPUs, a low precision to float32 on a CPU without it.
    """
    if device.type == "cpu" and asked in ("bfloat16", "float16") and not cpu_has(asked):
        return torch.float32, f"{asked} was asked for, but this CPU has no fast {asked}: float32 is used"
    if asked == "auto" and device.type != "cuda":
        return torch.float32, f"float32, the safe format on {device.type}"
    name = RECIPES[recipe].cuda_dtype if asked == "auto" else asked
    why = f"{name}, what the {recipe} recipe uses on a GPU" if asked == "auto" else f"{name}, as asked"
    if name == "bfloat16" and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8:
        return torch.float16, f"{why}; this GPU has no bfloat16, so float16 with a gradient scaler is used"
    return DTYPES[name], why


@cache
def cpu_has(name: str) -> bool:
    """Whether this CPU multiplies matrices in a 16-bit format at about float32's speed or better, by trying it.

    Asking for the instruction set is not enough: some CPUs name it and are tens of times slower all the same.
    """

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(256, 256, dtype=dtype)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(DTYPES[name]) < 2 * seconds(torch.float32)


def autocast_context(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """`torch.autocast` to `dtype`, or a context that does nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def make_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    """A gradient scaler that is at work for float16 only; bfloat16 has float32's range and needs none."""
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

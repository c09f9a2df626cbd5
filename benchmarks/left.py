"""What is left between a step of training and the machine's own rate of multiplying matrices, and where it goes.

    python benchmarks/left.py [--use_moe] [--rounds 7]

Takes one piece of an update of the 25.8M model (on a CPU 2 rows, on a GPU 32), forward and backward; in turns with it
the same matrix products alone, and one large square product, which is what the machine can do at best. Then sorts the
step's own time by kind, with torch's profiler. Writes benchmarks/results/left.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from measure import machine, now, results, write
from torch.profiler import ProfilerActivity, profile

from minimind_core import MiniMindLM, ModelConfig, autocast_context, masked_cross_entropy, pick_device, pick_dtype
from minimind_core.model import active_parameter_count

KINDS = {  # by the beginning of an operator's name
    "matrix products": ("aten::mm", "aten::addmm", "aten::_grouped_mm"),
    "attention": ("BlockwiseAttention", "aten::_scaled_dot_product", "aten::bmm", "aten::baddbmm", "aten::_softmax"),
    "loss": ("aten::_log_softmax", "aten::nll_loss", "aten::log_softmax"),
    "SwiGLU's silu": ("aten::silu",),
}


def taken_in_turns(works: list[Callable[[], object]], rounds: int) -> list[tuple[float, ...]]:
    """Seconds of each piece of work in each round; in turns, for a machine may be quicker now than a minute ago."""
    for work in works:
        work()
    found = []
    for _ in range(rounds):
        times = []
        for work in works:
            start = now()
            work()
            times.append(now() - start)
        found.append(tuple(times))
    return found


def bare_products(model: MiniMindLM, positions: int, dtype: torch.dtype) -> Callable[[], None]:
    """The products of a forward and backward with every matrix that a token passes: X·Wᵀ, dY·W and dYᵀ·X."""
    config, device, work = model.config, pick_device(), []
    for name, matrix in model.named_parameters():
        if matrix.dim() != 2 or ".gate." in name:
            continue
        routed = ".experts." in name
        share = config.num_experts_per_tok / config.n_routed_experts if routed else 1
        rows = round(positions * share)
        weight = matrix.detach().to(dtype)
        inputs = torch.randn(rows, weight.shape[1], device=device, dtype=dtype)
        outputs = torch.randn(rows, weight.shape[0], device=device, dtype=dtype)
        work.append((inputs, weight, outputs))

    def multiply() -> None:
        for inputs, weight, outputs in work:
            F.linear(inputs, weight)
            outputs @ weight
            outputs.T @ inputs

    return multiply


def square_product(dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """One square product, large enough to hide everything else, and its floating-point operations."""
    device = pick_device()
    size = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return lambda: one @ other, 2 * size**3


def shares(step: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Parts of the step's own time, by kind of operator; they sum to 1."""
    watched = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=watched) as profiler:
        step()
    found = dict.fromkeys([*KINDS, "everything else"], 0.0)
    for event in profiler.key_averages():
        spent = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        kind = next((k for k, names in KINDS.items() if event.key.startswith(names)), "everything else")
        found[kind] += spent
    whole = sum(found.values())
    return {kind: round(spent / whole, 4) for kind, spent in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--use_moe", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", default=str(results("left")))
    asked = parser.parse_args()
    device = pick_device()
    dtype, rows = pick_dtype("auto", device)[0], 32 if device.type == "cuda" else 2
    config = ModelConfig(use_moe=asked.use_moe)
    model = MiniMindLM(config).to(device).train()
    ids = torch.randint(3, config.vocab_size, (rows, config.max_seq_len - 1), device=device)
    quick = torch.compile(model, dynamic=False) if device.type == "cuda" else model

    def step() -> None:
        with autocast_context(device, dtype):
            output = quick(ids)
            loss = masked_cross_entropy(output.logits, ids, torch.ones_like(ids)) + output.aux_loss
        loss.backward()

    positions, length = ids.numel(), ids.shape[1]
    products = 6 * active_parameter_count(model)
    attention = 12 * config.n_layers * config.dim * length  # every position with every other; causal: half of it
    square, operations = square_product(dtype)
    rounds = taken_in_turns([step, bare_products(model, positions, dtype), square], asked.rounds)
    seconds, alone, of_square = (statistics.median(times) for times in zip(*rounds, strict=True))
    in_squares = statistics.median(times[2] / times[0] for times in rounds)  # one square product, in steps
    facts = {
        "positions": positions,
        "seconds": seconds,
        "tokens_per_s": positions / seconds,
        "products_alone_seconds": alone,
        "best_flops_per_s": operations / of_square,
        "share_of_best_rate": (products + attention) * positions * in_squares / operations,
        "share_of_best_rate_causal": (products + attention / 2) * positions * in_squares / operations,
        "shares": shares(step, device),
    }
    for name, value in facts.items():
        print(f"{name}: {value if not isinstance(value, float) else f'{value:.4g}'}")
    write(asked.json, {"machine": machine(), "moe" if asked.use_moe else "dense": facts})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Before a run: what this machine is, and what a plan will need of memory, disk and time.

`python -m minimind_core.preflight` prints both. Time is estimated by really doing a few micro-steps. Notebook 06.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil
import torch

from .cli import friendly, parse_flags
from .compiling import wants_compiling
from .config import ModelConfig
from .errors import TrainingError
from .fitting import fitted
from .memory import container_limit, free_memory, total_memory
from .model import MiniMindLM
from .optim import build_optimizer
from .plan import RunPlan, plan_run, smaller_pieces
from .precision import autocast_context, make_scaler
from .storage import disk_needed, free_bytes
from .training import Hooks, train_epoch

SLOW_RUN_HOURS = 6.0


@dataclass(frozen=True)
class Estimate:
    """What a run will need. Seconds and bytes; `measured_steps` micro-steps were timed for it, without compiling.

    `seconds_per_step` is of a micro-step with its share of an update.
    """

    parameters: int
    seconds: float
    seconds_per_step: float
    memory_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    measured_steps: int
    compiles: bool = False  # whether the run itself will be compiled, and so be quicker

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f}M parameters; about {spoken_time(self.seconds)} "
            f"({self.seconds_per_step:.2f} s a micro-step, measured over {self.measured_steps}"
            f"{', before the model is compiled, which makes it quicker' if self.compiles else ''}); about "
            f"{self.memory_bytes / 2**30:.1f} GiB of memory; {self.disk_bytes / 1e6:,.0f} MB on disk "
            f"({self.free_disk_bytes / 1e9:,.0f} GB free)"
        )


def spoken_time(seconds: float) -> str:
    """0.2 s, 12 s, 3.4 min, 5.1 h or 2.0 days."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1.5 else f"{seconds:.1f} s"


def estimate(plan: RunPlan, steps: int = 3) -> Estimate:
    """Time a few micro-steps of a plan on a model that is thrown away, and reckon what the whole run needs.

    The random state is left as it was, so a run after it is the same run.
    """
    plan = fitted(plan)
    memory = training_memory(plan.model, plan.parameters, plan.train.batch_size, plan.dtype)
    _refuse_the_impossible(plan, memory)
    with torch.random.fork_rng(devices=[plan.device] if plan.device.type == "cuda" else []):
        model = MiniMindLM(plan.model).to(plan.device)
        rows = [plan.train_set[i] for i in range(min(plan.train.batch_size, len(plan.train_set)))]
        batch = [torch.stack(parts) for parts in zip(*rows, strict=True)]
        optimizer = build_optimizer(model, plan.recipe, plan.train.learning_rate)
        hooks = Hooks(steps + 1, lr=plan.train.learning_rate, accumulation_steps=1, device=plan.device)
        computed, updated = [], []  # when each micro-step was through backward, and its update made
        hooks.after_backward = lambda *_: computed.append(_now(plan.device))
        hooks.after_update = lambda *_: updated.append(_now(plan.device))
        scaler, context = make_scaler(plan.device, plan.dtype), autocast_context(plan.device, plan.dtype)
        train_epoch(0, model, [batch] * (steps + 1), optimizer, scaler, context, hooks)
    seconds = run_seconds(computed, updated, plan.total_steps, plan.updates)
    return Estimate(
        parameters=plan.parameters,
        seconds=seconds,
        seconds_per_step=seconds / plan.total_steps,
        memory_bytes=memory,
        disk_bytes=disk_needed(plan.parameters),
        free_disk_bytes=free_bytes(plan.weights),
        measured_steps=steps,
        compiles=wants_compiling(plan),
    )


def run_seconds(computed: list[float], updated: list[float], micro_steps: int, updates: int) -> float:
    """Seconds of a run, from moments at which micro-steps were through backward and their updates made, in turn.

    An update follows many micro-steps in a run and each one here, so both are taken apart. The first of each is not
    counted: memory is taken and kernels are chosen in it.
    """
    computing = [end - start for end, start in zip(computed[1:], updated[:-1], strict=True)]
    updating = [end - start for end, start in zip(updated[1:], computed[1:], strict=True)]
    return micro_steps * sum(computing) / len(computing) + updates * sum(updating) / len(updating)


def _refuse_the_impossible(plan: RunPlan, memory: int) -> None:
    """TrainingError for a run on a CPU that would need more than twice the memory that there is in all."""
    there, machine = total_memory(), psutil.virtual_memory().total
    if plan.device.type == "cpu" and memory > 2 * there:
        has = f"this machine has {there / 2**30:.0f}"
        if there < machine:
            has = f"this container may use {there / 2**30:.1f} of the machine's {machine / 2**30:.0f}"
        raise TrainingError(
            f"--batch_size {plan.train.batch_size}, --max_seq_len {plan.model.max_seq_len} and "
            f"{plan.parameters / 1e6:.1f}M parameters need about {memory / 2**30:,.0f} GiB; {has}. "
            "Lower them."
        )


def warnings_for(plan: RunPlan, needs: Estimate) -> list[str]:
    """Sentences on what may go wrong with a run of this plan: too little memory, or days on a CPU.

    Raises TrainingError for a run that was meant for a GPU, finds none, and would take hours without one.
    """
    if plan.device.type != "cpu":
        return []
    found, free = [], free_memory()
    if needs.memory_bytes > free:
        limit = container_limit()
        of_limit = f" of the {limit / 2**30:.1f} that this container may use" if limit else ""
        found.append(
            f"Memory: the run needs about {needs.memory_bytes / 2**30:.1f} GiB, {free / 2**30:.1f}{of_limit} are free. "
            f"It may be slow or be ended by the system; {smaller_pieces(plan.train)} makes the same updates with less."
        )
    if needs.seconds > SLOW_RUN_HOURS * 3600:
        slow = f"{spoken_time(needs.seconds)} on a CPU"
        if plan.gpu_is_missing:
            raise TrainingError(
                f"--device {plan.train.device} was asked for, there is no such GPU, and this run would take {slow}. "
                "Mend the GPU (nvidia-smi should list it), or give --device cpu if you mean it."
            )
        found.append(
            f"That is long: {slow}. A GPU does it in minutes to hours; --max_steps or --data_path "
            "dataset/sample.jsonl make it short."
        )
    return found


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def training_memory(model: ModelConfig, parameters: int, batch_size: int, dtype: torch.dtype) -> int:
    """Bytes that training takes, reckoned: weights, gradients and two moments in float32, activations and logits.

    A rough figure: half a GiB for Python and torch themselves; activations are counted as what backward keeps of each
    block, plus three float32 copies of the logits. In 16 bits autocast keeps a copy of the weights as well.
    """
    tokens = batch_size * (model.max_seq_len - 1)
    width = 2 if dtype != torch.float32 else 4
    experts = model.num_experts_per_tok + model.n_shared_experts if model.use_moe else 1
    per_token = model.n_layers * (12 * model.dim + 4 * experts * model.ffn_dim) * width + 3 * 4 * model.vocab_size
    copies = 0 if dtype == torch.float32 else width * parameters
    return 2**29 + 16 * parameters + copies + tokens * per_token


@friendly
def main(argv: list[str] | None = None) -> int:
    """Print what this machine offers and the estimate for a run with the given flags (those of train_pretrain)."""
    from .doctor import examine  # loads matplotlib

    given = parse_flags(
        argv, "python -m minimind_core.preflight", "Says what this machine is and what a run would need."
    )
    print("\n".join(map(str, examine())))
    print()
    plan = fitted(plan_run(**given))
    print("\n".join(plan.notes))
    needs = estimate(plan)
    print("\n".join([f"A run: {needs}.", *warnings_for(plan, needs)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The micro-batch that suits a device, with the same rows in every update: the largest that fits into a GPU's memory,
found by trying; on a CPU one that its memory is quick with.

An update is made of batch × accumulation rows, whatever the size of the pieces; smaller pieces need less memory. Taught
in notebook 06. Left out: whether a run fits a CPU's memory, which is reckoned only (preflight.py), since trying would
fill the swap.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import torch

from .checkpoint import read_facts
from .distributed import World
from .errors import CheckpointError, TrainingError
from .faults import is_out_of_memory
from .model import MiniMindLM
from .optim import build_optimizer
from .plan import RunPlan, pieces, with_batch
from .precision import autocast_context, make_scaler
from .training import Hooks, train_epoch

# A piece's logits on a CPU. Larger blocks of memory go back to the system each time they are freed, and have to be
# cleared page by page when they come again: 32 rows at once took 1.2 to 1.5 times as long per token as 2 to 8.
QUICK_BYTES = 32 << 20
HEADROOM = 1.05  # a run needs a little more than its first updates: other rows, pieces of memory too small to use


def fitted(plan: RunPlan, world: World | None = None, attempt: Callable[[RunPlan, int], None] | None = None) -> RunPlan:
    """The plan with the micro-batch that suits its device, at the same number of rows in each update.

    On a CPU that is done for packed rows, which are all full: there the mean over pieces is the mean over rows. A run
    that is resumed keeps the pieces that it began with. `attempt(plan, rows)` trains on `rows` rows for a moment and
    raises torch.OutOfMemoryError when they don't fit; on a CPU nothing is tried unless it is given. Raises
    TrainingError when not even one row fits.
    """
    if plan.fitted:
        return plan
    world, batch, accumulation = world or World(), plan.train.batch_size, plan.train.accumulation_steps
    begun = _as_begun(plan) if plan.train.resume else None
    if begun is not None:
        return begun
    if attempt is None and plan.device.type != "cuda":
        return _quick_pieces(plan) if plan.device.type == "cpu" else replace(plan, fitted=True)
    for rows in pieces(batch, accumulation):
        if all(world.gathered(_fits(plan, rows, attempt or train_a_moment))):
            break
    else:
        raise TrainingError(
            f"not even one row of {plan.model.max_seq_len} tokens fits into the memory that is free on {plan.device}. "
            "Stop what else uses it (nvidia-smi shows it), or lower --max_seq_len, --dim or --n_layers."
        )
    if rows == batch:
        return replace(plan, fitted=True)
    why = f"{batch} rows do not fit into the GPU's memory"
    return with_batch(plan, rows, accumulation * batch // rows, why)


def _quick_pieces(plan: RunPlan) -> RunPlan:
    """Pieces of an update whose logits stay below QUICK_BYTES, where each row has as many tokens as the next."""
    batch, accumulation = plan.train.batch_size, plan.train.accumulation_steps
    row = 4 * plan.model.vocab_size * (plan.model.max_seq_len - 1)
    rows = next(rows for rows in pieces(batch, accumulation) if rows * row <= QUICK_BYTES or rows == 1)
    alike = plan.recipe.rows == "packed" and (plan.model.seq_aux or not plan.model.use_moe)
    if rows == batch or not alike:
        return replace(plan, fitted=True)
    return with_batch(plan, rows, accumulation * batch // rows, "a CPU is quicker with smaller pieces")


def _as_begun(plan: RunPlan) -> RunPlan | None:
    """The plan with the pieces of the run that it resumes, where these make up the same update."""
    try:
        facts = read_facts(plan.weights) or {}
    except CheckpointError:
        return None
    begun = facts.get("identity") or {}
    batch, accumulation = begun.get("batch_size"), begun.get("accumulation_steps")
    if not isinstance(batch, int) or not isinstance(accumulation, int):
        return None
    if batch * accumulation != plan.train.batch_size * plan.train.accumulation_steps:
        return None
    if batch == plan.train.batch_size:
        return replace(plan, fitted=True)
    return with_batch(plan, batch, accumulation, "this run began so")


def _fits(plan: RunPlan, rows: int, attempt: Callable[[RunPlan, int], None]) -> bool:
    try:
        attempt(plan, rows)
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        gc.collect()
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()


def train_a_moment(plan: RunPlan, rows: int) -> None:
    """Two updates of two micro-steps each on full rows, on a model that is thrown away.

    Random numbers stay as they are. Raises torch.OutOfMemoryError when the memory does not suffice, or would be full
    but for a few per cent.
    """
    device, on_gpu = plan.device, plan.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        model = MiniMindLM(plan.model).to(device)
        ids = torch.randint(3, plan.model.vocab_size, (rows, plan.model.max_seq_len - 1))
        batch = (ids, ids, torch.ones_like(ids))
        hooks = Hooks(4, lr=1e-6, accumulation_steps=2, device=device)
        context, scaler = autocast_context(device, plan.dtype), make_scaler(device, plan.dtype)
        train_epoch(0, model, [batch] * 4, build_optimizer(model, plan.recipe, 1e-6), scaler, context, hooks)
    if on_gpu and torch.cuda.max_memory_allocated(device) * HEADROOM > room:
        raise torch.OutOfMemoryError(f"{rows} rows fill the memory of {device}")

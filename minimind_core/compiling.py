"""torch.compile for a run: tried before the run begins, and left out with a word where it does not work.

A compiled forward and backward fuses what lies between the matrix products into few kernels. It pays on a GPU; on a CPU
it gains 4 to 13 % and costs about a minute, so there it is done only when asked for. Weights stay the plain model's, so
files have no `_orig_mod.` in their names. Told in notebook 06. Left out: compiling generation, whose shapes change.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from .plan import RunPlan
from .precision import autocast_context
from .training import masked_cross_entropy


def wants_compiling(plan: RunPlan) -> bool:
    """What `--compile auto` means: on for the fast recipe on a GPU."""
    if plan.train.compile != "auto":
        return plan.train.compile == "on"
    return plan.device.type == "cuda" and plan.train.recipe == "fast"


def compiled(
    model: nn.Module, plan: RunPlan, say: Callable[[str], None], backend: str = "inductor"
) -> Callable[..., object]:
    """`model` compiled for batches of the plan's shape, or `model` itself where that is not wanted or fails.

    Shapes are static: each batch has the same, but for a last one in the seed recipe. The first step is taken here, on
    the corpus's first rows, so that a missing compiler is met before anything is at stake; gradients, weights and
    random numbers stay as they were.
    """
    if not wants_compiling(plan):
        return model
    say("Compiling the model, once for this run; it takes about a minute …")
    started = time.perf_counter()
    try:
        quicker = torch.compile(model, dynamic=False, backend=backend)
        _first_step(quicker, plan)
    except (KeyboardInterrupt, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a compiler, a driver or a linker finds
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        say(f"Compiling failed ({reason}): the run goes on without it, slower. --compile off leaves it out.")
        return model
    finally:
        model.zero_grad(set_to_none=True)
    say(f"Compiled the model in {time.perf_counter() - started:.0f} s.")
    return quicker


def _first_step(quicker: Callable, plan: RunPlan) -> None:
    """A forward and a backward on a batch as the run's are."""
    device = plan.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        rows = range(min(plan.train.batch_size, len(plan.train_set)))
        X, Y, loss_mask = (part.to(device) for part in plan.train_set.batch(rows))  # laid out in memory as all will be
        with autocast_context(device, plan.dtype):
            output = quicker(X)
            loss = masked_cross_entropy(output.logits, Y, loss_mask) + output.aux_loss
        loss.backward()

"""What stops a run against its will, in words that say what to do: bad numbers, no memory, a process that died.

In the functions below `run` is a trainer.Trainer. What was learned up to the last update is kept in every case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .errors import CourseError, TrainingError
from .paths import shown
from .plan import smaller_pieces

MAX_SKIPS = 25  # updates in a row: from its first scale, 65,536, a scaler has then gone down to 2^-9


def check_numbers(run: Any, step: int, row: dict[str, Any]) -> bool:
    """Whether the update that ends with micro-step `step` may be applied; `row` is its line of metrics.

    Loss and gradient must be finite. Under a gradient scaler (float16) a number that is not means that the scale was
    too high: the update is skipped, the scale halved, and this returns False. Anywhere else, and after MAX_SKIPS
    skips in a row, it is a fault: TrainingError, with step, rate, norm and the rows of text.
    """
    loss = row["ce"] + row["aux_loss"]
    if math.isfinite(loss) and math.isfinite(row["grad_norm"]):
        run.skips[1] = 0
        return True
    skips = ""
    if run.scaler.is_enabled():
        run.skips = [run.skips[0] + 1, run.skips[1] + 1]
        if run.skips[1] < MAX_SKIPS:
            return False
        skips = (
            f" It is the {MAX_SKIPS}th update in a row that float16 could not hold: try --dtype bfloat16 or float32."
        )
    kept = f"the weights of update {run.step}" if run.weights_are_finite() else "those of the last save"
    raise TrainingError(
        f"update {run.step + 1} (epoch {run.epoch + 1}, micro-step {step}): loss {loss}, learning rate "
        f"{row['lr']:.6g}, gradient norm {row['grad_norm']}. The run stopped before this update was applied; {kept} "
        f"are kept.{skips} Start anew with a lower --learning_rate, and look at the text that it was made of: "
        f"{rows_of_update(run, step)}."
    )


def rows_of_update(run: Any, step: int) -> str:
    """The corpus rows in this process's micro-batches of the update that ends with micro-step `step`, in words."""
    first = step - step % run.accumulation_steps
    items = [item for number in range(first, step + 1) for item in run.batches.batch(number)]
    rows = sorted({row for item in items for row in run.plan.train_set.corpus_rows(item)})
    named = ", ".join(map(str, rows[:40])) + (f" and {len(rows) - 40} more" if len(rows) > 40 else "")
    return f"rows {named} of {shown(run.plan.corpus.path)}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU, or the machine, has no memory left to give."""
    said = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in said or "out of memory" in said)
    )


@contextmanager
def in_words(run: Any) -> Iterator[None]:
    """Turn what torch raises for a lack of memory or a dead process into a TrainingError that says what to do."""
    try:
        yield
    except CourseError:
        raise
    except (RuntimeError, MemoryError, ConnectionError, EOFError) as error:
        train, said = run.plan.train, str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        go_on = f"What was learned up to update {run.step} is kept; --resume goes on from the last save."
        if is_out_of_memory(error):
            raise TrainingError(
                f"out of memory on {run.device} in update {run.step + 1}, with --batch_size {train.batch_size} and "
                f"--max_seq_len {run.plan.model.max_seq_len} ({said}). {go_on} If another program holds the memory "
                f"(nvidia-smi, top), stop that one first. Else start anew with {smaller_pieces(train)}, "
                "which makes the same updates in smaller pieces, or with a lower --max_seq_len, --dim or --n_layers."
            ) from error
        if "DataLoader worker" in said or (train.num_workers and isinstance(error, (ConnectionError, EOFError))):
            raise TrainingError(
                f"a process that loads batches died ({said}). Most often memory or /dev/shm was short (in a container: "
                f"docker run --shm-size=8g). {go_on} With --num_workers 0 batches are loaded without such processes."
            ) from error
        if run.world.size > 1:
            raise TrainingError(
                f"process {run.world.rank} of {run.world.size} lost the others ({said}). The one that ended first says "
                f"why, above or below. {go_on}"
            ) from error
        raise

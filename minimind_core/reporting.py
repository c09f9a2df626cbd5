"""What a run tells as it goes: a line of metrics for each update, held-out losses, and the seed's log line.

In the functions below `run` is a trainer.Trainer.
"""

from __future__ import annotations

import time
from typing import Any

from .clock import peak_memory_mib
from .evaluation import held_out_loss
from .generation import continue_text, encode_prompt

PROMPT, PROMPT_TOKENS = "世界上最高的山峰是", 32  # continued at each look at the held-out rows, greedily


def metrics_row(run: Any, epoch: int, loss: float) -> dict[str, Any]:
    """The line of metrics of the update that was just made."""
    row = {
        "step": run.step,
        "micro_step": run.micro_step,
        "epoch": epoch + 1,
        "loss": loss,
        **run.row,
        "tokens": run.tokens,
        "time": round(run.clock.elapsed() + run.seconds, 3),
        "tokens_per_s": round(run.clock.rate(run.new_tokens), 1),
        "memory": peak_memory_mib(run.device),
    }
    if run.scaler.is_enabled():
        row["skipped"] = run.skips[0]
    return row


def judge(run: Any) -> None:
    """Held-out loss and a sample of text now; on the main process alone, and left out of the run's clock."""
    plan = run.plan
    if plan.held_out is None or not run.world.is_main:
        return
    paused = time.perf_counter()
    run.last_held_out = held_out_loss(run.model, plan.held_out, plan.tokenizer, context=run.context)
    row = {
        "step": run.step,
        "held_out_loss": run.last_held_out.loss,
        "perplexity": run.last_held_out.perplexity,
        "bits_per_byte": run.last_held_out.bits_per_byte,
        "tokens": run.tokens,
        "sample": [PROMPT, sample_text(run)],
    }
    if run.best is None or run.last_held_out.loss < run.best[0]:
        run.best = (run.last_held_out.loss, run.step)
        if run.step:
            run.saver.keep_best(run)
    run.saver.saved_step = -1  # what a save of this update says of its held-out loss is out of date
    run.files.write(row)
    if run.on_held_out:
        run.on_held_out(row)
    run.clock.pause(time.perf_counter() - paused)


def sample_text(run: Any) -> str:
    """What the model says now to PROMPT, greedily; never past the length that it is trained with."""
    room = run.plan.model.max_seq_len - encode_prompt(run.plan.tokenizer, PROMPT).shape[1]
    if room < 1:
        return ""  # a longer text would need longer tables of angles, for which a compiled model is compiled anew
    return continue_text(run.model, run.plan.tokenizer, PROMPT, temperature=0, max_new_tokens=min(PROMPT_TOKENS, room))


def log_line(run: Any, epoch: int, step: int, micro_loss: float) -> None:
    """The seed's line. The fast recipe logs the mean since the last line, the seed one micro-batch."""
    loss = micro_loss
    if run.plan.recipe.window_loss and run.log_losses:
        loss = sum(run.log_losses) / len(run.log_losses)
    run.log_losses.clear()
    minutes = run.clock.left(run.total_steps) // 60
    run.say(
        f"Epoch:[{epoch + 1}/{run.epochs}]({step}/{run.iter_per_epoch}) loss:{loss:.3f} "
        f"lr:{run.learning_rate(epoch, step):.12f} epoch_Time:{minutes}min:"
    )

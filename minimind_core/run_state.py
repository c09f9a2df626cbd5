"""A run's state as data: what is told about it beside its weights, and what it takes to go on exactly where it was.

Apart from the trainer so that the list of what a resumed run must share with its beginning can be read in one
place; `run` is a trainer.Trainer.
"""

from __future__ import annotations

import time
from dataclasses import astuple
from typing import Any

import torch

from . import checkpoint
from .errors import TrainingError
from .evaluation import HeldOut
from .paths import shown


def facts_of(run: Any) -> dict[str, Any]:
    """What config.json says of a run beside its weights: configuration, corpus, how far it is and how good."""
    held_out = run.last_held_out
    return {
        "train": run.plan.train.to_dict(),
        "corpus": {
            "path": shown(run.plan.corpus.path),
            "sha256": run.plan.corpus.sha256,
            "rows": len(run.plan.corpus),
            "tokens": int(run.plan.corpus.offsets[-1]),
        },
        "tokenizer_sha256": run.plan.corpus.tokenizer_sha256,
        "identity": run.plan.identity(),
        "step": run.step,
        "updates": run.plan.updates,
        "complete": run.step >= run.plan.updates,
        "tokens": run.tokens,
        "loss": run.last_loss if run.step else None,
        "held_out_loss": held_out.loss if held_out else None,
        "bits_per_byte": held_out.bits_per_byte if held_out else None,
        "best_held_out_loss": run.best[0] if run.best else None,
        "best_step": run.best[1] if run.best else None,
        "seconds": round(run.seconds + run.clock.elapsed(), 1),
        "device": str(run.device),
        "dtype": str(run.plan.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "saved_at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def state_of(run: Any) -> dict[str, Any]:
    """Everything that a run needs to go on as if it had never stopped, tensors and plain values only."""
    return {
        "identity": run.plan.identity(),
        "model": checkpoint.unwrapped(run.model).state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "random": run.random_states,
        "position": [run.epoch, run.first_step, run.step, run.micro_step, run.tokens],
        "best": list(run.best) if run.best else None,
        "held_out": list(astuple(run.last_held_out)) if run.last_held_out else None,
        "last_loss": run.last_loss,
        "log_losses": list(run.log_losses),
        "seconds": run.seconds + run.clock.elapsed(),
    }


def restore(run: Any, state: dict[str, Any]) -> None:
    """Put a run where `state` was taken. Raises TrainingError, naming both values, when it belongs to another run."""
    mine, theirs = run.plan.identity(), state["identity"]
    for name in mine:
        if mine[name] != theirs.get(name):
            raise TrainingError(
                f"this run cannot be resumed with another {name}: it was started with {theirs.get(name)}, now "
                f"it is {mine[name]}. Use the old one, or another --out_dir for a new run."
            )
    checkpoint.unwrapped(run.model).load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    run.epoch, run.first_step, run.step, run.micro_step, run.tokens = state["position"]
    run.best = tuple(state["best"]) if state["best"] else None
    run.last_held_out = HeldOut(*state["held_out"]) if state["held_out"] else None
    run.last_loss, run.log_losses = state["last_loss"], state["log_losses"]
    run.seconds = state["seconds"]
    run.set_random(state["random"])

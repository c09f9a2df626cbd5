"""A run's state: what is told about it beside its weights, and what it takes to go on exactly where it was.

As data and as files: a state file ends with a sum of what is before it, so that a damaged one is noticed, and the one
before it is kept. Nothing in it is executed when it is read. In the functions below `run` is a trainer.Trainer.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch

from . import checkpoint
from .errors import CheckpointError, TrainingError
from .evaluation import HeldOut
from .files import staged, write_torch
from .paths import shown
from .plan import RunPlan

FORMAT = 2
KEPT_STATES = 2
_SUM = hashlib.sha256().digest_size


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
        "saved_by": run.saver.token,
        "saved_at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def state_of(run: Any) -> dict[str, Any]:
    """Everything that a run needs to go on as if it had never stopped, tensors and plain values only."""
    return {
        "identity": run.plan.identity(),
        "names": run.plan.names(),
        "held_out_sha256": run.plan.held_out_sha256,
        "model": checkpoint.unwrapped(run.model).state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "random": run.random_states,
        "position": [run.epoch, run.first_step, run.step, run.micro_step, run.tokens],
        "skips": list(run.skips),
        "best": list(run.best) if run.best else None,
        "held_out": list(astuple(run.last_held_out)) if run.last_held_out else None,
        "last_loss": run.last_loss,
        "log_losses": list(run.log_losses),
        "seconds": run.seconds + run.clock.elapsed(),
    }


def restore(run: Any, state: dict[str, Any]) -> None:
    """Put a run where `state`, which is of this very run, was taken."""
    try:
        checkpoint.unwrapped(run.model).load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.scaler.load_state_dict(state["scaler"])
        run.epoch, run.first_step, run.step, run.micro_step, run.tokens = state["position"]
        run.skips = list(state["skips"])
        run.best = tuple(state["best"]) if state["best"] else None
        if state["held_out_sha256"] != run.plan.held_out_sha256:
            run.say("The held-out rows are others than before: the lowest held-out loss is looked for anew.")
            run.best = None
        run.last_held_out = HeldOut(*state["held_out"]) if state["held_out"] else None
        run.last_loss, run.log_losses = state["last_loss"], list(state["log_losses"])
        run.seconds = state["seconds"]
        run.set_random(state["random"])
    except Exception as error:  # torch raises errors of many kinds for what does not fit
        raise CheckpointError(
            f"the newest state in {shown(run.folder)} does not hold what this run needs ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:120]}). It was written by something else; move it away."
        ) from None


def restore_complete(run: Any, facts: dict[str, Any]) -> None:
    """Put a run at its end, from its weights and what config.json says of them; its states may be gone."""
    model = checkpoint.load_model(run.plan.weights, run.plan.model)
    checkpoint.unwrapped(run.model).load_state_dict(model.state_dict())
    run.step, run.tokens, run.last_loss = facts["step"], facts["tokens"], facts["loss"]
    if facts.get("best_held_out_loss") is not None:
        run.best = (facts["best_held_out_loss"], facts["best_step"])


WHY = {
    "corpus": "the text that it still has to read would be another one",
    "tokenizer": "the ids that its weights know would mean other tokens",
    "encoding": "this version of the course encodes text in another way; use the version that began the run",
    "recipe": "its optimizer and data order are those of the recipe; this may also be another version of the course",
    "dtype": "its numbers would be other ones from here on (a GPU may have been exchanged for a CPU)",
    "batch_size": "its place in the data is counted in micro-batches",
    "accumulation_steps": "its place in the data and its learning rate are counted in micro-batches",
    "number of processes": "its place in the data is counted in batches of all processes together",
    "epochs": "its learning rate was laid out to fall until the end of the last epoch",
    "max_steps": "its learning rate was laid out to fall until the last update",
    "learning_rate": "its schedule has been followed so far and would jump",
    "warmup_iters": "its schedule has been followed so far and would jump",
}


def refuse_another_run(plan: RunPlan, theirs: dict[str, Any], their_names: dict[str, str]) -> None:
    """Raise TrainingError, naming both values and why they cannot be mixed, unless a state is of this plan's run."""
    names = plan.names()
    for name, now in plan.identity().items():
        then = theirs.get(name)
        if now == then:
            continue
        if isinstance(now, dict) and isinstance(then, dict):
            keys = [key for key in now | then if now.get(key) != then.get(key)]
            then = ", ".join(f"{key}={then.get(key)}" for key in keys)
            now = ", ".join(f"{key}={now.get(key)}" for key in keys)
        elif name in names:
            then, now = f"{their_names.get(name)} (sha256 {then})", f"{names[name]} (sha256 {now})"
        why = f" ({WHY[name]})" if name in WHY else ""
        raise TrainingError(
            f"this run cannot be resumed with another {name}{why}: it was started with {then}, now it is {now}. "
            "Go on with the old one, or start a new run in another --out_dir."
        )


# --- state files --------------------------------------------------------------------------------------------------


def write_state(folder: str | Path, step: int, state: dict[str, Any], kept: int = KEPT_STATES) -> Path:
    """Write `state-STEP.pt` for resuming, with a sum at its end, and keep the newest `kept`."""
    folder = Path(folder)
    path = folder / f"state-{step:08d}.pt"
    whole = {"format": FORMAT, **state}
    with staged(path, lambda file: file.write(write_torch(whole, file))):
        pass
    mine = [old for old in state_files(folder) if _step_of(old) <= step]
    for old in mine[kept:]:
        old.unlink(missing_ok=True)
    for passed_over in set(state_files(folder)) - set(mine):  # damaged, or the run would have gone on from there
        passed_over.replace(passed_over.with_suffix(".damaged"))
    return path


_NAME = re.compile(r"state-(\d+)\.pt")


def _step_of(path: Path) -> int:
    return int(_NAME.fullmatch(path.name)[1])


def state_files(folder: str | Path) -> list[Path]:
    """A run's state files, newest first."""
    found = [path for path in Path(folder).glob("state-*.pt") if _NAME.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=_step_of, reverse=True)


def state_of_this_run(plan: RunPlan, folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest whole state of `plan`'s run, or None where there is none; TrainingError when it is another run's."""
    state = read_newest_state(folder, say)
    if state is not None:
        try:
            theirs, names = dict(state["identity"]), dict(state["names"])
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(
                f"the newest state in {shown(folder)} does not say what it is of: move it away."
            ) from None
        refuse_another_run(plan, theirs, names)
    return state


def read_newest_state(folder: str | Path, say: Callable[[str], None] = print) -> dict[str, Any] | None:
    """The newest state in a run's folder that is whole, or None where there is none at all.

    A damaged one is named and the one before it used; CheckpointError when all are damaged, since starting afresh
    would throw a run away that may still be mended.
    """
    paths = state_files(folder)
    for path in paths:
        try:
            return read_state(path)
        except CheckpointError as error:
            say(f"{error} It was passed over.")
    if paths:
        raise CheckpointError(
            f"no state in {shown(folder)} can be read ({', '.join(path.name for path in paths)}). Put back a copy if "
            "you have one; without --resume a new run starts and the old one is moved aside."
        )
    return None


def read_state(path: str | Path) -> dict[str, Any]:
    """The state in a file. Raises CheckpointError when it is damaged, holds something else, or could execute code."""
    path = Path(path)
    try:
        left, digest = path.stat().st_size - _SUM, hashlib.sha256()
        with open(path, "rb") as file:
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                digest.update(block)
                left -= len(block)
            whole = file.read() == digest.digest()
    except OSError as error:
        raise CheckpointError(f"{shown(path)} cannot be read: {error.strerror or error}.") from None
    if not whole:
        raise CheckpointError(f"{shown(path)} is damaged or was cut short ({path.stat().st_size:,} bytes).")
    state = checkpoint.read_torch_file(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else f"a {type(state).__name__}"
        raise CheckpointError(
            f"{shown(path)} is not a state that this version of the course wrote (format {found}, needed {FORMAT})."
        )
    return state

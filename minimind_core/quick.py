"""Trained weights for any notebook, whatever was run before: the newest model in out/, else one trained in a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from .checkpoint import load_run
from .errors import CheckpointError, TrainingError
from .model import MiniMindLM
from .paths import SAMPLE, out_dir, shown
from .plan import plan_run
from .preflight import estimate
from .run_lock import lock_holder
from .runs import list_runs
from .trainer import Trainer


class QuickModel(NamedTuple):
    """What `quick_model` found: the model, its tokenizer, and a sentence on where they come from."""

    model: MiniMindLM
    tokenizer: Tokenizer
    note: str


def quick_model(device: str = "cpu", seconds: float = 45.0, say: Callable[[str], None] = print) -> QuickModel:
    """The newest model in out/, else a small one trained on the sample now, for a minute at most, and kept.

    Notebooks that need trained weights before lesson 06 use it. The trained one is kept as out/quick/pretrain_96.pth.
    """
    found = _newest(out_dir(), device, say)
    while found is None:
        _wait_for_another_notebook(say)
        found = _newest(out_dir() / "quick", device, say)
        if found is None:
            try:
                return _train_quickly(device, seconds, say)
            except TrainingError:
                if lock_holder(_quick_folder()) is None:
                    raise
    return found


def _quick_folder() -> Path:
    """Where the small model's run lies."""
    return out_dir() / "quick" / "pretrain_96"


def _newest(folder: Path, device: str, say: Callable[[str], None]) -> QuickModel | None:
    for run in list_runs(folder):
        if run.weights.exists() and run.facts.get("step"):
            try:
                model, tokenizer, facts = load_run(run.weights, device)
            except CheckpointError as error:
                say(f"passed over: {error}")
                continue
            note = f"{run}; trained on {facts['corpus']['path']}"
            say(f"Model: {note}.")
            return QuickModel(model, tokenizer, note)
    return None


def _wait_for_another_notebook(say: Callable[[str], None]) -> None:
    """Two notebooks that are opened together would train the same small model: the second takes the first one's."""
    if lock_holder(_quick_folder()) is not None:
        say("Another notebook is training a small model right now: this one waits for it.")
        while lock_holder(_quick_folder()) is not None:
            time.sleep(0.3)


def _train_quickly(device: str, seconds: float, say: Callable[[str], None]) -> QuickModel:
    most = 1.3 * seconds  # should the machine become busy
    say(f"No model in {shown(out_dir())} yet: a small one is trained on the sample now, {most:.0f} seconds at most.")
    flags: dict[str, Any] = {
        "out_dir": str(out_dir() / "quick"),
        "data_path": str(SAMPLE),
        "device": device,
        **{"dim": 96, "n_layers": 3, "n_heads": 6, "n_kv_heads": 2, "vocab_size": 2400, "max_seq_len": 256},
        **{"batch_size": 8, "accumulation_steps": 1, "epochs": 12},
        "log_interval": 10**9,
    }
    pace = estimate(plan_run(**flags)).seconds_per_step
    updates = max(20, int(0.8 * seconds / pace))  # the schedule fits the time there is
    plan = plan_run(**flags, max_steps=updates, eval_interval=updates // 4)
    trainer = Trainer(plan, say=lambda text: None, bar=False)
    deadline = time.perf_counter() + most
    trainer.on_update = lambda row: trainer.stop() if time.perf_counter() > deadline else None
    trainer.fit()
    model, tokenizer, _ = load_run(plan.weights, device)
    told = f"trained on {shown(plan.corpus.path)} for {trainer.seconds:.0f} s ({trainer.step} updates)"
    note = f"{shown(plan.weights)}, {told}"
    say(f"Model: {note}.")
    return QuickModel(model, tokenizer, note)

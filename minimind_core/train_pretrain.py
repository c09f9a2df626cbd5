"""Pretrain from the command line: `python -m minimind_core.train_pretrain`, with the seed's flags; also under torchrun.

Without flags it trains on what is there: the full corpus if it lies in dataset/, else the sample, in the profile that
suits the device. It says what it chose, what the run needs and how long it takes before it starts.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from .cli import friendly, parse_flags


@friendly
def main(argv: list[str] | None = None) -> int:
    """Plan, say what will happen, train, say where the weights are."""
    began = time.time()
    given = parse_flags(
        argv,
        "python -m minimind_core.train_pretrain",
        "Pretrain MiniMind. A flag that isn't given comes from the device's profile, or from the seed's defaults when "
        "--dim or --n_layers is given.",
    )
    from .distributed import join_world
    from .precision import run_device

    with join_world(run_device(given.get("device", "auto"))[0].type) as world:
        return _run(given, world, began)


def _run(given: dict[str, Any], world, began: float) -> int:
    from .fitting import fitted
    from .plan import plan_run
    from .preflight import estimate, warnings_for
    from .progress import tell
    from .run_files import RunFiles
    from .runs import is_complete
    from .trainer import Trainer

    say = tell if world.is_main else (lambda text: None)
    if world.local_rank == 0:
        plan = plan_run(world.size, world.local_rank, **given)
    world.barrier()  # one process on each machine encodes the corpus; the others find it done
    if world.local_rank != 0:
        plan = plan_run(world.size, world.local_rank, **given)
    plan = fitted(plan, world)
    for note in plan.notes:
        say(note)
    say(
        f"Each epoch: {plan.tokens_per_epoch:,} tokens in {plan.iter_per_epoch:,} micro-steps of "
        f"{plan.train.batch_size} rows; {plan.train.epochs} epochs, {plan.updates:,} updates, "
        f"{plan.train.recipe} recipe."
    )
    if world.is_main:
        RunFiles(plan.weights, plan.tokenizer, tell).check(plan.parameters, plan.train.resume)
    if not (plan.train.resume and is_complete(plan)):
        needs = estimate(plan)
        say(f"This run: {needs}.")
        for warning in warnings_for(plan, needs):
            say(warning)
    trainer = Trainer(plan, world=world, say=say, bar=world.is_main and bool(sys.stderr and sys.stderr.isatty()))
    trainer.files.born = began  # who asks to stop while the corpus is being encoded is heard as well
    result = trainer.fit()
    if result.held_out is not None:
        say(f"Held out: {result.held_out}; lowest {result.best_held_out:.3f} after update {result.best_step}.")
    say(f"Weights: {os.path.relpath(result.weights)}")
    if not result.saved:
        return 1
    return 0 if result.complete else 130


if __name__ == "__main__":
    raise SystemExit(main())

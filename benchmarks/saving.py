"""What saving costs: seconds of a step and of a save of the full model, and the share of a run that saves take.

    python benchmarks/saving.py [--seconds 240]

The run is a real one on the sample, with MiniMind's 25.8M parameters and its optimizer, stopped after some seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from minimind_core import SAMPLE, Trainer, plan_run
from minimind_core.precision import describe_device


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--recipe", default="seed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_run(
            data_path=str(SAMPLE), out_dir=folder, recipe=asked.recipe, dim=512, n_layers=8, batch_size=2,
            accumulation_steps=1, epochs=1000, eval_interval=20,
        )  # fmt: skip
        trainer = Trainer(plan, say=lambda text: None, bar=False)
        really, saves, started = trainer.files.save, [], time.perf_counter()

        def timed(*arguments):
            before = time.perf_counter()
            saved = really(*arguments)
            saves.append(time.perf_counter() - before)
            return saved

        trainer.files.save = timed
        trainer.on_update = lambda row: trainer.stop() if time.perf_counter() - started > asked.seconds else None
        result = trainer.fit()
        files = [path for path in Path(folder).rglob("*.p*") if path.is_file()]
        state = max(path.stat().st_size for path in files if path.name.startswith("state")) / 1e6
        spent = trainer.saver.clock.spent - saves[-1]  # the last one is that of the end
        print(f"{describe_device(plan.device)}; {plan.parameters:,} parameters; {result.step} updates")
        print(f"a micro-step of {plan.train.batch_size} rows: {result.seconds / result.step:.2f} s")
        print(f"a save: {statistics.median(saves):.2f} s (median of {len(saves)}); its state {state:,.0f} MB")
        print(
            f"along the way {len(saves) - 1} saves and the snapshots took {spent:.1f} s of {result.seconds:.0f}: "
            f"{spent / result.seconds:.1%}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""All benchmarks one after another, then the table, the README's section and the plot: `make bench`.

    python benchmarks/bench.py [--corpus FILE] [--tokenizer FOLDER] [--train FILE --valid FILE] [--gigabytes 1.6]

About an hour on two cores that do nothing else. `--corpus` gives the rows that steps are timed on (default:
the built-in sample), `--train` and `--valid` a corpus and held-out rows for the time to the same loss; without them
that part is left out, as are the recipes, which take hours (recipes.py). Figures go to benchmarks/results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("corpus", "tokenizer", "train", "valid"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--gigabytes", default="1.6")
    asked = parser.parse_args()
    if bool(asked.train) != bool(asked.valid):
        parser.error("--train and --valid belong together: what is trained on, and what it is judged by")
    rows = [f"--{name}={getattr(asked, name)}" for name in ("corpus", "tokenizer") if getattr(asked, name)]
    steps = [
        ["speed.py", *rows],
        ["left.py"],
        ["left.py", "--use_moe"],
        ["encoding.py", f"--gigabytes={asked.gigabytes}", *([f"--source={asked.corpus}"] if asked.corpus else [])],
    ]
    if asked.train:
        steps.append(["sooner.py", f"--train={asked.train}", f"--valid={asked.valid}"])
    for script, *arguments in [*steps, ["report.py", "--readme"]]:
        print(f"\n== {script}", flush=True)
        done = subprocess.run([sys.executable, FOLDER / script, *arguments])
        if done.returncode:
            print(f"{script} failed: the figures of the others are kept, the table was not made.")
            return done.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

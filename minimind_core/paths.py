"""Where things lie: the project's folders, found from this file and movable by two environment variables.

`MINIMIND_DATASET` and `MINIMIND_OUT` move dataset/ and out/ to another disk (on AutoDL: /root/autodl-tmp), for the
notebooks and the command lines alike. `dataset/` keeps serving the sample corpus, which is part of the project.
"""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SAMPLE = PROJECT / "dataset" / "sample.jsonl"
SAMPLE_VALID = PROJECT / "dataset" / "sample_valid.jsonl"


def dataset_dir() -> Path:
    """The folder that downloads land in: `$MINIMIND_DATASET`, else dataset/ in the project."""
    return Path(os.environ.get("MINIMIND_DATASET") or PROJECT / "dataset")


def out_dir() -> Path:
    """The folder for everything that runs produce: `$MINIMIND_OUT`, else out/ in the project."""
    return Path(os.environ.get("MINIMIND_OUT") or PROJECT / "out")


def shown(path: str | Path) -> str:
    """A path as a learner wants to read it: relative to the project or the working folder where it lies inside."""
    path = Path(path)
    for base in (Path.cwd(), PROJECT):
        try:
            return str(path.resolve().relative_to(base.resolve()))
        except ValueError:
            continue
    return str(path)

"""Runs that are killed with SIGKILL and resumed: a short part of the campaign that `make kills` runs at length."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import PROJECT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the campaign forks, which is tried on Linux"),
]


@pytest.mark.parametrize(
    ("words", "kills"),
    [
        ("--random 3 --points 1 --real 0 --pairs 0 --kinds fast seed-moe", 6),
        ("--random 0 --points 0 --real 0 --pairs 1 --kinds fast-moe", 2),
    ],
    ids=["alone", "two processes"],
)
def test_killed_and_resumed_runs_equal_undisturbed_ones_bit_by_bit(words, kills):
    done = subprocess.run(
        [sys.executable, "tests/kills.py", *words.split(), "--seed", "3"],
        cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert int(re.search(r"(\d+) kills survived in", done.stdout)[1]) >= kills, done.stdout

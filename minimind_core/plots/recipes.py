"""What each difference between the recipes gains, as it was measured (lesson 06): read from benchmarks/results.

The numbers come from benchmarks/recipes.py, which trains small models for them; nothing is trained here.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from IPython.display import HTML

from ..config import RECIPES
from ..paths import PROJECT
from .corpus import table

RESULTS = PROJECT / "benchmarks" / "results" / "recipes.json"
NOT_LEARNING = {  # differences that change nothing in what is learned from a token
    "cuda_dtype": "speed on a GPU, not measured yet",
    "window_loss": "what the log line shows, no more",
}


def ladder(path: Path = RESULTS) -> list[dict[str, Any]]:
    """The lines of the measured ladder from seed to fast: name, what changed, losses of each seed at equal tokens.

    Each is {"name", "changed": {field: (before, now)}, "losses": {seed: loss}, "tokens", "size", "rate"}; `rate` is the
    highest learning rate of the run.
    """
    runs = [run for run in json.loads(path.read_text(encoding="utf-8"))["runs"] if run["sight"]]
    final = max(run["tokens"] for run in runs)
    found: dict[str, dict[str, Any]] = {}
    for name in ("seed", *dict.fromkeys(run["name"] for run in runs if run["name"].startswith("+"))):
        mine = [run for run in runs if run["tokens"] == final and _line_of(run, runs) == name]
        losses = {run["seed"]: run["curve"][-1][1] for run in mine}
        found[name] = {"name": name, "recipe": mine[-1]["recipe"], "losses": losses, "tokens": final}
        found[name] |= {"size": mine[-1]["size"], "rate": mine[-1]["rate"]}
    lines = sorted(found.values(), key=lambda line: _differences(line["recipe"]), reverse=True)
    before = lines[0]["recipe"]
    for line in lines:
        changed = {k: (before[k], v) for k, v in line["recipe"].items() if v != before[k]}
        line["changed"] = {field: change for field, change in changed.items() if field not in NOT_LEARNING}
        before = line["recipe"]
    return lines


def _line_of(run: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """The ladder's line that a run belongs to: the seed recipe's are those with its best rate."""
    if not run["name"].startswith("seed at "):
        return run["name"]
    rivals = [r for r in runs if r["name"].startswith("seed at ") and r["tokens"] == run["tokens"]]
    return "seed" if run is min(rivals, key=lambda r: r["curve"][-1][1]) else run["name"]


def _differences(recipe: dict[str, Any]) -> int:
    """How many fields still are not the fast recipe's."""
    fast = vars(RECIPES["fast"])
    return sum(recipe[name] != fast[name] for name in recipe if name in fast)


def recipe_gains(path: Path = RESULTS) -> HTML:
    """A table of every difference between the recipes with what it gains in held-out loss at equal tokens."""
    lines, (rate, before) = ladder(path), _as_given(path)
    rows = [["seed, at MiniMind's own rate", f"rate {rate:g}", len(before), _mean(before), "", ""]]
    for number, line in enumerate(lines):
        seeds = line["losses"]
        without = _without(line["name"], path) or (before if line in lines[-2:] else None)
        missed = _difference(without, lines[-1]["losses"]) if number and without else ""
        if line is lines[-2]:
            missed += ", with the rate"  # which is not raised without Muon
        changes = [f"{field} {old} → {new}" for field, (old, new) in line["changed"].items()]
        if line["rate"] != rate:
            changes.append(f"rate {rate:g} → {line['rate']:g}")
        rows.append([line["name"], ", ".join(changes), len(seeds), _mean(seeds), _difference(before, seeds), missed])
        rate, before = line["rate"], seeds
    seed, fast = RECIPES["seed"], RECIPES["fast"]
    for field, said in NOT_LEARNING.items():
        rows.append(["", f"{field} {getattr(seed, field)} → {getattr(fast, field)}", "", "", said, ""])
    size = lines[0]["size"]
    caption = (
        f"dim {size['dim']} × {size['layers']} layers, {lines[0]['tokens']:,} tokens; ±: half of the spread of repeats"
    )
    heads = ["line by line", "what changes", "repeats", "held-out loss", "gain", "fast without it: rises by"]
    return table(heads, rows, caption)


def _as_given(path: Path) -> tuple[float, dict[int, float]]:
    """The seed recipe at the rate that MiniMind's script has: that rate, and final losses by random seed."""
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    given = [run for run in runs if run["name"].startswith("seed at its own ")]
    return given[0]["rate"], {run["seed"]: run["curve"][-1][1] for run in given}


def _mean(losses: dict[int, float]) -> str:
    return f"{mean(losses.values()):.3f}"


def _without(name: str, path: Path) -> dict[int, float]:
    """Final losses, by seed, of the fast recipe with one line's change taken back; {} where that was not run."""
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return {run["seed"]: run["curve"][-1][1] for run in runs if run["name"] == f"fast without{name[1:]}"}


def _difference(ones: dict[int, float], others: dict[int, float]) -> str:
    """Mean of one minus other over the seeds that both have, and half of the spread between these seeds."""
    found = [ones[seed] - others[seed] for seed in ones.keys() & others.keys()]
    return f"{mean(found):+.3f} ± {(max(found) - min(found)) / 2:.3f}"


def sight_cost(path: Path = RESULTS) -> str:
    """What it does to the held-out loss that packed segments see each other in training, as a sentence."""
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    alike = ("recipe", "rate", "tokens", "size")
    confined = [run for run in runs if not run["sight"]]
    free = [run for run in runs if run["sight"] and confined and all(run[k] == confined[0][k] for k in alike)]
    of_kind = {kind: {r["seed"]: r["curve"][-1][1] for r in found} for kind, found in ((True, free), (False, confined))}
    common = sorted(of_kind[True].keys() & of_kind[False].keys())
    if not common:
        return "What sight of other segments costs was not measured."
    costs = [of_kind[True][seed] - of_kind[False][seed] for seed in common]
    return (
        f"Sight of other segments changes the held-out loss by {mean(costs):+.3f} nats per token: it "
        f"{'helps a little' if mean(costs) < 0 else 'costs a little'}.\n({min(costs):+.3f} to {max(costs):+.3f} with "
        f"{len(common)} random seeds, against a mask around each segment; held-out rows hold several segments, too.)"
    )

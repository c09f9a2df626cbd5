"""How much sooner the fast recipe learns: held-out loss at equal tokens, from the seed recipe one change at a time.

    python benchmarks/recipes.py --train FILE --valid FILE [--seeds 3] [--tokens N] [--json FILE] [--plot FILE]

Every run is a real one, in float32 on a CPU and at a small width; tokens are counted without padding. The seed recipe
gets the best of several peak rates. Finished runs are kept in the JSON file, so the command can be stopped and given
again; results/recipes.json has those that the recipe was chosen by. `--sight` measures instead what it costs that the
segments of a packed row see each other.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F

from minimind_core import RECIPES, Recipe, Trainer, layers, plan_run
from minimind_core.tokenizer import BOS_ID

SEED, FAST = RECIPES["seed"], RECIPES["fast"]
RATES = (3e-3, 6e-3, 1.2e-2)  # peak rates that the seed recipe chooses from
MINIMIND_RATE = 5e-4
AS_GIVEN, FITTED = f"seed at its own {MINIMIND_RATE:g}", "fast, fitted to fewer tokens"
SIZE = ("dim", "layers", "vocab", "length", "rows")
PARTS = (4, 2)  # the fast recipe also runs for 1/4 and 1/2 of the tokens, with its schedule fitted to them

# Each line takes these fields of the fast recipe over from one line to the next.
LADDER = {
    "seed": (),
    "+ packed, shuffled rows": ("rows", "shuffle"),
    "+ warm-up, linear decay": ("warmup", "schedule"),
    "+ Muon": ("optimizer", "beta2", "weight_decay"),
    "+ higher rate = fast": ("lr_scale",),
}


def ladder() -> dict[str, Recipe]:
    """The recipes from seed to fast, by the name of what each of them adds."""
    found, recipe = {}, SEED
    for name, changed in LADDER.items():
        recipe = replace(recipe, **{field: getattr(FAST, field) for field in changed})
        found[name] = recipe
    left = {name for name, value in asdict(FAST).items() if value != asdict(recipe)[name]}
    if left - {"cuda_dtype", "window_loss"}:  # these two change nothing on a CPU
        raise SystemExit(f"The ladder does not arrive at the fast recipe: {', '.join(sorted(left))} is missing.")
    return found | {name: FAST}


def left_out() -> dict[str, Recipe]:
    """The fast recipe with one of the changes taken back, where the ladder does not have that already: Muon and the
    higher rate are its last two, and without Muon there is no higher rate.
    """
    found = {}
    for name in list(LADDER)[1:-2]:
        found[f"fast without{name[1:]}"] = replace(FAST, **{field: getattr(SEED, field) for field in LADDER[name]})
    return found


class Runs:
    """Runs that are made once and then read from a JSON file, each found by all that it depends on."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.path = asked, Path(asked.json)
        self.kept = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        self.done = self.kept.get("runs", [])

    def curve(self, name: str, recipe: Recipe, rate: float, seed: int, tokens: int, sight: bool = True) -> list:
        """Pairs (tokens, held-out loss) of one run, the last one at its end; `rate` is the peak rate."""
        rate, size = round(rate, 9), {key: getattr(self.asked, key) for key in SIZE}
        facts = {"rate": rate, "seed": seed, "tokens": tokens, "sight": sight, "size": size, "recipe": asdict(recipe)}
        for run in self.done:
            if all(run[key] == value for key, value in facts.items()):
                return run["curve"]
        curve, seconds = train(self.asked, recipe, rate, seed, tokens, sight)
        self.done.append({"name": name, **facts, "curve": curve, "seconds": round(seconds, 1)})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.kept | {"runs": self.done}, indent=1), encoding="utf-8")
        print(f"{name}: rate {rate:g}, seed {seed}: {curve[-1][1]:.4f} after {curve[-1][0]:,} tokens, {seconds:.0f} s")
        return curve


def train(asked: argparse.Namespace, recipe: Recipe, rate: float, seed: int, tokens: int, sight: bool) -> tuple:
    """One run of `tokens` tokens, whose schedule is fitted to them: its curve and its seconds."""
    torch.set_num_threads(1)
    flags = {
        "recipe": "fast", "data_path": asked.train, "valid_path": asked.valid, "device": "cpu", "dtype": "float32",
        "dim": asked.dim, "n_layers": asked.layers, "n_heads": 4, "n_kv_heads": 2, "vocab_size": asked.vocab,
        "max_seq_len": asked.length, "batch_size": asked.rows, "accumulation_steps": 1, "epochs": 100, "seed": seed,
        "learning_rate": rate / recipe.lr_scale, "save_interval": 10**9,
    }  # fmt: skip
    curve, RECIPES["fast"] = [], recipe  # whatever is to be measured goes by this name
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_run(out_dir=folder, **flags)
        steps = round(tokens / plan.tokens_per_epoch * plan.iter_per_epoch)
        every = math.ceil(steps / asked.looks)
        plan = plan_run(out_dir=folder, max_steps=steps, eval_interval=every, **flags)
        trainer = Trainer(plan, say=lambda text: None, bar=False)
        trainer.on_held_out = lambda row: curve.append([row["tokens"], round(row["held_out_loss"], 5)])
        with nullcontext() if sight else own_segment_only(trainer.model):
            result = trainer.fit()
    if not result.complete:  # stopped by hand: nothing to keep
        raise SystemExit(130)
    return curve, result.seconds


@contextmanager
def own_segment_only(model: torch.nn.Module) -> Iterator[None]:
    """In training let each token see its own segment alone, by a mask; judging goes on as it is."""
    masks, usual = [], layers.causal_attention

    def note(module, arguments) -> None:
        segment = (arguments[0] == BOS_ID).cumsum(1)  # (B, T): number of the segment that a token belongs to
        same = segment[:, None, :, None] == segment[:, None, None, :]
        masks[:] = [same.tril()] if module.training else []  # (B, 1, T, T)

    def confined(queries, keys, values, dropout=0.0):
        if not masks:
            return usual(queries, keys, values, dropout)
        return F.scaled_dot_product_attention(queries, keys, values, masks[0], enable_gqa=True)

    hook, layers.causal_attention = model.register_forward_pre_hook(note), confined
    try:
        yield
    finally:
        hook.remove()
        layers.causal_attention = usual


def best_rate(runs: Runs) -> float:
    """The seed recipe's best peak rate at this size, by its held-out loss with the first seed."""
    found = {rate: runs.curve(f"seed at {rate:g}", SEED, rate, 1, runs.asked.tokens)[-1][1] for rate in RATES}
    best = min(found, key=found.get)
    print("seed recipe by peak rate:", ", ".join(f"{rate:g}: {loss:.3f}" for rate, loss in found.items()))
    if best in (RATES[0], RATES[-1]):
        print(f"{best:g} is at an edge: there may be a better rate beyond it.")
    return best


def crossing(curve: list, loss: float) -> float:
    """Tokens at which a curve comes down to `loss`, on a line in log(tokens); its first look at least, inf if never."""
    for (early, high), (late, low) in pairwise(point for point in curve if point[0]):
        if low <= loss:
            share = (high - loss) / (high - low) if high > loss else 0.0
            return early * (late / early) ** share
    return math.inf


def said(numbers: list[float], digits: int = 3) -> str:
    """Mean ± standard deviation."""
    spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return f"{statistics.mean(numbers):.{digits}f} ± {spread:.{digits}f}"


def compare(asked: argparse.Namespace) -> None:
    """Run the ladder, and the fast recipe at fewer tokens; print the table and draw the curves."""
    runs = Runs(asked)
    lines = {AS_GIVEN: SEED, **ladder()}
    seed_rate, fast_rate = best_rate(runs), asked.rate * FAST.lr_scale
    curves: dict[str, list] = {name: [] for name in lines}

    def run(name: str, seeds: int) -> None:
        recipe = lines[name]
        rate = MINIMIND_RATE if name == AS_GIVEN else fast_rate if recipe.lr_scale != 1 else seed_rate
        curves[name] = [runs.curve(name, recipe, rate, seed, asked.tokens) for seed in range(1, seeds + 1)]

    *between, last = list(LADDER)[1:]
    run("seed", asked.seeds)
    run(last, asked.seeds)
    fitted = []
    for seed, longest in enumerate(curves[last], start=1):
        shorter = [runs.curve(FITTED, FAST, fast_rate, seed, asked.tokens // part)[-1] for part in PARTS]
        fitted.append([*shorter, longest[-1]])
    for name in (*between, AS_GIVEN):
        run(name, asked.between or asked.seeds)
    for name, recipe in left_out().items():
        ends = [runs.curve(name, recipe, fast_rate, n, asked.tokens)[-1][1] for n in range(1, asked.seeds + 1)]
        print(f"{name}: {said(ends)}")
    report(curves, fitted, asked.tokens)
    draw(curves, fitted, asked.plot)


def report(curves: dict[str, list], fitted: list, tokens: int) -> None:
    """Print a line for each recipe, and how many times fewer tokens the fast one needs."""
    goals = [curve[-1][1] for curve in curves["seed"]]
    print(f"\nHeld-out loss after {tokens:,} tokens; gain; tokens to the seed recipe's loss, by the line's own curve")
    before: list[float] = []
    for name, of_seeds in curves.items():
        losses = [curve[-1][1] for curve in of_seeds]
        needs = [crossing(curve, goal) for curve, goal in zip(of_seeds, goals, strict=False)]  # between: fewer seeds
        gains = [old - new for old, new in zip(before, losses, strict=False)]  # seed by seed
        gain = f"{statistics.mean(gains):+.3f}" if gains else ""
        print(f"{name:26}{said(losses):>16}{gain:>9}{said(needs, 0) if max(needs) < math.inf else 'more':>20}")
        before = losses
    ratios = [curve[-1][0] / crossing(curve, goal) for curve, goal in zip(fitted, goals, strict=True)]
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"{FITTED}: {said(ratios, 2)} times fewer tokens than the seed recipe (seed by seed: {shown})")


def compare_sight(asked: argparse.Namespace) -> None:
    """The fast recipe with and without sight of other segments in a packed row, in training only."""
    runs, seeds, losses = Runs(asked), range(1, asked.seeds + 1), {}
    for seed in seeds:
        for name, sight in (("whole row", True), ("own segment only", False)):
            curve = runs.curve(f"fast, {name}", FAST, FAST.lr_scale * asked.rate, seed, asked.tokens, sight)
            losses.setdefault(name, []).append(curve[-1][1])
    for name, found in losses.items():
        print(f"tokens see their {name:18}: held-out loss {said(found)}")
    costs = [whole - own for whole, own in zip(*losses.values(), strict=True)]
    print(f"Sight of other segments costs {said(costs)} nats per token, seed by seed (below 0: it helps).")


def draw(curves: dict[str, list], fitted: list, path: str) -> None:
    """Held-out loss against tokens: each line's mean over seeds, and the fast recipe's runs fitted to fewer tokens."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for number, (name, of_seeds) in enumerate([*curves.items(), (FITTED, fitted)]):
        means = torch.tensor(of_seeds, dtype=torch.float64).mean(0)  # (seeds, looks, 2) → (looks, 2)
        means = means[means[:, 0] > 0]  # nobody needs to see where they all start
        axes.plot(means[:, 0] / 1000, means[:, 1], "s--" if name == FITTED else "o-", color=f"C{number}", label=name)
    goal = statistics.mean(curve[-1][1] for curve in curves["seed"])
    axes.axhline(goal, color="grey", lw=0.8, label="the seed recipe's final loss")
    axes.set(xlabel="thousand tokens", ylabel="held-out loss, nats per token", title="From seed to fast, step by step")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    print(f"Curves: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True, help="corpus to train on, JSON lines")
    parser.add_argument("--valid", required=True, help="rows to judge by, JSON lines")
    parser.add_argument("--json", default="out/benchmarks/recipes.json", help="where finished runs are kept")
    parser.add_argument("--plot", default="out/benchmarks/recipes.png")
    parser.add_argument("--sight", action="store_true", help="measure what sight of other segments costs instead")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="--learning_rate of the fast recipe, times lr_scale")
    sizes = {"seeds": 3, "tokens": 300_000, "dim": 64, "layers": 4, "vocab": 2400, "length": 256, "rows": 4, "looks": 3}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value:,}")
    parser.add_argument("--between", type=int, help="seeds of the lines between seed and fast; default: as many")
    asked = parser.parse_args()
    compare_sight(asked) if asked.sight else compare(asked)


if __name__ == "__main__":
    main()

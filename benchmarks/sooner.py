"""Time to the same held-out loss: MiniMind's way from beginning to end, and the fast recipe in fewer tokens.

    python benchmarks/sooner.py --train FILE --valid FILE [--rate 3e-3] [--fewer 2.3] [--rounds 3]

Both train a small model from the same initial weights. MiniMind's way (minimind_way.py: padded rows, AdamW, its
schedule, tokenised while loaded) goes over so many tokens with the peak rate that suits it best; the fast recipe gets
`--fewer` times less and has to reach that loss all the same. What counts is the time that training took; held-out rows
are judged afterwards, both by the same function. Writes benchmarks/results/sooner.json.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import minimind_way
import torch
from measure import machine, now, results, write
from torch.utils.data import DataLoader

from minimind_core import MiniMindLM, Trainer, get_lr, held_out_loss, plan_run


def plan_of(asked: argparse.Namespace, folder: str, seed: int, **more):
    flags = {
        "data_path": asked.train, "valid_path": asked.valid, "out_dir": folder, "dim": asked.dim,
        "n_layers": asked.layers, "n_heads": 4, "n_kv_heads": 2, "vocab_size": asked.vocab, "max_seq_len": asked.length,
        "batch_size": asked.rows, "accumulation_steps": 1, "epochs": 100, "seed": seed, "save_interval": 10**9,
        "eval_interval": 10**9, "device": "cpu",
    }  # fmt: skip
    return plan_run(**flags, **more)


def their_run(asked: argparse.Namespace, plan) -> tuple[float, float, int]:
    """Seconds, held-out loss and tokens of MiniMind's way."""
    torch.manual_seed(plan.train.seed)
    start = MiniMindLM(plan.model)
    model = minimind_way.Model(plan.model).train()
    model.load_state_dict(start.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=asked.rate)
    rows = minimind_way.Rows(plan.corpus.path, plan.tokenizer, plan.model.max_seq_len)
    steps = round(asked.tokens / plan.tokens_per_epoch * plan.iter_per_epoch)
    batches = itertools.chain.from_iterable(itertools.repeat(DataLoader(rows, plan.train.batch_size)))
    tokens, began = 0, now()
    for step, (X, Y, loss_mask) in enumerate(itertools.islice(batches, steps)):
        for group in optimizer.param_groups:
            group["lr"] = get_lr(step, steps, asked.rate)
        ce, _ = minimind_way.loss_of(model, X, Y, loss_mask)
        ce.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += int(loss_mask.sum())
    seconds = now() - began
    start.load_state_dict(model.state_dict())
    return seconds, held_out_loss(start, plan.held_out, plan.tokenizer).loss, tokens


def our_run(asked: argparse.Namespace, folder: str, seed: int) -> tuple[float, float, int]:
    """The same of the fast recipe, with its schedule fitted to `fewer` times less tokens."""
    whole = plan_of(asked, folder, seed, learning_rate=asked.fast_rate)
    steps = round(asked.tokens / asked.fewer / whole.tokens_per_epoch * whole.iter_per_epoch)
    plan = plan_of(asked, folder, seed, learning_rate=asked.fast_rate, max_steps=steps)
    trainer = Trainer(plan, say=lambda text: None, bar=False)
    stamps: list[float] = []  # of each update; held-out rows are judged before the first and after the last
    trainer.on_update = lambda row: stamps.append(now())
    result = trainer.fit()
    seconds = (stamps[-1] - stamps[0]) * len(stamps) / (len(stamps) - 1)
    return seconds, result.held_out.loss, trainer.tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True, help="corpus to train on, JSON lines")
    parser.add_argument("--valid", required=True, help="rows to judge by, JSON lines")
    parser.add_argument("--rate", type=float, default=3e-3, help="MiniMind's peak rate that is best at this size")
    parser.add_argument("--fast_rate", type=float, default=1.5e-3, help="--learning_rate of the fast recipe")
    parser.add_argument("--fewer", type=float, default=2.3, help="how many times fewer tokens the fast recipe gets")
    parser.add_argument("--rounds", type=int, default=3, help="seeds")
    sizes = {"tokens": 600_000, "dim": 128, "layers": 4, "vocab": 6400, "length": 256, "rows": 8}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value:,}")
    parser.add_argument("--json", default=str(results("sooner")))
    asked = parser.parse_args()
    rounds = []
    for seed in range(1, asked.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            theirs = their_run(asked, plan_of(asked, folder, seed, recipe="seed"))
            ours = our_run(asked, folder, seed)
        rounds.append({"theirs": theirs, "ours": ours})
        for name, (seconds, loss, tokens) in rounds[-1].items():
            print(
                f"seed {seed}, {name}: held-out loss {loss:.3f} after {tokens:,} tokens in {seconds:.0f} s", flush=True
            )
    facts = {
        "rounds": rounds,
        "ratio": statistics.median(r["theirs"][0] / r["ours"][0] for r in rounds),
        "reached": all(r["ours"][1] <= r["theirs"][1] for r in rounds),
        "asked": {name: getattr(asked, name) for name in ("rate", "fast_rate", "fewer", *sizes)},
    }
    print(f"{facts['ratio']:.2f} times sooner; loss reached in every round: {facts['reached']}")
    write(asked.json, {"machine": machine(), **facts})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""How quick a step of training and a new token are, against MiniMind's own way of doing them on the same machine.

    python benchmarks/speed.py [--corpus FILE] [--tokenizer FOLDER] [--rounds 5] [--only dense moe laptop generation]

Both sides have the same weights and take turns, a micro-batch or a text each; what counts is the median of the rounds'
ratios. The baseline (minimind_way.py) does what MiniMind does: 32 padded rows at a time, tokenised while they are
loaded, AdamW at its defaults. Ours is the fast recipe as every run has it. Tokens are real ones, padding not counted.
A round is a micro-batch and a step of the optimizer; from these follows the pace of a run, whose updates have eight
micro-batches, as MiniMind's have, and one in the laptop profile.
Writes benchmarks/results/speed.json. About 20 minutes on two cores; on a GPU the same command compares there.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import minimind_way
import torch
from measure import fresh, machine, now, peak_memory, results, write
from torch.utils.data import DataLoader

from minimind_core import (
    PROFILES,
    SAMPLE,
    Hooks,
    MiniMindLM,
    ModelConfig,
    TrainConfig,
    autocast_context,
    build_optimizer,
    generate,
    get_lr,
    load_tokenizer,
    make_scaler,
    pick_device,
    plan_run,
    train_epoch,
)
from minimind_core.batches import EpochBatches, batch_loader
from minimind_core.compiling import compiled
from minimind_core.decoding import cut
from minimind_core.fitting import fitted
from minimind_core.model import active_parameter_count

ROWS = 32  # MiniMind's micro-batch
SMALL = PROFILES["laptop"].model
LAPTOP = {name: getattr(SMALL, name) for name in ("dim", "n_layers", "n_heads", "n_kv_heads")}
CASES = {
    "dense": {"dim": 512, "n_layers": 8},
    "moe": {"dim": 512, "n_layers": 8, "use_moe": True},
    "laptop": LAPTOP,
    "laptop, full rows": LAPTOP | {"max_seq_len": SMALL.max_seq_len, "vocab_size": SMALL.vocab_size},
}
NEW_TOKENS = 256
Turn = Callable[[], tuple[int, float]]  # a micro-batch and a step of the optimizer: real tokens, seconds of that step


class Stopwatch:
    """Takes the time of an optimizer's last step, apart from all else."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.seconds, self.usual = 0.0, optimizer.step
        optimizer.step = self.step

    def step(self, *arguments) -> None:
        start = now()
        self.usual(*arguments)
        self.seconds = now() - start


# --- a step of training -----------------------------------------------------------------------------------------------


def their_update(asked: argparse.Namespace, case: str, device: torch.device) -> tuple[Turn, torch.nn.Module]:
    """MiniMind's turn: ROWS padded rows and AdamW; in float16 with a scaler on a GPU, as there."""
    plan = plan_of(asked, case, recipe="seed")
    torch.manual_seed(0)
    model = minimind_way.Model(plan.model).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    watch = Stopwatch(optimizer)
    rows = minimind_way.Rows(plan.corpus.path, plan.tokenizer, plan.model.max_seq_len)
    batches = itertools.cycle(DataLoader(rows, ROWS, drop_last=True))
    on_gpu = device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=on_gpu)
    context = autocast_context(device, torch.float16 if on_gpu else torch.float32)

    def update() -> tuple[int, float]:
        X, Y, loss_mask = (part.to(device) for part in next(batches))
        for group in optimizer.param_groups:
            group["lr"] = get_lr(1, 100, 5e-4)
        with context:
            ce, aux_loss = minimind_way.loss_of(model, X, Y, loss_mask)
        scaler.scale(ce + aux_loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return int(loss_mask.sum()), watch.seconds

    return update, model


def our_update(asked: argparse.Namespace, case: str, weights: dict) -> tuple[Turn, torch.nn.Module]:
    """Our turn: ROWS packed rows by the loop, the pieces and the optimizer that a run of the fast recipe has."""
    plan = fitted(plan_of(asked, case, recipe="fast"))
    device, accumulation = plan.device, plan.train.accumulation_steps
    model = MiniMindLM(plan.model).to(device).train()
    model.load_state_dict(weights)
    optimizer, scaler = build_optimizer(model, plan.recipe, 1e-4), make_scaler(device, plan.dtype)
    quick, watch, counted = compiled(model, plan, print), Stopwatch(optimizer), []
    order = EpochBatches(len(plan.train_set), plan.train.batch_size, True, whole_only=True)
    batches = endless(lambda: batch_loader(plan.train_set, order))

    def update() -> tuple[int, float]:
        counted.clear()
        hooks = Hooks(accumulation, lr=1e-4, accumulation_steps=accumulation, device=device)
        hooks.after_backward = lambda epoch, step, ce, aux_loss, tokens: counted.append(tokens)
        hooks.before_update = lambda *arguments: None
        context = autocast_context(device, plan.dtype)
        train_epoch(0, quick, itertools.islice(batches, accumulation), optimizer, scaler, context, hooks)
        return int(sum(counted)), watch.seconds

    return update, model


def endless(make: Callable) -> Iterator:
    while True:
        yield from make()


def plan_of(asked: argparse.Namespace, case: str, recipe: str):
    """The run that a case is of; nothing of it is written but the encoded corpus."""
    tokenizer = {} if "vocab_size" in CASES[case] else {"tokenizer": asked.tokenizer} if asked.tokenizer else {}
    corpus = str(SAMPLE) if "max_seq_len" in CASES[case] else asked.corpus
    flags = {"data_path": corpus, "batch_size": ROWS, "accumulation_steps": 1, "seed": 0}
    return plan_run(**flags, **tokenizer, **CASES[case], recipe=recipe)


def compare_steps(asked: argparse.Namespace, case: str) -> dict:
    """Tokens per second of both, and the median of each round's ratio, after one turn each to get warm."""
    device = pick_device()
    # First, while this process holds nothing: MiniMind's way through the experts takes most of a machine's memory.
    memory = [fresh(__file__, ["--memory", side, "--only", case, *flags(asked)]) for side in SIDES]
    theirs, model = their_update(asked, case, device)
    ours, ours_model = our_update(asked, case, model.state_dict())
    micro_batches = 1 if "full rows" in case else TrainConfig().accumulation_steps
    facts = summary(alternate(theirs, ours, asked.rounds, micro_batches)) | {"micro_batches": micro_batches}
    facts["active_parameters"] = active_parameter_count(ours_model)
    facts["real_share_of_their_rows"] = share_of_real_tokens(asked, case)
    return facts | {"memory_bytes": memory}


SIDES = ("theirs", "ours")


def memory_of(asked: argparse.Namespace, case: str, side: str) -> int:
    """Peak memory, above that of an idle Python with torch, of two turns in a process of its own."""
    device, before = pick_device(), peak_memory(pick_device())
    if side == "theirs":
        update, _ = their_update(asked, case, device)
    else:
        update, _ = our_update(asked, case, MiniMindLM(plan_of(asked, case, "fast").model).state_dict())
    update(), update()
    return peak_memory(device) - (before if device.type == "cpu" else 0)


def share_of_real_tokens(asked: argparse.Namespace, case: str) -> float:
    plan = plan_of(asked, case, recipe="seed")
    masks = [plan.train_set[row][2] for row in range(min(len(plan.train_set), 500))]
    return float(torch.stack(masks).float().mean())


def alternate(theirs: Turn, ours: Turn, rounds: int, micro_batches: int = 1) -> list[tuple[float, float]]:
    """Tokens per second of both in each round, with so many micro-batches to a step of the optimizer; the first round,
    to get warm, is thrown away.
    """
    found = []
    for _ in range(rounds + 1):
        pair = []
        for turn in (theirs, ours):
            start = now()
            tokens, of_optimizer = turn()
            of_rows = now() - start - of_optimizer
            pair.append(micro_batches * tokens / (micro_batches * of_rows + of_optimizer))
        found.append(tuple(pair))
        print(f"  {pair[0]:,.0f} and {pair[1]:,.0f} tokens/s: {pair[1] / pair[0]:.2f} ×", flush=True)
    return found[1:]


def summary(rounds: list[tuple[float, float]]) -> dict:
    ratios = [ours / theirs for theirs, ours in rounds]
    return {
        "their_tokens_per_s": statistics.median(theirs for theirs, _ in rounds),
        "our_tokens_per_s": statistics.median(ours for _, ours in rounds),
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


# --- a new token ------------------------------------------------------------------------------------------------------


def compare_generation(asked: argparse.Namespace, use_moe: bool) -> dict:
    """New tokens per second at dim 512 with a cache, temperature 0.75 and top-p 0.9; and those that the bare products
    of a vector with each matrix that a token passes would allow.
    """
    device, config = pick_device(), ModelConfig(use_moe=use_moe)
    torch.manual_seed(0)
    ours = MiniMindLM(config).to(device).eval()
    with torch.no_grad():
        ours.norm.weight.mul_(8)  # scores as far apart as a trained model's, so that top-p leaves a few tokens
    theirs = minimind_way.Model(config).to(device).eval()
    theirs.load_state_dict(ours.state_dict())
    prompt = torch.randint(3, config.vocab_size, (1, 10), device=device)

    def their_text() -> tuple[int, float]:
        minimind_way.generate(theirs, prompt, NEW_TOKENS, 0.75, 0.9, 1.0)
        return NEW_TOKENS, 0.0

    def our_text() -> tuple[int, float]:
        generate(ours, prompt, NEW_TOKENS, temperature=0.75, top_p=0.9, eos_token_id=None)
        return NEW_TOKENS, 0.0

    facts = summary(alternate(their_text, our_text, asked.rounds))
    facts["bare_products_tokens_per_s"] = 1 / seconds_of_bare_products(ours)
    return facts


@torch.no_grad()
def seconds_of_bare_products(model: MiniMindLM, times: int = 50) -> float:
    """Median time of one token's matrix–vector products alone; of routed experts, as many as a token is sent to."""
    skipped = tuple(f".experts.{n}." for n in range(model.config.num_experts_per_tok, model.config.n_routed_experts))
    cuts, device = cut(model, rows=1), pick_device()
    found = [
        cuts[layer] for name, layer in model.named_modules() if layer in cuts and not any(s in name for s in skipped)
    ]
    pairs = [(torch.randn(len(pieces), 1, pieces.shape[1], device=device), pieces) for pieces in found]
    seconds = []
    for _ in range(times):
        start = now()
        for vectors, pieces in pairs:
            torch.bmm(vectors, pieces)
        seconds.append(now() - start)
    return statistics.median(seconds)


# --- the command ------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[argparse.Namespace], dict]] = {
    **{case: lambda asked, case=case: compare_steps(asked, case) for case in CASES},
    "generation": lambda asked: compare_generation(asked, use_moe=False),
    "generation, moe": lambda asked: compare_generation(asked, use_moe=True),
}


def flags(asked: argparse.Namespace) -> list[str]:
    return ["--corpus", asked.corpus, *(["--tokenizer", asked.tokenizer] if asked.tokenizer else [])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default=str(SAMPLE), help="rows of text; default: the built-in sample")
    parser.add_argument("--tokenizer", help="default: one is trained on the corpus")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", default=str(results("speed")))
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.tokenizer:
        load_tokenizer(asked.tokenizer)  # a wrong one is said before anything is timed
    if asked.memory:
        print(memory_of(asked, asked.only[0], asked.memory))
        return 0
    about = {"machine": machine(), "corpus": Path(asked.corpus).name}
    for part in asked.only:
        print(f"{part}: MiniMind's way, then ours", flush=True)
        started = time.perf_counter()
        found = PARTS[part](asked)
        print(f"  median {found['ratio']:.2f} × ({time.perf_counter() - started:.0f} s)", flush=True)
        write(asked.json, about | {part: found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Does a run of two processes train what one with twice the batch trains? Prints by how much they differ.

    torchrun --standalone --nproc_per_node 2 tests/two_processes.py [UPDATES]

Each case is trained by both processes together and then by the main one alone. Rows are cut so that the last batch of
an epoch is uneven, or leaves a process without a row.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

PLACE = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in os.environ}
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import torch  # noqa: E402
from conftest import _OWN, Bench, tiny_texts, write_rows  # noqa: E402

from minimind_core import Trainer, read_metrics, save_tokenizer, train_tokenizer  # noqa: E402
from minimind_core.distributed import join_world  # noqa: E402

os.environ.update(PLACE)  # which the tests' surroundings leave out
UPDATES, BATCH, RATE = int(sys.argv[1]) if len(sys.argv) > 1 else 20, 2, 2e-3
CASES = {
    "seed": {"recipe": "seed"},
    "seed, experts": {"recipe": "seed", "use_moe": True},
    "seed, experts balanced over the batch": {"recipe": "seed", "use_moe": True, "seq_aux": False},
    "seed, experts of which most are idle": {
        "recipe": "seed", "use_moe": True, "n_routed_experts": 16, "num_experts_per_tok": 1, "aux_loss_alpha": 0.0,
    },
    "fast": {"recipe": "fast"},
    "fast, experts": {"recipe": "fast", "use_moe": True},
    "fast, experts balanced over the batch": {"recipe": "fast", "use_moe": True, "seq_aux": False},
}  # fmt: skip
ROWS = {"all": 32, "uneven": 31, "one left": 29}  # of batches of 4: none left over; 3; 1, for one process only


def main() -> int:
    torch.set_num_threads(1)
    with join_world("cpu") as world:
        folder = Path(world.from_main(lambda: tempfile.mkdtemp(prefix="two-processes-")))
        tokenizer = world.from_main(lambda: str(save_tokenizer(train_tokenizer(tiny_texts(60), 400), folder / "t")))
        for rows in ROWS.values():
            if world.is_main:
                write_rows(folder / f"{rows}.jsonl", tiny_texts(rows))
        if world.is_main:
            write_rows(folder / "valid.jsonl", tiny_texts(5, start=100))
        world.barrier()
        for case, flags in CASES.items():
            for left, rows in ROWS.items():
                bench = Bench(folder, folder / f"{rows}.jsonl", folder / "valid.jsonl", Path(tokenizer))
                common = {**flags, "learning_rate": RATE, "epochs": 50, "max_steps": UPDATES, "accumulation_steps": 2}
                common |= {"dim": 32, "n_layers": 2}
                for rank in range(world.size):  # one encodes, the other finds it done
                    if rank == world.rank:
                        plan = bench.plan("two", **common, batch_size=BATCH, world_size=world.size)
                    world.barrier()
                result = Trainer(plan, world=world, say=lambda text: None, bar=False).fit()
                if world.is_main:
                    two = torch.load(result.weights), losses_of(result.weights)
                    plan = bench.plan("one", **common, batch_size=BATCH * world.size)
                    result = Trainer(plan, say=lambda text: None, bar=False).fit()
                    one = torch.load(result.weights), losses_of(result.weights)
                    apart = max(float((one[0][key] - two[0][key]).abs().max()) for key in one[0])
                    losses = max(abs(a - b) for a, b in zip(one[1], two[1], strict=True))
                    peak = RATE * plan.recipe.lr_scale
                    line = {"case": case, "rows": left, "weights": apart, "in_rates": apart / peak, "losses": losses}
                    print(json.dumps(line), flush=True)
                world.barrier()
        if world.is_main:
            shutil.rmtree(folder)
    shutil.rmtree(_OWN, ignore_errors=True)
    return 0


def losses_of(weights: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(weights.with_suffix("") / "metrics.jsonl") if "lr" in row]


if __name__ == "__main__":
    raise SystemExit(main())

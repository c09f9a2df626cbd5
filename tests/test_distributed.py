"""Several processes that train one model: what one alone would train, one voice, one end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from conftest import PROJECT, Bench

from minimind_core import ConfigError, MoEFeedForward, Trainer, TrainingError, precision
from minimind_core.batches import EpochBatches, batch_loader, stacked
from minimind_core.distributed import World
from minimind_core.precision import run_device

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def torchrun(*words: str, timeout: float = 600) -> subprocess.CompletedProcess:
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*TORCHRUN, *words], cwd=PROJECT, env=surroundings, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip


def words_for(bench: Bench, out: str, **more: object) -> list[str]:
    flags = {
        "data_path": bench.corpus, "valid_path": bench.valid, "tokenizer": bench.tokenizer,
        "out_dir": bench.folder / out, "dim": 16, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 400,
        "max_seq_len": 32, "batch_size": 2, "accumulation_steps": 2, "device": "cpu", "recipe": "seed",
    }  # fmt: skip
    return [word for name, value in (flags | more).items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are tied together by gloo, which is tried on Linux")
def test_two_processes_train_what_one_with_twice_the_batch_trains():
    done = torchrun("tests/two_processes.py", "6")  # `make kills` takes more
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) == 21 and {line["rows"] for line in found} == {"all", "uneven", "one left"}
    for line in found:
        assert line["in_rates"] < 0.05 and line["losses"] < 1e-5, line


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are tied together by gloo, which is tried on Linux")
def test_a_broken_corpus_is_named_once_and_ends_all_processes_at_once(bench):
    with open(bench.corpus, "a", encoding="utf-8") as file:
        file.write('{"text": 7}\n')
    started = time.monotonic()
    done = torchrun("-m", "minimind_core.train_pretrain", *words_for(bench, "out"), timeout=120)
    assert done.returncode != 0 and time.monotonic() - started < 60
    assert done.stderr.count("error: ") == 1 and "line 27" in done.stderr
    assert not list((bench.folder / "out").rglob("*.pth"))


# --- the pieces, without processes --------------------------------------------------------------------------------


class Others(World):
    """A World of two whose sums are this process's own and what the other would have added."""

    def __init__(self, rank: int = 0, other: list[torch.Tensor] | None = None) -> None:
        super().__init__(rank, 2)
        object.__setattr__(self, "other", other or [])

    def total(self, value):
        return value + self.other.pop(0) if self.other else value

    def gathered(self, value):
        return [value, value]


def test_tokens_are_counted_over_all_processes_and_rows_shared_in_proportion():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    tokens, share = World().counted(mask)
    assert (int(tokens), share) == (3, 1.0)
    tokens, share = Others(other=[torch.tensor([4, 1])]).counted(mask)  # 4 tokens in one row elsewhere
    assert int(tokens) == 7 and float(share) == pytest.approx(2 / 3)
    tokens, share = Others(other=[torch.tensor([4, 3])]).counted(mask[:0])
    assert int(tokens) == 4 and float(share) == 0


@pytest.mark.parametrize("seq_aux", [True, False])
def test_the_balancing_loss_of_two_halves_weighted_by_rows_is_that_of_the_whole(seq_aux, tiny_model):
    torch.manual_seed(3)
    config = tiny_model(use_moe=True, seq_aux=seq_aux).config
    layer, x = MoEFeedForward(config).train(), torch.randn(5, 6, config.dim)
    gate, whole = layer.gate, layer(x)[1]
    counts = []
    gate.total = lambda value: (counts.append(value), value)[1]
    for part in (x[:3], x[3:]):
        layer(part)
    halves = []
    for mine, part, rows in ((0, x[:3], 3), (1, x[3:], 2)):
        gate.total = lambda value, other=1 - mine: value + counts[other]
        halves.append(layer(part)[1] * rows / 5)
    torch.testing.assert_close(sum(halves), whole)
    assert seq_aux == (counts == []), "only the loss over the whole batch needs the others' counts"


@pytest.mark.parametrize("use_moe", [False, True])
@pytest.mark.parametrize("seq_aux", [True, False])
def test_a_batch_of_no_rows_gives_gradients_of_zero_and_no_nan(tiny_model, use_moe, seq_aux):
    model = tiny_model(use_moe=use_moe, seq_aux=seq_aux).train()
    model.may_have_no_rows = True
    output = model(torch.zeros(0, 7, dtype=torch.int64))
    assert output.logits.shape == (0, 7, 50) and float(output.aux_loss.detach()) == 0
    (output.logits.sum() + output.aux_loss).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_batches_of_processes_interleave_to_those_of_one_and_none_reads_a_row_twice():
    for rows in (1, 7, 8, 9, 23):
        one = EpochBatches(rows, 6, shuffle=True)
        three = [EpochBatches(rows, 2, shuffle=True, rank=rank, world=3) for rank in range(3)]
        for epoch in (0, 1):
            for batches in (one, *three):
                batches.set_epoch(epoch)
            parts = list(zip(*three, strict=True))
            assert len(parts) == len(one) == len(three[0])
            for whole, split in zip(one, parts, strict=True):
                assert sorted(row for part in split for row in part) == sorted(whole)
            assert sorted(row for split in parts for part in split for row in part) == list(range(rows))


def test_a_process_without_a_row_gets_a_batch_of_none():
    rows = [tuple(torch.full((4,), n) for _ in range(3)) for n in range(5)]
    last = [list(batch_loader(rows, EpochBatches(5, 2, False, rank=rank, world=2)))[-1] for rank in range(2)]
    assert [tuple(t.shape for t in batch) for batch in last] == [((1, 4),) * 3, ((0, 4),) * 3]
    assert all(t.dtype == torch.int64 for t in last[1])
    assert [t.tolist() for t in stacked(rows[:1], 4)] == [[[0] * 4]] * 3


def test_loading_rows_draws_nothing_from_the_models_random_numbers():
    rows, before = [tuple(torch.zeros(4) for _ in range(3))] * 3, torch.get_rng_state()
    list(batch_loader(rows, EpochBatches(3, 2, True)))
    assert torch.equal(before, torch.get_rng_state())


def test_processes_that_would_train_different_runs_are_refused(bench):
    class Different(Others):
        def gathered(self, value):
            return [value, value | {"corpus": "another"}] if isinstance(value, dict) else [value, value]

    plan = bench.plan("out", world_size=2)
    with pytest.raises(TrainingError, match=r"process 1 has another corpus \(another\)"):
        Trainer(plan, world=Different(), say=lambda text: None, bar=False).fit()
    assert not (bench.folder / "out" / "pretrain_16.pth").exists()


def test_one_process_that_is_asked_to_stop_stops_all_after_the_same_update(bench):
    plan = bench.plan("out", recipe="seed", epochs=2, world_size=2)
    quiet, asked = [torch.zeros(5), torch.zeros(5)], torch.tensor([0.0, 0, 0, 0, 1])

    class Sums(Others):
        def total(self, value):
            if value.shape == (5,):  # two losses of two micro-steps, and the wish to stop
                return value + (quiet.pop() if quiet else asked)
            return value * 2

        def add_gradients(self, model):
            pass

    trainer = Trainer(plan, world=Sums(), say=lambda text: None, bar=False)
    assert (trainer.fit().step, trainer.fit().step) == (3, 4), "the other's wish counts, at the end of its update"


def test_a_line_of_the_log_shows_the_loss_of_all_processes(bench):
    plan, said = bench.plan("out", recipe="seed", max_steps=1, world_size=2), []

    class Twice(Others):
        def total(self, value):
            return value * 2

        def add_gradients(self, model):
            pass

    Trainer(plan, world=Twice(), say=said.append, bar=False).fit()
    shown = [float(line.split("loss:")[1].split()[0]) for line in said if "loss:" in line and line.startswith("Epoch")]
    assert len(shown) == 2 and all(5 < loss < 7 for loss in shown), said


def test_several_processes_on_one_machine_take_a_gpu_each(monkeypatch):
    monkeypatch.setattr(precision.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(precision.torch.cuda, "device_count", lambda: 2)
    assert [run_device("auto", 2, rank)[0] for rank in (0, 1)] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert run_device("cuda:1")[0] == torch.device("cuda:1")
    with pytest.raises(ConfigError, match=r"process 2 on this machine has no GPU of its own: there are 2"):
        run_device("auto", 3, 2)


def test_the_main_process_alone_writes(bench):
    plan = bench.plan("out", recipe="seed", world_size=2)
    said: list[str] = []

    class Second(Others):
        def total(self, value):
            return value * 2

        def add_gradients(self, model):
            pass

        def from_main(self, make):
            return None

    result = Trainer(plan, world=Second(rank=1), say=said.append, bar=False).fit()
    assert result.complete and said == [] and not (bench.folder / "out").exists()

"""A whole run: what it writes, that stopping and resuming changes nothing, and what it does in trouble."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import shutil
import signal
import sys
import threading
import time
import types
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import Bench, tiny_texts, write_rows
from torch.utils.data import DataLoader

from minimind_core import (
    RECIPES,
    SAMPLE,
    CheckpointError,
    ConfigError,
    CorpusError,
    Hooks,
    MiniMindLM,
    PackedDataset,
    PretrainDataset,
    RunResult,
    Trainer,
    TrainingError,
    attach,
    build_optimizer,
    checkpoint,
    estimate,
    held_out_loss,
    interrupts,
    list_runs,
    load_model,
    load_run,
    load_tokenizer,
    make_scaler,
    quick,
    quick_model,
    read_metrics,
    reporting,
    run_files,
    run_state,
    save_tokenizer,
    train_epoch,
)
from minimind_core.checkpoint import read_facts
from minimind_core.distributed import World
from minimind_core.plan import plan_run, profile_named
from minimind_core.run_lock import lock_holder, run_lock

DIFFERS = {"time", "tokens_per_s", "memory"}  # between equal runs
KINDS = [(recipe, use_moe) for recipe in RECIPES for use_moe in (False, True)]
NAMES = [f"{recipe}{'-experts' if use_moe else ''}" for recipe, use_moe in KINDS]
SEEDS_LINE = re.compile(r"Epoch:\[(\d+)/(\d+)\]\((\d+)/(\d+)\) loss:(\d+\.\d{3}) lr:(0\.\d{12}) epoch_Time:\d+\.\dmin:")


def comparable(metrics: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in DIFFERS} for row in metrics]


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def same_weights(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@dataclass
class Finished:
    """A complete run: its bench and flags, so that it can be repeated, and everything that it left."""

    bench: Bench
    flags: dict
    trainer: Trainer
    result: RunResult
    said: list[str]

    @property
    def folder(self) -> Path:
        return self.result.weights.with_suffix("")

    @property
    def updates(self) -> list[dict]:
        return [row for row in read_metrics(self.folder / "metrics.jsonl") if "lr" in row]

    @property
    def looks(self) -> list[dict]:
        return [row for row in read_metrics(self.folder / "metrics.jsonl") if "held_out_loss" in row]


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_tokenizer):
    """`finished(recipe, use_moe)` gives an undisturbed run of two epochs, made once."""
    made: dict[tuple, Finished] = {}

    def get(recipe: str = "seed", use_moe: bool = False) -> Finished:
        key = (recipe, use_moe)
        if key not in made:
            folder = tmp_path_factory.mktemp("finished")
            bench = Bench(
                folder,
                write_rows(folder / "corpus.jsonl", tiny_texts(26)),
                write_rows(folder / "valid.jsonl", tiny_texts(5, start=100)),
                save_tokenizer(tiny_tokenizer, folder / "tokenizer"),
            )
            flags = {"recipe": recipe, "use_moe": use_moe, "epochs": 2, "eval_interval": 2}
            said: list[str] = []
            trainer = bench.trainer("whole", said, **flags)
            made[key] = Finished(bench, flags, trainer, trainer.fit(), said)
        return made[key]

    return get


def stop_after(trainer: Trainer, micro_steps: int) -> Trainer:
    """Let the trainer be stopped in the micro-step of that number, in the middle of an accumulation or not."""
    original, count = trainer.after_backward, 0

    def counting(*arguments):
        nonlocal count
        original(*arguments)
        count += 1
        if count == micro_steps:
            trainer.stop()

    trainer.after_backward = counting
    return trainer


# --- what a run writes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "use_moe"), KINDS, ids=NAMES)
def test_each_update_is_a_line_of_metrics_with_its_figures(finished, recipe, use_moe):
    run = finished(recipe, use_moe)
    plan = run.trainer.plan
    assert [row["step"] for row in run.updates] == list(range(1, plan.updates + 1))
    accumulation, per_epoch = 2, plan.iter_per_epoch
    for row in run.updates:
        assert (
            set(row) == {"step", "micro_step", "epoch", "loss", "ce", "aux_loss", "lr", "grad_norm", "tokens"} | DIFFERS
        )
        epoch, inside = divmod(row["micro_step"] - 1, per_epoch)
        assert row["epoch"] == epoch + 1 and (inside % accumulation == 1 or inside + 1 == per_epoch)
        assert row["loss"] == pytest.approx(row["ce"] + row["aux_loss"])
        assert (row["aux_loss"] > 0.05) == use_moe
        assert row["lr"] == run.trainer.learning_rate(epoch, inside)
        assert row["grad_norm"] > 0 and row["memory"] > 50 and row["tokens_per_s"] > 0
    assert run.updates[-1]["micro_step"] == plan.total_steps == 2 * per_epoch
    assert all(
        a["tokens"] < b["tokens"] and a["time"] <= b["time"] for a, b in zip(run.updates, run.updates[1:], strict=False)
    )


def test_tokens_are_those_that_count_in_the_loss(finished):
    rows = finished("seed").trainer.plan.train_set
    assert finished("seed").updates[-1]["tokens"] == 2 * sum(int(rows[i][2].sum()) for i in range(len(rows)))
    plan = finished("fast").trainer.plan  # whole micro-batches of four blocks, without padding
    assert finished("fast").updates[-1]["tokens"] == 2 * plan.iter_per_epoch * 4 * 31


@pytest.mark.parametrize(("recipe", "use_moe"), KINDS, ids=NAMES)
def test_held_out_losses_are_lines_of_their_own(finished, recipe, use_moe):
    run = finished(recipe, use_moe)
    updates = run.trainer.plan.updates
    assert [row["step"] for row in run.looks] == sorted({*range(0, updates + 1, 2), updates})
    for row in run.looks:
        assert set(row) == {"step", "held_out_loss", "perplexity", "bits_per_byte", "tokens", "sample"}
        assert row["perplexity"] == pytest.approx(math.exp(row["held_out_loss"]))
    assert run.looks[-1]["held_out_loss"] < run.looks[0]["held_out_loss"]
    model, tokenizer, _ = load_run(run.result.weights)
    judged = held_out_loss(model, PretrainDataset(run.bench.valid, tokenizer, 32), tokenizer)
    assert run.looks[-1]["held_out_loss"] == pytest.approx(judged.loss, rel=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_log_has_the_seeds_line_for_every_micro_step(finished, recipe):
    run = finished(recipe)
    logged = (run.folder / "train.log").read_text(encoding="utf-8").splitlines()
    assert logged == run.said
    lines = [SEEDS_LINE.fullmatch(line) for line in logged if line.startswith("Epoch")]
    assert all(lines)
    steps = run.trainer.plan.iter_per_epoch
    assert [tuple(map(int, line.groups()[:4])) for line in lines] == [
        (epoch + 1, 2, step, steps) for epoch in range(2) for step in range(steps)
    ]
    for line in lines:
        assert line[6] == f"{run.trainer.learning_rate(int(line[1]) - 1, int(line[3])):.12f}"


def test_the_seeds_line_shows_one_micro_batchs_loss_and_the_fast_one_a_mean(bench):
    said: list[str] = []
    trainer = bench.trainer("seed", said, recipe="seed", log_interval=3)
    losses: list[float] = []
    original = trainer.after_backward

    def noting(epoch, step, ce, aux_loss, tokens):
        losses.append(float(ce + aux_loss))
        original(epoch, step, ce, aux_loss, tokens)

    trainer.after_backward = noting
    trainer.fit()
    found = [(int(line[3]), line[5]) for line in map(SEEDS_LINE.fullmatch, said) if line]
    assert found == [(step, f"{losses[step]:.3f}") for step in (0, 3, 6)]
    fast: list[str] = []
    run = bench.trainer("fast", fast, recipe="fast", accumulation_steps=1, log_interval=2)
    rows: list[dict] = []
    run.on_update = rows.append
    run.fit()
    shown = {int(line[3]): line[5] for line in map(SEEDS_LINE.fullmatch, fast) if line}
    assert shown[2] == f"{(rows[1]['loss'] + rows[2]['loss']) / 2:.3f}"


def test_the_seed_recipe_is_the_plain_loop_over_miniminds_rows(finished):
    run = finished("seed")
    plan = run.trainer.plan
    torch.manual_seed(1337)
    model = MiniMindLM(plan.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rows = PretrainDataset(run.bench.corpus, load_tokenizer(run.bench.tokenizer), 32, as_minimind=True)
    hooks = Hooks(plan.iter_per_epoch, epochs=2, lr=2e-3, accumulation_steps=2)
    scaler = make_scaler(torch.device("cpu"), torch.float32)
    for epoch in range(2):
        train_epoch(epoch, model.train(), DataLoader(rows, 4), optimizer, scaler, nullcontext(), hooks)
    assert same_weights(model.state_dict(), weights_of(run.result.weights))
    assert [row["lr"] for row in run.updates] == hooks.lrs
    assert [row["grad_norm"] for row in run.updates] == hooks.grad_norms
    assert run.updates[0]["loss"] == pytest.approx((hooks.losses[0] + hooks.losses[1]) / 2, rel=1e-6)


@pytest.mark.parametrize(("recipe", "use_moe"), KINDS, ids=NAMES)
def test_the_facts_beside_the_weights_say_what_was_trained_on_what_and_how_far(finished, recipe, use_moe):
    run = finished(recipe, use_moe)
    plan, facts = run.trainer.plan, read_facts(run.result.weights)
    assert facts["model"] == plan.model.to_dict() and facts["train"] == plan.train.to_dict()
    assert facts["corpus"]["sha256"] == checkpoint.file_sha256(run.bench.corpus) and facts["corpus"]["rows"] == 26
    assert facts["corpus"]["tokens"] == int(plan.corpus.offsets[-1])
    assert facts["weights_sha256"] == checkpoint.file_sha256(run.result.weights)
    assert (facts["step"], facts["updates"], facts["complete"]) == (plan.updates, plan.updates, True)
    assert facts["loss"] == run.updates[-1]["loss"] == run.result.loss
    assert facts["held_out_loss"] == run.looks[-1]["held_out_loss"] == run.result.held_out.loss
    assert facts["best_held_out_loss"] == min(row["held_out_loss"] for row in run.looks) == run.result.best_held_out
    assert facts["best_step"] == min(run.looks, key=lambda row: row["held_out_loss"])["step"] == run.result.best_step
    assert (facts["dtype"], facts["device"], facts["torch"]) == ("float32", "cpu", torch.__version__)
    name = f"pretrain_16{'_moe' if use_moe else ''}.pth"
    assert run.result.weights.name == name and run.result.complete


def test_the_time_of_a_run_is_counted_once(finished):
    run = finished("seed")
    assert read_facts(run.result.weights)["seconds"] <= run.result.seconds + 0.2


def test_a_run_belongs_to_its_tokenizer(finished, tiny_tokenizer):
    run = finished("fast")
    assert load_tokenizer(run.folder).to_str() == tiny_tokenizer.to_str()
    assert load_run(run.result.weights)[1].to_str() == tiny_tokenizer.to_str()


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_best_weights_and_some_along_the_way_are_kept(finished, recipe):
    run = finished(recipe)
    updates = run.trainer.plan.updates
    kept = sorted(p.stem for p in (run.folder / "snapshots").glob("*.pth"))
    wanted = {f"step-{max(1, round(updates * share)):08d}" for share in (0.05, 0.15, 0.35, 0.65)}
    assert kept == sorted({"best"} | wanted)
    model, tokenizer, facts = load_run(run.folder / "snapshots" / "best.pth")
    judged = held_out_loss(model, PretrainDataset(run.bench.valid, tokenizer, 32), tokenizer)
    assert judged.loss == pytest.approx(run.result.best_held_out, rel=1e-6) and facts["step"] == run.result.best_step
    for name in wanted:
        assert load_run(run.folder / "snapshots" / f"{name}.pth")[2]["step"] == int(name[-8:])


def test_nothing_unfinished_is_left_in_a_runs_folder(finished):
    run = finished("fast")
    names = {p.name for p in run.folder.iterdir()}
    state = f"state-{run.trainer.plan.updates:08d}.pt"
    assert names == {"config.json", "started.json", "tokenizer.json", "metrics.jsonl", "train.log", "snapshots", state}
    assert {p.name for p in run.result.weights.parent.iterdir()} == {
        "pretrain_16.pth",
        "pretrain_16",
        ".pretrain_16.lock",
    }


def test_listeners_receive_the_lines_as_they_are_written(bench):
    updates, looks = [], []
    trainer = bench.trainer("out", recipe="fast", eval_interval=2)
    trainer.on_update, trainer.on_held_out = updates.append, looks.append
    trainer.fit()
    rows = read_metrics(trainer.folder / "metrics.jsonl")
    assert updates == [row for row in rows if "lr" in row] and looks == [row for row in rows if "held_out_loss" in row]


# --- how far a run goes -------------------------------------------------------------------------------------------


def test_a_last_partial_accumulation_is_an_update_too(bench):
    plan = bench.plan("out", recipe="seed", accumulation_steps=4, epochs=2)
    assert (plan.iter_per_epoch, plan.updates, plan.total_steps) == (7, 4, 14)
    trainer = Trainer(plan, say=lambda text: None, bar=False)
    trainer.fit()
    assert [row["micro_step"] for row in read_metrics(trainer.folder / "metrics.jsonl") if "lr" in row] == [
        4,
        7,
        11,
        14,
    ]


@pytest.mark.parametrize(("max_steps", "micro_steps"), [(1, 2), (3, 6), (5, 9), (8, 14), (100, 14)])
def test_max_steps_bounds_the_updates_and_the_schedule_is_fitted_to_it(bench, max_steps, micro_steps):
    trainer = bench.trainer("out", recipe="seed", epochs=2, max_steps=max_steps)
    assert trainer.plan.total_steps == micro_steps
    result = trainer.fit()
    assert result.complete and result.step == min(max_steps, 8)
    last = read_metrics(trainer.folder / "metrics.jsonl")[-2]
    assert last["micro_step"] == micro_steps
    assert last["lr"] == pytest.approx(2e-3 * (0.1 + 0.5 * (1 + math.cos(math.pi * (micro_steps - 1) / micro_steps))))


def test_warm_up_is_given_in_micro_steps_and_used(bench):
    trainer = bench.trainer("out", recipe="seed", warmup_iters=4)
    trainer.fit()
    lrs = [row["lr"] for row in read_metrics(trainer.folder / "metrics.jsonl") if "lr" in row]
    plain = [trainer.learning_rate(0, step) for step in (1, 3, 5, 6)]
    assert lrs == plain
    assert lrs[0] == pytest.approx(0.5 * (2e-4 + 1e-3 * (1 + math.cos(math.pi / 7))))


@pytest.mark.parametrize("save_interval", [1, 3, 4, 1000, None])
def test_the_end_is_saved_whatever_the_interval(bench, monkeypatch, save_interval):
    saved: list[int] = []
    really = run_state.write_state
    monkeypatch.setattr(run_state, "write_state", lambda f, step, *s: (saved.append(step), really(f, step, *s))[1])
    trainer = bench.trainer("out", recipe="seed", epochs=2, save_interval=save_interval)
    result = trainer.fit()
    # Updates end at micro-steps 2, 4, 6, 7, 9, 11, 13, 14: a save follows each that reaches another multiple.
    assert saved == {1: [1, 2, 3, 4, 5, 6, 7, 8], 3: [2, 3, 5, 7, 8], 4: [2, 5, 7, 8]}.get(save_interval, [8])
    assert same_weights(trainer.model.state_dict(), weights_of(result.weights))


def test_two_equal_runs_are_equal_bit_by_bit_and_another_seed_is_not(finished):
    run = finished("fast")
    again = run.bench.trainer("again", **run.flags)
    result = again.fit()
    assert same_weights(weights_of(result.weights), weights_of(run.result.weights))
    assert comparable(read_metrics(again.folder / "metrics.jsonl")) == comparable(
        read_metrics(run.folder / "metrics.jsonl")
    )
    other = run.bench.trainer("other", **run.flags, seed=7).fit()
    assert not same_weights(weights_of(other.weights), weights_of(run.result.weights))


def test_a_run_may_happen_in_another_thread(bench):
    trainer = bench.trainer("out")
    thread = threading.Thread(target=trainer.fit)
    thread.start()
    thread.join()
    assert trainer.step == trainer.plan.updates


# --- stopping and going on ----------------------------------------------------------------------------------------


STOPS = ["in the first update", "after it", "in a later one", "at the epoch's end", "in the next epoch", "near the end"]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(("recipe", "use_moe"), KINDS, ids=NAMES)
def test_a_run_that_was_stopped_and_resumed_equals_an_undisturbed_one_bit_by_bit(finished, recipe, use_moe, stop):
    run = finished(recipe, use_moe)
    steps = run.trainer.plan.iter_per_epoch
    micro_steps = [1, 2, 3, steps, steps + 1, 2 * steps - 1][STOPS.index(stop)]
    out = f"stopped-{micro_steps}"
    first = stop_after(run.bench.trainer(out, **run.flags), micro_steps)
    partial = first.fit()
    assert not partial.complete and partial.step < run.result.step
    said: list[str] = []
    second = run.bench.trainer(out, said, **run.flags, resume=True)
    result = second.fit()
    assert said[0] == f"Resumed after update {partial.step} of {run.result.step}."
    assert result.complete and result.best_step == run.result.best_step
    assert same_weights(weights_of(result.weights), weights_of(run.result.weights))
    metrics = read_metrics(second.folder / "metrics.jsonl")
    assert comparable(metrics) == comparable(read_metrics(run.folder / "metrics.jsonl"))
    one, two = read_facts(result.weights), read_facts(run.result.weights)
    for name in ("step", "tokens", "loss", "held_out_loss", "best_held_out_loss", "best_step", "weights_sha256"):
        assert one[name] == two[name], name


def test_dropout_resumes_from_its_random_numbers(bench):
    flags = {"recipe": "seed", "epochs": 2, "dropout": 0.3}
    whole = bench.trainer("whole", **flags).fit()
    stop_after(bench.trainer("parts", **flags), 5).fit()
    torch.manual_seed(12345)
    torch.rand(100)
    resumed = bench.trainer("parts", **flags, resume=True).fit()
    assert same_weights(weights_of(resumed.weights), weights_of(whole.weights))


def test_a_run_that_was_interrupted_inside_an_update_goes_back_to_its_last_save(finished):
    run = finished("seed")
    trainer = run.bench.trainer("inside", **run.flags, save_interval=4)
    really, calls = trainer.optimizer.step, []

    def half_a_step():
        calls.append(True)
        if len(calls) == 4:
            with torch.no_grad():
                trainer.model.norm.weight += 1
            raise KeyboardInterrupt
        return really()

    trainer.optimizer.step = half_a_step
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert read_facts(trainer.plan.weights)["step"] == 2
    result = trainer.fit()
    assert result.complete and same_weights(weights_of(result.weights), weights_of(run.result.weights))
    metrics = read_metrics(trainer.folder / "metrics.jsonl")
    assert comparable(metrics) == comparable(read_metrics(run.folder / "metrics.jsonl"))


def test_an_interrupt_inside_the_first_updates_asks_for_a_new_trainer(bench):
    trainer = bench.trainer("out", recipe="seed")

    def interrupted():
        raise KeyboardInterrupt

    trainer.optimizer.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    with pytest.raises(TrainingError, match="make a new Trainer"):
        trainer.fit()


@pytest.mark.parametrize("moment", ["random numbers", "metrics", "listener", "log line", "judging", "saving"])
def test_an_interrupt_at_any_moment_after_an_update_leaves_a_state_that_fits_its_weights(finished, monkeypatch, moment):
    run = finished("seed")
    trainer = run.bench.trainer(f"moment-{moment.replace(' ', '-')}", **run.flags, save_interval=2)
    owner, name = {
        "random numbers": (trainer, "_remember_boundary"),
        "metrics": (trainer.files, "write"),
        "listener": (trainer, "on_update"),
        "log line": (reporting, "log_line"),
        "judging": (reporting, "judge"),
        "saving": (trainer.saver, "after_update"),
    }[moment]
    really, calls = getattr(owner, name) or (lambda *given: None), []

    def interrupted(*given):
        calls.append(True)
        if trainer.step == 4:
            raise KeyboardInterrupt
        return really(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, interrupted)
        trainer.fit()
    said: list[str] = []
    resumed = run.bench.trainer(trainer.plan.weights.parent.name, said, **run.flags, resume=True).fit()
    kept = 3 if moment in ("random numbers", "metrics") else 4
    assert said[0] == f"Resumed after update {kept} of 8."
    assert same_weights(weights_of(resumed.weights), weights_of(run.result.weights))


@pytest.mark.parametrize("stop", [1, 5, 7])
def test_a_stopped_trainer_goes_on_where_it_was(finished, stop):
    run = finished("seed")
    trainer = stop_after(run.bench.trainer(f"going-on-{stop}", **run.flags), stop)
    assert not trainer.fit().complete
    torch.rand(10)
    result = trainer.fit()
    assert result.complete and same_weights(weights_of(result.weights), weights_of(run.result.weights))
    metrics = read_metrics(trainer.folder / "metrics.jsonl")
    assert comparable(metrics) == comparable(read_metrics(run.folder / "metrics.jsonl"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_was_killed_between_two_saves_resumes_from_the_last_one(finished, recipe):
    run = finished(recipe)
    trainer = run.bench.trainer("killed", **run.flags, save_interval=3)
    killed = run.bench.folder / f"killed-{recipe}"

    def copy_what_a_kill_would_leave(row):
        if row["step"] == 4:
            shutil.copytree(trainer.plan.weights.parent, killed)

    trainer.on_update = copy_what_a_kill_would_leave
    trainer.fit()
    with open(killed / "pretrain_16" / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 5, "lo')  # and a line that was being written
    said: list[str] = []
    resumed = run.bench.trainer(killed.name, said, **run.flags, save_interval=3, resume=True)
    result = resumed.fit()
    assert said[0] == "Resumed after update 3 of 8." or recipe == "fast"
    assert same_weights(weights_of(result.weights), weights_of(run.result.weights))
    assert comparable(read_metrics(resumed.folder / "metrics.jsonl")) == comparable(
        read_metrics(run.folder / "metrics.jsonl")
    )


def test_facts_of_a_stopped_run_keep_the_last_held_out_loss_after_resuming(bench):
    flags = {"recipe": "seed", "epochs": 2, "eval_interval": 4}
    stop_after(bench.trainer("out", **flags), 8).fit()
    before = read_facts(bench.folder / "out" / "pretrain_16.pth")["held_out_loss"]
    assert before is not None
    stop_after(bench.trainer("out", **flags, resume=True), 3).fit()
    assert read_facts(bench.folder / "out" / "pretrain_16.pth")["held_out_loss"] == before


def test_the_first_interrupt_stops_gently_and_saves(bench):
    said: list[str] = []
    trainer = bench.trainer("out", said, recipe="seed", epochs=2)
    trainer.on_update = lambda row: os.kill(os.getpid(), signal.SIGINT) if row["step"] == 3 else None
    before = signal.getsignal(signal.SIGINT)
    result = trainer.fit()
    assert (result.step, result.complete) == (3, False) and signal.getsignal(signal.SIGINT) is before
    assert said[-1].startswith("Stopped after update 3 of 8") and said[-1].endswith("pretrain_16.pth.")
    assert same_weights(weights_of(result.weights), trainer.model.state_dict())
    assert read_facts(result.weights)["complete"] is False


def test_a_second_interrupt_stops_at_once_and_still_saves(bench, monkeypatch):
    monkeypatch.setattr(interrupts, "ONE_WISH_SECONDS", -1)
    trainer = bench.trainer("out", recipe="seed", epochs=2)

    def twice(row):
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    trainer.on_update = twice
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert read_facts(trainer.plan.weights)["step"] == 3
    assert bench.trainer("out", recipe="seed", epochs=2, resume=True).fit().complete


def test_a_complete_run_says_so_and_is_left_alone(bench):
    flags = {"recipe": "seed"}
    result = bench.trainer("out", **flags).fit()
    before = {p: p.read_bytes() for p in result.weights.parent.rglob("*") if p.is_file() and p.suffix != ".log"}
    said: list[str] = []
    again = bench.trainer("out", said, **flags, resume=True)
    assert again.fit().complete and any("is complete: 4 updates" in line for line in said)
    assert {p: p.read_bytes() for p in result.weights.parent.rglob("*") if p.is_file() and p.suffix != ".log"} == before


def test_a_complete_run_needs_no_states_and_changes_nothing(finished):
    run = finished("seed", True)
    out = run.bench.folder / "without-states"
    shutil.copytree(run.result.weights.parent, out)
    for state in out.rglob("state-*.pt"):
        state.unlink()
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    said: list[str] = []
    result = run.bench.trainer("without-states", said, **run.flags, resume=True).fit()
    assert len(said) == 1 and said[0].startswith("This run is complete: 8 updates")
    assert result.complete and result.saved and result.best_step == run.result.best_step
    after = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    assert before.keys() == after.keys()
    assert all(before[path] == after[path] for path in before if not path.name.endswith(".lock"))


@pytest.mark.parametrize("lost", ["pretrain_16.pth", "pretrain_16/config.json"])
def test_a_complete_run_whose_weights_were_lost_is_written_again_from_its_state(finished, lost):
    run = finished("seed")
    out = run.bench.folder / f"lost-{Path(lost).name}"
    shutil.copytree(run.result.weights.parent, out)
    (out / lost).unlink()
    said: list[str] = []
    result = run.bench.trainer(out.name, said, **run.flags, resume=True).fit()
    assert said[-1].startswith("Done: 8 updates") and result.saved
    assert same_weights(load_model(result.weights).state_dict(), run.trainer.model.state_dict())
    assert comparable(read_metrics(out / "pretrain_16" / "metrics.jsonl")) == comparable(
        read_metrics(run.folder / "metrics.jsonl")
    )


def test_a_trainer_does_not_go_on_with_a_run_that_another_took_further(bench):
    flags = {"recipe": "seed", "epochs": 2}
    first = stop_after(bench.trainer("out", **flags), 4)
    first.fit()
    whole = bench.trainer("out", **flags, resume=True).fit()
    before = weights_of(whole.weights)
    with pytest.raises(TrainingError, match=r"saved by another trainer since.*resume=True"):
        first.fit()
    assert same_weights(weights_of(whole.weights), before)
    assert len([row for row in read_metrics(first.folder / "metrics.jsonl") if "lr" in row]) == 8


def test_a_copy_that_was_put_back_is_gone_on_from_and_newer_damaged_states_stay_out_of_the_way(finished):
    run = finished("seed")
    folder = run.bench.folder / "put-back" / "pretrain_16"
    flags = run.flags | {"save_interval": 2}
    stop_after(run.bench.trainer("put-back", **flags), 5).fit()
    copy = (folder / "state-00000002.pt").read_bytes()
    stop_after(run.bench.trainer("put-back", **flags, resume=True), 6).fit()
    for state in run_state.state_files(folder):
        state.write_bytes(state.read_bytes()[:-1])
    (folder / "state-00000002.pt").write_bytes(copy)
    (folder / "state-backup.pt").write_bytes(copy)  # no name of a state: never read, never removed
    said: list[str] = []
    stop_after(run.bench.trainer("put-back", said, **flags, resume=True), 2).fit()
    assert "Resumed after update 2 of 8." in said
    assert [run_state._step_of(path) for path in run_state.state_files(folder)] == [3, 2]
    assert list(folder.glob("*.damaged")) and (folder / "state-backup.pt").exists()
    result = run.bench.trainer("put-back", **flags, resume=True).fit()
    assert same_weights(weights_of(result.weights), weights_of(run.result.weights))


@pytest.mark.parametrize("what", ["removed", "emptied", "cut"])
def test_metrics_that_are_missing_on_resuming_are_said(bench, what):
    flags = {"recipe": "seed", "epochs": 2}
    stop_after(bench.trainer("out", **flags), 8).fit()
    path = bench.folder / "out" / "pretrain_16" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.unlink() if what == "removed" else path.write_text("" if what == "emptied" else "".join(lines[:3]))
    said: list[str] = []
    assert bench.trainer("out", said, **flags, resume=True).fit().complete
    assert any(re.search(r"metrics.jsonl lacks \d of the 4 updates before", line) for line in said), said


def test_a_last_line_that_lost_its_line_break_only_is_kept(bench):
    flags = {"recipe": "seed", "epochs": 2}
    stop_after(bench.trainer("out", **flags), 8).fit()
    path = bench.folder / "out" / "pretrain_16" / "metrics.jsonl"
    before = read_metrics(path)
    path.write_text(path.read_text().rstrip("\n"))
    assert read_metrics(path) == before


def test_a_folder_that_is_removed_under_a_run_is_made_again_with_all_metrics(finished):
    run = finished("seed")
    trainer = run.bench.trainer("removed", **run.flags, save_interval=2)
    trainer.on_update = lambda row: shutil.rmtree(trainer.folder) if row["step"] == 5 else None
    result = trainer.fit()
    assert result.saved and comparable(read_metrics(trainer.folder / "metrics.jsonl")) == comparable(
        read_metrics(run.folder / "metrics.jsonl")
    )


@pytest.mark.parametrize("at", [4, 8])
@pytest.mark.parametrize("again", ["a new trainer", "the same one"])
def test_a_held_out_loss_that_an_error_of_a_listener_prevented_is_made_up_for(finished, at, again):
    run = finished("seed")
    out = f"listener-{at}-{again.replace(' ', '-')}"
    trainer = run.bench.trainer(out, **run.flags)

    def fail(row):
        if row["step"] == at:
            trainer.on_update = None
            raise ValueError("a listener's own")

    trainer.on_update = fail
    with pytest.raises(ValueError, match="a listener's own"):
        trainer.fit()
    second = trainer if again == "the same one" else run.bench.trainer(out, **run.flags, resume=True)
    result = second.fit()
    assert result.complete and result.best_step == run.result.best_step
    assert comparable(read_metrics(trainer.folder / "metrics.jsonl")) == comparable(
        read_metrics(run.folder / "metrics.jsonl")
    )


def test_a_look_that_was_made_up_for_is_saved_though_no_update_followed(finished):
    run = finished("seed")
    trainer = run.bench.trainer("looked", **run.flags)

    def fail(row):
        if row["step"] == 4:
            raise ValueError("a listener's own")

    trainer.on_update = fail
    with pytest.raises(ValueError, match="a listener's own"):
        trainer.fit()
    looking = run.bench.trainer("looked", **run.flags, resume=True)
    looking.on_held_out = lambda row: looking.stop()
    assert looking.fit().step == 4 and read_facts(looking.plan.weights)["best_step"] == 4
    result = run.bench.trainer("looked", **run.flags, resume=True).fit()
    assert result.best_step == run.result.best_step
    assert comparable(read_metrics(looking.folder / "metrics.jsonl")) == comparable(
        read_metrics(run.folder / "metrics.jsonl")
    )


def test_other_held_out_rows_on_resuming_begin_a_new_lowest_loss_with_a_word(bench):
    flags = {"recipe": "seed", "epochs": 2}
    stop_after(bench.trainer("out", **flags), 8).fit()
    other, said = write_rows(bench.folder / "other.jsonl", tiny_texts(4, start=200)), []
    result = bench.trainer("out", said, **flags, resume=True, valid_path=str(other)).fit()
    assert any("held-out rows are others than before" in line for line in said) and result.best_step >= 4


def test_snapshots_of_a_run_without_weights_are_moved_aside_too(bench):
    trainer = bench.trainer("out", recipe="seed", max_steps=2)
    trainer.fit()
    trainer.plan.weights.unlink()
    for state in run_state.state_files(trainer.folder):
        state.unlink()
    said: list[str] = []
    bench.trainer("out", said, recipe="seed", seed=5, max_steps=2).fit()
    assert any("earlier run" in line for line in said)
    assert list((bench.folder / "out" / "previous").rglob("snapshots/*.pth"))


def test_with_nothing_to_resume_a_run_starts_afresh_and_says_so(bench):
    said: list[str] = []
    result = bench.trainer("out", said, recipe="seed", resume=True).fit()
    assert "Nothing to resume" in said[0] and result.complete


def test_an_earlier_run_is_moved_aside_with_a_word_and_no_run_is_ever_replaced(bench):
    folder = bench.folder / "out"
    sums = []
    for seed in (1, 2, 3):
        said: list[str] = []
        result = bench.trainer("out", said, recipe="seed", seed=seed, max_steps=1).fit()
        sums.append(checkpoint.file_sha256(result.weights))
        moved = [line for line in said if "earlier run" in line]
        assert len(moved) == (seed > 1) and all("previous" in line and "MB" in line for line in moved)
    aside = sorted((folder / "previous").iterdir(), key=lambda path: (len(path.name), path.name))
    assert [checkpoint.file_sha256(path / "pretrain_16.pth") for path in aside] == sums[:2]
    assert [read_facts(path / "pretrain_16.pth")["train"]["seed"] for path in aside] == [1, 2]
    load_model(aside[0] / "pretrain_16.pth")


def test_a_run_that_was_killed_before_its_first_save_takes_no_ones_place_aside(bench):
    bench.trainer("out", recipe="seed", max_steps=1).fit()
    killed = bench.trainer("out", recipe="seed", seed=2)
    killed.files.open(None)
    killed.files.write({"step": 1, "loss": 1.0})
    said: list[str] = []
    resumed = bench.trainer("out", said, recipe="seed", seed=2, resume=True)
    assert resumed.fit().complete and "Nothing to resume" in said[0]
    assert len(list((bench.folder / "out" / "previous").iterdir())) == 1
    assert [row["step"] for row in read_metrics(resumed.folder / "metrics.jsonl") if "lr" in row] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 2},
        {"accumulation_steps": 4},
        {"learning_rate": 1e-3},
        {"seed": 5},
        {"epochs": 3},
        {"recipe": "fast"},
        {"grad_clip": 0.5},
        {"warmup_iters": 1},
        {"max_steps": 3},
        {"n_layers": 2},
    ],
    ids=str,
)
def test_resuming_as_another_run_is_refused_and_touches_nothing(bench, changes):
    flags = {"recipe": "seed", "epochs": 2}
    stop_after(bench.trainer("out", **flags), 3).fit()
    weights = bench.folder / "out" / "pretrain_16.pth"
    before, metrics = weights.read_bytes(), read_metrics(bench.folder / "out" / "pretrain_16" / "metrics.jsonl")
    name = next(iter(changes))
    said_name = "model" if name == "n_layers" else name
    with pytest.raises(TrainingError, match=f"cannot be resumed with another {said_name}.*--out_dir"):
        bench.trainer("out", **(flags | changes), resume=True).fit()
    assert weights.read_bytes() == before
    assert read_metrics(bench.folder / "out" / "pretrain_16" / "metrics.jsonl") == metrics


def test_resuming_on_another_corpus_is_refused(bench):
    stop_after(bench.trainer("out", recipe="seed"), 3).fit()
    write_rows(bench.corpus, tiny_texts(26, start=1))
    with pytest.raises(TrainingError, match="another corpus"):
        bench.trainer("out", recipe="seed", resume=True).fit()


def test_resuming_with_other_training_rows_is_refused(bench):
    flags = {"recipe": "fast", "epochs": 2}
    stop_after(bench.trainer("out", **flags, valid_path=None), 3).fit()  # holds rows of the corpus itself out
    with pytest.raises(TrainingError, match="cannot be resumed"):
        bench.trainer("out", **flags, resume=True).fit()  # now with a file of held-out rows: it trains on all


def test_resuming_with_a_recipe_that_was_changed_since_is_refused(bench, monkeypatch):
    stop_after(bench.trainer("out", recipe="fast"), 3).fit()
    was = RECIPES["fast"].weight_decay
    monkeypatch.setitem(RECIPES, "fast", replace(RECIPES["fast"], weight_decay=0.25))
    with pytest.raises(TrainingError, match=rf"recipe's details.* weight_decay={was}, now it is weight_decay=0\.25"):
        bench.trainer("out", recipe="fast", resume=True).fit()


def test_resuming_with_another_number_of_processes_is_refused(bench):
    stop_after(bench.trainer("out", recipe="seed"), 3).fit()
    plan = bench.plan("out", recipe="seed", resume=True, world_size=2)  # twice the rows in each micro-step
    with pytest.raises(TrainingError, match=r"another number of processes .* started with 1, now it is 2"):
        Trainer(plan, say=lambda text: None, bar=False).fit()


def test_what_only_says_how_a_run_is_watched_may_change_on_resuming(bench):
    flags = {"recipe": "seed", "epochs": 2}
    stop_after(bench.trainer("out", **flags), 3).fit()
    changed = bench.trainer("out", **flags, resume=True, log_interval=7, eval_interval=3, save_interval=2)
    assert changed.fit().complete


def test_a_damaged_newest_state_is_passed_over_for_the_one_before(finished):
    run = finished("seed")
    flags = run.flags | {"save_interval": 1}
    stop_after(run.bench.trainer("damaged", **flags), 11).fit()
    newest = max((run.bench.folder / "damaged" / "pretrain_16").glob("state-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    said: list[str] = []
    result = run.bench.trainer("damaged", said, **flags, resume=True).fit()
    assert "damaged" in said[0] and result.complete
    assert same_weights(weights_of(result.weights), weights_of(run.result.weights))


# --- when something goes wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(finished, recipe):
    run = finished(recipe)
    out = f"not-finite-{recipe}"
    trainer = run.bench.trainer(out, **run.flags)
    good = {}

    def poison_the_next_forward(row):
        if row["step"] == 2:
            good.update({key: value.clone() for key, value in trainer.model.state_dict().items()})
            trainer.model.norm.register_forward_hook(lambda module, given, found: found * math.nan)

    trainer.on_update = poison_the_next_forward
    trainer.plan.held_out.rows = trainer.plan.held_out.rows[:1]
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    for words in ("update 3", "loss nan", "learning rate 0.0", "gradient norm", "weights of update 2 are kept"):
        assert words in str(caught.value)
    assert same_weights(weights_of(trainer.plan.weights), good)
    resumed = run.bench.trainer(out, **run.flags, resume=True).fit()
    assert same_weights(weights_of(resumed.weights), weights_of(run.result.weights))


def test_the_message_of_a_loss_that_is_not_finite_names_the_rows(bench):
    trainer = bench.trainer("out", recipe="seed")
    trainer.on_update = lambda row: trainer.model.norm.register_forward_hook(lambda m, given, found: found * math.nan)
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    # The second update is made of micro-batches 2 and 3: rows 8 to 15, or lines 9 to 16.
    assert re.search(r"(rows?|lines?) \D{0,20}\d+", str(caught.value)), str(caught.value)


def test_weights_that_have_gone_bad_never_replace_good_ones(bench):
    trainer = bench.trainer("out", recipe="seed", epochs=2, save_interval=4, valid_path=None)
    original = trainer.after_update

    def gone_bad_after_the_third(epoch, step):
        original(epoch, step)
        if trainer.step == 3:
            with torch.no_grad():
                trainer.model.norm.weight[0] = math.nan

    trainer.after_update = gone_bad_after_the_third
    with pytest.raises(TrainingError):
        trainer.fit()
    assert all(torch.isfinite(value).all() for value in weights_of(trainer.plan.weights).values())


def test_a_full_disk_stops_nothing_and_the_next_save_succeeds(bench, monkeypatch):
    really, refused = checkpoint.save_weights, []

    def refusing_the_first(*arguments):
        if not refused:
            refused.append(True)
            raise OSError(28, "No space left on device")
        really(*arguments)

    monkeypatch.setattr(run_files.checkpoint, "save_weights", refusing_the_first)
    said: list[str] = []
    trainer = bench.trainer("out", said, recipe="seed", epochs=2, save_interval=6, valid_path=None)
    trainer.saver.snapshots = set()
    result = trainer.fit()
    assert any("Saving update 3 failed: No space left on device" in line for line in said)
    assert result.saved and result.complete and same_weights(weights_of(result.weights), trainer.model.state_dict())


def test_a_run_whose_last_save_failed_does_not_claim_that_it_was_saved(bench, monkeypatch):
    def refusing(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_files.checkpoint, "save_weights", refusing)
    for stop in (None, 3):
        said: list[str] = []
        trainer = bench.trainer("out", said, recipe="seed")
        result = (trainer if stop is None else stop_after(trainer, stop)).fit()
        assert not result.saved and any("failed: No space" in line for line in said)
        assert "NOT saved" in said[-1] and "no other folder took its weights" in said[-1]


def test_a_complete_run_whose_last_save_failed_saves_when_it_is_asked_again(bench, monkeypatch):
    really = checkpoint.save_weights

    def refusing(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_files.checkpoint, "save_weights", refusing)
    said: list[str] = []
    trainer = bench.trainer("out", said, recipe="seed")
    assert not trainer.fit().saved
    monkeypatch.setattr(run_files.checkpoint, "save_weights", really)
    result = trainer.fit()
    assert result.saved and said[-1].startswith("Done: 4 updates") and "weights in" in said[-1]
    assert same_weights(weights_of(result.weights), trainer.model.state_dict())
    assert [row["step"] for row in read_metrics(trainer.folder / "metrics.jsonl") if "lr" in row] == [1, 2, 3, 4]


def test_weights_that_a_full_disk_refused_at_the_end_are_rescued(bench, monkeypatch, tmp_path):
    really = checkpoint.save_weights

    def refusing(model, path, *more):
        if path.is_relative_to(bench.folder / "out"):
            raise OSError(28, "No space left on device")
        really(model, path, *more)

    monkeypatch.setattr(run_files.checkpoint, "save_weights", refusing)
    monkeypatch.setattr(run_files.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "rescued"))
    said: list[str] = []
    trainer = bench.trainer("out", said, recipe="seed")
    result = trainer.fit()
    assert result.complete and not result.saved and f"its weights are in {tmp_path}" in said[-1]
    assert same_weights(load_model(tmp_path / "rescued" / "pretrain_16.pth").state_dict(), trainer.model.state_dict())


def test_a_path_object_serves_as_a_folder_for_a_run(bench):
    result = bench.trainer("out", recipe="seed", max_steps=1, out_dir=bench.folder / "as-path").fit()
    assert result.weights == bench.folder / "as-path" / "pretrain_16.pth" and result.weights.exists()


def test_every_process_gets_a_batch_to_work_on_even_from_a_last_row_alone(bench):
    write_rows(bench.corpus, tiny_texts(9))  # two processes, four rows each: the ninth row is one too few
    tokens = []
    for rank in range(2):
        plan = bench.plan("out", recipe="seed", world_size=2)
        trainer = Trainer(plan, world=World(rank, 2), say=lambda text: None, bar=False)
        batches = list(trainer._loader())
        assert len(batches) == plan.iter_per_epoch == 2
        tokens.append(sum(int(mask.sum()) for _, _, mask in batches))
    whole = bench.plan("out", recipe="seed").train_set
    assert sum(tokens) == sum(int(whole[i][2].sum()) for i in range(9))


# --- wandb --------------------------------------------------------------------------------------------------------


def test_wandb_receives_the_same_figures_when_asked(bench, monkeypatch):
    logged, ended = [], []
    run = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values)),
        finish=lambda: ended.append(True),
        dir=str(bench.folder),
        url=None,
    )
    asked = {}
    fake = types.SimpleNamespace(init=lambda **k: (asked.update(k), run)[1], Settings=lambda **k: k)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    said: list[str] = []
    trainer = bench.trainer("out", said, recipe="seed", use_wandb=True, wandb_project="mine")
    trainer.fit()
    assert asked["project"] == "mine" and asked["mode"] == "offline" and any("wandb sync" in line for line in said)
    assert [step for step, values in logged if "lr" in values] == [1, 2, 3, 4] and ended == [True]


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_failing_wandb_stops_nothing(bench, monkeypatch, when):
    def fail(*arguments, **settings):
        raise ConnectionError("out of reach")

    run = types.SimpleNamespace(log=fail, finish=fail, dir=".", url=None)
    init = fail if when == "at the start" else lambda **settings: run
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Settings=lambda **k: k))
    said: list[str] = []
    result = bench.trainer("out", said, recipe="seed", use_wandb=True).fit()
    assert result.complete
    assert any("wandb is not used (ConnectionError)" in line for line in said) == (when == "at the start")


# --- plans --------------------------------------------------------------------------------------------------------


def test_with_neither_width_nor_depth_the_devices_profile_decides(bench):
    plan = plan_run(data_path=str(bench.corpus), device="cpu", max_seq_len=16)
    laptop = profile_named("laptop")
    assert plan.model.dim == laptop.model.dim and plan.model.max_seq_len == 16
    assert plan.train.batch_size == laptop.train.batch_size
    assert any("Profile: laptop" in note for note in plan.notes)


@pytest.mark.parametrize("flags", [{"dim": 16}, {"n_layers": 1}])
def test_with_a_width_or_a_depth_the_seeds_defaults_decide(bench, flags):
    plan = plan_run(data_path=str(bench.corpus), tokenizer=str(bench.tokenizer), device="cpu", **flags)
    assert plan.model.n_heads == 8 and plan.model.vocab_size == 6400 and plan.model.max_seq_len == 512
    assert (plan.train.batch_size, plan.train.accumulation_steps, plan.train.epochs) == (32, 8, 1)
    assert not any("Profile" in note for note in plan.notes)


def test_a_plan_says_what_it_chose_and_why(bench):
    notes = "\n".join(bench.plan("out").notes)
    for words in (
        "Device: CPU",
        "float32",
        "corpus.jsonl, as asked",
        "tokens, ",
        "as asked",
        "5 rows of",
        "valid.jsonl",
    ):
        assert words in notes


def test_the_sample_comes_with_its_own_held_out_rows_and_the_profiles_epochs(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIMIND_DATASET", str(tmp_path))
    plan = plan_run(device="cpu")
    assert plan.corpus.path == SAMPLE and len(plan.held_out) >= 15
    assert plan.train.epochs == profile_named("laptop").sample_epochs
    assert plan_run(device="cpu", epochs=2).train.epochs == 2


def test_without_held_out_rows_the_fast_recipe_keeps_some_of_the_corpus_and_the_seed_none(bench):
    fast = bench.plan("out", valid_path=None, recipe="fast")
    assert len(fast.held_out) == 2 and isinstance(fast.train_set, PackedDataset)
    kept_out = {fast.held_out.ids(i).tobytes() for i in range(2)}
    assert len(fast.corpus) == 26 and kept_out
    assert fast.train_set.total == int(fast.corpus.offsets[-1]) - sum(len(fast.held_out.ids(i)) for i in range(2))
    seed = bench.plan("out", valid_path=None, recipe="seed")
    assert seed.held_out is None and len(seed.train_set) == 26 and seed.train_set.as_minimind
    assert any("nothing" in note for note in seed.notes)


def test_both_recipes_are_judged_on_rows_of_the_default_kind(bench):
    for recipe in RECIPES:
        held_out = bench.plan("out", recipe=recipe).held_out
        assert isinstance(held_out, PretrainDataset) and not held_out.as_minimind and len(held_out) == 5


def test_a_run_without_held_out_rows_trains_all_the_same(bench):
    result = bench.trainer("out", recipe="seed", valid_path=None).fit()
    assert result.complete and result.held_out is None and result.best_held_out is None


def test_a_vocabulary_is_widened_to_the_tokenizer_unless_it_was_given(bench, tiny_tokenizer):
    size = tiny_tokenizer.get_vocab_size()
    assert bench.plan("out", vocab_size=500).model.vocab_size == 500
    with pytest.raises(ConfigError, match=rf"vocab_size=300.*{size}"):
        bench.plan("out", vocab_size=300)


@pytest.mark.parametrize("recipe", RECIPES)
def test_tokens_of_an_epoch_are_those_that_it_trains_on(bench, recipe):
    trainer = bench.trainer("out", recipe=recipe, max_seq_len=64, batch_size=3)
    trainer.fit()
    assert trainer.plan.tokens_per_epoch == trainer.tokens


@pytest.mark.parametrize(
    ("flags", "error", "said"),
    [
        ({"width": 3}, ConfigError, "unknown setting width"),
        ({"data_path": "nothing.jsonl"}, CorpusError, "nothing.jsonl is not there"),
        ({"valid_path": "nothing.jsonl"}, CorpusError, "nothing.jsonl is not there"),
        ({"device": "cuda:99"}, ConfigError, "cuda:99"),
        ({"n_heads": 3}, ConfigError, "n_heads=3"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(bench, flags, error, said):
    with pytest.raises(error, match=said):
        bench.plan("out", **flags)


def test_datasets_can_be_handed_to_loading_processes(bench):
    for recipe in RECIPES:
        rows = bench.plan("out", recipe=recipe).train_set
        again = pickle.loads(pickle.dumps(rows))
        assert all(torch.equal(a, b) for a, b in zip(rows[1], again[1], strict=True))


def test_every_recipe_builds_its_optimizer_with_its_rate(bench):
    for recipe, table in RECIPES.items():
        trainer = bench.trainer("out", recipe=recipe)
        assert trainer.lr == pytest.approx(2e-3 * table.lr_scale)
        assert type(trainer.optimizer) is type(build_optimizer(trainer.model, table, 1e-3))


# --- runs on disk -------------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_with_what_they_are(bench):
    for dim, stamp in ((16, 2e9), (24, 1e9)):
        result = bench.trainer("out", recipe="seed", max_steps=1, dim=dim).fit()
        os.utime(result.weights, (stamp, stamp))
    runs = list_runs(bench.folder / "out")
    assert [run.name for run in runs] == ["pretrain_16", "pretrain_24"]
    for words in ("pretrain_16.pth", "dim 16 × 1 layers", "1 updates (complete)", "held-out loss"):
        assert words in str(runs[0])
    assert attach("pretrain_24", bench.folder / "out").metrics()[-1]["step"] == 1
    assert attach(folder=bench.folder / "out").name == "pretrain_16"
    with pytest.raises(CheckpointError, match=r"no run named pretrain_99.*pretrain_16"):
        attach("pretrain_99", bench.folder / "out")
    assert list_runs(bench.folder / "nothing") == []


def test_one_run_is_trained_by_one_process_at_a_time(tmp_path):
    folder = tmp_path / "pretrain_16"
    with run_lock(folder):
        assert lock_holder(folder) == str(os.getpid())
        with pytest.raises(TrainingError, match=rf"another process \(number {os.getpid()}\)"), run_lock(folder):
            pass
    assert lock_holder(folder) is None
    with run_lock(folder):
        pass


def test_metrics_that_are_being_written_are_read_up_to_the_last_whole_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo', encoding="utf-8")
    assert read_metrics(path) == [{"step": 1, "loss": 2.5}]
    path.write_text('{"step": 1}\nbroken\n{"step": 2}\n', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2.*broken"):
        read_metrics(path)


def test_a_quick_model_is_trained_once_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path))
    said: list[str] = []
    first = quick_model(seconds=0.5, say=said.append)
    assert "small one is trained" in said[0] and "quick" in first.note
    before = len(said)
    second = quick_model(seconds=0.5, say=said.append)
    assert not any("is trained on the sample now" in line for line in said[before:])
    assert same_weights(first.model.state_dict(), second.model.state_dict())
    assert not second.model.training and second.tokenizer.to_str() == first.tokenizer.to_str()
    assert all(SAMPLE.name in found.note for found in (first, second)), "lesson 07 asks a note for the corpus"


@pytest.mark.parametrize("seen", ["before the training", "only when it would begin"])
def test_two_notebooks_that_need_a_quick_model_train_one(tmp_path, monkeypatch, seen):
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path / "elsewhere"))
    first = quick_model(seconds=0.5, say=lambda text: None)
    ready, done = tmp_path / "elsewhere" / "quick", tmp_path / "out" / "quick"
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path / "out"))
    held, said = threading.Event(), []

    def another_notebook():
        with run_lock(done / "pretrain_96"):
            held.set()
            until = time.monotonic() + 120
            while not any("waits for it" in line for line in said) and time.monotonic() < until:
                time.sleep(0.02)
            shutil.copytree(ready, done, dirs_exist_ok=True)

    other = threading.Thread(target=another_notebook)
    if seen == "before the training":
        other.start()
        held.wait()
    else:

        def late(plan):
            other.start()
            held.wait()
            return estimate(plan)

        monkeypatch.setattr(quick, "estimate", late)
    second = quick_model(seconds=0.5, say=said.append)
    other.join()
    assert any("this one waits for it" in line for line in said)
    assert same_weights(first.model.state_dict(), second.model.state_dict())


def test_a_broken_model_in_out_is_passed_over_by_name(bench, monkeypatch):
    monkeypatch.setenv("MINIMIND_OUT", str(bench.folder / "out"))
    good = bench.trainer("out", recipe="seed", max_steps=1).fit()
    os.utime(good.weights, (1e9, 1e9))
    broken = bench.trainer("out", recipe="seed", max_steps=1, dim=24).fit()
    broken.weights.write_bytes(b"broken")
    said: list[str] = []
    found = quick_model(say=said.append)
    assert found.model.config.dim == 16 and "passed over" in said[0] and "pretrain_24" in said[0]


def test_loaded_weights_know_what_they_were_trained_on(finished):
    run = finished("fast")
    model, tokenizer, facts = load_run(run.result.weights)
    assert model.config == run.trainer.plan.model and facts["corpus"]["path"].endswith("corpus.jsonl")
    assert json.dumps(facts)
    assert same_weights(load_model(run.result.weights).state_dict(), model.state_dict())
    assert tokenizer.get_vocab_size() <= model.config.vocab_size

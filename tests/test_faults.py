"""What a run survives, and what it says: signals, closed terminals, full disks, folders in the way, no memory."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, Bench
from test_trainer import comparable, same_weights, stop_after, weights_of

from minimind_core import (
    TrainConfig,
    Trainer,
    TrainingError,
    fitting,
    interrupts,
    load_model,
    make_scaler,
    precision,
    preflight,
    read_metrics,
    run_files,
    run_state,
    storage,
    train_pretrain,
)
from minimind_core import run_lock as run_locking
from minimind_core.batches import leave_signals_to_the_run
from minimind_core.checkpoint import read_facts
from minimind_core.clock import SaveClock
from minimind_core.errors import CheckpointError, StorageError
from minimind_core.faults import MAX_SKIPS, in_words
from minimind_core.files import sweep, write_torch
from minimind_core.fitting import fitted
from minimind_core.plan import pieces, smaller_pieces
from minimind_core.progress import Progress
from minimind_core.run_lock import lock_holder, run_lock
from minimind_core.storage import Keeping, choose_keeping, disk_needed, loading_processes
from minimind_core.tracking import MetricsLog

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


def words_for(bench: Bench, out: str, **more: object) -> list[str]:
    """The command line's words for a run that takes some seconds."""
    flags = {
        "data_path": bench.corpus, "valid_path": bench.valid, "tokenizer": bench.tokenizer,
        "out_dir": bench.folder / out, "dim": 16, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 400,
        "max_seq_len": 32, "batch_size": 4, "accumulation_steps": 2, "device": "cpu", "recipe": "seed", "epochs": 2000,
        "eval_interval": 100000, "log_interval": 20,
    }  # fmt: skip
    return [word for name, value in (flags | more).items() for word in (f"--{name}", str(value))]


def start(bench: Bench, out: str, **popen):
    command = [sys.executable, "-m", "minimind_core.train_pretrain", *words_for(bench, out, **popen.pop("flags", {}))]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=PROJECT, env=surroundings, start_new_session=True, **popen)
    until, metrics = time.monotonic() + 120, bench.folder / out / "pretrain_16" / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < until and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    return process


# --- signals and terminals ----------------------------------------------------------------------------------------


@posix_only
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_signal_that_ends_programs_stops_a_run_gently(bench, name):
    said: list[str] = []
    trainer = bench.trainer("out", said, recipe="seed", epochs=2)
    number = getattr(signal, name)
    trainer.on_update = lambda row: os.kill(os.getpid(), number) if row["step"] == 3 else None
    before = signal.getsignal(number)
    result = trainer.fit()
    assert (result.step, result.saved, signal.getsignal(number)) == (3, True, before)
    assert re.search(r"Stopped after update 3 of 8, loss \d\.\d{3}; weights in ", said[-1])
    assert bench.trainer("out", recipe="seed", epochs=2, resume=True).fit().complete


@posix_only
def test_a_signal_that_is_ignored_stays_ignored_as_nohup_wants_it(bench):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer = bench.trainer("out", recipe="seed", epochs=2)
        trainer.on_update = lambda row: os.kill(os.getpid(), signal.SIGHUP)
        assert trainer.fit().complete
    finally:
        signal.signal(signal.SIGHUP, before)


@posix_only
def test_one_wish_that_arrives_twice_is_one_wish(bench):
    trainer = bench.trainer("out", recipe="seed", epochs=2)

    def as_torchrun_passes_it_on(row):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    trainer.on_update = as_torchrun_passes_it_on
    assert trainer.fit().step == 1 and interrupts.ONE_WISH_SECONDS > 0


@posix_only
@pytest.mark.parametrize("when", ["along the way", "at the end"])
def test_a_save_is_never_interrupted(bench, monkeypatch, when):
    monkeypatch.setattr(interrupts, "ONE_WISH_SECONDS", -1)
    trainer = bench.trainer("out", recipe="seed", epochs=2, save_interval=4 if when == "along the way" else 10**6)
    really = run_state.write_state

    def impatient(*arguments):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        return really(*arguments)

    monkeypatch.setattr(run_state, "write_state", impatient)
    if when == "at the end":
        trainer.on_update = lambda row: trainer.stop() if row["step"] == 3 else None
    result = trainer.fit()
    assert result.saved and result.step == (2 if when == "along the way" else 3)
    assert bench.trainer("out", recipe="seed", epochs=2, resume=True).fit().step > result.step


def test_an_interrupt_inside_torchs_own_writing_stays_an_interrupt(tmp_path):
    class Impatient:
        def write(self, data):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_torch({"a": torch.ones(3)}, Impatient())


@posix_only
@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_loading_processes_too_and_ends_well(bench):
    process = start(bench, "out", flags={"num_workers": 2}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Stopped after update" in said and "Traceback" not in said and "error" not in said
    facts = read_facts(bench.folder / "out" / "pretrain_16.pth")
    assert facts["step"] == read_metrics(bench.folder / "out" / "pretrain_16" / "metrics.jsonl")[-1]["step"] > 0


@posix_only
@pytest.mark.slow
def test_a_terminal_that_is_closed_stops_a_run_gently(bench):
    here, there = pty.openpty()
    command = [sys.executable, "-m", "minimind_core.train_pretrain", *words_for(bench, "out")]
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(here)
        import fcntl
        import termios

        fcntl.ioctl(there, termios.TIOCSCTTY, 0)
        for number in range(3):
            os.dup2(there, number)
        os.chdir(PROJECT)
        os.execve(sys.executable, command, os.environ | {"OMP_NUM_THREADS": "1"})
    os.close(there)
    folder, until, seen = bench.folder / "out" / "pretrain_16", time.monotonic() + 120, b""
    while b"loss:" not in seen and time.monotonic() < until:
        seen += os.read(here, 4096)
    os.close(here)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    log = (folder / "train.log").read_text(encoding="utf-8")
    assert "Stopped after update" in log and "weights in" in log
    assert read_facts(folder.with_suffix(".pth"))["complete"] is False


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
def test_a_run_whose_output_nobody_takes_any_more_goes_on(bench, error):
    def gone(text):
        raise error

    trainer = Trainer(bench.plan("out", recipe="seed"), say=gone, bar=False)
    assert trainer.fit().complete
    assert "Done: 4 updates" in (trainer.folder / "train.log").read_text(encoding="utf-8")


def test_a_progress_bar_on_a_closed_terminal_is_given_up(monkeypatch, capsys):
    progress = Progress(10, 0, shown=True)
    progress.step()

    class Closed:
        def update(self, n):
            raise OSError(5, "Input/output error")

        close = update

    progress.bar = Closed()
    progress.step()
    progress.step()
    progress.close()
    assert progress.bar is None
    quiet = Progress(10, 0, shown=False)
    quiet.step()
    quiet.close()


def test_the_stop_button_of_a_notebook_saves_and_leaves_a_kernel_that_goes_on(bench):
    from jupyter_client.manager import start_new_kernel

    flags = {name.removeprefix("--"): value for name, value in zip(*[iter(words_for(bench, "out"))] * 2, strict=True)}
    flags = {name: int(value) if value.isdigit() else value for name, value in flags.items()} | {"epochs": 300}
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(PROJECT))
    try:

        def run(code: str, stop_when: str | None = None) -> str:
            said, asked = "", False
            identity = client.execute(code)
            while True:
                message = client.get_iopub_msg(timeout=120)
                if message["parent_header"].get("msg_id") != identity:
                    continue
                content = message["content"]
                said += content.get("text", "") + "\n".join(content.get("traceback", []))
                if stop_when and stop_when in said and not asked:
                    manager.interrupt_kernel()
                    asked = True
                if content.get("execution_state") == "idle":
                    return said

        run(f"from minimind_core import *\nimport torch\ntorch.set_num_threads(1)\nflags = {flags!r}")
        said = run("trainer = Trainer(plan_run(**flags), bar=False)\nresult = trainer.fit()", stop_when="loss:")
        assert re.search(r"Stopped after update \d+ of 1200, loss \d\.\d{3}; weights in", said), said
        assert "Error" not in said and "KeyboardInterrupt" not in said
        said = run("print(result.step > 0, result.saved); trainer.plan.updates == trainer.fit().step")
        assert "True True" in said and "Done: 1200 updates" in said
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# --- disks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(bytes)` mounts a disk of that size in memory, where the system lets us."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True)
        except FileNotFoundError:
            pytest.skip("no mount command here; a fake full disk is tried in test_trainer.py")
        if done.returncode:
            pytest.skip("mounting needs root; a fake full disk is tried in test_trainer.py")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_during_a_run_costs_nothing_that_was_saved(bench, small_disk):
    whole = bench.trainer("whole", recipe="seed", epochs=2).fit()
    disk, said = small_disk(4 << 20), []
    flags = {"recipe": "seed", "epochs": 2, "save_interval": 2, "out_dir": str(disk)}
    trainer = bench.trainer("out", said, **flags)

    def fill_and_make_room(row):
        if row["step"] == 3:
            with open(disk / "other", "wb", buffering=0) as other, suppress(OSError):
                while True:
                    other.write(bytes(4096))
        if row["step"] == 6:
            (disk / "other").unlink()

    trainer.on_update = fill_and_make_room
    result = trainer.fit()
    failed = [line for line in said if re.search(r"Saving update \d failed: .*(disk is full|No space)", line)]
    assert [re.search(r"update (\d)", line)[1] for line in failed] == ["3", "5"], said
    assert result.saved and same_weights(weights_of(result.weights), weights_of(whole.weights))
    here, there = (read_metrics(r.weights.with_suffix("") / "metrics.jsonl") for r in (result, whole))
    assert comparable(here) == comparable(there)
    assert sweep(disk) == []


def test_a_disk_that_is_full_at_the_end_leaves_the_save_before_whole(bench, small_disk, monkeypatch, tmp_path):
    disk, said = small_disk(4 << 20), []
    flags = {"recipe": "seed", "epochs": 2, "save_interval": 2, "out_dir": str(disk)}
    trainer = bench.trainer("out", said, **flags)

    def fill(row):
        if row["step"] == 3:
            free = shutil.disk_usage(disk).free
            (disk / "other").write_bytes(bytes(free))

    trainer.on_update = fill
    monkeypatch.setattr(run_files.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "rescued"))
    result = trainer.fit()
    assert result.complete and not result.saved and "NOT saved" in said[-1] and "rescued" in said[-1]
    assert read_facts(disk / "pretrain_16.pth")["step"] == 2
    load_model(disk / "pretrain_16.pth")
    assert same_weights(load_model(tmp_path / "rescued" / "pretrain_16.pth").state_dict(), trainer.model.state_dict())
    (disk / "other").unlink()
    said.clear()
    assert bench.trainer("out", said, **flags, resume=True).fit().complete
    assert said[0] == "Resumed after update 2 of 8."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
def test_metrics_wait_in_memory_while_the_disk_is_full(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(step=1, loss=2.0)
    really = log.file
    with open("/dev/full", "wb", 0) as full:
        log.file = types.SimpleNamespace(write=full.write, truncate=lambda size: size)
        log.write(step=2, loss=1.5)
        with pytest.raises(OSError, match="No space"):
            log._write_waiting()
    log.file = really
    log.write(step=3, loss=1.0)
    log.flush()
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_line_that_the_disk_took_only_in_part_is_not_left_in_the_file(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    really = log.file
    taken = iter([5])

    def some(data):
        room = next(taken, None)
        if room is None:
            raise OSError(28, "No space left on device")
        return really.write(data[:room])

    log.file = types.SimpleNamespace(write=some, truncate=really.truncate)
    log.write(step=1, loss=2.0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    log.file = really
    log.write(step=2, loss=1.0)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_no_state_is_newer_than_the_metrics_on_the_disk(bench):
    said: list[str] = []
    trainer = bench.trainer("out", said, recipe="seed", epochs=2, save_interval=2)

    def refuse(data):
        raise OSError(28, "No space left on device")

    def fill_and_make_room(row):
        if row["step"] == 3:
            full.append(trainer.files.metrics.file)
            trainer.files.metrics.file = types.SimpleNamespace(
                write=refuse, truncate=lambda size: size, fileno=lambda: refuse(b"")
            )
        if row["step"] == 6:
            trainer.files.metrics.file = full.pop()
        if row["step"] == 5:
            states = [path.name for path in run_state.state_files(trainer.folder)]
            assert states == ["state-00000002.pt", "state-00000001.pt"]

    full: list = []
    trainer.on_update = fill_and_make_room
    assert trainer.fit().saved and any("Saving update 5 failed: No space" in line for line in said)
    assert [r["step"] for r in read_metrics(trainer.folder / "metrics.jsonl") if "lr" in r] == list(range(1, 9))


@pytest.mark.parametrize(
    "in_the_way",
    ["pretrain_16.pth", "pretrain_16/config.json", "pretrain_16/tokenizer.json", "pretrain_16/metrics.jsonl",
     ".pretrain_16.lock"],
)  # fmt: skip
def test_a_folder_where_a_file_is_meant_is_said_before_the_run(bench, capsys, in_the_way):
    path = bench.folder / "out" / in_the_way
    path.mkdir(parents=True)
    assert train_pretrain.main(words_for(bench, "out", epochs=1)) == 2
    said = capsys.readouterr().err
    assert (said.startswith("error: ") and said.count("\n") == 1 and "move" in said) or "cannot be written" in said
    assert path.is_dir() and not list((bench.folder / "out").rglob("state-*"))


@pytest.mark.parametrize("in_the_way", ["train.log", "state-00000002.pt", "snapshots"])
def test_what_is_in_the_way_of_lesser_files_stops_nothing(bench, in_the_way):
    path, said = bench.folder / "out" / "pretrain_16" / in_the_way, []
    path.parent.mkdir(parents=True)
    path.mkdir() if in_the_way != "snapshots" else path.write_text("a file")
    result = bench.trainer("out", said, recipe="seed", save_interval=4).fit()
    assert result.complete and result.saved
    assert bench.trainer("out", said, recipe="seed", resume=True).fit().complete


@pytest.mark.parametrize("where", ["a file", "a file/deeper", "/proc/minimind", "/dev/null/out"])
def test_a_folder_that_cannot_be_written_is_said_before_the_run(bench, capsys, where):
    (bench.folder / "a file").write_text("in the way")
    out = where if where.startswith("/") else str(bench.folder / where)
    assert train_pretrain.main(words_for(bench, "x", out_dir=out, epochs=1)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert "--out_dir" in said or "cannot be written: it is not there" in said


def test_too_little_disk_is_said_before_the_run_with_what_is_left_out(bench, monkeypatch):
    parameters = bench.plan("out").parameters
    all_of_it, least = disk_needed(parameters), disk_needed(parameters, Keeping(1, False))
    assert least < all_of_it / 2

    def with_free(free: int) -> None:
        monkeypatch.setattr(storage, "free_bytes", lambda path: free)

    with_free(all_of_it)
    assert choose_keeping(bench.folder / "new", parameters) == Keeping()
    with_free(all_of_it - 1)
    said: list[str] = []
    trainer = bench.trainer("out", said, recipe="seed", epochs=2, save_interval=2)
    trainer.fit()
    assert "one state is kept, no snapshots" in said[0]
    assert [path.name for path in run_state.state_files(trainer.folder)] == ["state-00000008.pt"]
    assert not (trainer.folder / "snapshots").exists()
    lying = sum(path.stat().st_size for path in trainer.folder.rglob("*") if path.is_file())
    with_free(all_of_it - lying)
    assert choose_keeping(trainer.folder, parameters, goes_on=True) == Keeping()
    assert choose_keeping(trainer.folder, parameters).note, "a new run moves what lies there aside, on the same disk"
    with_free(least - 1)
    with pytest.raises(StorageError, match=r"too little disk: .* needs .* MB to save itself. Free some space"):
        bench.trainer("none", recipe="seed").fit()
    assert not list((bench.folder / "none").rglob("*.p*"))


def test_what_a_run_writes_at_most_is_what_was_reckoned(bench):
    trainer = bench.trainer("out", recipe="fast", epochs=4, save_interval=1)
    trainer.fit()
    written = sum(p.stat().st_size for p in (bench.folder / "out").rglob("*.p*") if p.is_file())
    assert written < disk_needed(trainer.plan.parameters) + 40 * 4096  # names and frames of small files


def test_shared_memory_that_is_too_small_for_loading_processes_means_none(monkeypatch, bench):
    monkeypatch.setattr(storage, "SHARED_MEMORY", bench.folder)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2 << 20))
    assert loading_processes(2, 1000) == (2, None) and loading_processes(0, 1 << 30) == (0, None)
    workers, note = loading_processes(2, 1 << 20)
    assert workers == 0 and "--shm-size" in note
    plan = bench.plan("out", num_workers=4, batch_size=20000)
    assert plan.train.num_workers == 0 and any(note.startswith("Loading: ") for note in plan.notes)


# --- numbers that are not numbers ---------------------------------------------------------------------------------


def half_precision(bench, monkeypatch, said, **flags) -> Trainer:
    """A trainer with a gradient scaler at work, as on a GPU with float16; this CPU computes in float32 all the same."""
    trainer = bench.trainer("out", said, recipe="seed", epochs=2, **flags)
    trainer.scaler = make_scaler(torch.device("cpu"), torch.float16)
    return trainer


def test_under_a_scaler_an_update_that_overflows_is_skipped_and_counted(bench, monkeypatch):
    said: list[str] = []
    trainer = half_precision(bench, monkeypatch, said)
    weights = {}

    def overflow_in_the_third(row):
        weights[row["step"]] = trainer.model.norm.weight.detach().clone()
        if row["step"] == 2:
            handle.append(trainer.model.norm.weight.register_hook(lambda gradient: gradient * math.inf))
        if row["step"] == 3:
            handle.pop().remove()

    handle: list = []
    trainer.on_update = overflow_in_the_third
    result = trainer.fit()
    rows = [row for row in read_metrics(trainer.folder / "metrics.jsonl") if "lr" in row]
    assert result.complete and [row["skipped"] for row in rows] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert torch.equal(weights[2], weights[3]) and not torch.equal(weights[3], weights[4])
    assert math.isnan(rows[2]["grad_norm"]) and math.isfinite(rows[2]["loss"])
    raw = (trainer.folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert "Infinity" not in raw and "NaN" not in raw and json.loads(raw.split("\n")[4])
    assert trainer.scaler.get_scale() == 2**15


def test_a_scaler_that_finds_no_scale_stops_the_run_with_what_to_do(bench, monkeypatch):
    trainer = bench.trainer("out", recipe="seed", epochs=20)
    trainer.scaler = make_scaler(torch.device("cpu"), torch.float16)
    trainer.model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match=rf"{MAX_SKIPS}th update in a row that float16 could not hold"):
        trainer.fit()
    assert trainer.step == MAX_SKIPS - 1 and read_facts(trainer.plan.weights)["step"] == MAX_SKIPS - 1


def test_skips_and_the_scale_are_part_of_the_state(bench, monkeypatch):
    trainer = half_precision(bench, monkeypatch, [])
    handle = trainer.model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    trainer.on_update = lambda row: handle.remove() if row["step"] == 2 else None
    stop_after(trainer, 7).fit()
    resumed = bench.trainer("out", recipe="seed", epochs=2, resume=True)
    resumed.scaler = make_scaler(torch.device("cpu"), torch.float16)
    resumed.fit()
    assert resumed.skips == [2, 0] and resumed.scaler.get_scale() == 2**14


# --- memory and processes -----------------------------------------------------------------------------------------


def test_pieces_of_an_update_keep_its_rows():
    assert pieces(32, 8) == [32, 16, 8, 4, 2, 1]
    assert pieces(6, 4) == [6, 4, 3, 2, 1]
    assert pieces(1, 5) == [1]


@pytest.mark.parametrize(
    ("batch", "accumulation", "said"), [(4, 2, (2, 4)), (5, 3, (1, 15)), (6, 4, (3, 8)), (1, 8, (1, 8))]
)
def test_what_is_advised_makes_the_same_updates(batch, accumulation, said):
    train = TrainConfig(batch_size=batch, accumulation_steps=accumulation)
    assert smaller_pieces(train) == "--batch_size {} --accumulation_steps {}".format(*said)
    assert said[0] * said[1] == batch * accumulation


@pytest.mark.parametrize(("most", "chosen"), [(100, (8, 3)), (8, (8, 3)), (7, (6, 4)), (4, (4, 6)), (1, (1, 24))])
def test_the_largest_micro_batch_that_fits_is_chosen_and_an_update_keeps_its_rows(bench, most, chosen):
    tried = []

    def attempt(plan, rows):
        tried.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    plan = fitted(bench.plan("out", batch_size=8, accumulation_steps=3), attempt=attempt)
    assert (plan.train.batch_size, plan.train.accumulation_steps) == chosen and plan.fitted
    assert tried == [rows for rows in (8, 6, 4, 3, 2, 1) if rows >= chosen[0]]
    assert (chosen == (8, 3)) == (not any(note.startswith("Micro-batch: ") for note in plan.notes))
    assert plan.updates * 24 >= plan.rows_per_epoch > (plan.updates - 1) * 24


def test_when_not_even_one_row_fits_it_is_said_what_to_lower(bench):
    def attempt(plan, rows):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(TrainingError, match=r"not even one row of 32 tokens fits .* lower --max_seq_len, --dim"):
        fitted(bench.plan("out"), attempt=attempt)


def test_other_errors_of_an_attempt_are_not_taken_for_a_lack_of_memory(bench):
    def attempt(plan, rows):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fitted(bench.plan("out"), attempt=attempt)


def test_the_attempt_trains_on_as_many_rows_and_leaves_no_trace(bench, monkeypatch):
    plan, before, shapes = bench.plan("out", recipe="fast", use_moe=True), torch.get_rng_state(), []
    really = fitting.MiniMindLM.forward
    monkeypatch.setattr(
        fitting.MiniMindLM, "forward", lambda self, ids, *more: (shapes.append(tuple(ids.shape)), really(self, ids))[1]
    )
    fitting.train_a_moment(plan, 3)
    assert shapes == [(3, 31)] * 4 and torch.equal(before, torch.get_rng_state())


def test_a_resumed_run_keeps_the_pieces_that_it_began_with(bench):
    def small(plan, rows):
        if rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    flags = {"recipe": "seed", "epochs": 2}
    first = Trainer(fitted(bench.plan("out", **flags), attempt=small), say=lambda text: None, bar=False)
    stop_after(first, 6).fit()
    said: list[str] = []
    second = bench.trainer("out", said, **flags, resume=True)  # a larger GPU now
    assert second.fit().complete and "Micro-batch: 2 rows × 4 instead of 4 × 2, since this run began so." in said
    whole = bench.trainer("whole", **flags, batch_size=2, accumulation_steps=4).fit()
    assert same_weights(weights_of(whole.weights), weights_of(second.plan.weights))


def test_out_of_memory_during_a_run_says_what_to_lower_and_loses_nothing(bench):
    flags = {"recipe": "seed", "epochs": 2}
    whole = bench.trainer("whole", **flags).fit()
    trainer = bench.trainer("out", **flags)

    def no_memory_left(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    def fill(row):
        if row["step"] == 3:
            trainer.model.register_forward_pre_hook(no_memory_left)

    trainer.on_update = fill
    trainer._eval_every = 1000
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    for words in ("out of memory", "update 4", "--batch_size 2 --accumulation_steps 4", "--resume"):
        assert words in str(caught.value)
    assert read_facts(trainer.plan.weights)["step"] == 3
    resumed = bench.trainer("out", **flags, resume=True).fit()
    assert same_weights(weights_of(resumed.weights), weights_of(whole.weights))


@posix_only
def test_a_loading_process_that_dies_is_said_and_the_run_resumes_without(bench):
    flags = {"recipe": "seed", "epochs": 2}
    whole = bench.trainer("whole", **flags).fit()
    trainer = bench.trainer("out", **flags, num_workers=1)

    def kill_the_loader(row):
        if row["step"] == 2:
            import multiprocessing

            for child in multiprocessing.active_children():
                child.kill()

    trainer.on_update = kill_the_loader
    with pytest.raises(TrainingError, match=r"a process that loads batches died .* --num_workers 0"):
        trainer.fit()
    resumed = bench.trainer("out", **flags, resume=True).fit()
    assert same_weights(weights_of(resumed.weights), weights_of(whole.weights))


def test_an_error_of_another_kind_stays_what_it_is(bench):
    run = types.SimpleNamespace(world=types.SimpleNamespace(size=1), step=0, plan=bench.plan("out"))
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), in_words(run):
        raise RuntimeError("shapes differ")
    with pytest.raises(CheckpointError), in_words(run):
        raise CheckpointError("ours")


@posix_only
def test_a_killed_run_leaves_no_lock_though_its_loading_processes_live_on(tmp_path):
    code = (
        "import os, sys, time\nfrom minimind_core.run_lock import run_lock\n"
        f"with run_lock({str(tmp_path / 'pretrain_16')!r}):\n"
        "    if os.fork() == 0:\n        time.sleep(60); os._exit(0)\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=PROJECT, start_new_session=True
    )
    assert process.stdout.readline() == b"held\n"
    assert lock_holder(tmp_path / "pretrain_16") == str(process.pid)
    process.kill()
    process.wait()
    try:
        with run_lock(tmp_path / "pretrain_16"):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_whoever_looks_at_a_lock_keeps_nobody_from_it(tmp_path):
    folder, looking = tmp_path / "pretrain_16", threading.Event()
    with run_lock(folder):
        pass

    def look():
        with open(tmp_path / ".pretrain_16.lock", "r+", encoding="utf-8") as file:
            assert run_locking._take(file, shared=True)
            looking.set()
            time.sleep(0.4)

    watcher = threading.Thread(target=look)
    watcher.start()
    looking.wait()
    assert lock_holder(folder) is None, "two who look don't take each other for a run"
    with run_lock(folder):
        assert lock_holder(folder) == str(os.getpid())
    watcher.join()


@posix_only
def test_the_death_of_a_child_raises_nothing_while_a_run_saves():
    def alarm(number, frame):
        raise RuntimeError("DataLoader worker is killed")

    before = signal.signal(signal.SIGCHLD, alarm)
    try:
        with interrupts.undisturbed_by_children():
            subprocess.run(["true"], check=True)
            time.sleep(0.05)
        assert signal.getsignal(signal.SIGCHLD) is alarm
    finally:
        signal.signal(signal.SIGCHLD, before)


@posix_only
def test_loading_processes_leave_signals_to_the_run():
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    try:
        leave_signals_to_the_run(0)
        assert all(signal.getsignal(number) is signal.SIG_IGN for number in interrupts.SIGNALS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- what is said before a run ------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("asked", ["cuda", "cuda:0", "mps"])
def test_a_gpu_that_is_not_there_means_the_cpu_with_a_word(bench, asked):
    if asked == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has an Apple GPU")
    plan = bench.plan("out", device=asked)
    assert plan.device.type == "cpu" and plan.notes[0].startswith(f"NO GPU: {asked} was asked for")
    assert plan.gpu_is_missing
    assert not any(bench.plan("out", device=named).gpu_is_missing for named in ("auto", "cpu", "cpu:0"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_run_meant_for_a_gpu_is_not_started_for_hours_on_a_cpu(bench, capsys, monkeypatch):
    monkeypatch.setattr(preflight, "SLOW_RUN_HOURS", 1e-9)
    assert train_pretrain.main(words_for(bench, "out", device="cuda", epochs=1)) == 2
    assert "there is no such GPU, and this run would take" in capsys.readouterr().err
    assert not (bench.folder / "out").exists()
    assert train_pretrain.main(words_for(bench, "out", device="cpu", epochs=1)) == 0
    assert "That is long" in capsys.readouterr().out


def test_bfloat16_that_a_gpu_lacks_becomes_float16_with_a_word(monkeypatch):
    monkeypatch.setattr(precision.torch.cuda, "get_device_capability", lambda device: (7, 5))
    dtype, why = precision.pick_dtype("bfloat16", torch.device("cuda"))
    assert dtype == torch.float16 and "has no bfloat16, so float16" in why


def test_a_run_that_needs_more_memory_than_is_free_is_warned_of(bench, monkeypatch):
    plan = bench.plan("out")
    needs = preflight.estimate(plan, steps=1)
    assert preflight.warnings_for(plan, needs) == []
    monkeypatch.setattr(
        preflight.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=1 << 20, total=1 << 40)
    )
    (warning,) = preflight.warnings_for(plan, needs)
    assert "--batch_size 2 --accumulation_steps 4" in warning


# --- when to save -------------------------------------------------------------------------------------------------


def saves_of(interval, cost, seconds_per_update, updates, first_guess=1.0) -> tuple[list[int], SaveClock]:
    clock, saved = SaveClock(interval, first_guess), []
    for update in range(1, updates + 1):
        if clock.is_due(update - 1, update, update * seconds_per_update):
            saved.append(update)
            clock.saved(cost, update * seconds_per_update)
    return saved, clock


def test_a_given_interval_is_obeyed_whatever_it_costs():
    assert saves_of(3, 100.0, 0.001, 10)[0] == [3, 6, 9]


@pytest.mark.parametrize("cost", [0.001, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("pace", [0.01, 0.3, 40.0])
def test_without_an_interval_saving_takes_two_per_cent_of_the_time_at_most(cost, pace):
    updates = int(3600 / pace)
    saved, clock = saves_of(None, cost, pace, updates)
    assert clock.spent <= 0.02 * 3600 + cost and len(saved) >= min(3, 0.02 * 3600 / cost - 1)
    gaps = [b - a for a, b in pairwise(saved)]
    assert all(gap * pace >= SaveClock.LEAST_SECONDS for gap in gaps)


def test_time_spent_on_snapshots_counts_too():
    clock = SaveClock(None, 1.0)
    assert clock.is_due(0, 1, 60.0)
    clock.snapshot(1.0)
    assert not clock.is_due(0, 1, 60.0)


def test_saving_is_planned_by_the_training_clock(bench):
    trainer = bench.trainer("out", recipe="seed", epochs=2)
    trainer.fit()
    assert trainer.saver.clock.interval is None and trainer.saver.clock.spent > 0


@posix_only
def test_a_program_without_any_of_its_three_streams_trains(bench):
    words = " ".join(f"'{word}'" for word in words_for(bench, "out", epochs=1))
    command = f"'{sys.executable}' -m minimind_core.train_pretrain {words} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], cwd=PROJECT, timeout=300).returncode == 0
    assert read_facts(bench.folder / "out" / "pretrain_16.pth")["complete"]

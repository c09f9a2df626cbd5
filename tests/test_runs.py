"""Runs that outlive the page: started, refused twice, stopped, killed, resumed, and known by their files alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest
import torch

from minimind_core import run_status, runs, supervisor
from minimind_core.errors import CheckpointError, TrainingError
from minimind_core.plan import plan_run
from minimind_core.run_lock import lock_holder, run_lock, stop_file, wish_to_stop
from minimind_core.run_status import STATES, RunStatus, log_file, log_tail, status_of
from minimind_core.runs import all_runs, begin_or_attach, kill_run, resume_run, run_of, start_run, stop_run, wait_for
from minimind_core.supervisor import last_start
from minimind_core.tracking import read_metrics

VARIES = ("time", "tokens_per_s", "memory")
LONG = {"epochs": 150, "recipe": "seed", "log_interval": 500, "seed": 3}  # some seconds


def steady(rows):
    """Metrics lines without what differs between equal runs."""
    return [{name: value for name, value in row.items() if name not in VARIES} for row in rows]


def until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_run_of_its_own_is_stopped_killed_resumed_and_ends_as_one_that_was_left_alone(bench, one_thread):
    plan = bench.plan("out", **LONG)
    weights = plan.weights
    assert status_of(weights).state == "none"
    started = start_run(plan)
    assert started.weights == weights and status_of(weights).is_going
    with pytest.raises(TrainingError, match="is being trained already"):
        start_run(plan)
    assert begin_or_attach(plan) is False
    until(lambda: status_of(weights).step >= 5)
    status = status_of(weights)
    assert status.state == "running" and status.updates == plan.updates and status.seconds_left > 0
    with pytest.raises(TrainingError, match=r"another run \(--seed 3"):
        begin_or_attach(bench.plan("out", **(LONG | {"seed": 4})))

    stop_run(weights)
    stopped = wait_for(weights, every=0.1)
    assert stopped.state == "stopped" and 5 <= stopped.step < plan.updates
    assert last_start(log_file(weights)).status == 130 and not stop_file(plan.weights.with_suffix("")).exists()
    with pytest.raises(TrainingError, match="nothing to stop"):
        stop_run(weights)

    resume_run(weights)
    until(lambda: status_of(weights).step > stopped.step + 5)
    assert kill_run(weights)
    dead = status_of(weights)
    assert dead.state == "dead" and "SIGKILL" in dead.why and "for memory: it held" in dead.why
    with pytest.raises(TrainingError, match="the run died: it was ended from outside"):
        wait_for(weights)
    assert not kill_run(weights)

    assert begin_or_attach(plan) is True
    done = wait_for(weights, every=0.1)
    assert done.state == "complete" and done.step == plan.updates
    undisturbed = bench.trainer("other", **LONG)
    undisturbed.fit()
    assert steady(done.rows) == steady(read_metrics(undisturbed.folder / "metrics.jsonl"))
    ours, theirs = (torch.load(path) for path in (weights, undisturbed.plan.weights))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert done.samples() and all(prompt == "世界上最高的山峰是" for _, prompt, _ in done.samples())
    said = log_file(weights).read_text(encoding="utf-8")
    assert said.count("== began") == 3 and said.count("== ended") == 3 and "Traceback" not in said


def test_of_two_processes_on_one_run_the_second_is_refused_and_the_first_goes_on(bench, one_thread):
    plan = bench.plan("out", **LONG)
    start_run(plan)
    until(lambda: status_of(plan.weights).step >= 1)
    words = [f"--{name}={value}" for name, value in plan.flags().items()]
    second = subprocess.run(
        [sys.executable, "-m", "minimind_core.supervisor", str(log_file(plan.weights)), sys.executable, "-m",
         "minimind_core.train_pretrain", *words],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=300,
    )  # fmt: skip
    assert second.returncode == 2
    assert "is being trained by another process" in log_file(plan.weights).read_text(encoding="utf-8")
    status = status_of(plan.weights)
    assert status.state == "running" and last_start(log_file(plan.weights)).status is None
    assert kill_run(plan.weights)
    assert "SIGKILL" in status_of(plan.weights).why, "the end of the first, not of the one that was refused"


def test_a_run_that_fails_says_why(bench, one_thread):
    plan = bench.plan("out", epochs=1)
    flags = plan.flags()
    runs._launch(plan.weights, flags | {"data_path": str(bench.folder / "gone.jsonl")})
    with pytest.raises(TrainingError, match=r"the run died: .*gone\.jsonl"):
        wait_for(plan.weights, every=0.1)
    assert status_of(plan.weights).state == "dead" and log_tail(plan.weights)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"recipe": "seed", "epochs": 3},
        {"use_moe": True, "n_shared_experts": 0, "norm_topk_prob": False},
        {"max_steps": 5, "warmup_iters": 2, "grad_clip": 0.5, "dropout": 0.1},
        {"tokenizer": None, "valid_path": None},
        {"dim": 32, "hidden_dim": 48, "rope_theta": 5e4, "learning_rate": 1.2345678901234567e-3},
    ],
)
def test_the_flags_of_a_plan_plan_the_same_run(bench, change, monkeypatch, tmp_path):
    from minimind_core.cli import parse_flags

    plan = bench.plan("out", **change)
    words = [word for name, value in plan.flags().items() for word in (f"--{name}", str(value))]
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path / "elsewhere"))
    again = plan_run(**parse_flags(words, "train", "train"))
    assert again.identity() == plan.identity() and again.weights == plan.weights.resolve()
    assert again.held_out_sha256 == plan.held_out_sha256 and again.updates == plan.updates


def test_the_flags_of_a_profile_and_of_relative_paths_plan_the_same_run(bench, monkeypatch):
    from minimind_core.cli import parse_flags

    monkeypatch.chdir(bench.folder)
    plan = plan_run(profile="laptop", device="cpu", data_path="corpus.jsonl", out_dir="out", max_steps=3)
    words = [word for name, value in plan.flags().items() for word in (f"--{name}", str(value))]
    monkeypatch.chdir(bench.folder.parent)
    assert plan_run(**parse_flags(words, "train", "train")).identity() == plan.identity()


# --- disks without locks ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there every disk knows locks")
def test_on_a_disk_that_knows_no_locks_the_process_that_the_file_names_holds_the_run(bench, monkeypatch):
    import fcntl

    def unknown(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    trainer = bench.trainer("out", max_steps=3)
    holders = []
    trainer.on_update = lambda row: holders.append(lock_holder(trainer.folder))
    monkeypatch.setattr(fcntl, "flock", unknown)
    trainer.fit()
    assert set(holders) == {str(os.getpid())} and lock_holder(trainer.folder) is None
    lock = trainer.folder.parent / f".{trainer.folder.name}.lock"
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    lock.write_text(str(other.pid), encoding="utf-8")
    assert lock_holder(trainer.folder) == str(other.pid) and status_of(trainer.plan.weights).state == "running"
    with pytest.raises(TrainingError, match="another process"), run_lock(trainer.folder):
        pass
    os.utime(lock, (1, 1))
    assert lock_holder(trainer.folder) is None, "the number belongs to a process that began after the lock was written"
    other.kill()
    other.wait()
    lock.touch()
    assert lock_holder(trainer.folder) is None


# --- which run lies there ---------------------------------------------------------------------------------------------


def test_a_run_whose_updates_were_cut_into_other_pieces_is_this_plans(bench):
    """A GPU's memory, or a CPU's, may ask for smaller pieces than the plan says: the same updates, the same run."""
    trainer = bench.trainer("out", epochs=50, max_steps=4, batch_size=2, accumulation_steps=2)
    trainer.on_update = lambda row: trainer.stop() if row["step"] == 2 else None
    trainer.fit()
    asked = bench.plan("out", epochs=50, max_steps=4, batch_size=4, accumulation_steps=1)
    assert run_of(asked).facts["step"] == 2
    start_run(asked)
    done = wait_for(asked.weights, every=0.1)
    assert done.state == "complete" and [line["step"] for line in done.rows if "loss" in line] == [1, 2, 3, 4]
    assert not (bench.folder / "out" / "previous").exists(), "it went on, and did not begin anew"
    assert run_of(bench.plan("out", epochs=50, max_steps=4, batch_size=8, accumulation_steps=1)) is None


@pytest.mark.parametrize("lost", ["weights", "weights and config.json"])
def test_a_run_whose_weights_are_lost_is_this_plans_as_long_as_it_has_a_state(bench, lost):
    trainer = bench.trainer("out", epochs=50, max_steps=4)
    trainer.fit()
    plan = bench.plan("out", epochs=50, max_steps=4)
    plan.weights.unlink()
    if "config" in lost:
        (trainer.folder / "config.json").unlink()
    assert run_of(plan) is not None and not run_of(plan).facts["complete"]
    for state in trainer.folder.glob("state-*.pt"):
        state.unlink()
    assert run_of(plan) is None


def test_waiting_for_a_save_does_not_take_an_older_runs_save_for_it(bench, one_thread):
    bench.trainer("out", max_steps=3).fit()
    plan = bench.plan("out", **LONG, save_interval=40)
    assert run_of(plan) is None
    assert begin_or_attach(plan, fresh=True)
    status = wait_for(plan.weights, updates=1, every=0.02, unsaved=2)
    assert status.state == "running" and status.facts["updates"] == plan.updates
    assert status.step >= status.facts["step"] + 2
    assert kill_run(plan.weights)
    assert begin_or_attach(plan)
    log = plan.weights.with_suffix("") / "train.log"
    until(lambda: "Resumed after update" in log.read_text(encoding="utf-8"))
    kill_run(plan.weights)


def test_a_setting_that_one_of_two_runs_leaves_open_makes_them_two_runs(bench, one_thread):
    plan = bench.plan("out", **LONG, max_steps=2000)
    start_run(plan)
    with pytest.raises(TrainingError, match=r"another run \(--max_steps 2000"):  # while it starts, by its command
        begin_or_attach(bench.plan("out", **LONG))
    assert begin_or_attach(plan) is False
    until(lambda: status_of(plan.weights).step >= 1)
    with pytest.raises(TrainingError, match=r"another run \(--max_steps 2000"):
        begin_or_attach(bench.plan("out", **LONG))
    kill_run(plan.weights)


# --- a wish to stop ---------------------------------------------------------------------------------------------------


def test_a_wish_to_stop_is_heard_once_and_an_older_one_is_not(bench):
    said: list[str] = []
    trainer = bench.trainer("out", said, epochs=50)
    wish = stop_file(trainer.folder)
    wish.parent.mkdir(parents=True)
    wish.touch()
    os.utime(wish, (time.time() - 60, time.time() - 60))
    trainer.on_update = lambda row: (
        (wish_to_stop(trainer.folder), os.utime(wish, (1, 1)), setattr(trainer.files, "_looks_again", 0))
        if row["step"] == 3
        else None
    )  # the disk's clock is far behind, and the time in the file is what counts
    result = trainer.fit()
    assert result.step in (3, 4) and not result.complete and not wish.exists()
    assert trainer.fit().complete, "it was heard once"


def test_what_a_run_was_started_with_stands_in_its_folder(bench):
    plan = bench.plan("out", max_steps=2)
    trainer = bench.trainer("out", max_steps=2)
    trainer.fit()
    started = json.loads((trainer.folder / "started.json").read_text(encoding="utf-8"))
    who = {"process": os.getpid(), "parent": os.getppid(), "began": trainer.files.born, "device": "cpu"}
    assert started == {"flags": plan.flags(), "updates": 2} | who
    (trainer.folder / "started.json").unlink()
    with pytest.raises(CheckpointError, match=r"started\.json is missing"):
        resume_run(plan.weights)


# --- status -----------------------------------------------------------------------------------------------------------


def row(step, **more):
    return {"step": step, "loss": 8.0 / step, "ce": 7.0 / step, "aux_loss": 1.0 / step, "lr": 1e-3, "grad_norm": 1.0,
            "tokens_per_s": 100.0 * step, "memory": 300, "tokens": 100 * step, "time": 2.0 * step, **more}  # fmt: skip


def test_a_status_says_what_is_reached_what_is_left_and_what_it_costs():
    rows = [row(1), row(2), {"step": 2, "held_out_loss": 5.0, "sample": ["山", "是"]}, row(3)]
    status = RunStatus("out/pretrain_8.pth", "running", updates=10, rows=rows)
    assert status.step == 3 and status.seconds == 6 and status.seconds_left == pytest.approx(14)
    assert status.tokens_per_s == 200 and status.look["held_out_loss"] == 5 and status.samples() == [(2, "山", "是")]
    line = status.line(price_per_hour=600)
    for words in (
        "running",
        "update 3 of 10",
        "loss 2.667",
        "held-out loss 5.000",
        "memory, MiB 300",
        "left 14 s",
        "cost so far, of training alone 1.00",
    ):
        assert words in line, words
    empty = RunStatus("out/pretrain_8.pth", "none")
    assert empty.seconds_left is None and empty.line() == "not started" and empty.samples() == []
    assert set(STATES) == {"none", "starting", "running", "stopped", "complete", "dead"}


def test_samples_are_taken_from_the_whole_run():
    rows = [{"step": step, "held_out_loss": 5.0, "sample": ["山", str(step)]} for step in range(21)]
    found = RunStatus("out/pretrain_8.pth", "running", rows=rows).samples(5)
    assert [step for step, _, _ in found] == [0, 5, 10, 15, 20]
    assert len(RunStatus("out/pretrain_8.pth", "running", rows=rows[:3]).samples(5)) == 3


def write_metrics(weights, rows):
    folder = weights.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in rows)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_a_run_from_a_terminal_is_running_while_its_lock_is_held_and_dead_afterwards(tmp_path):
    weights = tmp_path / "pretrain_8.pth"
    folder = write_metrics(weights, [row(1)])
    with run_lock(folder):
        assert status_of(weights).state == "running"
    status = status_of(weights)
    assert status.state == "dead" and "without a word" in status.why
    (folder / "train.log").write_text(
        "Epoch …\nStopped after update 1 of 5, loss 8.000; weights in x.\n", encoding="utf-8"
    )
    assert status_of(weights).state == "stopped" and log_tail(weights, 1)[0].startswith("Stopped")


LOG = "== began {began}, process {pid}, watched by 1: x\n== ended {ended}, process {pid}, status {status}, after 2 s\n"


def stamp(seconds):
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system's time zone cannot be set for a test")
def test_a_moment_in_the_hour_that_comes_twice_is_read_back_as_it_was(tmp_path, monkeypatch):
    log = tmp_path / "log"
    with monkeypatch.context() as here:
        here.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        for moment, zone in ((1_792_888_200, "+02:00"), (1_792_891_800, "+01:00")):
            stamped = supervisor._stamp(moment)
            assert stamped == f"2026-10-25 02:30:00{zone}"
            log.write_text(f"== began {stamped}, process 7, watched by 1: x\n", encoding="utf-8")
            assert last_start(log).began == moment
    time.tzset()


@pytest.mark.parametrize("ended", ["complete", "stopped", "dead"])
def test_a_run_that_was_taken_further_in_a_terminal_is_not_judged_by_an_older_log(tmp_path, ended):
    """It was killed when its log was written, as in lesson 06; then `train_pretrain --resume` went on without a log."""
    weights, now = tmp_path / "pretrain_8.pth", time.time()
    folder = write_metrics(weights, [row(1), row(2)])
    text = LOG.format(began=stamp(now - 100), ended=stamp(now - 90), pid=77, status=-9)
    log_file(weights).write_text(text, encoding="utf-8")

    def started(process, began):
        start = {"flags": {}, "updates": 2, "process": process, "began": began}
        (folder / "started.json").write_text(json.dumps(start), encoding="utf-8")

    started(77, now - 99)
    assert "SIGKILL" in status_of(weights).why
    started(88, now - 60)
    if ended == "complete":
        (folder / "config.json").write_text(
            json.dumps({"model": {}, "step": 2, "updates": 2, "complete": True}), encoding="utf-8"
        )
        weights.touch()
    if ended == "stopped":
        (folder / "train.log").write_text("Stopped after update 2 of 9, loss 1.\n", encoding="utf-8")
    status = status_of(weights)
    assert status.state == ended and "SIGKILL" not in status.why


def test_a_run_that_is_started_anew_does_not_show_the_old_ones_numbers(tmp_path):
    weights = tmp_path / "pretrain_8.pth"
    write_metrics(weights, [row(1)])
    log = log_file(weights)
    code = "import time; time.sleep(60)"
    words = [sys.executable, "-m", "minimind_core.supervisor", str(log), sys.executable, "-c", code, "--resume"]
    for resume, rows in (("False", 0), ("True", 1)):
        process = subprocess.Popen([*words, resume])
        until(lambda flag=resume: (start := last_start(log)) is not None and start.flags().get("resume") == flag)
        status = status_of(weights)
        assert status.state == "starting" and len(status.rows) == rows
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_holds_its_lock_is_starting_until_it_has_written_down_what_it_is(tmp_path, resume):
    """It reads what it resumes, and compiles, before it moves another run aside: that one's numbers are not its own."""
    weights, us = tmp_path / "pretrain_8.pth", os.getpid()
    folder = write_metrics(weights, [row(1)])
    (folder / "train.log").write_text("Done: 1 updates\n", encoding="utf-8")
    began = psutil.Process().create_time()
    begin = f"== began {stamp(began)}, process {us}, watched by 1: x --resume {resume}\nhello\n"
    log_file(weights).write_text(begin, encoding="utf-8")

    def started(process, at, parent=0):
        start = {"flags": {}, "updates": 2, "process": process, "parent": parent, "began": at}
        (folder / "started.json").write_text(json.dumps(start), encoding="utf-8")

    with run_lock(folder):
        for process in (77, us):  # another's start, and one of another's with the same number
            started(process, began - 1000)
            status = status_of(weights)
            assert status.state == "starting" and len(status.rows) == resume
        assert log_tail(weights)[-1] == "Done: 1 updates" and log_tail(weights, begins=True)[-1] == "hello"
        for process, parent in ((us, 1), (88, us)):
            started(process, began + 0.5, parent)
            status = status_of(weights)
            assert status.state == "running" and len(status.rows) == 1


def test_the_end_of_a_process_is_waited_for_until_it_is_written_down(tmp_path):
    """Between a process's end and the line on it, its watcher still lives."""
    weights = tmp_path / "pretrain_8.pth"
    write_metrics(weights, [row(1)])
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    watcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    now = time.time()
    begin = f"== began {stamp(now)}, process {int(gone.stdout)}, watched by {watcher.pid}: x\n"
    log_file(weights).write_text(begin, encoding="utf-8")

    def note():
        time.sleep(0.5)
        with open(log_file(weights), "a", encoding="utf-8") as log:
            log.write(f"== ended {stamp(now)}, process {int(gone.stdout)}, status -9, after 2 s\n")

    threading.Thread(target=note).start()
    assert "SIGKILL" in status_of(weights).why
    watcher.kill()
    watcher.wait()


def test_a_run_whose_last_save_the_disk_refused_says_where_its_weights_are(tmp_path):
    weights = tmp_path / "pretrain_8.pth"
    write_metrics(weights, [row(1)])
    log_file(weights).write_text(
        "== began 2026-01-01 00:00:00, process 7: a\nDone: 1 updates, loss 8.000; NOT saved; its weights are in /x.\n"
        "Weights: out/x\n== ended 2026-01-01 00:00:02, process 7, status 1, after 2 s\n",
        encoding="utf-8",
    )
    assert "its weights are in /x" in status_of(weights).why


def test_a_machine_that_was_started_anew_since_is_named(tmp_path):
    weights = tmp_path / "pretrain_8.pth"
    folder = write_metrics(weights, [row(1)])
    long_ago = psutil.Process(1).create_time() - 100
    os.utime(folder / "metrics.jsonl", (long_ago, long_ago))
    assert "started anew" in status_of(weights).why


@pytest.mark.parametrize("damage", ["no metrics\n", '{"step": "one"}\n{}\n'])
def test_damaged_files_are_said_and_stop_nothing(tmp_path, damage):
    weights = tmp_path / "pretrain_8.pth"
    folder = write_metrics(weights, [])
    (folder / "metrics.jsonl").write_text(damage + damage, encoding="utf-8")
    (folder / "started.json").write_text("{", encoding="utf-8")
    status = status_of(weights)
    assert status.state == "dead" and "metrics.jsonl" in status.why and status.started == {}
    with run_lock(folder):
        assert status_of(weights).state == "running"


# --- the supervisor ---------------------------------------------------------------------------------------------------


def supervised(tmp_path, code):
    log = tmp_path / "log"
    status = subprocess.run(
        [sys.executable, "-m", "minimind_core.supervisor", str(log), sys.executable, "-c", code],
        timeout=60,
        check=False,
    ).returncode
    return status, last_start(log)


@pytest.mark.parametrize(
    ("code", "status"),
    [("print('good')", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)],
)
@pytest.mark.skipif(sys.platform == "win32", reason="there a process is not ended by signals")
def test_a_log_says_when_a_process_began_and_how_it_ended(tmp_path, code, status):
    before = time.time()
    returned, start = supervised(tmp_path, code)
    assert start.status == status and (returned == status or status < 0)
    assert abs(start.began - before) < 30 and ("good" in start.said) == (status == 0)
    assert supervisor.in_words(status) == ("SIGKILL" if status == -9 else f"status {status}")


@pytest.mark.skipif(sys.platform == "win32", reason="there a process is not ended by signals")
def test_a_supervisor_that_is_asked_to_end_passes_it_on_and_writes_down_how(tmp_path):
    log = tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-m", "minimind_core.supervisor", str(log), "sleep", "60"])
    until(lambda: last_start(log) is not None)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    assert last_start(log).status == -signal.SIGTERM


@pytest.mark.parametrize("cut", [b"", b"whole\n", b"cut in the mid", b"\rdrawn anew: 40%"])
def test_lines_of_a_supervisor_begin_a_line_after_one_that_was_cut(tmp_path, cut):
    (tmp_path / "log").write_bytes(cut)
    status, start = supervised(tmp_path, "import os, sys; sys.stdout.write('no end'); sys.stdout.flush(); os._exit(3)")
    assert status == start.status == 3 and "no end" in start.said
    assert (tmp_path / "log").read_bytes().startswith(cut + b"\n" * (cut[-1:] not in (b"", b"\n")) + b"== began")


def test_a_command_that_cannot_be_started_is_said(tmp_path):
    log = tmp_path / "log"
    assert supervisor.main([str(log), str(tmp_path / "no such program")]) == 2
    assert "could not be started" in log.read_text(encoding="utf-8") and last_start(log) is None


@pytest.mark.parametrize(
    ("lines", "pid", "status", "said"),
    [
        ("== began 2026-01-01 00:00:00, process 7: a\nhello\n", 7, None, "hello\n"),
        (
            "== began 2026-01-01 00:00:00, process 7: a\nx\n"
            "== ended 2026-01-01 00:00:09, process 7, status 2, after 9 s\n",
            7, 2, "x\n",
        ),
        (
            "== began 2026-01-01 00:00:00, process 7: a\n== began 2026-01-01 00:00:01, process 8: a\nerror: taken\n"
            "== ended 2026-01-01 00:00:02, process 8, status 2, after 1 s\nmore\n",
            8, 2, "error: taken\n",
        ),
        (
            "== began 2026-01-01 00:00:00, process 7: a\n== began 2026-01-01 00:00:01, process 8: a\n"
            "error: out/x is being trained by another process (number 7).\n"
            "== ended 2026-01-01 00:00:02, process 8, status 2, after 1 s\nmore\n",
            7, None, "more\n",
        ),
        (
            "== began 2026-01-01 00:00:00, process 7: a\n== began 2026-01-01 00:00:01, process 8: a\n"
            "error: out/x is being trained by another process (number 7).\n"
            "== ended 2026-01-01 00:00:02, process 8, status 2, after 1 s\nerror: full\n"
            "== ended 2026-01-01 00:00:09, process 7, status 2, after 9 s\n",
            7, 2, "error: full\n",
        ),
        (
            "== began 2026-01-01 00:00:00, process 100: a\nlost\n== began 2026-01-02 00:00:00, process 57: a\n"
            "error: the disk is full.\n== ended 2026-01-02 00:00:09, process 57, status 2, after 9 s\n",
            57, 2, "error: the disk is full.\n",
        ),
        (
            "== began 2026-01-01 00:00:00, process 7: a\n== ended 2026-01-01 00:00:02, process 7, status 0, after 2 s\n"
            "== began 2026-01-01 00:00:03, process 8: a\n== began 2026-01-02 00:00:03, process 7: a\nagain\n",
            7, None, "again\n",
        ),
        (
            "== began 2026-01-01 00:00:00, process 7: a\n== ended 2026-01-01 00:00:02, process 7, status 0, after 2 s\n"
            "== began 2026-01-01 00:00:03, process 7: a\nagain\n",
            7, None, "again\n",
        ),
    ],
    ids=["going", "ended", "the newer one ended", "a second one was refused", "the first one failed after that",
         "one was lost, a later one failed", "one was lost, a number came again", "a process number twice"],
)  # fmt: skip
def test_the_last_start_is_the_one_that_matters(tmp_path, lines, pid, status, said):
    log = tmp_path / "log"
    log.write_text(lines, encoding="utf-8")
    found = last_start(log)
    assert (found.pid, found.status, found.said) == (pid, status, said)
    assert last_start(tmp_path / "none") is None
    log.write_text("x" * 400_000 + "\n" + lines.replace("\nmore", "\n" + "y" * 300_000 + "\nmore"), encoding="utf-8")
    found = last_start(log)
    assert (found.pid, found.status, found.said[-5:]) == (pid, status, said[-5:]), "however much was said"


def test_a_log_tells_the_flags_and_who_watches(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", "print(1)", "--out_dir", str(tmp_path / "with a blank"), "--resume", "False"]
    subprocess.run([sys.executable, "-m", "minimind_core.supervisor", str(log), *command], check=True, timeout=60)
    start = last_start(log)
    assert start.flags() == {"out_dir": str(tmp_path / "with a blank"), "resume": "False"}
    assert start.watcher and not start.is_going and not start.will_be_noted and start.ended >= start.began


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full to stand for a full disk")
def test_a_log_that_cannot_be_written_starts_nothing(tmp_path):
    mark = tmp_path / "ran"
    code = f"import time, pathlib; time.sleep(2); pathlib.Path({str(mark)!r}).touch()"
    assert supervisor.main(["/dev/full", sys.executable, "-c", code]) == 2
    time.sleep(2.2)
    assert not mark.exists()


# --- lists ------------------------------------------------------------------------------------------------------------


def test_a_run_whose_weights_were_removed_is_not_complete(bench):
    trainer = bench.trainer("out", max_steps=2)
    trainer.fit()
    weights = trainer.plan.weights
    assert status_of(weights).state == "complete"
    weights.unlink()
    status = status_of(weights)
    assert status.state == "stopped" and "Resume writes them again" in status.why and run_of(trainer.plan) is not None
    bench.trainer("out", max_steps=2, resume=True).fit()
    assert weights.is_file() and status_of(weights).state == "complete", "as it said"
    weights.unlink()
    for state in trainer.folder.glob("state-*.pt"):
        state.unlink()
    status = status_of(weights)
    assert status.state == "dead" and "no state is left" in status.why and run_of(trainer.plan) is None


def test_the_newest_run_is_the_one_that_wrote_last_saved_or_not(tmp_path):
    for number, name in enumerate(("pretrain_8", "pretrain_16", "pretrain_32")):
        folder = write_metrics(tmp_path / f"{name}.pth", [row(1)])
        os.utime(folder / "metrics.jsonl", (1000 + number, 1000 + number))
    (tmp_path / "pretrain_8.pth").touch()  # saved now
    assert [run.name for run in runs.list_runs(tmp_path)] == ["pretrain_8", "pretrain_32", "pretrain_16"]
    (tmp_path / "pretrain_16" / "started.json").write_text("{}", encoding="utf-8")
    later = time.time() + 5
    os.utime(tmp_path / "pretrain_16" / "started.json", (later, later))
    assert runs.attach(folder=tmp_path).name == "pretrain_16"


def test_a_process_of_another_machine_is_not_ended_here(tmp_path, monkeypatch):
    """Where containers share a folder, a lock may name a number that is another program here."""
    weights = tmp_path / "pretrain_8.pth"
    write_metrics(weights, [row(1)])
    other = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(runs, "lock_holder", lambda folder: str(other.pid))
    with pytest.raises(TrainingError, match="another machine or in another container"):
        kill_run(weights)
    assert other.poll() is None
    other.kill()
    other.wait()


@pytest.mark.parametrize("change", [{"grad_clip": 0.5}, {"warmup_iters": 7}, {"accumulation_steps": 8}])
def test_what_makes_a_run_another_one_is_asked_before_one_is_attached_to(bench, change):
    one, other = bench.plan("out"), bench.plan("out", **change)
    differ = runs._differences({name: str(value) for name, value in one.flags().items()}, other.flags())
    assert any(name in text for name in change for text in differ)
    rows = {"batch_size": one.train.batch_size // 2, "accumulation_steps": 2 * one.train.accumulation_steps}
    assert runs._differences(one.flags(), bench.plan("out", **rows).flags()) == [], "the same rows in other pieces"


def test_runs_that_were_put_aside_are_found_by_name(bench):
    bench.trainer("out", max_steps=1).fit()
    bench.trainer("out", max_steps=2).fit()
    found = all_runs(bench.folder / "out")
    names = list(found)
    assert names[0] == "pretrain_16" and names[1].startswith("pretrain_16, put aside 20") and len(names) == 2
    assert [found[name].facts["step"] for name in names] == [2, 1]


def test_waiting_can_be_interrupted_and_the_run_goes_on(tmp_path, monkeypatch):
    weights = tmp_path / "pretrain_8.pth"
    folder = write_metrics(weights, [row(1)])

    def interrupt(status):
        raise KeyboardInterrupt

    with run_lock(folder):
        with pytest.raises(TrainingError, match="the run goes on"):
            wait_for(weights, show=interrupt)
        assert status_of(weights).state == "running"
    with suppress(TrainingError):
        wait_for(weights)


@pytest.mark.parametrize(
    ("held", "device", "guess"),
    [
        (10, "cpu", "by a person"),
        (10**9, "cpu", "most likely for want of memory: it held"),
        (10**9, "cuda:0", "by a person, or by the system for memory; the whole log"),  # it held that of the card
    ],
)
def test_the_reason_of_a_kill_looks_at_the_memory_that_was_held(tmp_path, held, device, guess, monkeypatch):
    monkeypatch.setattr(run_status, "oom_kills", lambda: 0)
    weights = tmp_path / "pretrain_8.pth"
    folder = write_metrics(weights, [row(1, memory=held)])
    start = {"flags": {}, "updates": 2, "process": 7, "began": 0.0, "device": device}
    (folder / "started.json").write_text(json.dumps(start), encoding="utf-8")
    log_file(weights).write_text(
        "== began 2026-01-01 00:00:00, process 7: a\n== ended 2026-01-01 00:00:02, process 7, status -9, after 2 s\n",
        encoding="utf-8",
    )
    status = status_of(weights)
    assert status.state == "dead" and guess in status.why and "SIGKILL" in status.why

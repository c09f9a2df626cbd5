"""Kill training runs with SIGKILL at many moments, resume them, and compare with undisturbed ones bit by bit.

    python tests/kills.py                  a campaign: random moments, every file operation, real processes, torchrun
    python tests/kills.py --random 5 --points 5 --real 0 --pairs 0      a short one

Each run is the command line's, in both recipes, dense and with experts. "Random" runs are killed again and again, as
often as it takes, until they are complete. "Points" are all moments at which a run is about to write, flush, rename or
remove a file, in the middle of a line of metrics, or between two micro-steps; each is killed once. "Real" ones are
processes of their own, "pairs" two under torchrun of which one or all are killed. Linux and macOS only (it forks).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import torch  # noqa: E402
from conftest import _OWN, tiny_texts, write_rows  # noqa: E402

from minimind_core import files, load_tokenizer, read_metrics, save_tokenizer, train_pretrain, train_tokenizer  # noqa: E402
from minimind_core.checkpoint import read_facts  # noqa: E402
from minimind_core.paths import PROJECT  # noqa: E402
from minimind_core.run_lock import lock_holder  # noqa: E402
from minimind_core.tracking import MetricsLog  # noqa: E402
from minimind_core.trainer import Trainer  # noqa: E402

torch.set_num_threads(1)
KINDS = {"seed": ("seed", False), "seed-moe": ("seed", True), "fast": ("fast", False), "fast-moe": ("fast", True)}
DIFFERS = {"time", "tokens_per_s", "memory"}  # between equal runs
KILLED = -signal.SIGKILL


class Campaign:
    """A folder with a tiny corpus and the undisturbed runs; counts the kills that were survived."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        write_rows(folder / "corpus.jsonl", tiny_texts(46))
        write_rows(folder / "valid.jsonl", tiny_texts(5, start=100))
        save_tokenizer(train_tokenizer(tiny_texts(60), vocab_size=400), folder / "tokenizer")
        load_tokenizer(folder / "tokenizer")
        self.survived: Counter[str] = Counter()
        self.at: Counter[str] = Counter()
        self.seconds: dict[tuple, float] = {}

    def words(self, out: str, kind: tuple[str, bool], **more: object) -> list[str]:
        """The command line's words for a run of three epochs, the last accumulation of each being a partial one."""
        flags = {
            "data_path": self.folder / "corpus.jsonl", "valid_path": self.folder / "valid.jsonl",
            "tokenizer": self.folder / "tokenizer", "out_dir": self.folder / out, "recipe": kind[0], "use_moe": kind[1],
            "dim": 16, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 400, "max_seq_len": 32,
            "batch_size": 4, "accumulation_steps": 3, "learning_rate": 2e-3, "log_interval": 4, "device": "cpu",
            "epochs": 3, "eval_interval": 6, "save_interval": 5, "dropout": 0.1,
        }  # fmt: skip
        return [word for name, value in (flags | more).items() for word in (f"--{name}", str(value))]

    def undisturbed(self, kind: tuple[str, bool]) -> Path:
        """The out folder of a run that nobody disturbed, made once."""
        out = f"whole-{kind[0]}-{kind[1]}"
        if kind not in self.seconds:
            started = time.monotonic()
            ended = run_forked(self.words(out, kind), self.folder / "log")
            self.seconds[kind] = time.monotonic() - started
            assert ended == 0, (self.folder / "log").read_text()
        return self.folder / out

    def finish(self, out: str, kind: tuple[str, bool]) -> None:
        """Resume a killed run to its end and compare it with the undisturbed one."""
        ended = run_forked(self.words(out, kind, resume=True), self.folder / "log")
        assert ended == 0, f"resuming {out} ended with {ended}:\n{(self.folder / 'log').read_text()}"
        assert_equal_runs(self.folder / out, self.undisturbed(kind))
        shutil.rmtree(self.folder / out)

    def random_moments(self, kind: tuple[str, bool], kills: int) -> None:
        """Kill runs at random moments, resuming each until it is complete, until `kills` were survived."""
        number = 0
        self.undisturbed(kind)
        while kills > 0:
            number += 1
            out, resume = f"random-{kind[0]}-{kind[1]}-{number}", False
            while True:
                delay = self.random.uniform(0, 1.1 * self.seconds[kind])
                ended = run_forked(self.words(out, kind, resume=resume), self.folder / "log", kill_after=delay)
                assert ended in (0, KILLED), (self.folder / "log").read_text()
                if ended == 0:
                    break
                kills, resume = kills - 1, True
                self.survived["random moment"] += 1
                self.at[where(self.folder / out)] += 1
            self.finish(out, kind)

    def points(self, kind: tuple[str, bool], most: int) -> None:
        """Kill a run at `most` of its file operations and micro-steps, or at each of them (-1); then once more."""
        if not most:
            return
        self.undisturbed(kind)
        names = count_points(self.words("counted", kind), self.folder)
        shutil.rmtree(self.folder / "counted")
        numbers = range(len(names)) if most < 0 else sorted(self.random.sample(range(len(names)), most))
        for number in numbers:
            out = f"point-{kind[0]}-{kind[1]}-{number}"
            ended = run_forked(self.words(out, kind), self.folder / "log", before=lambda n=number: kill_at(n))
            assert ended == KILLED, f"point {number} ({names[number]}) was not reached: {ended}"
            again = self.random.randrange(len(names))  # killed while it is resumed as well
            second = run_forked(
                self.words(out, kind, resume=True), self.folder / "log", before=lambda n=again: kill_at(n)
            )
            assert second in (0, KILLED), (self.folder / "log").read_text()
            self.survived["file operation or micro-step"] += 1 + (second == KILLED)
            self.at[names[number]] += 1
            self.finish(out, kind)

    def real_processes(self, kind: tuple[str, bool], kills: int) -> None:
        """The same with processes of their own, as a terminal starts them."""
        for number in range(kills):
            out = f"real-{kind[0]}-{kind[1]}-{number}"
            command = [sys.executable, "-m", "minimind_core.train_pretrain", *self.words(out, kind)]
            with open(self.folder / "log", "wb") as log:
                process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            wait_for((self.folder / out / folder_name(kind) / "metrics.jsonl").exists, process)
            time.sleep(self.random.uniform(0, self.seconds[kind]))
            process.kill()
            if process.wait() == KILLED:
                self.survived["process of its own"] += 1
            self.finish(out, kind)

    def pairs(self, kind: tuple[str, bool], kills: int) -> None:
        """Two processes under torchrun: one of them, or both and torchrun too, are killed; then both are resumed."""
        if not kills:
            return
        self.undisturbed(kind)
        whole = f"pair-{kind[0]}-{kind[1]}"
        more = {"batch_size": 2, "epochs": 15, "save_interval": 20, "eval_interval": 30}
        assert torchrun(self.words(whole, kind, **more), self.folder / "log").wait(300) == 0
        for number in range(kills):
            out, resume = f"{whole}-{number}", False
            for victim in ("main", "other", "asked to stop", "torchrun", "all")[number % 5 :]:
                process = torchrun(self.words(out, kind, **more, resume=resume), self.folder / "log")
                wait_for(lambda: " loss:" in (self.folder / "log").read_text(), process)
                time.sleep(self.random.uniform(0, 1))
                started, hit = time.monotonic(), kill_pair(process, victim)
                ended = process.wait(60)
                while lock_holder(self.folder / out / folder_name(kind)) and time.monotonic() < started + 60:
                    time.sleep(0.1)  # without torchrun its processes stop after their update, and save
                assert not hit or ended != 0
                assert time.monotonic() - started < 30, "the run outlived the process that died for too long"
                self.survived[f"torchrun, {victim}{'' if 'asked' in victim else ' killed'}"] += hit
                shutil.copy(self.folder / "log", self.folder / f"log-{victim}")
                resume = True
            time.sleep(0.5)
            assert torchrun(self.words(out, kind, **more, resume=True), self.folder / "log").wait(300) == 0
            assert_equal_runs(self.folder / out, self.folder / whole)


def folder_name(kind: tuple[str, bool]) -> str:
    return f"pretrain_16{'_moe' if kind[1] else ''}"


def run_forked(
    words: list[str], log: Path, kill_after: float | None = None, before: Callable[[], None] | None = None
) -> int:
    """The command line in a copy of this process; its exit status, negative for a signal. Killed after some seconds."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            with open(log, "wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            if before is not None:
                before()
            status = train_pretrain.main(words)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def each_point(reached: Callable[[str], None]) -> None:
    """Have `reached(name)` called before everything that a run does to the disk, and between micro-steps."""

    def watch(owner: object, attribute: str, name: str, every: int = 1) -> None:
        really, calls = getattr(owner, attribute), 0

        def watched(*arguments, **more):
            nonlocal calls
            calls += 1
            if calls % every == 0:
                reached(name)
            return really(*arguments, **more)

        setattr(owner, attribute, watched)

    watch(os, "replace", "before a rename")
    watch(os, "fsync", "before a flush")
    watch(os, "mkdir", "before a folder")
    watch(Path, "unlink", "before a removal")
    watch(Path, "rename", "before a run is moved aside")
    watch(files.HashedFile, "write", "inside a state or weights file", every=25)
    watch(Trainer, "after_backward", "inside an accumulation")
    watch(Trainer, "after_update", "after an update, before its metrics")

    class HalfLines:
        """The metrics file, which can be left in the middle of a line."""

        def __init__(self, file) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            half = self.file.write(data[: len(data) // 2])
            reached("inside a line of metrics")
            return half + self.file.write(data[len(data) // 2 :])

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    begin = MetricsLog.__init__

    def begin_with_half_lines(self, *arguments) -> None:
        begin(self, *arguments)
        self.file = HalfLines(self.file)

    MetricsLog.__init__ = begin_with_half_lines


def kill_at(number: int) -> None:
    """Let this process be killed at its point of that number."""
    left = number

    def reached(name: str) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    each_point(reached)


def count_points(words: list[str], folder: Path) -> list[str]:
    """The names of all points of a run, in order."""
    kept = folder / "points"

    def note_each() -> None:
        file = open(kept, "w", buffering=1)  # noqa: SIM115 - open as long as the process
        each_point(lambda name: print(name, file=file))

    assert run_forked(words, folder / "log", before=note_each) == 0, (folder / "log").read_text()
    return kept.read_text().splitlines()


def where(out: Path) -> str:
    """What lay on the disk when a run was killed at a random moment."""
    if next(out.rglob(".*.*.[0-9]*"), None):
        return "with a file half written"
    return "after a save" if next(out.rglob("state-*.pt"), None) else "before the first save"


def wait_for(happened: Callable[[], bool], process: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while not happened() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def torchrun(words: list[str], log: Path) -> subprocess.Popen:
    """Two processes under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "minimind_core.train_pretrain", *words]
    with open(log, "wb") as file:
        return subprocess.Popen(command, cwd=PROJECT, stdout=file, stderr=file, stdin=subprocess.DEVNULL)


def kill_pair(process: subprocess.Popen, victim: str) -> bool:
    """SIGKILL the main process, the other one, torchrun, or all; or ask torchrun to stop. False when it is too late."""
    import psutil

    try:
        children = psutil.Process(process.pid).children()
        by_rank = {int(child.environ()["RANK"]): child for child in children if "RANK" in child.environ()}
        agent = psutil.Process(process.pid)
        chosen = {"main": [by_rank[0]], "other": [by_rank[1]], "torchrun": [agent], "all": [agent, *by_rank.values()]}
        for one in chosen.get(victim, ()):
            one.kill()
        if victim == "asked to stop":
            process.terminate()
        return True
    except (psutil.Error, KeyError):
        return False


def comparable(folder: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in DIFFERS} for row in read_metrics(folder / "metrics.jsonl")]


def assert_equal_runs(one: Path, two: Path) -> None:
    """Weights, metrics, facts and snapshots are the same, and nothing half written is left."""
    for weights in two.rglob("*.pth"):
        mine, theirs = (torch.load(path, weights_only=True) for path in (one / weights.relative_to(two), weights))
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine), weights
    weights = next(two.glob("*.pth"))
    folder = weights.stem
    assert comparable(one / folder) == comparable(two / folder), "the metrics differ"
    facts = [read_facts(out / weights.name) for out in (one, two)]
    for name in ("step", "tokens", "loss", "complete", "held_out_loss", "best_held_out_loss", "best_step"):
        assert facts[0][name] == facts[1][name], name
    left = [path for path in unfinished(one) if path.name != f".{folder}.lock"]
    assert left == [], left


def unfinished(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob(".*") if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, default=60, help="kills at random moments")
    parser.add_argument("--points", type=int, default=16, help="points tried in each kind of run; -1: all, for an hour")
    parser.add_argument("--real", type=int, default=8, help="processes of their own that are killed")
    parser.add_argument("--pairs", type=int, default=2, help="runs of two processes that are killed, for each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="recipe and architecture")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; default: the clock")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else int(time.time())
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ["MINIMIND_OUT"] = str(folder / "home")
    print(f"moments drawn with --seed {seed}", flush=True)
    campaign, started = Campaign(folder, seed), time.monotonic()
    try:
        for name in asked.kinds:
            kind, before = KINDS[name], sum(campaign.survived.values())
            campaign.random_moments(kind, -(-asked.random // len(asked.kinds)))
            campaign.points(kind, asked.points)
            campaign.real_processes(kind, -(-asked.real // len(asked.kinds)))
            campaign.pairs(kind, asked.pairs)
            print(f"{name}: {sum(campaign.survived.values()) - before} kills survived", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(_OWN, ignore_errors=True)
    print(f"\n{sum(campaign.survived.values())} kills survived in {time.monotonic() - started:.0f} s:")
    for counter in (campaign.survived, campaign.at):
        print("\n".join(f"  {count:5} {name}" for name, count in counter.most_common()), end="\n\n")
    print("Every run ended with the weights, metrics and snapshots of an undisturbed one, bit by bit.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

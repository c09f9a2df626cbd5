"""What it costs to turn a corpus into tokens once: speed of encoding on one core and on all, memory, and the start.

    python benchmarks/encoding.py [--gigabytes 1.6] [--source dataset/sample.jsonl] [--folder FOLDER] [--json FILE]

Makes a corpus of that size out of the source's segments, put together anew with other digits and characters, so that no
two rows are equal; then measures in fresh processes. With 1.6 GB it takes about ten minutes on two
idle cores, with 0.05 less than one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

SMALL = 10_000_000  # bytes of the small corpus; speeds on one core are taken on it as well
MAX_LENGTH, BATCH = 512, 32


# --- the corpus -------------------------------------------------------------------------------------------------------


def make_corpus(source: Path, path: Path, size: int, seed: int = 0) -> int:
    """Write rows like the source's, `size` bytes of them, all different; how many."""
    from minimind_core import iter_texts, split_segments

    rng = np.random.default_rng(seed)
    rows = [split_segments(text) for text in iter_texts(source)]
    pool = varied([segment for row in rows for segment in row], rng)
    per_row, written, count = max(1, round(sum(map(len, rows)) / len(rows))), 0, 0
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        while written < size:
            picks = rng.integers(len(pool), size=(4096, per_row)).tolist()
            lines = ['{"text": "' + " ".join([pool[i] for i in row]) + '"}\n' for row in picks]
            lines = lines[: 1 + int((size - written) / (len("".join(lines[:64]).encode()) / 64))]
            block = "".join(lines)
            file.write(block)
            written, count = written + len(block.encode()), count + len(lines)
    return count


def varied(segments: list[str], rng: np.random.Generator, times: int = 64) -> list[str]:
    """`times` copies of each segment with other digits, and every twentieth Chinese character another one."""
    known = np.array(sorted({sign for segment in segments for sign in segment if "\u4e00" <= sign <= "\u9fff"}))
    pool = []
    for segment in segments:
        signs = np.array(list(segment))
        digits = np.char.isdigit(signs)
        chinese = (signs >= "\u4e00") & (signs <= "\u9fff")
        for _ in range(times):
            copy = signs.copy()
            copy[digits] = rng.integers(10, size=digits.sum()).astype("U1")
            other = chinese & (rng.random(len(copy)) < 0.05)
            if len(known):
                copy[other] = rng.choice(known, size=other.sum())
            pool.append(json.dumps(f"<s>{''.join(copy)}</s>", ensure_ascii=False)[1:-1])
    return pool


# --- memory -----------------------------------------------------------------------------------------------------------


def anonymous_bytes() -> int | None:
    """Memory of this process and its children that no file backs; None where the system does not say."""
    import psutil

    me = psutil.Process()
    try:
        return sum(_anonymous(process.pid) for process in [me, *me.children(recursive=True)])
    except OSError:
        return None


def _anonymous(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def peak_memory() -> Iterator[dict[str, float | None]]:
    """Into the dictionary: `megabytes` that anonymous memory grew by at most, looked at 50 times a second."""
    found: dict[str, float | None] = {"megabytes": None}
    before = anonymous_bytes()
    if before is None:
        yield found
        return
    peak, ended = [before], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak.append(max(peak.pop(), anonymous_bytes() or 0))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        found["megabytes"] = round((max(peak[0], anonymous_bytes() or 0) - before) / 1e6, 1)


# --- what is measured, each in a process of its own -------------------------------------------------------------------


def encode(corpus: Path, tokenizer: Path, cache: Path) -> dict:
    """Seconds, processor seconds and memory of encoding a corpus."""
    from minimind_core import encode_corpus, load_tokenizer

    loaded = load_tokenizer(tokenizer)
    spent = time.process_time()
    started = time.perf_counter()
    with peak_memory() as memory:
        found = encode_corpus(corpus, loaded, cache)
    seconds = time.perf_counter() - started
    spent = time.process_time() - spent
    return {
        "seconds": seconds,
        "processor_seconds": spent,
        "rows": len(found),
        "tokens": int(found.offsets[-1]),
        "bytes": corpus.stat().st_size,
        "cache_bytes": sum(file.stat().st_size for file in found.folder.iterdir()),
        **memory,
    }


def by_line(corpus: Path, tokenizer: Path, cache: Path) -> dict:
    """Reading rows as MiniMind's loader does: each is parsed, encoded and padded when it is its turn."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    from minimind_core import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    lines = corpus.read_text(encoding="utf-8").splitlines()[:2048]

    class Lines(Dataset):
        def __len__(self) -> int:
            return len(lines)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            ids = loaded.encode(f"<s>{json.loads(lines[index])['text']}</s>").ids[:MAX_LENGTH]
            ids = torch.tensor(ids + [0] * (MAX_LENGTH - len(ids)))
            return ids[:-1], ids[1:], (ids != 0).long()[1:]

    started, spent = time.perf_counter(), time.process_time()
    for _ in DataLoader(Lines(), BATCH):
        pass
    seconds, spent = time.perf_counter() - started, time.process_time() - spent
    size = sum(len(line.encode()) + 1 for line in lines)
    return {"seconds": seconds, "processor_seconds": spent, "rows": len(lines), "bytes": size}


def start(corpus: Path, tokenizer: Path, cache: Path) -> dict:
    """Seconds from opening a warm cache to the first batch, of padded rows and of packed blocks."""
    import minimind_core.batches as batches
    from minimind_core import EpochBatches, PackedDataset, PretrainDataset, encode_corpus, load_tokenizer

    found, loaded = {}, load_tokenizer(tokenizer)
    for name in ("packed", "padded"):
        started = time.perf_counter()
        encoded = encode_corpus(corpus, loaded, cache)
        if name == "packed":
            rows = PackedDataset(encoded, loaded, MAX_LENGTH - 1, split="train")
            rows.set_epoch(3)
        else:
            rows = PretrainDataset(encoded, loaded, MAX_LENGTH, as_minimind=True, split="train")
        order = EpochBatches(len(rows), BATCH, shuffle=True)
        order.set_epoch(3, len(order) // 2)
        next(iter(batches.batch_loader(rows, order)))
        found[name] = time.perf_counter() - started
    return found


def walk(corpus: Path, tokenizer: Path, cache: Path) -> dict:
    """Memory and seconds a block of reading shuffled batches of a first and a later epoch; how full blocks are."""
    from minimind_core import EpochBatches, PackedDataset, PretrainDataset, encode_corpus, load_tokenizer
    from minimind_core.batches import batch_loader

    loaded = load_tokenizer(tokenizer)
    with peak_memory() as memory:
        encoded = encode_corpus(corpus, loaded, cache)
        packed = PackedDataset(encoded, loaded, MAX_LENGTH - 1, split="train")
        padded = PretrainDataset(encoded, loaded, MAX_LENGTH, as_minimind=True, split="train")
        found = {"left_out": packed.total - len(packed) * packed.block_length}
        for name, rows, epoch in (
            ("packed, epoch 1", packed, 0),
            ("packed, epoch 2", packed, 1),
            ("padded", padded, 1),
        ):
            if hasattr(rows, "set_epoch"):
                rows.set_epoch(epoch)
            order = EpochBatches(len(rows), BATCH, shuffle=True, whole_only=True)
            order.set_epoch(epoch)
            started, blocks, filled, positions = time.process_time(), 0, 0, 0
            for X, _, mask in batch_loader(rows, order):
                blocks, filled, positions = blocks + len(X), filled + int(mask.sum()), positions + mask.numel()
                if blocks >= 20_000:
                    break
            found[name] = {
                "microseconds": (time.process_time() - started) / blocks * 1e6,
                "filled": filled / positions,
                "blocks": blocks,
            }
    return found | memory


STEPS: dict[str, Callable[[Path, Path, Path], dict]] = {
    "encode": encode,
    "by_line": by_line,
    "start": start,
    "walk": walk,
}


def in_a_process(step: str, corpus: Path, tokenizer: Path, cache: Path, one_core: bool = False) -> dict:
    """What a step finds in a fresh process, on one core if asked."""
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} if one_core else dict(os.environ)
    command = [sys.executable, __file__, "--step", step, str(corpus), str(tokenizer), str(cache)]
    if one_core:
        command.append("--one-core")
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# --- the table --------------------------------------------------------------------------------------------------------


def measure(folder: Path, source: Path, gigabytes: float) -> dict:
    """All figures, for a corpus of that size and a small one."""
    from measure import machine

    from minimind_core import iter_texts, save_tokenizer, train_tokenizer

    large, small = folder / "large.jsonl", folder / "small.jsonl"
    tokenizer = save_tokenizer(train_tokenizer(iter_texts(source), 6400), folder / "tokenizer")
    print(f"making a corpus of {gigabytes} GB from {source.name} …", flush=True)
    make_corpus(source, large, int(gigabytes * 1e9))
    make_corpus(source, small, min(SMALL, int(gigabytes * 5e7)), seed=1)
    found: dict = {"cores": cores(), "machine": machine(), "gigabytes": gigabytes}
    plan = [
        ("one core", "encode", small, "one", True),
        ("line by line", "by_line", small, "one", True),
        ("all cores, small", "encode", small, "all", False),
        ("all cores", "encode", large, "all", False),
        ("start", "start", large, "all", False),
        ("batches, small", "walk", small, "all", False),
        ("batches", "walk", large, "all", False),
    ]
    for name, step, corpus, cache, one_core in plan:
        print(f"{name} …", flush=True)
        found[name] = in_a_process(step, corpus, tokenizer, folder / f"cache-{cache}", one_core)
    return found


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def table(found: dict) -> str:
    """The figures as lines to read."""

    def speed(name: str) -> str:
        one = found[name]
        rows, megabytes = one["rows"] / one["seconds"], one["bytes"] / one["seconds"] / 1e6
        alone = one["rows"] / one["processor_seconds"], one["bytes"] / one["processor_seconds"] / 1e6
        return (
            f"{rows:>7,.0f} rows/s {megabytes:>6.2f} MB/s; "
            f"{alone[0]:>7,.0f} rows and {alone[1]:.2f} MB in a second of one core"
        )

    small = found["all cores, small"]["bytes"] / 1e6
    all_cores, lines = found["all cores"], found["line by line"]
    ratio = (all_cores["rows"] / all_cores["seconds"]) / (lines["rows"] / lines["seconds"])

    def memory(name: str) -> str:
        return f"{found[name]['megabytes']} MB more at most ({found[f'{name}, small']['megabytes']} for {small:.0f} MB)"

    rows = [
        f"{all_cores['bytes'] / 1e9:.2f} GB, {all_cores['rows']:,} rows, {all_cores['tokens']:,} tokens; "
        f"{found['cores']} cores ({found['machine']['processor']})",
        f"encoding, one core        {speed('one core')}",
        f"encoding, all cores       {speed('all cores')}",
        f"line by line in a loader  {speed('line by line')}; encoding with all cores is {ratio:.1f} times as fast",
        f"seconds of encoding       {all_cores['seconds']:.0f}, cache {all_cores['cache_bytes'] / 1e9:.2f} GB",
        f"memory of encoding        {memory('all cores')}",
        f"memory of batches         {memory('batches')}",
        "from open to first batch  " + ", ".join(f"{s:.3f} s {name}" for name, s in found["start"].items()),
    ]
    for name in ("packed, epoch 1", "packed, epoch 2", "padded"):
        one, few = found["batches"][name], found["batches, small"][name]
        rows.append(
            f"{name:25} {one['microseconds']:.0f} µs of one core a block ({few['microseconds']:.0f} for "
            f"{small:.0f} MB), {one['filled']:.2%} of positions trained on"
        )
    rows.append(f"an epoch of blocks leaves out {found['batches']['left_out']} tokens")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.6)
    parser.add_argument("--source", type=Path, default=PROJECT / "dataset" / "sample.jsonl")
    parser.add_argument("--folder", type=Path, help="where corpus and cache are kept; default: removed at the end")
    parser.add_argument("--json", type=Path, default=PROJECT / "benchmarks" / "results" / "encoding.json")
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--one-core", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        if asked.one_core and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(STEPS[asked.step[0]](*map(Path, asked.step[1:]))))
        return 0
    from measure import write

    folder = asked.folder or Path(tempfile.mkdtemp(prefix="minimind-encoding-"))
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = asked.gigabytes * 1.6, shutil.disk_usage(folder).free / 1e9
    print(f"This takes {needed:.1f} GB in {folder} for a while; {free:.1f} GB are free there.", flush=True)
    if free < needed * 1.1:
        print("error: too little disk: give fewer --gigabytes, or another --folder.", file=sys.stderr)
        return 2
    try:
        found = measure(folder, asked.source, asked.gigabytes)
    finally:
        if not asked.folder:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(found))
    write(asked.json, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

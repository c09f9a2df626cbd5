"""Encoding a large corpus: in one pass, in memory that does not grow, with a bar, and safe from being killed."""

from __future__ import annotations

import json
import os
import pickle
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_texts, write_rows
from hypothesis import given
from hypothesis import strategies as st

from minimind_core import PackedDataset, PretrainDataset, encode_corpus, encoder
from minimind_core.cache_files import ArrayFile, sweep
from minimind_core.files import file_sha256
from minimind_core.paths import PROJECT
from minimind_core.splits import ROWS, SEGMENTS, TOKENS, Rows, Split, whole, write_splits

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the system does not say what memory no file backs")


def run(code: str, *arguments: object) -> str:
    """What a fresh process that runs `code` prints."""
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


MEMORY = """
import sys, threading, time
from pathlib import Path

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000

class Peak:
    def __enter__(self):
        self.before = self.top = anonymous()
        self.on = True
        self.watch = threading.Thread(target=self.look)
        self.watch.start()
        return self
    def look(self):
        while self.on:
            self.top = max(self.top, anonymous())
            time.sleep(0.005)
    def __exit__(self, *error):
        self.on = False
        self.watch.join()
        self.top = max(self.top, anonymous())
        print(self.top - self.before)
"""


# --- memory -------------------------------------------------------------------------------------------------------


@linux_only
def test_memory_of_encoding_does_not_grow_with_the_corpus(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save(str(tmp_path / "tokenizer.json"))
    code = MEMORY + (
        "from minimind_core import encode_corpus, load_tokenizer\n"
        "corpus, folder = map(Path, sys.argv[1:])\n"
        "tokenizer = load_tokenizer(folder)\n"
        "with Peak(): encode_corpus(corpus, tokenizer, folder / 'cache')\n"
    )
    few, many = (
        write_rows(tmp_path / f"{rows}.jsonl", (f"<s>{n}号</s> <s>山</s> <s>{n % 7}</s>" for n in range(rows)))
        for rows in (4_000, 40_000)
    )
    small, large = (float(run(code, corpus, tmp_path)) for corpus in (few, many))
    assert large < small + 8, "MB"


def large_index(folder: Path, rows: int) -> Path:
    """A cache as encoding leaves it, of `rows` rows with 4 segments of 5 tokens, without having encoded anything."""
    folder.mkdir()
    offsets, segments = np.arange(rows + 1) * 20, np.arange(4 * rows + 1) * 5
    hashes = np.random.default_rng(0).integers(2**32, size=rows, dtype=np.uint32)
    arrays = {
        "tokens": np.resize(np.array([1, 5, 6, 7, 2], np.uint16), 20 * rows),
        "offsets": offsets,
        "segments": segments,
        "added": np.zeros(rows, np.uint8),
        "text_hash": hashes,
    }
    for name, array in arrays.items():
        array.tofile(folder / f"{name}.bin")
    with ArrayFile(folder / "train.bin") as train, ArrayFile(folder / "held_out.bin") as held_out:
        write_splits(offsets, segments, hashes, train.append, held_out.append)
    return folder


@linux_only
def test_memory_and_time_of_batches_do_not_grow_with_the_corpus(tmp_path):
    code = MEMORY + (
        "from minimind_core import EpochBatches, PackedDataset, PretrainDataset, encoding\n"
        "from minimind_core.batches import batch_loader\n"
        "def batches(folder):\n"
        "    corpus = encoding._open(Path('c.jsonl'), Path(folder), 'uint16', '', '', {})\n"
        "    packed = PackedDataset(corpus, None, 64, split='train')\n"
        "    padded = PretrainDataset(corpus, None, 32, split='train')\n"
        "    padded.tokens(), len(PretrainDataset(corpus, None, 32, split='held_out'))\n"
        "    for rows in (packed, packed, padded):\n"
        "        packed.set_epoch(packed.epoch + 1)\n"
        "        order = EpochBatches(len(rows), 8, shuffle=True)\n"
        "        order.set_epoch(2, max(0, len(order) - 60))\n"
        "        for _ in batch_loader(rows, order): pass\n"
        "batches(sys.argv[1])\n"
        "for folder in sys.argv[1:]:\n"
        "    started = time.process_time()\n"
        "    with Peak(): batches(folder)\n"
        "    print(time.process_time() - started)\n"
    )
    folders = [large_index(tmp_path / str(rows), rows) for rows in (10_000, 400_000)]
    small, seconds, large, seconds_of_large = map(float, run(code, *folders).split())
    assert large < small + 8, "MB"
    assert seconds_of_large < 4 * seconds + 0.5


def test_datasets_are_sent_to_loading_processes_without_what_is_in_the_files(tmp_path, corpus, tiny_tokenizer):
    path = corpus(tiny_texts(3000))
    found = encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    for rows in (PackedDataset(found, tiny_tokenizer, 31, "train"), PretrainDataset(found, tiny_tokenizer, 32)):
        rows[0]
        sent = pickle.dumps(rows)
        assert len(sent) < 10_000 < found.tokens.nbytes
        assert all(torch.equal(a, b) for a, b in zip(pickle.loads(sent)[7], rows[7], strict=True))
    assert isinstance(pickle.loads(pickle.dumps(found)).tokens, np.memmap)


# --- one pass, and a bar ------------------------------------------------------------------------------------------


def test_the_corpus_is_read_once_and_no_written_file_is_read_again(tmp_path, corpus, tiny_tokenizer, monkeypatch):
    path = corpus(tiny_texts(2500))
    opened, really = [], open

    def noted(file, mode="r", *rest, **more):
        opened.append((Path(file).name, mode))
        return really(file, mode, *rest, **more)

    for module in ("corpus", "cache_files", "encoding", "encoder"):
        monkeypatch.setattr(f"minimind_core.{module}.open", noted, raising=False)
    found = encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    assert [mode for name, mode in opened if name == path.name] == ["rb"]
    assert [name for name, mode in opened if name.endswith(".bin") and mode != "wb"] == []
    assert found.sha256 == file_sha256(path)
    meta = json.loads((found.folder / "meta.json").read_text(encoding="utf-8"))
    for name, (_, sha256) in meta["files"].items():
        assert sha256 == file_sha256(found.folder / name)


def test_batches_of_any_size_give_the_same_files(tmp_path, corpus, tiny_tokenizer, monkeypatch):
    path = corpus([*tiny_texts(50), "<s>" + "山是红色的。" * 400 + "</s>", *tiny_texts(9)])
    found = []
    for rows, characters in ((1024, 1 << 20), (1, 1 << 20), (7, 1 << 20), (1024, 500)):
        monkeypatch.setattr(encoder, "_ROWS", rows)
        monkeypatch.setattr(encoder, "_CHARACTERS", characters)
        cache = tmp_path / f"cache-{rows}-{characters}"
        folder = encode_corpus(path, tiny_tokenizer, cache).folder
        found.append({file.name: file.read_bytes() for file in folder.glob("*.bin")})
    assert found[0] == found[1] == found[2] == found[3] and len(found[0]) == 7


def test_a_bar_is_shown_on_stderr_for_a_corpus_that_takes_long(tmp_path, corpus, tiny_tokenizer, monkeypatch, capsys):
    path = corpus(tiny_texts(200), "many rows.jsonl")
    monkeypatch.setattr(encoder, "QUIET_SECONDS", 0)
    encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    out, err = capsys.readouterr()
    assert out == "" and "encoding many rows.jsonl" in err and "0.00/23.7k [" in err and "B/s" in err


def test_a_small_corpus_is_encoded_without_a_word(tmp_path, corpus, tiny_tokenizer, capsys):
    encode_corpus(corpus(tiny_texts(200)), tiny_tokenizer, tmp_path / "cache")
    assert capsys.readouterr() == ("", "")


# --- killed encoders ----------------------------------------------------------------------------------------------

SLOW = """
import sys, time
from minimind_core import encode_corpus, load_tokenizer

class Slow:
    def __init__(self, tokenizer): self.tokenizer, self.calls = tokenizer, 0
    def __getattr__(self, name): return getattr(self.tokenizer, name)
    def encode_batch_fast(self, texts, add_special_tokens):
        self.calls += 1
        if self.calls == 3:
            print("busy", flush=True)
            time.sleep(60)
        return self.tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

encode_corpus(sys.argv[1], Slow(load_tokenizer(sys.argv[2])), sys.argv[3])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_encoder_leaves_nothing_that_is_taken_for_whole_and_is_swept(tmp_path, corpus, tiny_tokenizer):
    path, cache = corpus(tiny_texts(4000)), tmp_path / "cache"
    tiny_tokenizer.save(str(tmp_path / "tokenizer.json"))
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, str(path), str(tmp_path), str(cache)], cwd=PROJECT, stdout=subprocess.PIPE
    ) as encoding_process:
        assert encoding_process.stdout.readline() == b"busy\n"
        (begun,) = cache.iterdir()
        assert begun.name.endswith(f".{encoding_process.pid}") and (begun / "tokens.bin").is_file()
        assert sweep(cache) == [], "it is at work"
        encoding_process.send_signal(signal.SIGKILL)
    (left,) = cache.iterdir()
    assert left == begun and not (left / "meta.json").exists()
    found = encode_corpus(path, tiny_tokenizer, cache)
    assert len(found) == 4000 and [folder.name for folder in cache.iterdir()] == [found.folder.name]
    assert sorted(file.name for file in found.folder.iterdir()) == sorted(
        [*(f"{name}.bin" for name in ("tokens", *encoder.INDEX, *encoder.SPLITS)), "meta.json"]
    )


def test_only_what_nobody_works_on_any_more_is_swept(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        here, away = platform.node(), platform.node() + "-2"
        now, long_ago = time.time(), time.time() - 2 * 24 * 3600
        made = {
            f".gone.{gone.pid}": (here, now),
            f".just-begun.{gone.pid}": (None, now),
            f".elsewhere-long-ago.{gone.pid}": (away, long_ago),
            f".number-used-again.{alive.pid}": (here, long_ago),
            f".alive.{alive.pid}": (here, now + 1),
            f".mine.{os.getpid()}": (here, now),
            f".elsewhere.{gone.pid}": (away, now),
            "whole-0123": (None, long_ago),
            ".other": (None, long_ago),
        }
        for name, (machine, changed) in made.items():
            (tmp_path / name).mkdir()
            if machine is not None:
                (tmp_path / name / "made_by").write_text(machine, encoding="utf-8")
                os.utime(tmp_path / name / "made_by", (changed, changed))
            os.utime(tmp_path / name, (changed, changed))
        assert sorted(sweep(tmp_path)) == sorted(list(made)[:4])
        assert {path.name for path in tmp_path.iterdir()} == set(list(made)[4:])
        alive.stdin.close()


# --- parts --------------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=40),
    seed=st.integers(0, 50),
    same=st.booleans(),
)
def test_parts_number_rows_segments_and_tokens_as_lists_would(lengths, seed, same):
    rows = len(lengths)
    segments = np.cumsum([0, *(length for row in lengths for length in row)])
    of_row = np.repeat(np.arange(rows), [len(row) for row in lengths])
    offsets = np.append(segments[:-1][np.unique(of_row, return_index=True)[1]], segments[-1])
    hashes = np.full(rows, 9) if same else np.random.default_rng(seed).integers(2**32, size=rows)
    tables: dict[str, list] = {"train": [], "held_out": []}
    write_splits(offsets, segments, hashes.astype(np.uint32), tables["train"].append, tables["held_out"].append)
    parts = {name: Split(np.concatenate(table)) for name, table in tables.items()}
    out = set(Rows(parts["held_out"]))
    for part, wanted in (
        (parts["train"], [row for row in range(rows) if row not in out]),
        (parts["held_out"], sorted(out)),
        (whole(offsets, segments), list(range(rows))),
    ):
        assert list(Rows(part)) == wanted and list(Rows(part)[1:]) == wanted[1:]
        assert [int(row) for chunk in Rows(part).chunks() for row in chunk] == wanted
        kept = [segment for segment in range(len(of_row)) if of_row[segment] in set(wanted)]
        tokens = [token for segment in kept for token in range(segments[segment], segments[segment + 1])]
        assert (part.rows, part.segments, part.tokens) == (len(wanted), len(kept), len(tokens))
        for what, list_of in ((ROWS, wanted), (SEGMENTS, kept), (TOKENS, tokens)):
            assert part.where(what, np.arange(len(list_of))).tolist() == list_of

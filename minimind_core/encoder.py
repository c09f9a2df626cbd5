"""The way from a corpus file to files of numbers, in one pass that keeps a few thousand rows in memory at most.

While the tokenizers library encodes one batch on all cores, outside Python's lock, this thread writes the batch before
and reads the one after; its own share is about a twelfth of the work of one core, so threads serve up to a dozen cores
and no further processes are needed. Taught in notebook 02. Left out: where the files lie (encoding.py, cache_files.py).
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from .cache_files import ArrayFile
from .corpus import BOS, EOS, iter_rows, marker_edition, normalise_markers
from .errors import CorpusError
from .paths import reading, shown
from .progress import Progress
from .splits import write_splits
from .tokenizer import BOS_ID

ADDED_BOS, ADDED_EOS = 1, 2
QUIET_SECONDS = 2.0  # a corpus that takes no longer shows no bar
INDEX = {"offsets": np.int64, "segments": np.int64, "added": np.uint8, "text_hash": np.uint32}
SPLITS = ("train", "held_out")
_ROWS, _CHARACTERS = 1024, 1 << 20  # of a batch, whichever is reached first


@dataclass
class _Batch:
    """Some rows on their way: texts with markers, which were added, and a hash of each text."""

    texts: list[str] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    characters: int = 0
    end: int = 0  # bytes of the corpus up to and with its last row

    def add(self, text: str) -> None:
        text, flags = with_markers(normalise_markers(text))
        self.texts.append(text)
        self.added.append(flags)
        self.hashes.append(int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "little"))
        self.characters += len(text)


class _Seen:
    """What is taken from a corpus's bytes as they pass by: their sum and number."""

    def __init__(self) -> None:
        self.digest, self.bytes = hashlib.sha256(), 0

    def __call__(self, line: bytes) -> None:
        self.digest.update(line)
        self.bytes += len(line)


def with_markers(text: str) -> tuple[str, int]:
    """A row with the markers that it lacks at its ends, and which were added (bits ADDED_BOS, ADDED_EOS)."""
    flags = 0
    if not text.lstrip().startswith(BOS):
        text, flags = BOS + text, flags | ADDED_BOS
    if not text.rstrip().endswith(EOS):
        text, flags = text + EOS, flags | ADDED_EOS
    return text, flags


def encode_into(folder: Path, path: Path, tokenizer: Tokenizer) -> dict:
    """Write tokens and index of a corpus to `folder`, and return what meta.json has to say of them.

    Raises CorpusError, naming file and line, for a row that cannot be read; OSError where the disk refuses.
    """
    dtype = np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32)
    seen, editions = _Seen(), Counter()
    with reading(path, CorpusError):
        size = path.stat().st_size
    with ExitStack() as stack:
        files = {name: stack.enter_context(ArrayFile(folder / f"{name}.bin")) for name in ("tokens", *INDEX)}
        what = f"encoding {shown(path.name)}"
        bar = stack.enter_context(closing(Progress(size, 0, True, unit="B", what=what, after=QUIET_SECONDS)))
        batches = stack.enter_context(closing(_encoded(path, tokenizer, seen, editions)))
        total = _write_rows(files, batches, dtype, bar)
    index = {name: np.memmap(folder / f"{name}.bin", kind, mode="r") for name, kind in INDEX.items()}
    with ArrayFile(folder / "train.bin") as train, ArrayFile(folder / "held_out.bin") as held_out:
        write_splits(index["offsets"], index["segments"], index["text_hash"], train.append, held_out.append)
    return {
        "tokens": total,
        "dtype": dtype.name,
        "sha256": seen.digest.hexdigest(),
        "editions": dict(editions),
        "files": {file.path.name: file.facts() for file in (*files.values(), train, held_out)},
    }


def _write_rows(files: dict[str, ArrayFile], batches: Iterator[tuple], dtype: np.dtype, bar: Progress) -> int:
    """Append batch after batch to the files; how many tokens there are."""
    written = done = 0
    files["offsets"].append(np.zeros(1, np.int64))
    for batch, encodings in batches:
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = np.fromiter(chain.from_iterable(one.ids for one in encodings), dtype, int(lengths.sum()))
        files["tokens"].append(ids)
        files["offsets"].append(written + np.cumsum(lengths))
        files["segments"].append(written + np.flatnonzero(ids == BOS_ID).astype(np.int64))
        files["added"].append(np.array(batch.added, np.uint8))
        files["text_hash"].append(np.array(batch.hashes, np.uint32))
        written += len(ids)
        bar.step(batch.end - done)
        done = batch.end
    files["segments"].append(np.array([written], np.int64))
    return written


def _encoded(path: Path, tokenizer: Tokenizer, seen: _Seen, editions: Counter) -> Iterator[tuple[_Batch, list]]:
    """Batches with their encodings, in order; one is encoded while the caller is busy with another."""
    with ThreadPoolExecutor(1, thread_name_prefix="encoding") as others:
        waiting: deque = deque()
        for batch in _batches(path, seen, editions):
            waiting.append((batch, others.submit(tokenizer.encode_batch_fast, batch.texts, add_special_tokens=False)))
            if len(waiting) > 1:
                batch, encodings = waiting.popleft()
                yield batch, encodings.result()
        for batch, encodings in waiting:
            yield batch, encodings.result()


def _batches(path: Path, seen: _Seen, editions: Counter) -> Iterator[_Batch]:
    batch = _Batch()
    for _, text in iter_rows(path, seen=seen):
        editions[marker_edition(text)] += 1
        batch.add(text)
        if len(batch.texts) >= _ROWS or batch.characters >= _CHARACTERS:
            batch.end = seen.bytes
            yield batch
            batch = _Batch()
    if batch.texts:
        batch.end = seen.bytes
        yield batch

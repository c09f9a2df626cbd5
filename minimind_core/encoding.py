"""A corpus as numbers, encoded once: one memory-mapped file of token ids and an index of rows.

Both datasets read from it, so a run keeps neither text nor numbers of it in memory, however large it is, and starts at
once when the files are there. Rows are stored with their markers; the index says where each begins, which markers were
added, and a hash of its text, by which rows are held out. Cached in out/cache/ under corpus and tokenizer. Taught in
notebook 02. Left out: how the files are written (encoder.py), and that they are whole (cache_files.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from .cache_files import new_folder, read_meta, stamp_of, update_meta, write_meta
from .corpus import existing_file
from .encoder import ADDED_BOS, ADDED_EOS, INDEX, SPLITS, encode_into
from .errors import ConfigError, CorpusError
from .files import file_sha256
from .paths import out_dir, reading, shown, writing
from .splits import Split, whole
from .tokenizer import tokenizer_hash

__all__ = ["ADDED_BOS", "ADDED_EOS", "FORMAT", "EncodedCorpus", "encode_corpus"]

FORMAT = 3  # of the files and of the order in which they are read: a run goes on only with the one that it began with


@dataclass(frozen=True)
class EncodedCorpus:
    """Ids of all rows, back to back, memory-mapped, as are all arrays here.

    `tokens` (total,) uint16 or uint32 · `offsets` (rows + 1,) int64, where each row begins, and the end · `segments`
    (segments + 1,) int64, where each `<s>` stands, and the end · `added` (rows,) uint8, bits ADDED_BOS and ADDED_EOS ·
    `text_hash` (rows,) uint32 · `train` and `held_out`, tables of runs (splits.py). `sha256` is the corpus file's,
    `editions` counts marker editions, `folder` is where the files lie.
    """

    path: Path
    folder: Path
    tokens: np.ndarray
    offsets: np.ndarray
    segments: np.ndarray
    added: np.ndarray
    text_hash: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    sha256: str
    tokenizer_sha256: str
    editions: dict[str, int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple:
        """A process that loads data opens the files itself, instead of being sent what is in them."""
        sums = self.sha256, self.tokenizer_sha256
        return _open, (self.path, self.folder, self.tokens.dtype.name, *sums, self.editions)

    def row(self, index: int) -> np.ndarray:
        """Ids of one row, from its `<s>` to its `</s>`, (length,) int64."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)

    @cached_property
    def ids(self) -> np.ndarray:
        """The tokens once more, still on disk, as a plain array: cutting a piece from it takes a third of the time."""
        return np.asarray(self.tokens)

    def split(self, name: str) -> Split:
        """A part of the corpus: 'all', 'train' or 'held_out'. Raises ConfigError for another name, or an empty part."""
        if name == "all":
            return whole(self.offsets, self.segments)
        if name not in SPLITS:
            raise ConfigError(f"split={name!r}: allowed are all, train, held_out.")
        split = Split(getattr(self, name))
        if not split.rows:
            raise ConfigError(
                f"{self.path.name} has only {len(self)} rows, too few to hold any out: give --valid_path."
            )
        return split


def encode_corpus(path: str | Path, tokenizer: Tokenizer, cache: str | Path | None = None) -> EncodedCorpus:
    """Encode a corpus, or open the cache if it was encoded before with this tokenizer.

    Encoding shows a bar on stderr when it takes longer than two seconds. Raises CorpusError, naming file and line, for
    rows that cannot be read; then nothing is left behind. A cache that was damaged, or is of another version, is made
    again.
    """
    given = existing_file(path)
    path = given.resolve()
    tokenizer_sha = tokenizer_hash(tokenizer)
    name = hashlib.sha256(f"{path}|{tokenizer_sha}|{FORMAT}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    folder = Path(cache or out_dir() / "cache").absolute() / f"{path.stem[:60]}-{name}"
    meta = read_meta(folder)
    if meta is None or meta["tokenizer_sha256"] != tokenizer_sha or not _still_the_same(given, meta, folder):
        _encode(given, tokenizer, tokenizer_sha, folder)
        meta = read_meta(folder)
    if meta is None:
        raise CorpusError(f"the cache {shown(folder)} changes while it is read; does another program write there?")
    return _open(path, folder, meta["dtype"], meta["sha256"], tokenizer_sha, meta["editions"])


def _open(
    path: Path, folder: Path, dtype: str, sha256: str, tokenizer_sha256: str, editions: dict[str, int]
) -> EncodedCorpus:
    with reading(folder, CorpusError):
        arrays = {
            name: np.memmap(folder / f"{name}.bin", dtype=kind, mode="r")
            for name, kind in {"tokens": dtype, **INDEX, **dict.fromkeys(SPLITS, np.int64)}.items()
        }
    arrays |= {name: arrays[name].reshape(-1, 6) for name in SPLITS}
    arrays |= {name: np.asarray(array) for name, array in arrays.items() if name != "tokens"}  # quicker to cut
    return EncodedCorpus(
        path=path, folder=folder, sha256=sha256, tokenizer_sha256=tokenizer_sha256, editions=editions, **arrays
    )


def _still_the_same(path: Path, meta: dict, folder: Path) -> bool:
    """Whether the corpus is the one that was encoded: by size and time stamp, by its sum only where these differ."""
    with reading(path, CorpusError):
        stamp = stamp_of(path)
        if meta["stamp"] == stamp:
            return True
        if meta["stamp"][0] != stamp[0] or file_sha256(path) != meta["sha256"]:
            return False
    meta["stamp"] = stamp
    update_meta(folder, meta)
    return True


def _encode(path: Path, tokenizer: Tokenizer, tokenizer_sha: str, folder: Path) -> None:
    """Write the cache beside its final name; it gets that when it is whole."""
    with writing(folder), new_folder(folder) as unfinished:
        with reading(path, CorpusError):
            stamp = stamp_of(path)
        meta = encode_into(unfinished, path, tokenizer)
        with reading(path, CorpusError):
            changed = stamp_of(path) != stamp
        if changed:
            raise CorpusError(f"{shown(path)} changed while it was being encoded; wait until it is whole, then again.")
        write_meta(unfinished, meta | {"format": FORMAT, "tokenizer_sha256": tokenizer_sha, "stamp": stamp})

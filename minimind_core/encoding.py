"""A corpus as numbers, encoded once: one memory-mapped file of token ids and an index of rows.

Both datasets read from it, so a run keeps no text in memory and starts at once when the file is warm. Rows are stored
with their markers; the index says where each begins, which markers were added, and a hash of its text, by which rows
are held out. Cached in out/cache/ under corpus and tokenizer. Taught in notebook 02.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from .corpus import BOS, EOS, existing_file, iter_rows, marker_edition, normalise_markers
from .errors import CorpusError
from .paths import out_dir, reading, shown, writing
from .tokenizer import BOS_ID, tokenizer_hash

FORMAT = 2
ADDED_BOS, ADDED_EOS = 1, 2
HELD_OUT_SHARE = 1000  # one row in a thousand
_BATCH = 512  # rows handed to the tokenizer at a time; it spreads them over the cores


@dataclass(frozen=True)
class EncodedCorpus:
    """Ids of all rows, back to back, memory-mapped.

    `tokens` (total,) uint16 or uint32 · `offsets` (rows + 1,) int64 · `segments` (segments,) int64, where each `<s>`
    stands · `added` (rows,) uint8, bits ADDED_BOS and ADDED_EOS · `text_hash` (rows,) uint32. `sha256` is the corpus
    file's, `editions` counts marker editions.
    """

    path: Path
    tokens: np.ndarray
    offsets: np.ndarray
    segments: np.ndarray
    added: np.ndarray
    text_hash: np.ndarray
    sha256: str
    tokenizer_sha256: str
    editions: dict[str, int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> np.ndarray:
        """Ids of one row, from its `<s>` to its `</s>`, (length,) int64."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)

    def held_out(self) -> np.ndarray:
        """Which rows are kept out of training, (rows,) bool: one in a thousand, by the hash of their text.

        A row's fate depends on its text alone, so equal rows go the same way and a longer corpus keeps the choice. In
        a small corpus, where that would be almost none, the rows with the smallest hashes: 8, or a tenth.
        """
        chosen = self.text_hash < 2**32 // HELD_OUT_SHARE
        at_least = min(8, len(self) // 10)
        if chosen.sum() < at_least:
            limit = np.partition(self.text_hash, at_least - 1)[at_least - 1]
            chosen = self.text_hash <= limit
        return chosen


def encode_corpus(path: str | Path, tokenizer: Tokenizer, cache: str | Path | None = None) -> EncodedCorpus:
    """Encode a corpus, or open the cache if it was encoded before with this tokenizer.

    Raises CorpusError, naming file and line, for rows that cannot be read; then nothing is left behind. A cache that
    was damaged, or is of another version, is made again.
    """
    given = existing_file(path)
    path = given.resolve()
    tokenizer_sha = tokenizer_hash(tokenizer)
    name = hashlib.sha256(f"{path}|{tokenizer_sha}|{FORMAT}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    folder = Path(cache or out_dir() / "cache") / f"{path.stem[:60]}-{name}"
    meta = _read_meta(folder)
    if meta is None or meta["tokenizer_sha256"] != tokenizer_sha or not _still_the_same(given, meta, folder):
        _encode(given, tokenizer, tokenizer_sha, folder)
        meta = _read_meta(folder)
    if meta is None:
        raise CorpusError(f"the cache {shown(folder)} changes while it is read; does another program write there?")
    with reading(folder, CorpusError):
        index = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in _INDEX}
        tokens = np.memmap(folder / _TOKENS, dtype=meta["dtype"], mode="r")
    return EncodedCorpus(
        path=path,
        tokens=tokens,
        sha256=meta["sha256"],
        tokenizer_sha256=tokenizer_sha,
        editions=meta["editions"],
        **index,
    )


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


# --- the cache --------------------------------------------------------------------------------------------------------

_TOKENS, _INDEX = "tokens.bin", ("offsets", "segments", "added", "text_hash")


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _seal(meta: dict) -> str:
    """A sum over everything else in meta.json: with it, what stands there is what was written."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _read_meta(folder: Path) -> dict | None:
    """What meta.json says of a cache that is whole, or None.

    Files are looked at as the corpus is: read only when size or time stamp differ from those at writing.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta.pop("seal") != _seal(meta):
            return None
        for name, (stamp, sha256) in meta["files"].items():
            now = _stamp(folder / name)
            if now != stamp:
                if now[0] != stamp[0] or file_sha256(folder / name) != sha256:
                    return None
                meta["files"][name] = [now, sha256]
                _write_meta(folder, meta)
        return meta
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _write_meta(folder: Path, meta: dict) -> None:
    """Keep new time stamps, if the disk lets us: they only save work."""
    unfinished = folder / f".meta.{os.getpid()}"
    with suppress(OSError):
        unfinished.write_text(json.dumps(meta | {"seal": _seal(meta)}), encoding="utf-8")
        os.replace(unfinished, folder / "meta.json")
    with suppress(OSError):
        unfinished.unlink(missing_ok=True)


def _still_the_same(path: Path, meta: dict, folder: Path) -> bool:
    """Whether the corpus is the one that was encoded: by size and time stamp, by its sum only where these differ."""
    with reading(path, CorpusError):
        stamp = _stamp(path)
        if meta["stamp"] == stamp:
            return True
        if meta["stamp"][0] != stamp[0] or file_sha256(path) != meta["sha256"]:
            return False
    meta["stamp"] = stamp
    _write_meta(folder, meta)
    return True


def _encode(path: Path, tokenizer: Tokenizer, tokenizer_sha: str, folder: Path) -> None:
    """Write the cache beside its final name and rename it when it is whole."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    _remove(unfinished)
    try:
        with writing(folder):
            unfinished.mkdir(parents=True)
            with reading(path, CorpusError):
                stamp = _stamp(path)
            meta = _encode_into(unfinished, path, tokenizer)
            with reading(path, CorpusError):
                changed = _stamp(path) != stamp
            if changed:
                raise CorpusError(
                    f"{shown(path)} changed while it was being encoded; wait until it is whole, then again."
                )
            meta |= {"format": FORMAT, "tokenizer_sha256": tokenizer_sha, "stamp": stamp}
            meta["files"] = {file.name: [_stamp(file), file_sha256(file)] for file in sorted(unfinished.iterdir())}
            (unfinished / "meta.json").write_text(json.dumps(meta | {"seal": _seal(meta)}), encoding="utf-8")
            _remove(folder)
            try:
                os.replace(unfinished, folder)
            except OSError:
                if _read_meta(folder) is None:  # else another process was quicker, and its cache is as good
                    raise
    finally:
        _remove(unfinished)


def _remove(path: Path) -> None:
    """Remove a folder with all that is in it, or a file that has its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _encode_into(folder: Path, path: Path, tokenizer: Tokenizer) -> dict:
    """Write tokens and index of a corpus to `folder`; what meta.json has to say of them."""
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    lengths, added, hashes, segments, written = [], bytearray(), [], [], 0
    editions: dict[str, int] = {}
    rows = (text for _, text in iter_rows(path))
    with open(folder / _TOKENS, "wb") as out:
        while batch := list(islice(rows, _BATCH)):
            texts = []
            for text in batch:
                edition = marker_edition(text)
                editions[edition] = editions.get(edition, 0) + 1
                text, flags = with_markers(normalise_markers(text))
                texts.append(text)
                added.append(flags)
                hashes.append(int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "little"))
            for encoded in tokenizer.encode_batch(texts, add_special_tokens=False):
                ids = np.asarray(encoded.ids, dtype=dtype)
                out.write(ids.tobytes())
                lengths.append(len(ids))
                segments.append(np.flatnonzero(ids == BOS_ID) + written)
                written += len(ids)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "segments.npy", np.concatenate(segments).astype(np.int64))
    np.save(folder / "added.npy", np.frombuffer(bytes(added), np.uint8))
    np.save(folder / "text_hash.npy", np.asarray(hashes, np.uint32))
    with reading(path, CorpusError):
        sha256 = file_sha256(path)
    return {"tokens": int(offsets[-1]), "dtype": np.dtype(dtype).name, "sha256": sha256, "editions": editions}


def with_markers(text: str) -> tuple[str, int]:
    """A row with the markers that it lacks at its ends, and which were added (bits ADDED_BOS, ADDED_EOS)."""
    flags = 0
    if not text.lstrip().startswith(BOS):
        text, flags = BOS + text, flags | ADDED_BOS
    if not text.rstrip().endswith(EOS):
        text, flags = text + EOS, flags | ADDED_EOS
    return text, flags

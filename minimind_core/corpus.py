"""JSON lines in, clean text out: read, check and describe a pretraining corpus.

A corpus is a UTF-8 file with one JSON object a line, `{"text": "<s>…</s> <s>…</s> …"}`. Three editions of the markers
are met in the wild; all are read as the first, so that one tokenizer serves them. No torch here, nothing is kept in
memory: a 1.6 GB file is read line by line. Taught in notebook 01. Left out: downloads (download.py), ids (encoding.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .errors import CorpusError
from .paths import SAMPLE, dataset_dir, shown

BOS, EOS = "<s>", "</s>"
FULL_CORPUS_NAMES = ("pretrain_hq.jsonl", "pretrain_hq_im.jsonl", "pretrain_t2t_mini.jsonl")
_BETWEEN = re.compile(r"</s>(\s*)(?=\S)(?!<s>)")


def marker_edition(text: str) -> str:
    """Which markers a row carries: 's' (`<s>…</s>`), 'im' (`<|im_start|>…<|im_end|>`), 'im_end' or 'none'."""
    bare = text.strip()
    if bare.startswith(BOS) or bare.endswith(EOS):
        return "s"
    if bare.startswith("<|im_start|>"):
        return "im"
    if bare.endswith("<|im_end|>"):
        return "im_end"
    return "none"


def normalise_markers(text: str) -> str:
    """A row of any edition with the first edition's markers; rows of that edition, or without markers, are unchanged.

    `a<|im_end|> b<|im_end|>` has closing marks only: an opening one is put before each segment.
    """
    edition = marker_edition(text)
    if edition not in ("im", "im_end"):
        return text
    text = text.replace("<|im_start|>", BOS).replace("<|im_end|>", EOS)
    if not text.lstrip().startswith(BOS):
        text = BOS + text
    return _BETWEEN.sub(lambda m: EOS + (m.group(1) or " ") + BOS, text)


def split_segments(text: str) -> list[str]:
    """The segments of a row without their markers: `<s>a</s> <s>b</s>` gives ['a', 'b']."""
    pieces = re.split(r"</?s>", normalise_markers(text))
    return [piece.strip() for piece in pieces if piece.strip()]


def iter_rows(path: str | Path, limit: int | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text as it stands) for each row; blank lines, CRLF and a byte-order mark are fine.

    Raises CorpusError, naming file and line, for anything that is not `{"text": "…"}`.
    """
    path = existing_file(path)
    if limit is not None and limit <= 0:
        return
    rows = 0
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if not raw.strip():
                    continue
                yield number, _text_of(path, number, raw)
                rows += 1
                if limit is not None and rows >= limit:
                    return
    except OSError as error:
        raise CorpusError(f"{shown(path)} could not be read: {error.strerror or error}.") from None
    if not rows:
        raise CorpusError(f'{shown(path)} holds no rows; a corpus has one {{"text": "…"}} on each line.')


def existing_file(path: str | Path) -> Path:
    """`path` as a Path that is a file, or a CorpusError that says what is there instead."""
    path = Path(path)
    if path.is_dir():
        raise CorpusError(f"{shown(path)} is a folder; give the .jsonl file inside it.")
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*.jsonl")) if path.parent.is_dir() else []
        have = f" In {shown(path.parent)} lie: {', '.join(near)}." if near else ""
        raise CorpusError(
            f"{shown(path)} is not there.{have} `python -m minimind_core.download` brings the full corpus; "
            "dataset/sample.jsonl is part of the project."
        )
    return path


def _text_of(path: Path, number: int, raw: bytes) -> str:
    where = f"{shown(path)}, line {number}"
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        gbk = _is_gbk(raw) and "end of data" not in error.reason
        kind = "It looks like GBK: save it as UTF-8." if gbk else _looks_like(raw)
        raise CorpusError(f"{where}: not UTF-8 (byte {error.start}: 0x{raw[error.start]:02x}). {kind}") from None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # a number of thousands of digits is a ValueError too
        raise CorpusError(f"{where}: not a JSON object: {line.strip()[:60]!r}. {_looks_like(raw)}") from None
    if not isinstance(row, dict):
        raise CorpusError(f'{where}: a {type(row).__name__}, where {{"text": "…"}} is needed.')
    if "text" not in row:
        raise CorpusError(f'{where}: no "text" in it; it has {", ".join(map(repr, row)) or "nothing"}.')
    text = row["text"]
    if not isinstance(text, str):
        raise CorpusError(f'{where}: "text" is a {type(text).__name__}, where a string is needed.')
    if not text.strip():
        raise CorpusError(f'{where}: "text" is empty; remove the line.')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CorpusError(f'{where}: "text" holds half of a character (a lone surrogate); remove the line.') from None
    return text


def _is_gbk(raw: bytes) -> bool:
    try:
        return any("\u4e00" <= character <= "\u9fff" for character in raw.decode("gb18030"))
    except UnicodeDecodeError:
        return False


def _looks_like(raw: bytes) -> str:
    start = raw.lstrip()[:200].lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "It looks like a web page saved under the data's name: download the file itself."
    if start.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer, not the data: download the file itself."
    if start.startswith((b"\x1f\x8b", b"pk\x03\x04", b"\x28\xb5\x2f\xfd")):
        return "It looks like a compressed archive: unpack it first."
    if b"\0" in raw[:200]:
        return "It looks like a binary file or UTF-16; save it as UTF-8 text."
    return "The download may have been cut short: `python -m minimind_core.download` checks and resumes it."


def iter_texts(path: str | Path, limit: int | None = None) -> Iterator[str]:
    """The rows' texts with the first edition's markers. See `iter_rows` for limit and errors."""
    for _, text in iter_rows(path, limit):
        yield normalise_markers(text)


@dataclass
class CorpusReport:
    """What `describe` counts. Lengths are of the text as it stands, markers included."""

    path: Path
    rows: int = 0
    editions: Counter = field(default_factory=Counter)
    characters: list[int] = field(default_factory=list)
    utf8_bytes: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    segment_lengths: list[int] = field(default_factory=list)
    duplicate_rows: int = 0
    duplicate_segments: int = 0
    character_counts: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        mean = sum(self.characters) / self.rows
        editions = ", ".join(f"{name}: {count:,}" for name, count in self.editions.most_common())
        return (
            f"{shown(self.path)}: {self.rows:,} rows, {sum(self.characters):,} characters, "
            f"{sum(self.utf8_bytes):,} bytes; {mean:.0f} characters and "
            f"{sum(self.segments) / self.rows:.1f} segments a row; markers {editions}; "
            f"{self.duplicate_rows} doubled rows, {self.duplicate_segments} doubled segments."
        )


def describe(path: str | Path, limit: int | None = 100_000) -> CorpusReport:
    """Count a corpus: lengths, segments, markers, exact duplicates, characters. `limit` bounds time and memory."""
    report = CorpusReport(Path(path))
    rows_seen: set[int] = set()
    segments_seen: set[int] = set()
    for text in (text for _, text in iter_rows(path, limit)):
        segments = split_segments(text)
        report.rows += 1
        report.editions[marker_edition(text)] += 1
        report.characters.append(len(text))
        report.utf8_bytes.append(len(text.encode("utf-8")))
        report.segments.append(len(segments))
        report.duplicate_rows += hash(text) in rows_seen
        rows_seen.add(hash(text))
        for segment in segments:
            report.segment_lengths.append(len(segment))
            report.duplicate_segments += hash(segment) in segments_seen
            segments_seen.add(hash(segment))
            report.character_counts.update(segment)
    return report


def default_corpus() -> tuple[Path, str]:
    """The corpus that a run without `--data_path` takes, and why: the full one if it lies there, else the sample."""
    for name in FULL_CORPUS_NAMES:
        path = dataset_dir() / name
        if path.is_file():
            return path, f"the full corpus lies in {shown(dataset_dir())}"
    return SAMPLE, f"no full corpus lies in {shown(dataset_dir())}, so the built-in sample is used"

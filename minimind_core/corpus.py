"""JSON lines in, clean text out: read, check and describe a pretraining corpus.

A corpus is a UTF-8 file with one JSON object a line, `{"text": "<s>…</s> <s>…</s> …"}`; a .txt file will do as well
(plain_text.py). Three editions of the markers are met in the wild; all are read as the first, so that one tokenizer
serves them. No torch here, nothing is kept in memory: a 1.6 GB file is read line by line. Taught in notebook 01. Left
out: downloads (download.py), ids (encoding.py).
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

from .broken_lines import CUT_SHORT, HOW_TO_SPLIT, cut, known_keys, looks_like
from .errors import CorpusError
from .paths import SAMPLE, dataset_dir, reading, shown
from .plain_text import SUFFIXES, is_plain_text, plain_line, plain_rows

BOS, EOS = "<s>", "</s>"
LONGEST_LINE = 64 << 20  # bytes; a longer one is no row, and would only fill the memory
FULL_CORPUS_NAMES = ("pretrain_hq.jsonl", "pretrain_hq_im.jsonl", "pretrain_t2t_mini.jsonl")
_BETWEEN = re.compile(r"</s>(\s*)(?=\S)(?!<s>)")
_NO_TEXT = re.compile(r"(?:\s|</?s>|<\|im_(?:start|end)\|>)*")


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


def iter_rows(
    path: str | Path, limit: int | None = None, seen: Callable[[bytes], object] | None = None
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text as it stands) for each row; blank lines, CRLF and byte-order marks are fine.

    `seen` is called with the bytes of each line as they are read, blank ones too: together they are the whole file.
    In a .txt file each line is a segment; a row's number is that of its first line. Raises CorpusError, naming file
    and line, for anything that is not `{"text": "…"}` (or, there, no text in UTF-8).
    """
    path = existing_file(path)
    if limit is not None and limit <= 0:
        return
    name, found = shown(path), False
    with reading(path, CorpusError):
        lines = _filled_lines(path, name, seen)
        rows = plain_rows(lines, name) if is_plain_text(path) else _json_rows(lines, name)
        for row in islice(rows, limit):
            found = True
            yield row
    if not found:
        raise CorpusError(
            f'{name} holds no rows; a corpus has one {{"text": "…"}} on each line, or is a .txt file of plain text.'
        )


def _filled_lines(path: Path, name: str, seen: Callable[[bytes], object] | None) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of the lines that are not blank, without a byte-order mark."""
    with open(path, "rb") as file:
        for number in count(1):
            raw = file.readline(LONGEST_LINE + 1)
            if not raw:
                return
            if seen is not None:
                seen(raw)
            if len(raw) > LONGEST_LINE:
                hint = looks_like(raw[:1024], number)
                hint = f'A corpus has one {{"text": "…"}} a line: {HOW_TO_SPLIT}' if hint == CUT_SHORT else hint
                raise CorpusError(f"{name}, line {number}: longer than {LONGEST_LINE >> 20} MiB. {hint}")
            raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw.strip():
                yield number, raw


def _json_rows(lines: Iterator[tuple[int, bytes]], name: str) -> Iterator[tuple[int, str]]:
    for number, raw in lines:
        yield number, _text_of(f"{name}, line {number}", number, raw)


def existing_file(path: str | Path) -> Path:
    """`path` as a Path that is a file, or a CorpusError that says what is there instead.

    Pipes and devices are refused: a corpus is read more than once, and opening a pipe could wait for ever.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise CorpusError(_not_there(path)) from None
    except ValueError:  # a NUL byte in the name
        raise CorpusError(f"{shown(path)} is no name that a file can have.") from None
    except OSError as error:
        with reading(path, CorpusError):
            raise error
    if stat.S_ISDIR(mode):
        raise CorpusError(f"{shown(path)} is a folder; give the .jsonl or .txt file inside it.")
    if not stat.S_ISREG(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise CorpusError(f"{shown(path)} is a {kind}, which can't be read twice; save its content as a file first.")
    return path


def _not_there(path: Path) -> str:
    if path.is_symlink():
        return f"{shown(path)} is a link to {os.readlink(path)!r}, which is not there. Mend the link, or give the file."
    kinds = (".jsonl", *SUFFIXES)
    near = sorted(p.name for p in path.parent.iterdir() if p.suffix in kinds) if path.parent.is_dir() else []
    more = f" and {len(near) - 8} more" if len(near) > 8 else ""
    have = f" In {shown(path.parent)} lie: {', '.join(map(shown, near[:8]))}{more}." if near else ""
    return (
        f"{shown(path)} is not there.{have} `python -m minimind_core.download` brings the full corpus; "
        "dataset/sample.jsonl is part of the project."
    )


def _text_of(where: str, number: int, raw: bytes) -> str:
    """The text of one line, or a CorpusError that begins with `where`."""
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte {error.start}: 0x{raw[error.start]:02x}"
        raise CorpusError(f"{where}: not UTF-8 ({byte}). {looks_like(raw, number)}") from None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # a number of thousands of digits is a ValueError too
        raise CorpusError(f"{where}: not a JSON object: {cut(line.strip())}. {looks_like(raw, number)}") from None
    if not isinstance(row, dict):
        array = isinstance(row, list) and row and isinstance(row[0], dict)
        hint = f" It looks like a whole JSON array: {HOW_TO_SPLIT}" if array else ""
        raise CorpusError(f'{where}: a {type(row).__name__}, where {{"text": "…"}} is needed.{hint}')
    if "text" not in row:
        keys = ", ".join(cut(key, 30) for key in islice(row, 8)) + (", …" if len(row) > 8 else "")
        raise CorpusError(f'{where}: no "text" in it; it has {keys or "nothing"}.{known_keys(row)}')
    if raw.count(b'"text"') > 1 and _times_text(line) > 1:
        raise CorpusError(f'{where}: "text" stands in it twice, and one would be lost; keep one.')
    text = row["text"]
    if not isinstance(text, str):
        raise CorpusError(f'{where}: "text" is a {type(text).__name__}, where a string is needed.')
    if _NO_TEXT.fullmatch(text):
        what = "holds markers and no text between them" if text.strip() else "is empty"
        raise CorpusError(f'{where}: "text" {what}; remove the line.')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CorpusError(f'{where}: "text" holds half of a character (a lone surrogate); remove the line.') from None
    return text


def _times_text(line: str) -> int:
    """How often the outermost object of a line has the key "text"; Python's reader keeps the last without a word."""
    outermost: list[list] = []

    def keep(pairs: list) -> dict:
        outermost[:] = [pairs]  # the outermost object is finished last
        return dict(pairs)

    json.loads(line, object_pairs_hook=keep)
    return [key for key, _ in outermost[0]].count("text")


def iter_texts(path: str | Path, limit: int | None = None) -> Iterator[str]:
    """The rows' texts with the first edition's markers. See `iter_rows` for limit and errors."""
    for _, text in iter_rows(path, limit):
        yield normalise_markers(text)


def texts_at(path: str | Path, start: int, size: int) -> Iterator[str]:
    """The texts of the lines that begin in bytes `start` … `start + size` of the file, as `iter_texts` gives them.

    Ranges that lie side by side so share no line and lose none. Lines that hold no row are left out: which number they
    have is not known here. In a .txt file each line stands for itself, without markers. Raises CorpusError when the
    file cannot be read.
    """
    path = existing_file(path)
    with reading(path, CorpusError), open(path, "rb") as file:
        read = plain_line if is_plain_text(path) else _text_of
        file.seek(max(0, start - 1))
        if start:  # on to the next line, unless one begins right here
            file.readline(LONGEST_LINE)
        while file.tell() < start + size and (raw := file.readline(LONGEST_LINE)):
            with suppress(CorpusError):
                if text := read("", 0, raw.removeprefix(b"\xef\xbb\xbf")):
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

"""JSON lines in, clean text out: read, check and describe a pretraining corpus.

A corpus is a UTF-8 file with one JSON object a line, `{"text": "<s>…</s> <s>…</s> …"}`. Three editions of the markers
are met in the wild; all are read as the first, so that one tokenizer serves them. No torch here, nothing is kept in
memory: a 1.6 GB file is read line by line. Taught in notebook 01. Left out: downloads (download.py), ids (encoding.py).
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

from .errors import CorpusError
from .paths import SAMPLE, dataset_dir, reading, shown

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


def iter_rows(path: str | Path, limit: int | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text as it stands) for each row; blank lines, CRLF and byte-order marks are fine.

    Raises CorpusError, naming file and line, for anything that is not `{"text": "…"}`.
    """
    path = existing_file(path)
    if limit is not None and limit <= 0:
        return
    rows, name = 0, shown(path)
    with reading(path, CorpusError), open(path, "rb") as file:
        for number in count(1):
            raw = file.readline(LONGEST_LINE + 1)
            if not raw:
                break
            if len(raw) > LONGEST_LINE:
                hint = _looks_like(raw[:1024], number)
                hint = f'A corpus has one {{"text": "…"}} a line: {_HOW_TO_SPLIT}' if hint == _CUT_SHORT else hint
                raise CorpusError(f"{name}, line {number}: longer than {LONGEST_LINE >> 20} MiB. {hint}")
            raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.strip():
                continue
            yield number, _text_of(f"{name}, line {number}", number, raw)
            rows += 1
            if limit is not None and rows >= limit:
                return
    if not rows:
        raise CorpusError(f'{name} holds no rows; a corpus has one {{"text": "…"}} on each line.')


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
        raise CorpusError(f"{shown(path)} is a folder; give the .jsonl file inside it.")
    if not stat.S_ISREG(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise CorpusError(f"{shown(path)} is a {kind}, which can't be read twice; save its content as a file first.")
    return path


def _not_there(path: Path) -> str:
    if path.is_symlink():
        return f"{shown(path)} is a link to {os.readlink(path)!r}, which is not there. Mend the link, or give the file."
    near = sorted(p.name for p in path.parent.glob("*.jsonl")) if path.parent.is_dir() else []
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
        raise CorpusError(f"{where}: not UTF-8 ({byte}). {_looks_like(raw, number)}") from None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # a number of thousands of digits is a ValueError too
        raise CorpusError(f"{where}: not a JSON object: {_cut(line.strip())}. {_looks_like(raw, number)}") from None
    if not isinstance(row, dict):
        array = isinstance(row, list) and row and isinstance(row[0], dict)
        hint = f" It looks like a whole JSON array: {_HOW_TO_SPLIT}" if array else ""
        raise CorpusError(f'{where}: a {type(row).__name__}, where {{"text": "…"}} is needed.{hint}')
    if "text" not in row:
        keys = ", ".join(_cut(key, 30) for key in islice(row, 8)) + (", …" if len(row) > 8 else "")
        raise CorpusError(f'{where}: no "text" in it; it has {keys or "nothing"}.{_known_keys(row)}')
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


def _cut(text: str, length: int = 60) -> str:
    """The beginning of what stands there, quoted."""
    return repr(text[:length]) + ("…" if len(text) > length else "")


def _times_text(line: str) -> int:
    """How often the outermost object of a line has the key "text"; Python's reader keeps the last without a word."""
    outermost: list[list] = []

    def keep(pairs: list) -> dict:
        outermost[:] = [pairs]  # the outermost object is finished last
        return dict(pairs)

    json.loads(line, object_pairs_hook=keep)
    return [key for key, _ in outermost[0]].count("text")


# --- what a broken line looks like, and what to do --------------------------------------------------------------------

_RENAMED = {"text", "content", "texts", "sentence", "paragraph", "document", "body"}
_DIALOGUE = {"conversations", "messages", "prompt", "instruction", "question", "query", "input", "chosen"}
_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}
_OTHER_KINDS = {b"PAR1": "a Parquet file", b"ARROW1": "an Arrow file", b"%PDF": "a PDF", b"SQLite": "a database"}
_HOW_TO_SPLIT = "put each object on a line of its own."
_HOW_TO_CONVERT = 'write each text as json.dumps({"text": …}) on a line of its own.'


def _known_keys(row: dict) -> str:
    """A word on files that people take for a corpus, by their keys."""
    keys = {str(key).strip().lower() for key in islice(row, 100)}
    if keys & _DIALOGUE:
        return " It looks like a fine-tuning (SFT or DPO) file; pretraining needs the pretrain_… file beside it."
    if keys & _RENAMED:
        return ' Name the key that holds the text "text".'
    if "error" in keys:
        return " It looks like a server's refusal saved under the data's name: download the file itself."
    return ""


def _looks_like(raw: bytes, number: int) -> str:
    """What a line that can't be read is likely to be; some things are seen on a file's first line only."""
    start = raw.lstrip()[:512]
    if number == 1:
        for signature, name in _ARCHIVES.items():
            if raw.startswith(signature):
                return f"It looks like a {name} archive: unpack it first."
        if raw[257:262] == b"ustar":
            return "It looks like a tar archive: unpack it first."
        for signature, name in _OTHER_KINDS.items():
            if raw.startswith(signature):
                return f"It looks like {name}: {_HOW_TO_CONVERT}"
    if start.lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "It looks like a web page saved under the data's name: download the file itself."
    if start.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer, not the data: download the file itself."
    hole = not raw.strip(b"\0\r\n")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or (raw[:200].count(0) * 5 > len(raw[:200]) and not hole):
        return "It looks like UTF-16 or a binary file: save it as UTF-8 text."
    if b"\0" in raw:
        return "It holds NUL bytes, as a file does whose download or copy was interrupted: get it again."
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if "end of data" not in error.reason:
            return "It looks like GBK: save it as UTF-8." if _is_gbk(raw) else _CUT_SHORT
        line = raw[: error.start].decode("utf-8")
    return _why_not_json(line.strip())


_CUT_SHORT = "The download may have been cut short: `python -m minimind_core.download` checks and resumes it."


def _why_not_json(line: str) -> str:
    """What is wrong with a line of text that is no JSON."""
    if line in ("[", "{") or re.match(r"\[\s*\{", line):
        return f"It looks like a whole JSON array, or JSON spread over lines: {_HOW_TO_SPLIT}"
    if line.startswith(("#", "//")):
        return "Comments are no JSON lines: remove the line."
    if not line.startswith(("{", "[", '"')):
        return f"It looks like plain text or a table: {_HOW_TO_CONVERT}"
    if line.startswith("{'"):
        return f"It looks like a Python dictionary, with single quotes: {_HOW_TO_CONVERT}"
    try:
        _, end = json.JSONDecoder().raw_decode(line)
    except RecursionError:
        return "It is nested too deeply to be read."
    except json.JSONDecodeError as error:
        if "control character" in error.msg:
            code = f"{ord(line[error.pos]):04x}"
            return f"A bare control character stands at column {error.pos + 1}: write \\u{code} for it."
        if re.search(r",\s*[}\]]\s*$", line):
            return "A comma stands before its last bracket: remove it."
        if not line.endswith("}"):
            return _CUT_SHORT
        return f"JSON: {error.msg} at column {error.pos + 1}. Mend or remove the line."
    except ValueError:
        return "A number in it has thousands of digits."
    rest = line[end:]
    if "\r" in rest[:2]:
        return "Its lines end in CR alone, as on old Macintoshes: save it with line feeds."
    if rest.lstrip().startswith("{"):
        return f"Two objects stand on one line: {_HOW_TO_SPLIT}"
    return f"After the object stands {_cut(rest.strip(), 20)}: remove that."


def _is_gbk(raw: bytes) -> bool:
    try:
        return any("\u4e00" <= character <= "\u9fff" for character in raw.decode("gb18030"))
    except UnicodeDecodeError:
        return False


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

"""Plain text as a corpus: each line of a .txt file is a segment, and segments are laid end to end until a row is full.

So a book, a folder of essays or a chat that somebody saved can be trained on as it is. Taught in notebook 01. Left out:
JSON lines (corpus.py), which say themselves where a row ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .broken_lines import cut, looks_like, no_text
from .errors import CorpusError

ROW_CHARACTERS = 512  # of a row, markers included: what the makers of MiniMind's corpus filled theirs to
SUFFIXES = (".txt", ".text")
_MARKERS_AT_ENDS = re.compile(r"^(?:<s>|<\|im_start\|>)|(?:</s>|<\|im_end\|>)$")


def is_plain_text(path: Path) -> bool:
    """Whether a file is read as plain text: by its name, unless its first character says that JSON follows.

    Raises OSError when it cannot be opened.
    """
    if path.suffix.lower() not in SUFFIXES:
        return False
    with open(path, "rb") as file:
        return not file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def plain_rows(lines: Iterable[tuple[int, bytes]], name: str) -> Iterator[tuple[int, str]]:
    """(number, bytes) of lines that are not blank → (number of a row's first line, text of the row with markers).

    A row ends where the next segment would take it beyond ROW_CHARACTERS; a line is never cut. Raises CorpusError,
    naming file and line, for bytes that are no UTF-8 text.
    """
    first, row = 0, ""
    for number, raw in lines:
        text = plain_line(f"{name}, line {number}", number, raw)
        if not text:
            continue
        segment = f"<s>{text}</s>"
        if row and len(row) + 1 + len(segment) > ROW_CHARACTERS:
            yield first, row
            row = ""
        first, row = (first, f"{row} {segment}") if row else (number, segment)
    if row:
        yield first, row


def plain_line(where: str, number: int, raw: bytes) -> str:
    """The text of one line, without blanks and markers at its ends; "" where nothing else stands in it.

    Raises a CorpusError that begins with `where` for bytes that are no UTF-8 text.
    """
    try:
        line = raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        byte = f"byte {error.start}: 0x{raw[error.start]:02x}"
        raise CorpusError(f"{where}: not UTF-8 ({byte}). {looks_like(raw, number)}") from None
    foreign = no_text(raw, number) if number == 1 or b"\0" in raw else ""  # further on a text may be about HTML
    if foreign:
        raise CorpusError(f"{where}: no plain text: {cut(line)}. {foreign}")
    return _MARKERS_AT_ENDS.sub("", line).strip()

"""What a line that is no row of a corpus looks like, and what to do about it: sentences for corpus.py's errors.

People save web pages, pointers, archives and other formats under a corpus's name; each is recognised by its bytes.
"""

from __future__ import annotations

import json
import re
from itertools import islice

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
CUT_SHORT = "The download may have been cut short: `python -m minimind_core.download` checks and resumes it."
HOW_TO_SPLIT = "put each object on a line of its own."
_HOW_TO_CONVERT = 'write each text as json.dumps({"text": …}) on a line of its own.'


def known_keys(row: dict) -> str:
    """A word on files that people take for a corpus, by their keys."""
    keys = {str(key).strip().lower() for key in islice(row, 100)}
    if keys & _DIALOGUE:
        return " It looks like a fine-tuning (SFT or DPO) file; pretraining needs the pretrain_… file beside it."
    if keys & _RENAMED:
        return ' Name the key that holds the text "text".'
    if "error" in keys:
        return " It looks like a server's refusal saved under the data's name: download the file itself."
    return ""


def no_text(raw: bytes, number: int) -> str:
    """What a line is that belongs to no text file: an archive, a web page, a pointer, UTF-16, NUL bytes; "" for others.

    Some are seen on a file's first line, `number` 1, only.
    """
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
    return ""


def looks_like(raw: bytes, number: int) -> str:
    """What a line that can't be read is likely to be; some things are seen on a file's first line only."""
    if foreign := no_text(raw, number):
        return foreign
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if "end of data" not in error.reason:
            return "It looks like GBK: save it as UTF-8." if _is_gbk(raw) else CUT_SHORT
        line = raw[: error.start].decode("utf-8")
    return _why_not_json(line.strip())


def _why_not_json(line: str) -> str:
    """What is wrong with a line of text that is no JSON."""
    if line in ("[", "{") or re.match(r"\[\s*\{", line):
        return f"It looks like a whole JSON array, or JSON spread over lines: {HOW_TO_SPLIT}"
    if line.startswith(("#", "//")):
        return "Comments are no JSON lines: remove the line."
    if not line.startswith(("{", "[", '"')):
        return f"It looks like plain text or a table: let the name of plain text end in .txt, or {_HOW_TO_CONVERT}"
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
            return CUT_SHORT
        return f"JSON: {error.msg} at column {error.pos + 1}. Mend or remove the line."
    except ValueError:
        return "A number in it has thousands of digits."
    rest = line[end:]
    if "\r" in rest[:2]:
        return "Its lines end in CR alone, as on old Macintoshes: save it with line feeds."
    if rest.lstrip().startswith("{"):
        return f"Two objects stand on one line: {HOW_TO_SPLIT}"
    return f"After the object stands {cut(rest.strip(), 20)}: remove that."


def _is_gbk(raw: bytes) -> bool:
    try:
        return any("\u4e00" <= character <= "\u9fff" for character in raw.decode("gb18030"))
    except UnicodeDecodeError:
        return False


def cut(text: str, length: int = 60) -> str:
    """The beginning of what stands there, quoted."""
    return repr(text[:length]) + ("…" if len(text) > length else "")

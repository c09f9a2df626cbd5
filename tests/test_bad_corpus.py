"""Corpora that are no corpora, and corpora with harmless quirks: one clear line about the first, none on the others.

`python tests/test_bad_corpus.py` lists the kinds that are tried.
"""

from __future__ import annotations

import bz2
import codecs
import errno
import gzip
import io
import json
import lzma
import os
import re
import socket
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Bench, tiny_texts, write_rows
from hypothesis import example, given
from hypothesis import strategies as st

from minimind_core import CorpusError, corpus, describe, encode_corpus, iter_rows, iter_texts
from minimind_core import train_pretrain as training

ROW = '{"text": "<s>山是什么颜色？山是红色的。</s>"}\n'
ROOT = os.name == "nt" or os.geteuid() == 0


def rows(*more: str | bytes, before: int = 2) -> bytes:
    """Good rows with something after them."""
    return ROW.encode() * before + b"".join(m.encode() if isinstance(m, str) else m for m in more)


def tarred() -> bytes:
    file, content = io.BytesIO(), rows()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("pretrain_hq.jsonl")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("pretrain_hq.jsonl", rows())
    return file.getvalue()


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


ARRAY = [{"text": "一"}, {"text": "二"}]

# name: (content, line or None, what the message has to say)
FILES: dict[str, tuple[bytes, int | None, str]] = {
    # a transfer that went wrong
    "cut in the middle of the last line": (rows('{"text": "<s>二'), 3, "not a JSON object.*cut short.*download"),
    "cut in the middle of a character": (rows('{"text": "二'.encode()[:-1]), 3, r"not UTF-8 \(byte 1\d.*cut short"),
    "cut before the bracket": (rows('{"text": "二"'), 3, "cut short"),
    "begun in the middle of a line": (b'\xe6\x98\xaf"}\n' + rows(), 1, "not a JSON object.*plain text"),
    "a web page": (b"<!DOCTYPE html>\n<html><head>Sign in</head></html>\n", 1, "web page.*download the file itself"),
    "a web page without a doctype": (b"\n <HTML>\n<body>404</body></html>\n", 2, "web page"),
    "an XML answer": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>\n', 1, "web page"),
    "a server's refusal as JSON": (b'{"error": "Repository not found"}\n', 1, "server's refusal"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:25\nsize 9\n", 1, "LFS pointer"),
    "a hole of NUL bytes at the end": (rows(b"\0" * 4096), 3, "NUL bytes.*interrupted"),
    "a hole of NUL bytes in a line": (rows(ROW.encode().replace("山".encode(), b"\0" * 6)), 3, "NUL bytes"),
    "nothing but NUL bytes": (b"\0" * 5000, 1, "NUL bytes"),
    "a damaged byte": (rows(ROW.encode().replace(b"\xe5\xb1\xb1", b"\xe5\xff\xb1", 1)), 3, "not UTF-8.*0xe5"),
    # another kind of file
    "a gzip archive": (gzip.compress(rows() * 9), 1, "not UTF-8.*gzip archive: unpack"),
    "a zip archive": (zipped(), 1, "zip archive: unpack"),
    "a zstd archive": (b"\x28\xb5\x2f\xfd\x04\x58\xe9\x04\x00", 1, "zstd archive: unpack"),
    "an xz archive": (lzma.compress(rows()), 1, "xz archive: unpack"),
    "a bzip2 archive": (bz2.compress(rows()), 1, "bzip2 archive: unpack"),
    "a tar archive": (tarred(), 1, "tar archive: unpack"),
    "a Parquet file": (b"PAR1\x15\x04\x15\x10\x00\x00PAR1", 1, "Parquet file.*json.dumps"),
    "an Arrow file": (b"ARROW1\0\0\xff\xff\xff\xff\x10\0", 1, "Arrow file"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", 1, "a PDF"),
    "plain text": (
        "天是蓝色的。\n山是红色的。\n".encode(),
        1,
        "not a JSON object: '天是蓝色的。'.*plain text.*json.dumps",
    ),
    "plain text with markers": (b"<s>one</s>\n<s>two</s>\n", 1, "plain text"),
    "a table with commas": (b"id,text\n1,one\n", 1, "plain text or a table"),
    "a table with tabs": (b"id\ttext\n1\tone\n", 1, "plain text or a table"),
    "UTF-16 with its mark": (rows().decode().encode("utf-16"), 1, "UTF-16.*save it as UTF-8"),
    "UTF-16 without its mark": (rows().decode().encode("utf-16-le"), 1, "UTF-16"),
    "UTF-16 of the other order": (codecs.BOM_UTF16_BE + rows().decode().encode("utf-16-be"), 1, "UTF-16"),
    "UTF-32": (rows().decode().encode("utf-32"), 1, "UTF-16 or a binary file"),
    "GBK": (rows('{"text": "中文的一行"}\n'.encode("gbk")), 3, r"not UTF-8 \(byte 10: 0xd6\).*GBK"),
    # JSON, but not one object a line
    "a JSON array on one line": (json.dumps(ARRAY).encode(), 1, "a list, where.*whole JSON array"),
    "a JSON array, a row a line": (b'[\n{"text": "one"},\n{"text": "two"}\n]\n', 1, "JSON array.*line of its own"),
    "a JSON array, spread out": (json.dumps(ARRAY, indent=2).encode(), 1, "spread over lines"),
    "a cut JSON array": (json.dumps(ARRAY).encode()[:-3], 1, "whole JSON array"),
    "an object spread over lines": (json.dumps(ARRAY[0], indent=2).encode(), 1, "spread over lines"),
    "a comma after the object": (ROW.replace("}\n", "},\n").encode(), 1, "After the object stands ','"),
    "a comma before the bracket": (rows('{"text": "一",}\n'), 3, "comma stands before its last bracket"),
    "two objects on a line": (rows(ROW.strip() + " " + ROW), 3, "Two objects stand on one line"),
    "a comment line": (rows("# the end\n"), 3, "Comments are no JSON lines"),
    "a comment line with slashes": (b"// rows\n" + rows(), 1, "Comments are no JSON lines"),
    "a Python dictionary": (b"{'text': 'one'}\n", 1, "Python dictionary, with single quotes.*json.dumps"),
    "lines that end in CR alone": (rows().replace(b"\n", b"\r"), 1, "end in CR alone"),
    "a bare tab in the text": (
        rows('{"text": "一\t二"}\n'),
        3,
        r"control character stands at column 12: write \\u0009",
    ),
    "a word without quotes": (rows('{"text": 山}\n'), 3, "JSON: Expecting value at column 10"),
    "brackets nested without end": (rows('{"text": "一", "more": ' + nested(200_000) + "}\n"), 3, "nested too deeply"),
    "a number without end": (rows('{"text": "一", "n": ' + "9" * 5000 + "}\n"), 3, "thousands of digits"),
    "a number as a line": (rows("5\n"), 3, "a int, where.*is needed"),
    "a text as a line": (rows('"一"\n'), 3, "a str, where.*is needed"),
    "null as a line": (rows("null\n"), 3, "a NoneType, where.*is needed"),
    "true as a line": (rows("true\n"), 3, "a bool, where.*is needed"),
    "a list as a line": (rows('["一", "二"]\n'), 3, "a list, where.*is needed"),
    # an object, but no row of text
    "an empty object": (rows("{}\n"), 3, 'no "text" in it; it has nothing'),
    "another key": (rows('{"content": "一"}\n'), 3, "it has 'content'. Name the key that holds the text \"text\""),
    "a capital in the key": (rows('{"Text": "一"}\n'), 3, "it has 'Text'. Name the key"),
    "a blank in the key": (rows('{" text": "一"}\n'), 3, "it has ' text'. Name the key"),
    "fine-tuning conversations": (
        b'{"conversations": [{"role": "user", "content": "one"}]}\n',
        1,
        r"fine-tuning \(SFT",
    ),
    "fine-tuning instructions": (b'{"instruction": "one", "input": "", "output": "two"}\n', 1, "fine-tuning"),
    "preference pairs": (b'{"chosen": [], "rejected": []}\n', 1, "fine-tuning"),
    "a thousand keys": (rows(json.dumps({f"key {n}": n for n in range(1000)}) + "\n"), 3, "'key 7', …"),
    "a key without end": (rows(json.dumps({"k" * 5000: 1}) + "\n"), 3, "'k{30}'…"),
    "a number as text": (rows('{"text": 5}\n'), 3, '"text" is a int, where a string is needed'),
    "NaN as text": (rows('{"text": NaN}\n'), 3, '"text" is a float'),
    "true as text": (rows('{"text": true}\n'), 3, '"text" is a bool'),
    "null as text": (rows('{"text": null}\n'), 3, '"text" is a NoneType'),
    "a list as text": (rows('{"text": ["一"]}\n'), 3, '"text" is a list'),
    "an object as text": (rows('{"text": {"text": "一"}}\n'), 3, '"text" is a dict'),
    "an empty text": (rows('{"text": ""}\n'), 3, '"text" is empty; remove the line'),
    "blanks as text": (rows('{"text": " \\n\\t　"}\n'), 3, "is empty"),
    "markers with no text between": (rows('{"text": "<s></s> <s> </s>"}\n'), 3, "markers and no text between them"),
    "later markers with no text": (rows('{"text": "<|im_start|><|im_end|>"}\n'), 3, "markers and no text"),
    "half of a character": (rows('{"text": "\\ud83d"}\n'), 3, "half of a character"),
    "the other half": (rows('{"text": "好\\ude00"}\n'), 3, "half of a character"),
    "the text twice": (rows('{"text": "一", "text": "二"}\n'), 3, '"text" stands in it twice'),
    # no rows at all
    "an empty file": (b"", None, "holds no rows"),
    "blank lines only": (b"\n \n\t\r\n\n", None, "holds no rows"),
    "a byte-order mark only": (codecs.BOM_UTF8, None, "holds no rows"),
    "a byte-order mark and a line break": (codecs.BOM_UTF8 + b"\r\n", None, "holds no rows"),
}


def a_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def a_socket(path: Path) -> Path:
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(here)
    return path


def a_link(path: Path, target: Path | str) -> Path:
    path.symlink_to(target)
    return path


def unreadable(path: Path) -> Path:
    path.write_bytes(rows())
    path.chmod(0)
    return path


def a_long_line(path: Path) -> Path:
    with open(path, "wb") as file:
        file.write(b'{"text": "')
        file.truncate(400 << 20)  # a hole: takes no room on the disk
    return path


def a_long_array(path: Path) -> Path:
    one = json.dumps({"text": "x" * 9990}).encode()
    path.write_bytes(b"[" + b", ".join([one] * 6800) + b"]")
    return path


# name: (what makes it at a path and gives the path to use, what the message has to say)
PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a missing file": (lambda path: path, "is not there.*minimind_core.download"),
    "a file in a missing folder": (lambda path: path.parent / "none" / path.name, "is not there"),
    "a file under a file": (lambda path: path.parent / "corpus.jsonl" / path.name, "is not there"),
    "a folder": (lambda path: path.mkdir() or path, "is a folder; give the .jsonl or .txt file inside it"),
    "a link to nothing": (lambda path: a_link(path, "gone.jsonl"), "is a link to 'gone.jsonl', which is not there"),
    "links in a circle": (lambda path: a_link(path, path.name), "links lead round in a circle"),
    "a pipe": (a_pipe, "is a pipe, which can't be read twice"),
    "a socket": (a_socket, "is a socket"),
    "a device": (lambda path: a_link(path, "/dev/zero"), "is a device"),
    "a name that is too long": (lambda path: path.parent / ("名" * 200 + path.name), "name is too long"),
    "a file that may not be read": (unreadable, "could not be read: permission denied"),
    "a line of hundreds of MB": (a_long_line, "line 1: longer than 64 MiB.*binary file"),
    "an array of 68 MB on one line": (a_long_array, "line 1: longer than 64 MiB.*whole JSON array"),
}
LARGE = {"a line of hundreds of MB", "an array of 68 MB on one line"}  # tried once only
NEEDS_UNIX = {"a pipe", "a socket", "a device", "a link to nothing", "links in a circle"}


def made(name: str, folder: Path) -> tuple[Path, int | None, str]:
    """The bad corpus of that name, the line to be named, and what must be said."""
    if name in FILES:
        content, line, said = FILES[name]
        (folder / "bad.jsonl").write_bytes(content)
        return folder / "bad.jsonl", line, said
    if (name == "a file that may not be read" and ROOT) or (name in NEEDS_UNIX and os.name == "nt"):
        pytest.skip("root may read every file" if ROOT else "there is no such thing on Windows")
    maker, said = PLACES[name]
    return maker(folder / "bad.jsonl"), None, said


def words(bench: Bench, **changes: object) -> list[str]:
    """The flags of a tiny run, as they are typed; None leaves one out."""
    flags = {"data_path": bench.corpus, "valid_path": bench.valid, "tokenizer": bench.tokenizer}
    flags |= {"out_dir": bench.folder / "run", "dim": 16, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2}
    flags |= {"vocab_size": 400, "max_seq_len": 32, "batch_size": 4, "device": "cpu"}
    given = {name: value for name, value in (flags | changes).items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


@pytest.fixture
def refused(bench, capsys, monkeypatch) -> Callable[..., str]:
    """`refused(data_path=…)` starts a run, which has to end in one line and leave nothing behind; gives the line."""
    monkeypatch.setenv("MINIMIND_OUT", str(bench.folder / "out"))

    def start(**changes: object) -> str:
        assert training.main(words(bench, **changes)) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and said.err.count("\n") == 1 and len(said.err) < 700, said.err
        assert "Traceback" not in said.err + said.out
        assert not (bench.folder / "run").exists()
        left = [path.name for path in (bench.folder / "out").rglob("*") if path.parent.name == "cache"]
        assert all(name.startswith("corpus-") for name in left), left  # the good corpus, where another was bad
        return said.err

    return start


# --- what is refused ------------------------------------------------------------------------------------------------


CASES = [
    (name, flag)
    for name in [*FILES, *PLACES]
    for flag in ("data_path", "valid_path")
    if name not in LARGE or flag[0] == "d"
]


@pytest.mark.parametrize(("name", "flag"), CASES, ids=[f"{name} as {flag}" for name, flag in CASES])
def test_a_bad_corpus_ends_in_one_line_that_names_file_line_and_reason(bench, refused, name, flag):
    path, line, said = made(name, bench.folder)
    start = time.monotonic()
    error = refused(**{flag: path})
    assert path.name in error and time.monotonic() - start < 5
    assert re.search(said, error), error
    assert line is None or f"{path.name}, line {line}: " in error


@pytest.mark.parametrize(
    "name", ["a web page", "a gzip archive", "a number as text", "an empty file", "a folder", "a pipe"]
)
def test_a_bad_corpus_is_noticed_before_a_tokenizer_is_trained_on_it(bench, refused, name):
    path, line, said = made(name, bench.folder)
    without = [word for word in words(bench, data_path=path) if word != str(bench.tokenizer)]
    without.remove("--tokenizer")
    assert re.search(said, refused(data_path=path, tokenizer=bench.tokenizer))
    assert training.main(without) == 2
    assert not (bench.folder / "out" / "tokenizers").exists()


@pytest.mark.parametrize(
    "name", [*FILES, "a folder", "a missing file", "a pipe", "a device", "a line of hundreds of MB"]
)
def test_a_bad_corpus_is_no_tokenizer_either(bench, refused, name):
    path, _, _ = made(name, bench.folder)
    error = refused(tokenizer=path)
    assert re.search(r"bad\.jsonl\S* (is not a tokenizers file|is not there|is no file)", error), error


def test_a_long_line_is_not_read_into_memory(tmp_path):
    path = a_long_line(tmp_path / "bad.jsonl")
    tracemalloc.start()
    try:
        for read in (describe, lambda path: list(iter_rows(path))):
            with pytest.raises(CorpusError, match="longer than 64 MiB"):
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * corpus.LONGEST_LINE
    finally:
        tracemalloc.stop()


def test_the_files_name_is_made_once_and_not_for_each_row(tmp_path, monkeypatch):
    made_for: list[Path] = []
    monkeypatch.setattr(
        corpus, "shown", lambda path: made_for.append(path) or str(path)
    )  # it asks the system each time
    path = write_rows(tmp_path / "rows.jsonl", tiny_texts(50))
    assert len(list(iter_rows(path))) == 50 and len(made_for) == 1


@pytest.mark.parametrize("longer", [0, 1])
def test_the_longest_line_that_is_read_is_the_one_that_is_named(tmp_path, monkeypatch, longer):
    path = write_rows(tmp_path / "rows.jsonl", ["短", "长" * 100])
    length = len(path.read_bytes().splitlines(keepends=True)[1])
    monkeypatch.setattr(corpus, "LONGEST_LINE", length - longer)
    if longer:
        with pytest.raises(CorpusError, match=r"rows\.jsonl, line 2: longer than"):
            list(iter_rows(path))
    else:
        assert len(list(iter_rows(path))) == 2


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
def test_a_file_that_the_system_does_not_hand_out_is_refused_with_its_reason(bench, refused, monkeypatch, number):
    def failing(path, *more):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(corpus, "open", failing, raising=False)
    assert re.search(r"corpus\.jsonl could not be read: (permission|the disk|the network disk)", refused())


def shortened(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def appended(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(ROW.encode())


def exchanged(path: Path) -> None:
    other = write_rows(path.with_name("other.jsonl"), tiny_texts(26, start=1))
    os.replace(other, path)


@pytest.mark.parametrize("change", [shortened, appended, exchanged, Path.unlink], ids=lambda change: change.__name__)
def test_a_corpus_that_changes_while_it_is_read_is_refused(bench, refused, monkeypatch, change):
    really = corpus._text_of

    def changing(where, number, raw):
        if number == 20 and "corpus.jsonl" in where:
            change(bench.corpus)
        return really(where, number, raw)

    monkeypatch.setattr(corpus, "_text_of", changing)
    error = refused()
    assert re.search(r"corpus\.jsonl.*(changed while it was being encoded|could not be read: it is not there)", error)


def test_a_corpus_whose_name_has_a_line_break_is_still_named_on_one_line(bench, refused):
    path = bench.folder / "two\nlines.jsonl"
    path.write_text("no rows", encoding="utf-8")
    assert r"two\nlines.jsonl, line 1" in refused(data_path=path)


def test_what_lies_beside_a_missing_file_is_named_up_to_a_length(tmp_path):
    for number in range(30):
        (tmp_path / f"rows{number:02}.jsonl").touch()
    with pytest.raises(CorpusError, match=r"rows00\.jsonl.*rows07\.jsonl and 22 more") as caught:
        list(iter_rows(tmp_path / "bad.jsonl"))
    assert "rows08" not in str(caught.value)


# --- any bytes, any line, any JSON ------------------------------------------------------------------------------------


def first_bad_line(content: bytes) -> int | None:
    """The first line that is no row, found in the plainest way; 0 where there is no row at all, None if all is well."""
    found = 0
    for number, raw in enumerate(content.split(b"\n"), 1):
        raw = raw.removeprefix(codecs.BOM_UTF8)
        if not raw.strip():
            continue
        found += 1
        try:
            pairs = json.loads(raw.decode("utf-8"), object_pairs_hook=list)
            texts = [value for key, value in pairs if key == "text"]
            bare = re.sub(r"<s>|</s>|<\|im_start\|>|<\|im_end\|>", "", texts[0])
            texts[0].encode("utf-8")
            good = len(texts) == 1 and raw.lstrip()[:1] == b"{" and bare.strip()
        except (ValueError, TypeError, IndexError, RecursionError, AttributeError):
            good = False
        if not good:
            return number
    return None if found else 0


def either_reads_or_names_the_line(folder: Path, content: bytes) -> None:
    path = folder / "any.jsonl"
    path.write_bytes(content)
    bad = first_bad_line(content)
    if bad is None:
        assert len(list(iter_rows(path))) == sum(
            bool(r.removeprefix(codecs.BOM_UTF8).strip()) for r in content.split(b"\n")
        )
        return
    with pytest.raises(CorpusError) as caught:
        list(iter_rows(path))
    said = str(caught.value)
    assert re.search(rf"any\.jsonl, line {bad}: " if bad else r"any\.jsonl holds no rows", said), (bad, said)
    assert "\n" not in said and len(said) < 600 and said.isprintable()


@given(content=st.binary(max_size=200))
@example(content=b"\xef\xbb\xbf\xef\xbb\xbf{}")
@example(content=b'{"text": "a"}\n\x0c\n{"text"')
def test_any_bytes_are_read_or_refused(tmp_path, content):
    either_reads_or_names_the_line(tmp_path, content)


mutation = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 10_000), st.integers(1, 255)),
    st.tuples(st.just("insert"), st.integers(0, 10_000), st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("delete"), st.integers(0, 10_000), st.integers(1, 12)),
    st.tuples(st.just("cut"), st.integers(0, 10_000), st.none()),
)


def mutated(content: bytes, what: str, place: int, more) -> bytes:
    """`content` changed at a place."""
    place %= len(content)
    if what == "flip":
        return content[:place] + bytes([content[place] ^ more]) + content[place + 1 :]
    if what == "insert":
        return content[:place] + more + content[place:]
    return content[:place] + (content[place + more :] if what == "delete" else b"")


VALID = "".join(
    json.dumps({"text": text}, ensure_ascii=n % 2 == 0) + "\n" for n, text in enumerate(tiny_texts(6))
).encode()


@given(changes=st.lists(mutation, min_size=1, max_size=2))
@example(changes=[("delete", VALID.index(b"\n"), 1)])
@example(changes=[("insert", 40, b"\n")])
def test_a_changed_place_is_harmless_or_its_line_is_named(tmp_path, changes):
    content = VALID
    for change in changes:
        content = mutated(content or b"\n", *change)
    either_reads_or_names_the_line(tmp_path, content)


any_text = st.text(st.characters(), max_size=12)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.just("text") | any_text, inner, max_size=4),
    max_leaves=8,
)


@given(value=any_json, place=st.integers(0, 3), ascii_only=st.booleans())
@example(value={"text": "\ud83d"}, place=1, ascii_only=True)
def test_any_json_is_a_row_or_refused(tmp_path, value, place, ascii_only):
    lines = [ROW.encode()] * 3
    lines.insert(place, (json.dumps(value, ensure_ascii=ascii_only) + "\n").encode("utf-8", "surrogatepass"))
    either_reads_or_names_the_line(tmp_path, b"".join(lines))


# --- what is harmless -------------------------------------------------------------------------------------------------

HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "a byte-order mark": lambda content: codecs.BOM_UTF8 + content,
    "a byte-order mark before each line": lambda content: b"".join(
        codecs.BOM_UTF8 + line for line in lines_of(content)
    ),
    "CRLF": lambda content: content.replace(b"\n", b"\r\n"),
    "blank lines": lambda content: b"\n \n" + content.replace(b"\n", b"\n\n\t\r\n") + b"\n\n",
    "no line break at the end": lambda content: content.rstrip(b"\n"),
    "blanks around the object": lambda content: content.replace(b"{", b"  {  ").replace(b"}\n", b" } \t\n"),
    "keys before the text": lambda content: content.replace(b'{"', b'{"id": 7, "tags": ["a", {"b": null}], "'),
    "keys after the text": lambda content: content.replace(b'"}\n', b'", "source": "text", "x": {"text": 1}}\n'),
    "escapes for every character": lambda content: each_row(content, lambda text: escaped(text)),
    "escapes where they are needed": lambda content: each_row(content, lambda text: json.dumps(text)),
    "later markers": lambda content: content.replace(b"<s>", b"<|im_start|>").replace(b"</s>", b"<|im_end|>"),
    "closing markers only": lambda content: content.replace(b"<s>", b"").replace(b"</s>", b"<|im_end|>"),
}


def lines_of(content: bytes) -> list[bytes]:
    return [line + b"\n" for line in content.split(b"\n") if line]


def each_row(content: bytes, write: Callable[[str], str]) -> bytes:
    return b"".join(b'{"text": ' + write(json.loads(line)["text"]).encode() + b"}\n" for line in lines_of(content))


def escaped(text: str) -> str:
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[n]:02X}{units[n + 1]:02x}" for n in range(0, len(units), 2)) + '"'


def same(one, two) -> bool:
    """Whether two encoded corpora hold the same rows, segments and choices."""
    names = ("tokens", "offsets", "segments", "text_hash")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in names)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_quirk_changes_no_id(bench, tiny_tokenizer, name):
    quirky = bench.folder / "quirky.jsonl"
    quirky.write_bytes(HARMLESS[name](bench.corpus.read_bytes()))
    assert quirky.read_bytes() != bench.corpus.read_bytes()
    one, two = (encode_corpus(path, tiny_tokenizer, bench.folder / "cache") for path in (bench.corpus, quirky))
    assert same(one, two) and len(one) == 26


segment = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs"], exclude_characters="<>|")
    | st.sampled_from("\u2028\u2029\x85\x00"),
    min_size=1,
    max_size=12,
).filter(lambda text: text.strip() == text)
quirks = st.fixed_dictionaries(
    {
        "edition": st.sampled_from(["s", "im", "im_end"]),
        "ascii": st.booleans(),
        "before": st.sampled_from([b"", b" ", b"\t", b"\n", b"\r\n \n", codecs.BOM_UTF8]),
        "after": st.sampled_from([b"\n", b"\r\n", b" \n", b"\n\n"]),
        "more": st.dictionaries(st.sampled_from(["id", "文", "source"]), any_json, max_size=2),
        "last": st.booleans(),
    }
)


def as_edition(segments: list[str], edition: str) -> str:
    begin, end = {"s": ("<s>", "</s>"), "im": ("<|im_start|>", "<|im_end|>"), "im_end": ("", "<|im_end|>")}[edition]
    return " ".join(begin + segment + end for segment in segments)


@given(table=st.lists(st.tuples(st.lists(segment, min_size=1, max_size=3), quirks), min_size=1, max_size=4))
def test_rows_with_any_quirks_are_read_as_clean_ones(tmp_path, table):
    content = b""
    for segments, quirk in table:
        text = {"text": as_edition(segments, quirk["edition"])}
        row = quirk["more"] | text if quirk["last"] else text | quirk["more"]
        ascii_only = quirk["ascii"] or any(0xD800 <= ord(sign) < 0xE000 for sign in str(row))
        line = json.dumps(row, ensure_ascii=ascii_only)
        content += quirk["before"] + line.encode("utf-8", "backslashreplace") + quirk["after"]
    path = tmp_path / "quirky.jsonl"
    path.write_bytes(content)
    assert list(iter_texts(path)) == [as_edition(segments, "s") for segments, _ in table]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\u0000", "\ufeff", "\u200b"], ids=ascii)
def test_signs_that_look_like_line_ends_stay_inside_a_text(tmp_path, tiny_tokenizer, sign):
    text = f"<s>山{sign}水</s>"
    encoded = [
        encode_corpus(write_rows(tmp_path / f"{way}.jsonl", [text]), tiny_tokenizer, tmp_path / "cache")
        for way in ("one", "two")
    ]
    escaped_file = tmp_path / "three.jsonl"
    escaped_file.write_bytes(each_row((tmp_path / "one.jsonl").read_bytes(), escaped))
    encoded.append(encode_corpus(escaped_file, tiny_tokenizer, tmp_path / "cache"))
    assert same(encoded[0], encoded[1]) and same(encoded[0], encoded[2])
    assert tiny_tokenizer.decode(encoded[0].row(0).tolist()) == f"山{sign}水"


def test_where_a_file_lies_and_what_it_is_called_changes_nothing(bench, tiny_tokenizer):
    content = bench.corpus.read_bytes()
    places = [bench.folder / "语料 一.jsonl", bench.folder / "a b" / "rows.txt", bench.folder / ("n" * 240 + ".jsonl")]
    for place in places:
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content)
    places[0].chmod(0o444)
    if os.name != "nt":
        places.append(a_link(bench.folder / "link.jsonl", bench.corpus))
        places.append(bench.folder / os.fsdecode(b"\xff\xfe.jsonl"))
        places[-1].write_bytes(content)
    clean = encode_corpus(bench.corpus, tiny_tokenizer, bench.folder / "cache")
    assert all(same(clean, encode_corpus(place, tiny_tokenizer, bench.folder / "cache")) for place in places)


@pytest.mark.parametrize(
    "texts", [["<s>山</s>"], ["山"], ["<s>" + "山是红色的。" * 50 + "</s>"]], ids=["1 row", "bare", "long"]
)
@pytest.mark.parametrize("recipe", ["fast", "seed"])
def test_a_corpus_of_one_row_short_or_long_trains(bench, capsys, monkeypatch, texts, recipe):
    monkeypatch.setenv("MINIMIND_OUT", str(bench.folder / "out"))
    path = write_rows(bench.folder / "one.jsonl", texts)
    assert training.main(words(bench, data_path=path, recipe=recipe, max_steps=1)) == 0
    assert (bench.folder / "run" / "pretrain_16.pth").is_file() and capsys.readouterr().err == ""


if __name__ == "__main__":
    print("\n".join([*FILES, *PLACES, *(f"harmless: {name}" for name in HARMLESS)]))

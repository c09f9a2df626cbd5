"""Reading a corpus: what is accepted, the three marker editions, and a file and a line in every complaint."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from conftest import tiny_texts
from hypothesis import assume, given
from hypothesis import strategies as st

from minimind_core import (
    CorpusError,
    default_corpus,
    describe,
    encode_corpus,
    iter_rows,
    iter_texts,
    marker_edition,
    normalise_markers,
    split_segments,
)
from minimind_core.paths import SAMPLE

GOOD = '{"text": "<s>一</s>"}\n'


def written(folder: Path, content: str | bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


# --- what is fine -------------------------------------------------------------------------------------------------


def test_rows_come_with_their_line_numbers(tmp_path):
    path = written(tmp_path, '{"text": "一"}\n\n  \n{"text": "二", "more": 1}\n')
    assert list(iter_rows(path)) == [(1, "一"), (4, "二")]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        ("\n\n" + GOOD + "\n").encode(),
        GOOD.rstrip("\n").encode(),
        b'{"text": "<s>\\u4e00</s>"}\n',
        ("  " + GOOD).encode(),
    ],
    ids=["byte-order mark", "CRLF", "blank lines", "no final newline", "escaped", "indented"],
)
def test_harmless_differences_between_files_are_harmless(tmp_path, content):
    assert list(iter_texts(written(tmp_path, content))) == ["<s>一</s>"]


def test_line_separators_inside_a_text_do_not_end_a_line(tmp_path):
    text = "一\u2028二\u2029三\x85四\x0b五"
    path = written(tmp_path, json.dumps({"text": text}, ensure_ascii=False) + "\n" + GOOD)
    assert [line for line, _ in iter_rows(path)] == [1, 2]
    assert next(iter(iter_texts(path))) == text


@pytest.mark.parametrize("limit", [0, 1, 3, 10])
def test_a_limit_bounds_the_rows(tmp_path, limit):
    path = written(tmp_path, GOOD * 5)
    assert len(list(iter_rows(path, limit))) == min(limit, 5)


def test_reading_stops_at_the_limit_before_a_broken_line(tmp_path):
    assert len(list(iter_rows(written(tmp_path, GOOD * 2 + "broken\n"), limit=2))) == 2


# --- what is not --------------------------------------------------------------------------------------------------

LONG_NUMBER = "1" * 5000
BROKEN = {
    "a web page": ("<!DOCTYPE html>\n<html><head>Sign in</head></html>\n", 1, ["web page", "download"]),
    "a web page without a doctype": ("\n<html>\n<body>404</body></html>\n", 2, ["web page"]),
    "a Git LFS pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:25b0\nsize 16\n", 1, ["LFS pointer"]),
    "a gzip archive": (gzip.compress(GOOD.encode() * 50), 1, ["not UTF-8", "unpack"]),
    "a zip archive": (b"PK\x03\x04\x14\x00\x00\x00\x08\x00rows.jsonl", 1, ["unpack"]),
    "a cut last line": (GOOD + '{"text": "<s>二', 2, ["not a JSON object", "cut short"]),
    "a line cut inside a character": (GOOD.encode() + '{"text": "二'.encode()[:-1], 2, ["not UTF-8", "cut short"]),
    "another encoding": (GOOD.encode() + '{"text": "中文"}\n'.encode("gb18030"), 2, ["not UTF-8", "byte 10", "0xd6"]),
    "UTF-16": (GOOD.encode("utf-16"), 1, ["UTF-16"]),
    "no text": (GOOD + '{"prompt": "一", "answer": "二"}\n', 2, ['no "text"', "'prompt', 'answer'"]),
    "an empty object": ("{}\n", 1, ['no "text"', "nothing"]),
    "a number as text": (GOOD + '{"text": 5}\n', 2, ["int", "string"]),
    "a list as text": ('{"text": ["一"]}\n', 1, ["list", "string"]),
    "no text at all": ('{"text": null}\n', 1, ["NoneType", "string"]),
    "an empty text": (GOOD * 3 + '{"text": "  "}\n', 4, ["empty"]),
    "a list": (GOOD + '["一"]\n', 2, ["list", '{"text": "…"}']),
    "a bare string": ('"一"\n', 1, ["str"]),
    "a whole JSON array over lines": ("[\n" + GOOD, 1, ["not a JSON object"]),
    "half of a character": (GOOD + '{"text": "\\ud83d"}\n', 2, ["surrogate"]),
    "two objects on a line": (GOOD.strip() * 2 + "\n", 1, ["not a JSON object"]),
    "brackets without end": ("[" * 100_000 + "\n", 1, ["not a JSON object"]),
    "a number without end": (GOOD + f'{{"text": "一", "n": {LONG_NUMBER}}}\n', 2, ["not a JSON object"]),
}


@pytest.mark.parametrize("content,line,said", BROKEN.values(), ids=BROKEN)
def test_what_is_not_a_row_is_refused_naming_file_line_and_reason(tmp_path, content, line, said):
    path = written(tmp_path, content, "broken.jsonl")
    with pytest.raises(CorpusError) as caught:
        list(iter_rows(path))
    for words in ("broken.jsonl", f"line {line}", *said):
        assert words in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf\n"], ids=["empty", "blank lines", "only a mark"])
def test_a_file_without_rows_is_refused(tmp_path, content):
    with pytest.raises(CorpusError, match=r"rows\.jsonl holds no rows"):
        list(iter_rows(written(tmp_path, content)))


def test_a_folder_is_refused_with_what_to_give_instead(tmp_path):
    with pytest.raises(CorpusError, match=r"is a folder; give the \.jsonl or \.txt file"):
        list(iter_rows(tmp_path))


def test_a_missing_file_is_answered_by_what_lies_there_and_how_to_get_one(tmp_path):
    written(tmp_path, GOOD, "other.jsonl")
    with pytest.raises(CorpusError) as caught:
        list(iter_rows(tmp_path / "nothing.jsonl"))
    for words in ("nothing.jsonl", "other.jsonl", "minimind_core.download", "sample.jsonl"):
        assert words in str(caught.value)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = written(tmp_path, GOOD)
    path.chmod(0)
    with pytest.raises(CorpusError, match="could not be read"):
        list(iter_rows(path))


# --- marker editions ----------------------------------------------------------------------------------------------

EDITIONS = {
    "s": "<s>天是蓝色的。</s> <s>一加一？\n得二。</s> <s>你好</s>",
    "im": "<|im_start|>天是蓝色的。<|im_end|> <|im_start|>一加一？\n得二。<|im_end|> <|im_start|>你好<|im_end|>",
    "im_end": "天是蓝色的。<|im_end|> 一加一？\n得二。<|im_end|> 你好<|im_end|>",
}


@pytest.mark.parametrize("edition", EDITIONS)
def test_the_three_marker_editions_are_recognised_and_read_alike(edition):
    text = EDITIONS[edition]
    assert marker_edition(text) == edition
    assert normalise_markers(text) == EDITIONS["s"]
    assert split_segments(text) == ["天是蓝色的。", "一加一？\n得二。", "你好"]


def test_closing_marks_without_a_space_between_them_are_read_alike_too():
    assert normalise_markers("一<|im_end|>二<|im_end|>") == "<s>一</s> <s>二</s>"


@pytest.mark.parametrize(
    "text",
    ["没有标记的一行。", "一 < 二，二 > 一", "说到<|im_end|>这个词", EDITIONS["s"], "<s>只有开头", "只有结尾</s>"],
)
def test_rows_of_the_first_edition_or_without_markers_stay_as_they_are(text):
    assert normalise_markers(text) == text


def test_normalising_twice_changes_nothing_more():
    for text in EDITIONS.values():
        once = normalise_markers(text)
        assert normalise_markers(once) == once


@pytest.mark.needs_shared
def test_real_rows_of_two_editions_read_alike(shared):
    first, later = (list(iter_texts(shared / "data" / f"pretrain_hq_60{end}.jsonl")) for end in ("", "_im"))
    assert len(first) == 60 and first == later
    assert describe(shared / "data" / "pretrain_hq_60_im.jsonl").editions == {"im": 60}


# --- any text -----------------------------------------------------------------------------------------------------

any_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(text=any_text, ascii_only=st.booleans())
def test_any_text_survives_a_json_line(tmp_path, text, ascii_only):
    assume(text.strip())
    path = written(tmp_path, json.dumps({"text": text}, ensure_ascii=ascii_only) + "\n" + GOOD)
    assert list(iter_rows(path)) == [(1, text), (2, "<s>一</s>")]


@given(segments=st.lists(any_text, min_size=1, max_size=4), edition=st.sampled_from(["s", "im"]))
def test_any_text_survives_the_way_from_a_row_to_ids_and_back(tmp_path, tiny_tokenizer, segments, edition):
    assume(not any(mark in segment for segment in segments for mark in ("<s>", "</s>", "<unk>", "<|im_")))
    start, end = {"s": ("<s>", "</s>"), "im": ("<|im_start|>", "<|im_end|>")}[edition]
    row = " ".join(start + segment + end for segment in segments)
    path = written(tmp_path, json.dumps({"text": row}) + "\n")
    encoded = encode_corpus(path, tiny_tokenizer, cache=tmp_path / "cache")
    decoded = tiny_tokenizer.decode(encoded.row(0).tolist(), skip_special_tokens=False)
    assert decoded == " ".join(f"<s>{segment}</s>" for segment in segments)


# --- describing and choosing --------------------------------------------------------------------------------------


def test_describe_counts_rows_segments_lengths_and_duplicates(corpus):
    path = corpus(["<s>一二</s> <s>三</s>", "<s>一二</s>", "<s>一二</s>", "四<|im_end|>", "五五五"])
    report = describe(path)
    assert (report.rows, report.segments, report.segment_lengths) == (5, [2, 1, 1, 1, 1], [2, 1, 2, 2, 1, 3])
    assert report.editions == {"s": 3, "im_end": 1, "none": 1}
    assert report.characters == [18, 9, 9, 11, 3]
    assert report.utf8_bytes == [18 + 6, 9 + 4, 9 + 4, 11 + 2, 9]
    assert (report.duplicate_rows, report.duplicate_segments) == (1, 2)
    assert report.character_counts["一"] == 3 and report.character_counts["五"] == 3
    for words in ("5 rows", "corpus.jsonl", "s: 3", "1 doubled rows, 2 doubled segments"):
        assert words in str(report)


def test_describe_reads_no_further_than_its_limit(corpus):
    assert describe(corpus(tiny_texts(9)), limit=4).rows == 4


def test_without_a_full_corpus_the_sample_is_taken_and_the_reason_said(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIMIND_DATASET", str(tmp_path))
    path, why = default_corpus()
    assert path == SAMPLE and "sample" in why


@pytest.mark.parametrize("name", ["pretrain_hq.jsonl", "pretrain_hq_im.jsonl", "pretrain_t2t_mini.jsonl"])
def test_a_full_corpus_is_taken_where_it_lies_under_the_name_that_download_gives_it(tmp_path, monkeypatch, name):
    monkeypatch.setenv("MINIMIND_DATASET", str(tmp_path))
    written(tmp_path, GOOD, name)
    path, why = default_corpus()
    assert path == tmp_path / name and "full corpus" in why


@pytest.mark.needs_shared
def test_real_questions_and_answers_are_read_to_the_last_line(shared):
    assert sum(1 for _ in iter_texts(shared / "data" / "zh_qa_train.jsonl")) == 4800

"""A .txt file as a corpus: its lines become segments, rows are filled, and what is no text is refused with its line."""

from __future__ import annotations

import codecs
import gzip
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimind_core import CorpusError, describe, encode_corpus, iter_rows, iter_texts, split_segments, train_pretrain
from minimind_core.corpus import texts_at
from minimind_core.corpus_tokenizer import tokenizer_for
from minimind_core.plain_text import ROW_CHARACTERS

BOOK = "山不高，水不深。\n\n风从东边来。\r\n  第三行前后有空格。　\n" + "很长的一行。" * 100 + "\n最后一行没有换行符"


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(BOOK.encode())
    return path


def test_lines_become_segments_and_fill_rows_without_being_cut(book):
    rows = list(iter_rows(book))
    assert [number for number, _ in rows] == [1, 5, 6]
    assert rows[0][1] == "<s>山不高，水不深。</s> <s>风从东边来。</s> <s>第三行前后有空格。</s>"
    assert rows[1][1] == f"<s>{'很长的一行。' * 100}</s>" and rows[2][1] == "<s>最后一行没有换行符</s>"
    assert [segment for text in iter_texts(book) for segment in split_segments(text)] == BOOK.split()


def test_a_limit_counts_rows(book):
    assert len(list(iter_rows(book, limit=2))) == 2


@given(st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), max_size=700), max_size=12))
def test_nothing_is_lost_and_a_row_is_long_only_for_one_long_line(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text("前言\n" + "\n".join(lines), encoding="utf-8")
    kept = [line for line in lines if line and not line.startswith(("<s>", "<|im", "{")) and "</s>" not in line]
    if len(kept) < len([line for line in lines if line]):
        return  # markers are another test's
    rows = [text for _, text in iter_rows(path)]
    segments = [segment for row in rows for segment in row.removeprefix("<s>").removesuffix("</s>").split("</s> <s>")]
    assert segments == ["前言", *kept]
    assert all(len(row) <= ROW_CHARACTERS or "</s> <s>" not in row for row in rows)


def test_a_byte_order_mark_and_markers_at_the_ends_of_a_line_are_left_out(tmp_path):
    path = tmp_path / "marked.TXT"
    path.write_bytes(codecs.BOM_UTF8 + "<s>一</s>\n<|im_start|>二<|im_end|>\n<s></s>\n<s>三</s> <s>四</s>\n".encode())
    assert list(iter_texts(path)) == ["<s>一</s> <s>二</s> <s>三</s> <s>四</s>"]


def test_json_lines_under_the_name_of_a_text_are_json_lines(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text(json.dumps({"text": "一"}) + "\n" + json.dumps({"text": "二"}) + "\n")
    assert [text for _, text in iter_rows(path)] == ["一", "二"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("第一行\n第二行\n".encode("gbk"), "line 1: not UTF-8 .*GBK: save it as UTF-8"),
        ("好的一行\n".encode() + "第二行\n".encode("gbk"), "line 2: not UTF-8 .*GBK"),
        ("第一行\n".encode("utf-16"), "line 1: not UTF-8 .*UTF-16"),
        ("一\n".encode() + b"\0" * 50, "line 2: no plain text.*NUL bytes"),
        (b"<!DOCTYPE html>\n<html>", "line 1: no plain text.*web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "line 1: no plain text.*LFS pointer"),
        (gzip.compress(BOOK.encode()), "line 1: not UTF-8 .*gzip archive: unpack"),
        (b"", "holds no rows; .*a .txt file of plain text"),
        (b" \n\n<s></s>\n", "holds no rows"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, content, said):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=f"bad.txt.*{said}"):
        list(iter_rows(path))


def test_html_further_on_may_be_what_a_text_is_about(tmp_path):
    path = tmp_path / "web.txt"
    path.write_text("网页这样开始：\n<html>\n")
    assert list(iter_texts(path)) == ["<s>网页这样开始：</s> <s><html></s>"]


def test_ranges_of_a_file_share_no_line_and_lose_none(book):
    size = book.stat().st_size
    cuts = [0, 7, 40, 41, 200, size]
    found = [text for a, b in pairwise(cuts) for text in texts_at(book, a, b - a)]
    assert found == [line.strip() for line in BOOK.split("\n") if line.strip()]


def test_a_book_is_described_encoded_and_trained_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path / "out"))
    path = tmp_path / "book.txt"
    path.write_text("\n".join(f"第{n}章说的是第{n % 7}座山和第{n % 5}条河。" for n in range(900)), encoding="utf-8")
    report = describe(path)
    assert report.segments and sum(report.segments) == 900 and max(report.characters) <= ROW_CHARACTERS
    tokenizer, _ = tokenizer_for(path, 300)
    encoded = encode_corpus(path, tokenizer)
    assert len(encoded) == report.rows and len(encoded.segments) == 901
    flags = "--dim 16 --n_layers 1 --n_heads 2 --n_kv_heads 1 --vocab_size 300 --max_seq_len 64 --epochs 1 --device cpu"
    assert train_pretrain.main([*flags.split(), "--data_path", str(path), "--out_dir", str(tmp_path / "run")]) == 0
    assert "Done" in capsys.readouterr().out

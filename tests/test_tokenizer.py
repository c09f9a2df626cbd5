"""The tokenizer: no text is lost on the way to ids and back, training repeats itself, no half character is shown."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from conftest import tiny_texts, write_rows
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from minimind_core import (
    TextStream,
    TokenizerError,
    corpus_tokenizer,
    iter_texts,
    load_tokenizer,
    pieces,
    save_tokenizer,
    tokenizer_for,
    train_tokenizer,
)
from minimind_core.corpus import texts_at
from minimind_core.corpus_tokenizer import training_texts
from minimind_core.paths import SAMPLE, out_dir
from minimind_core.tokenizer import _BYTE_OF, token_byte_lengths, token_bytes, tokenizer_hash

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="session")
def sample_tokenizer():
    """A tokenizer trained on the built-in sample, as the course makes it."""
    return train_tokenizer(iter_texts(SAMPLE), vocab_size=3200)


# --- training -----------------------------------------------------------------------------------------------------


def test_special_tokens_have_the_first_three_ids(sample_tokenizer):
    assert [sample_tokenizer.id_to_token(i) for i in range(3)] == ["<unk>", "<s>", "</s>"]
    assert sample_tokenizer.encode("<s>一</s>").ids[0] == 1 and sample_tokenizer.encode("<s>一</s>").ids[-1] == 2


def test_training_uses_the_vocabulary_that_was_asked_for(sample_tokenizer):
    assert sample_tokenizer.get_vocab_size() == 3200


def test_training_twice_gives_the_same_tokenizer():
    texts = tiny_texts(60)
    assert train_tokenizer(texts, 400).to_str() == train_tokenizer(iter(texts), 400).to_str()


def test_a_short_text_gives_a_smaller_vocabulary_and_still_knows_every_byte():
    tokenizer = train_tokenizer(["一"], vocab_size=6400)
    assert 259 <= tokenizer.get_vocab_size() < 270
    text = "完全没见过的😀文字"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_smallest_vocabulary_is_bytes_and_special_tokens_alone():
    tokenizer = train_tokenizer(tiny_texts(20), vocab_size=259)
    assert tokenizer.get_vocab_size() == 259
    assert len(tokenizer.encode("山a").ids) == 4


@pytest.mark.parametrize("vocab_size", [258, 0, -1, 6400.0, "6400", True, None])
def test_a_vocabulary_that_cannot_be_is_refused(vocab_size):
    with pytest.raises(TokenizerError, match="259"):
        train_tokenizer(["一二三"], vocab_size)


def test_a_single_string_in_place_of_texts_is_refused():
    with pytest.raises(TokenizerError, match="list"):
        train_tokenizer("一段话", 300)


# --- there and back -----------------------------------------------------------------------------------------------


@given(text=any_text)
def test_any_text_comes_back_from_its_ids(tiny_tokenizer, text):
    ids = tiny_tokenizer.encode(text, add_special_tokens=False).ids
    assert tiny_tokenizer.decode(ids, skip_special_tokens=False) == text


@given(text=any_text)
def test_tokens_stand_for_exactly_the_bytes_of_a_text(tiny_tokenizer, text):
    ids = [i for i in tiny_tokenizer.encode(text, add_special_tokens=False).ids if i > 2]
    marks = "".join(tiny_tokenizer.id_to_token(i) for i in tiny_tokenizer.encode(text).ids if i <= 2)
    raw = b"".join(token_bytes(tiny_tokenizer, i) for i in ids)
    lengths = token_byte_lengths(tiny_tokenizer)
    assert len(raw) + len(marks) == len(text.encode()) and sum(lengths[i] for i in ids) == len(raw)
    assert marks or raw == text.encode()


def test_special_tokens_and_unknown_ids_stand_for_no_bytes(tiny_tokenizer):
    assert token_byte_lengths(tiny_tokenizer, 500)[:3] == [0, 0, 0]
    assert token_byte_lengths(tiny_tokenizer, 500)[400:] == [0] * 100
    assert token_bytes(tiny_tokenizer, 10_000) is None


def test_the_byte_alphabet_is_the_librarys():
    assert set(_BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(_BYTE_OF.values()) == list(range(256))


def test_pieces_are_shown_as_a_person_reads_them():
    tokenizer = train_tokenizer(["ab"], vocab_size=259)
    ids = tokenizer.encode("<s>a山</s>").ids
    assert pieces(tokenizer, [*ids, 9999]) == ["<s>", "a", "⟨e5⟩", "⟨b1⟩", "⟨b1⟩", "</s>", "⟨id 9999?⟩"]


def test_pieces_of_a_known_text_join_to_it(sample_tokenizer):
    text = next(iter_texts(SAMPLE))
    shown = pieces(sample_tokenizer, sample_tokenizer.encode(text).ids)
    assert sum("⟨" not in piece for piece in shown) > len(shown) / 2
    raw = b"".join(
        bytes.fromhex(re.sub("[⟨⟩]", "", piece)) if piece.startswith("⟨") else piece.encode() for piece in shown
    )
    assert raw.decode() == text


# --- files --------------------------------------------------------------------------------------------------------


def test_a_saved_tokenizer_loads_from_its_folder_and_from_its_file(tmp_path, tiny_tokenizer):
    file = save_tokenizer(tiny_tokenizer, tmp_path / "kept")
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["tokenizer.json"]
    for place in (tmp_path / "kept", file, str(file)):
        assert load_tokenizer(place).to_str() == tiny_tokenizer.to_str()


def test_equal_tokenizers_share_a_hash_and_others_do_not(tmp_path, tiny_tokenizer):
    save_tokenizer(tiny_tokenizer, tmp_path)
    assert tokenizer_hash(load_tokenizer(tmp_path)) == tokenizer_hash(tiny_tokenizer)
    assert tokenizer_hash(train_tokenizer(tiny_texts(60), 399)) != tokenizer_hash(tiny_tokenizer)


def test_truncation_and_padding_kept_in_a_file_are_switched_off(tmp_path, tiny_tokenizer):
    spoilt = Tokenizer.from_str(tiny_tokenizer.to_str())
    spoilt.enable_truncation(4)
    spoilt.enable_padding(length=100)
    spoilt.save(str(tmp_path / "tokenizer.json"))
    text = tiny_texts(1)[0]
    assert load_tokenizer(tmp_path).encode(text).ids == tiny_tokenizer.encode(text).ids


def test_a_missing_tokenizer_is_named(tmp_path):
    for place in (tmp_path, tmp_path / "no" / "tokenizer.json"):
        with pytest.raises(TokenizerError, match=r"tokenizer\.json is not there"):
            load_tokenizer(place)


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"model": {"type": "BPE"}}', json.dumps({"text": "一"})])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not a tokenizers file"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_with_other_special_tokens_is_refused(tmp_path):
    other = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=r"must be <unk>, <s>, </s>; they are \['<pad>', '<s>', '</s>'\]"):
        load_tokenizer(tmp_path)


def test_miniminds_later_tokenizer_is_recognised(tmp_path):
    later = Tokenizer(
        models.WordLevel({"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}, unk_token="<|im_end|>")
    )
    later.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="later tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.needs_shared
def test_the_references_tokenizer_loads(shared):
    tokenizer = load_tokenizer(shared / "data" / "minimind_tokenizer")
    assert tokenizer.get_vocab_size() == 6400
    text = "鉴别一组中文文章的风格和特点。😀"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_corpus_gets_its_own_tokenizer_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path / "out"))
    path = write_rows(tmp_path / "rows.jsonl", tiny_texts(30))
    first, where = tokenizer_for(path, 300)
    again, where_again = tokenizer_for(path, 300)
    assert "now" in where and "earlier" in where_again and first.to_str() == again.to_str()
    wider, where_wider = tokenizer_for(path, 320)
    assert "now" in where_wider and wider.get_vocab_size() > first.get_vocab_size()
    assert len(list((out_dir() / "tokenizers").iterdir())) == 2


def test_a_tokenizer_is_never_picked_up_for_another_corpus_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path / "out"))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    tokenizer_for(write_rows(tmp_path / "a" / "rows.jsonl", tiny_texts(30)), 300)
    for texts in (tiny_texts(31), tiny_texts(30, start=1)):
        _, where = tokenizer_for(write_rows(tmp_path / "b" / "rows.jsonl", texts), 300)
        assert "now" in where


# --- the text that a corpus's tokenizer is trained on ---------------------------------------------------------------


@pytest.fixture
def bounds(monkeypatch):
    """`bounds(size, places)` makes a corpus of more bytes count as large, to be looked at in that many places."""

    def make(size: int, places: int = 10, long: int = 1 << 40) -> None:
        for name, value in (("SAMPLE_BYTES", size), ("SAMPLE_PLACES", places), ("LONG_BYTES", long)):
            monkeypatch.setattr(corpus_tokenizer, name, value)

    return make


def test_a_corpus_below_the_bound_is_taken_whole(tmp_path, bounds):
    path = write_rows(tmp_path / "rows.jsonl", tiny_texts(300))
    bounds(path.stat().st_size)
    assert list(training_texts(path)) == tiny_texts(300)


def test_of_a_larger_corpus_rows_are_taken_evenly_spread_and_always_the_same(tmp_path, bounds):
    path = write_rows(tmp_path / "rows.jsonl", (f"<s>第{n}段</s>" for n in range(3000)))
    size = path.stat().st_size
    bounds(size // 10)
    numbers = [int(re.findall(r"\d+", text)[0]) for text in training_texts(path)]
    assert numbers == [int(re.findall(r"\d+", text)[0]) for text in training_texts(path)]
    assert numbers == sorted(set(numbers)) and 290 <= len(numbers) <= 320
    per_tenth = [sum(300 * tenth <= number < 300 * tenth + 300 for number in numbers) for tenth in range(10)]
    assert min(per_tenth) >= 25 and max(per_tenth) <= 40, per_tenth


@given(cuts=st.lists(st.integers(0, 2000), max_size=8), mark=st.booleans())
def test_texts_of_ranges_side_by_side_are_those_of_the_file(tmp_path, cuts, mark):
    path = write_rows(tmp_path / "rows.jsonl", tiny_texts(12))
    if mark:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    cuts = sorted({0, *(cut for cut in cuts if cut < path.stat().st_size), path.stat().st_size})
    found = [text for start, end in pairwise(cuts) for text in texts_at(path, start, end - start)]
    assert found == tiny_texts(12)


def test_broken_lines_of_a_large_corpus_are_left_for_encoding_to_find(tmp_path, bounds):
    path = write_rows(tmp_path / "rows.jsonl", tiny_texts(300))
    path.write_bytes(path.read_bytes().replace(b'{"text"', b'\n\xff{"text', 20))
    bounds(path.stat().st_size // 2)
    found = list(training_texts(path))
    assert 100 < len(found) < 200 and set(found) <= set(tiny_texts(300)[20:])


def test_long_training_is_announced_and_its_cost_is_told(tmp_path, monkeypatch, capsys, bounds):
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path / "out"))
    path = write_rows(tmp_path / "rows.jsonl", tiny_texts(300))
    bounds(20_000, long=10_000)
    _, where = tokenizer_for(path, 300)
    assert re.search(r"trained on .*rows\.jsonl \(0 of 0 MB, evenly spread\) now in [\d.]+ s with [\d,]+ MB", where), (
        where
    )
    assert capsys.readouterr().out.startswith("Training a tokenizer of 300 tokens on ")
    tokenizer_for(path, 300)
    assert capsys.readouterr().out == ""


# --- text as it comes ---------------------------------------------------------------------------------------------


def streamed(tokenizer, ids) -> list[str]:
    stream = TextStream(tokenizer)
    return [*(stream.push(i) for i in ids), stream.flush()]


@given(ids=st.lists(st.integers(3, 399), max_size=30))
def test_streamed_pieces_join_to_the_full_decode_of_any_ids(tiny_tokenizer, ids):
    size = tiny_tokenizer.get_vocab_size()
    ids = [3 + i % (size - 3) for i in ids]
    assert "".join(streamed(tiny_tokenizer, ids)) == tiny_tokenizer.decode(ids)


@given(ids=st.lists(st.integers(3, 258), max_size=12))
def test_streamed_pieces_join_to_the_full_decode_of_any_bytes(ids):
    tokenizer = train_tokenizer(["一"], vocab_size=259)
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


@given(text=any_text)
def test_a_stream_of_a_real_text_never_shows_half_a_character(text):
    tokenizer = train_tokenizer(["一"], vocab_size=259)  # every character falls apart into its bytes
    text = text.replace("\ufffd", "")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    shown = streamed(tokenizer, ids)
    assert not any("\ufffd" in piece for piece in shown)
    assert "".join(shown) == tokenizer.decode(ids)


def test_a_character_appears_with_its_last_byte():
    tokenizer = train_tokenizer(["一"], vocab_size=259)
    stream = TextStream(tokenizer)
    assert [stream.push(i) for i in tokenizer.encode("a山😀b").ids] == ["a", "", "", "山", "", "", "", "😀", "b"]


def test_an_unfinished_character_is_shown_at_the_end_rather_than_lost():
    tokenizer = train_tokenizer(["一"], vocab_size=259)
    ids = tokenizer.encode("a山").ids[:-1]
    assert streamed(tokenizer, ids) == ["a", "", "", "\ufffd"]


def test_a_special_token_ends_what_was_unfinished_and_shows_nothing_itself():
    tokenizer = train_tokenizer(["一"], vocab_size=259)
    ids = tokenizer.encode("山").ids
    assert streamed(tokenizer, [1, *ids, 2, ids[0], 2, *ids]) == [
        "", "", "", "山", "", "", "\ufffd", "", "", "山", "",
    ]  # fmt: skip

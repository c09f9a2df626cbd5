"""Rows for training: MiniMind's to the id, ours with only what is missing, packed without padding, in seeded order."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_texts, write_rows
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from minimind_core import (
    SAMPLE,
    ConfigError,
    CorpusError,
    EncodedCorpus,
    EpochBatches,
    PackedDataset,
    PretrainDataset,
    encode_corpus,
    encoding,
    load_tokenizer,
    train_tokenizer,
)
from minimind_core import dataset as dataset_module
from minimind_core.batches import batch_loader
from minimind_core.splits import Rows, held_out_limit


@pytest.fixture(scope="session")
def bytewise() -> Tokenizer:
    """A tokenizer with a token for each byte and no others, so that ids can be worked out by hand."""
    return train_tokenizer(["ab"], vocab_size=259)


@pytest.fixture
def rows(corpus, bytewise):
    """`rows(text, max_length, as_minimind)` gives X, Y, loss_mask of a one-row corpus as lists."""

    def make(text: str, max_length: int, as_minimind: bool = False) -> list[list[int]]:
        return [t.tolist() for t in PretrainDataset(corpus([text]), bytewise, max_length, as_minimind)[0]]

    return make


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which `.` is padding or <unk>, `<` is <s>, `>` is </s>, anything else itself."""
    return [{".": 0, "<": 1, ">": 2}.get(c, tokenizer.token_to_id(c)) for c in text]


# --- MiniMind's rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "max_length", "ids", "mask"),
    [
        ("<s>ab</s>", 8, "<<ab>>..", "1111100"),
        ("<s>ab</s>", 6, "<<ab>>", "11111"),
        ("<s>ab</s>", 4, "<<ab", "111"),
        ("ab", 6, "<ab>..", "11100"),
        ("ab", 2, "<a", "1"),
        ("<s>ab", 6, "<<ab>.", "11110"),
        ("ab</s>", 6, "<ab>>.", "11110"),
        ("<s>a<unk>b</s>", 8, "<<a.b>>.", "1101110"),
        ("<s>a</s><s>b</s>", 9, "<<a><b>>.", "11111110"),
    ],
)
def test_miniminds_rows_are_the_ones_worked_by_hand(rows, bytewise, text, max_length, ids, mask):
    X, Y, loss_mask = rows(text, max_length, as_minimind=True)
    wanted = spelled(bytewise, ids)
    assert [wanted[:-1], wanted[1:]] == [X, Y]
    assert loss_mask == [int(c) for c in mask]


@pytest.mark.parametrize("text", ["<|im_start|>ab<|im_end|>", "ab<|im_end|>"])
def test_miniminds_rows_of_a_later_edition_are_those_of_the_first(rows, text):
    assert rows(text, 8, as_minimind=True) == rows("<s>ab</s>", 8, as_minimind=True)


@pytest.mark.needs_shared
def test_miniminds_rows_of_real_text_are_the_references_to_the_id(shared, tmp_path):
    tokenizer = load_tokenizer(shared / "data" / "minimind_tokenizer")
    figures = json.loads((shared / "reference" / "pretrain_rows.json").read_text(encoding="utf-8"))["rows"]
    for row in figures:
        alone = PretrainDataset(write_rows(tmp_path / "row.jsonl", [row["text"]]), tokenizer, row["max_length"], True)
        for edition in ("", "_im"):
            whole = shared / "data" / f"pretrain_hq_60{edition}.jsonl"
            found = PretrainDataset(whole, tokenizer, row["max_length"], as_minimind=True)[row["line"] - 1]
            assert [t.tolist() for t in found] == [row["X"], row["Y"], row["loss_mask"]]
        assert [t.tolist() for t in alone[0]] == [row["X"], row["Y"], row["loss_mask"]]


@pytest.mark.needs_shared
@pytest.mark.parametrize("as_minimind", [True, False])
def test_two_editions_of_real_rows_give_the_same_ids(shared, as_minimind):
    tokenizer = load_tokenizer(shared / "data" / "minimind_tokenizer")
    first, later = (
        PretrainDataset(shared / "data" / f"pretrain_hq_60{end}.jsonl", tokenizer, 512, as_minimind)
        for end in ("", "_im")
    )
    assert len(first) == len(later) == 60
    for i in range(60):
        assert all(torch.equal(a, b) for a, b in zip(first[i], later[i], strict=True))
    assert np.array_equal(first.corpus.text_hash, later.corpus.text_hash)


# --- our rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "max_length", "ids", "mask"),
    [
        ("<s>ab</s>", 6, "<ab>..", "11100"),
        ("<s>ab</s>", 4, "<ab>", "111"),
        ("<s>ab</s>", 3, "<a>", "11"),
        ("<s>ab</s>", 2, "<>", "1"),
        ("ab", 6, "<ab>..", "11100"),
        ("<s>ab", 6, "<ab>..", "11100"),
        ("ab</s>", 6, "<ab>..", "11100"),
        ("<s>a<unk>b</s>", 7, "<a.b>..", "111100"),
        ("<s>a<unk></s>", 4, "<a.>", "111"),
        ("<s>abab</s><s>b</s>", 6, "<abab>", "11111"),
    ],
)
def test_our_rows_add_only_missing_markers_keep_the_last_one_and_mask_by_length(
    rows, bytewise, text, max_length, ids, mask
):
    X, Y, loss_mask = rows(text, max_length)
    wanted = spelled(bytewise, ids)
    assert [wanted[:-1], wanted[1:]] == [X, Y]
    assert loss_mask == [int(c) for c in mask]


@pytest.mark.parametrize("text", [" <s>ab</s>", "<s>ab</s> ", "\n<s>ab</s>\n"])
def test_white_space_around_a_row_does_not_double_its_markers(rows, text):
    ids = rows(text, 12)[0]
    assert (ids.count(1), ids.count(2)) == (1, 1)


@pytest.mark.parametrize("text", ["<s>ab</s> <s>ba</s>", "<|im_start|>ab<|im_end|> <|im_start|>ba<|im_end|>"])
@pytest.mark.parametrize("max_length", [4, 9, 20])
def test_marker_editions_give_the_same_rows(rows, text, max_length):
    assert rows(text, max_length) == rows("ab<|im_end|> ba<|im_end|>", max_length)


def test_rows_are_int64_and_one_shorter_than_max_length(corpus, bytewise):
    for as_minimind in (True, False):
        row = PretrainDataset(corpus(["<s>ab</s>"]), bytewise, 10, as_minimind)[0]
        assert [(t.dtype, tuple(t.shape)) for t in row] == [(torch.int64, (9,))] * 3


@pytest.mark.parametrize("max_length", [1, 0, -5, 8.0, "8", None, True])
def test_a_row_too_short_for_input_and_target_is_refused(corpus, bytewise, max_length):
    with pytest.raises(ConfigError, match="2 or more"):
        PretrainDataset(corpus(["<s>ab</s>"]), bytewise, max_length)


def test_an_unknown_split_is_refused(corpus, bytewise):
    with pytest.raises(ConfigError, match=r"split='test': allowed are all, train, held_out"):
        PretrainDataset(corpus(tiny_texts(20)), bytewise, split="test")


# --- held-out rows ------------------------------------------------------------------------------------------------


def held_out(hashes: np.ndarray) -> np.ndarray:
    return hashes < held_out_limit(hashes.astype(np.uint32))


def test_one_row_in_a_thousand_is_held_out_by_its_text_alone():
    hashes = np.random.default_rng(0).integers(2**32, size=200_000)
    chosen = held_out(hashes)
    assert 150 < chosen.sum() < 250
    assert np.array_equal(held_out(hashes[:50_000]), chosen[:50_000])
    assert np.array_equal(held_out(hashes[::-1]), chosen[::-1])


@pytest.mark.parametrize(("rows", "least"), [(10, 1), (26, 2), (80, 8), (500, 8)])
def test_a_small_corpus_still_holds_some_rows_out(rows, least):
    chosen = held_out(np.random.default_rng(1).integers(2**32, size=rows))
    assert least <= chosen.sum() <= least + 3


def rows_of(corpus: EncodedCorpus, split: str) -> list[int]:
    return list(Rows(corpus.split(split)))


def test_training_and_held_out_rows_share_nothing_and_leave_nothing(corpus, tiny_tokenizer):
    path = corpus(tiny_texts(40))
    encoded = encode_corpus(path, tiny_tokenizer)
    train, held_out = rows_of(encoded, "train"), rows_of(encoded, "held_out")
    assert held_out and sorted(train + held_out) == rows_of(encoded, "all") == list(range(40))


def test_a_corpus_too_small_to_hold_rows_out_says_so(corpus, tiny_tokenizer):
    with pytest.raises(ConfigError, match=r"corpus\.jsonl has only 3 rows.*--valid_path"):
        PretrainDataset(corpus(tiny_texts(3)), tiny_tokenizer, split="held_out")


# --- packed rows --------------------------------------------------------------------------------------------------


def stream_of(dataset: PackedDataset, split: str) -> list[int]:
    """All tokens of a split in file order, put together row by row."""
    return [int(i) for row in rows_of(dataset.corpus, split) for i in dataset.corpus.row(int(row))]


def token_by_token(path: Path, tokenizer: Tokenizer, split: str = "all", seed: int = 1337, epoch: int = 0) -> list[int]:
    """The stream that an epoch's blocks are cut from, read through blocks of one token."""
    dataset = PackedDataset(path, tokenizer, 1, split, seed)
    dataset.set_epoch(epoch)
    return [int(dataset[i][0]) for i in range(len(dataset))]


def segments_in(stream: list[int]) -> list[tuple[int, ...]]:
    """A stream cut before each `<s>`."""
    starts = [i for i, token in enumerate(stream) if token == 1]
    return [tuple(stream[a:b]) for a, b in pairwise([*starts, len(stream)])]


@pytest.mark.parametrize("split", ["all", "train", "held_out"])
@pytest.mark.parametrize("block_length", [1, 7, 31, 100])
def test_packed_blocks_are_cut_from_one_stream_without_gaps(corpus, tiny_tokenizer, split, block_length):
    path = corpus(tiny_texts(40))
    dataset = PackedDataset(path, tiny_tokenizer, block_length, split=split)
    assert dataset.total == len(stream_of(dataset, split)) and len(dataset) == max(1, dataset.total // block_length)
    for epoch in (0, 1, 5):
        dataset.set_epoch(epoch)
        stream = token_by_token(path, tiny_tokenizer, split, epoch=epoch)
        for i in range(len(dataset)):
            X, Y, mask = dataset[i]
            wanted = np.take(stream, range(i * block_length, (i + 1) * block_length + 1), mode="wrap").tolist()
            assert X.tolist() == wanted[:-1] and Y.tolist() == wanted[1:]
            assert mask.tolist() == [1] * block_length and X.dtype == mask.dtype == torch.int64


def test_the_first_epoch_keeps_the_files_order_and_later_ones_lay_whole_segments_anew(corpus, tiny_tokenizer):
    path = corpus(tiny_texts(40))
    first = token_by_token(path, tiny_tokenizer)
    assert first == stream_of(PackedDataset(path, tiny_tokenizer, 9), "all")
    orders = {tuple(segments_in(first))}
    for epoch in (1, 2, 3):
        segments = segments_in(token_by_token(path, tiny_tokenizer, epoch=epoch))
        assert sorted(segments) == sorted(segments_in(first))
        orders.add(tuple(segments))
    assert len(orders) == 4


def test_packed_blocks_train_on_every_token_once_but_for_a_rest_shorter_than_a_block(corpus, tiny_tokenizer):
    dataset = PackedDataset(corpus(tiny_texts(40)), tiny_tokenizer, 13)
    for epoch in (0, 3):
        dataset.set_epoch(epoch)
        targets = Counter(int(t) for i in range(len(dataset)) for t in dataset[i][1])
        tokens = Counter(stream_of(dataset, "all"))
        assert not targets - tokens and 0 <= (tokens - targets).total() < 13


def test_held_out_rows_are_absent_from_packed_training_rows_in_every_epoch(corpus, tiny_tokenizer):
    path = corpus([f"<s>第{n}段</s> <s>另{n}段</s>" for n in range(40)])
    held_out = PretrainDataset(path, tiny_tokenizer, split="held_out")
    for epoch in (0, 1, 2):
        segments = set(segments_in(token_by_token(path, tiny_tokenizer, "train", epoch=epoch)))
        bare = {segment[: segment.index(2) + 1] for segment in segments}
        assert len(held_out) >= 4 and len(bare) == 2 * (40 - len(held_out))
        for i in range(len(held_out)):
            ids = held_out.ids(i).tolist()
            assert tuple(ids[: ids.index(2) + 1]) not in bare


def test_the_order_of_segments_depends_on_seed_and_epoch_alone(corpus, tiny_tokenizer):
    path = corpus(tiny_texts(40))
    dataset = PackedDataset(path, tiny_tokenizer, 1)
    for epoch in (1, 2, 3):
        dataset.set_epoch(epoch)
    assert [int(dataset[i][0]) for i in range(len(dataset))] == token_by_token(path, tiny_tokenizer, epoch=3)
    orders = {tuple(token_by_token(path, tiny_tokenizer, seed=s, epoch=e)) for s in (1, 2) for e in range(1, 4)}
    assert len(orders) == 6


@pytest.mark.parametrize("split", ["all", "train", "held_out"])
@pytest.mark.parametrize("neighbours", [1, 7, 50])
def test_segments_of_a_large_corpus_move_within_their_neighbourhood(
    corpus, tiny_tokenizer, monkeypatch, split, neighbours
):
    monkeypatch.setattr(dataset_module, "NEIGHBOURS", neighbours)
    path = corpus(tiny_texts(120))
    first = segments_in(token_by_token(path, tiny_tokenizer, split))
    orders, borders = set(), set()
    for epoch in (1, 2, 3):
        stream = token_by_token(path, tiny_tokenizer, split, epoch=epoch)
        segments = segments_in(stream)
        assert sorted(segments) == sorted(first)
        orders.add(tuple(segments))
        dataset = PackedDataset(path, tiny_tokenizer, 31, split)
        dataset.set_epoch(epoch)
        borders.add(dataset.shift)
        assert torch.cat([dataset[i][0] for i in range(len(dataset))]).tolist() == stream[: len(dataset) * 31]
        start = 0
        while start < len(first):
            end = min(len(first), start + neighbours - (dataset.shift if start == 0 else 0))
            assert sorted(segments[start:end]) == sorted(first[start:end])
            start = end
    assert (len(orders), len(borders)) == ((1, 1) if neighbours == 1 else (3, 3) if len(first) > neighbours else (3, 1))


@pytest.mark.parametrize("neighbours", [7, 2048])
def test_a_batch_of_blocks_or_rows_is_its_items_side_by_side(corpus, tiny_tokenizer, monkeypatch, neighbours):
    monkeypatch.setattr(dataset_module, "NEIGHBOURS", neighbours)
    path = corpus(tiny_texts(60))
    packed = PackedDataset(path, tiny_tokenizer, 31, "train")
    for rows in (packed, *(PretrainDataset(path, tiny_tokenizer, 24, way, "train") for way in (True, False))):
        packed.set_epoch(2)
        items = [5, 0, len(rows) - 1, 5]
        batch = rows.batch(items)
        assert [tuple(part.shape) for part in batch] == [(4, len(rows[0][0]))] * 3
        for part, wanted in zip(batch, zip(*map(rows.__getitem__, items), strict=True), strict=True):
            assert part.dtype == torch.int64 and torch.equal(part, torch.stack(wanted))
        assert torch.equal(next(iter(batch_loader(rows, EpochBatches(len(rows), 4, True))))[0], rows.batch(
            EpochBatches(len(rows), 4, True).batch(0)
        )[0])  # fmt: skip


def test_a_blocks_rows_of_the_corpus_are_those_that_its_tokens_stand_in(corpus, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(dataset_module, "NEIGHBOURS", 7)
    texts = [f"<s>{n}</s> <s>第{n}段</s>" for n in range(60)]
    dataset = PackedDataset(corpus(texts), tiny_tokenizer, 20, "train")
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            text = tiny_tokenizer.decode(dataset[index][0].tolist(), skip_special_tokens=False)
            whole = {int(n) for n in re.findall(r"<s>第?(\d+)段?</s>", text)}
            assert {n + 1 for n in whole} <= set(dataset.corpus_rows(index))
            assert len(dataset.corpus_rows(index)) <= text.count("<s>") + 2


def test_packed_blocks_of_the_sample_fill_every_position_and_leave_out_less_than_a_block(tmp_path, tiny_tokenizer):
    encoded = encode_corpus(SAMPLE, tiny_tokenizer, tmp_path / "cache")
    packed, padded = PackedDataset(encoded, tiny_tokenizer, 511), PretrainDataset(encoded, tiny_tokenizer, 2048)
    filled = [float(torch.cat([rows[i][2] for i in range(len(rows))]).float().mean()) for rows in (packed, padded)]
    assert filled[0] == 1.0 >= 0.97 > filled[1] > 0.5
    assert 0 <= len(encoded.tokens) - len(packed) * 511 < 511


def test_a_corpus_shorter_than_a_block_makes_one_block_of_its_own_text(corpus, bytewise):
    dataset = PackedDataset(corpus(["<s>ab</s>"]), bytewise, 6)
    assert len(dataset) == 1 and dataset[0][0].tolist() == spelled(bytewise, "<ab><a")


def test_a_block_that_is_not_there_is_an_index_error(corpus, tiny_tokenizer):
    dataset = PackedDataset(corpus(tiny_texts(10)), tiny_tokenizer, 9)
    for index in (-1, len(dataset)):
        with pytest.raises(IndexError):
            dataset[index]


@pytest.mark.parametrize("block_length", [0, -1, 2.5, True, None])
def test_a_block_without_tokens_is_refused(corpus, tiny_tokenizer, block_length):
    with pytest.raises(ConfigError, match="1 or more"):
        PackedDataset(corpus(tiny_texts(10)), tiny_tokenizer, block_length)


# --- batches ------------------------------------------------------------------------------------------------------


def test_without_shuffling_batches_come_in_file_order():
    assert list(EpochBatches(7, 3, shuffle=False)) == [[0, 1, 2], [3, 4, 5], [6]]


@given(rows=st.integers(1, 60), batch_size=st.integers(1, 9), shuffle=st.booleans(), epoch=st.integers(0, 3))
def test_an_epoch_visits_every_row_once_and_can_be_entered_at_any_batch(rows, batch_size, shuffle, epoch):
    batches = EpochBatches(rows, batch_size, shuffle, seed=5)
    batches.set_epoch(epoch)
    whole = list(batches)
    assert sorted(row for batch in whole for row in batch) == list(range(rows))
    assert len(whole) == len(batches) and all(len(batch) == batch_size for batch in whole[:-1])
    for first in range(len(whole) + 1):
        again = EpochBatches(rows, batch_size, shuffle, seed=5)
        again.set_epoch(epoch, first)
        assert list(again) == whole[first:]


@pytest.mark.parametrize(("rows", "used"), [(10, 9), (9, 9), (3, 3), (2, 2), (11, 9)])
def test_a_last_batch_with_fewer_rows_can_be_left_out_but_never_the_only_one(rows, used):
    batches = EpochBatches(rows, 3, shuffle=True, whole_only=True)
    seen = [row for batch in batches for row in batch]
    assert len(seen) == len(set(seen)) == used and len(batches) == -(-used // 3)
    batches.set_epoch(0, 1)
    assert [row for batch in batches for row in batch] == seen[3:]


def ids_and_order(path: str, tokenizer: str) -> str:
    """A sum over all blocks of a later epoch, and over some batches of a large shuffled one."""
    rows = PackedDataset(path, load_tokenizer(tokenizer), 16, seed=3)
    rows.set_epoch(2)
    order = EpochBatches(9000, 7, True, seed=3)
    order.set_epoch(2)
    found = [rows[i][0].tolist() for i in range(len(rows))], [order.batch(i) for i in range(99)]
    return hashlib.sha256(str(found).encode()).hexdigest()


def test_an_order_is_the_same_in_every_process(corpus, tiny_tokenizer, tmp_path):
    path = corpus(tiny_texts(60))
    tiny_tokenizer.save(str(tmp_path / "tokenizer.json"))
    code = "import sys; from test_dataset import ids_and_order; print(ids_and_order(*sys.argv[1:]))"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code, str(path), str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.stdout.strip() == ids_and_order(str(path), str(tmp_path)), done.stderr


def test_the_order_depends_on_seed_and_epoch():
    def order(seed: int, epoch: int) -> tuple:
        batches = EpochBatches(50, 50, True, seed)
        batches.set_epoch(epoch)
        return tuple(next(iter(batches)))

    assert order(1, 2) == order(1, 2)
    assert len({order(seed, epoch) for seed in (1, 2) for epoch in range(4)}) == 8


@given(rows=st.integers(1, 50), batch_size=st.integers(1, 4), world=st.integers(1, 4), shuffle=st.booleans())
def test_the_processes_batches_interleave_to_the_batch_of_one_process(rows, batch_size, world, shuffle):
    whole = list(EpochBatches(rows, batch_size * world, shuffle))
    parts = [list(EpochBatches(rows, batch_size, shuffle, rank=rank, world=world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(whole)} == {len(EpochBatches(rows, batch_size, shuffle, world=world))}
    for number, batch in enumerate(whole):
        for rank in range(world):
            mine = parts[rank][number]
            assert mine[: len(batch[rank::world])] == batch[rank::world]


# --- the cache ----------------------------------------------------------------------------------------------------


@pytest.fixture
def encodings(monkeypatch) -> list[Path]:
    """The corpora that were really encoded, in order."""
    done = []
    really = encoding._encode

    def noted(path, *rest):
        done.append(path)
        really(path, *rest)

    monkeypatch.setattr(encoding, "_encode", noted)
    return done


def test_an_encoded_corpus_holds_its_rows_counts_and_sums(tmp_path, corpus, tiny_tokenizer):
    texts = [*tiny_texts(5), "没有标记", "结尾<|im_end|>"]
    path = corpus(texts)
    found = encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    assert len(found) == 7 and found.editions == {"s": 5, "none": 1, "im_end": 1}
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.added.tolist() == [0, 0, 0, 0, 0, 3, 0]
    for i, text in enumerate([*texts[:5], "<s>没有标记</s>", "<s>结尾</s>"]):
        assert found.row(i).tolist() == tiny_tokenizer.encode(text).ids
    assert found.tokens.dtype == np.uint16 and isinstance(found.tokens, np.memmap)


def test_an_encoded_corpus_is_used_again(tmp_path, corpus, tiny_tokenizer, encodings):
    path = corpus(tiny_texts(6))
    first, second = (encode_corpus(path, tiny_tokenizer, tmp_path / "cache") for _ in range(2))
    assert len(encodings) == 1
    assert np.array_equal(first.tokens, second.tokens) and np.array_equal(first.offsets, second.offsets)


def test_a_touched_file_with_the_same_content_is_not_encoded_again(tmp_path, corpus, tiny_tokenizer, encodings):
    path = corpus(tiny_texts(6))
    for stamp in (1_000_000_000, 1_100_000_000, 1_100_000_000):
        os.utime(path, (stamp, stamp))
        encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    assert len(encodings) == 1


@pytest.mark.parametrize("change", ["longer", "of the same length"])
def test_a_changed_corpus_is_encoded_again(tmp_path, corpus, tiny_tokenizer, encodings, change):
    path = corpus(tiny_texts(6))
    os.utime(path, (1_000_000_000, 1_000_000_000))
    encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    corpus(tiny_texts(7) if change == "longer" else tiny_texts(6)[::-1])
    found = encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    assert len(encodings) == 2
    assert found.row(0).tolist() == tiny_tokenizer.encode(tiny_texts(6)[0 if change == "longer" else 5]).ids


def test_another_tokenizer_encodes_again_and_both_are_kept(tmp_path, corpus, tiny_tokenizer, bytewise, encodings):
    path = corpus(tiny_texts(6))
    for tokenizer in (tiny_tokenizer, bytewise, tiny_tokenizer, bytewise):
        assert (
            encode_corpus(path, tokenizer, tmp_path / "cache").row(0).tolist() == tokenizer.encode(tiny_texts(1)[0]).ids
        )
    assert len(encodings) == 2


def test_after_an_error_nothing_is_left_behind(tmp_path, tiny_tokenizer):
    path = write_rows(tmp_path / "rows.jsonl", tiny_texts(1500))
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"text": "cut')
    with pytest.raises(CorpusError, match=r"rows\.jsonl, line 1501"):
        encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_half_written_cache_is_made_again(tmp_path, corpus, tiny_tokenizer, encodings):
    path = corpus(tiny_texts(6))
    encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    tokens = next((tmp_path / "cache").glob("*/tokens.bin"))
    tokens.write_bytes(tokens.read_bytes()[:-2])
    encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    assert len(encodings) == 2


def test_a_corpus_that_grows_while_it_is_read_is_refused(tmp_path, corpus, tiny_tokenizer, monkeypatch):
    path = corpus(tiny_texts(6))
    really = encoding.encode_into

    def while_it_downloads(*arguments):
        found = really(*arguments)
        with open(path, "ab") as file:
            file.write(b'{"text": "more"}\n')
        return found

    monkeypatch.setattr(encoding, "encode_into", while_it_downloads)
    with pytest.raises(CorpusError, match="changed while it was being encoded"):
        encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("content", ["\ufeff{rows}", "{crlf}", "\n\n{rows}\n \n"], ids=["mark", "CRLF", "blank lines"])
def test_harmless_differences_between_files_give_the_same_ids(tmp_path, corpus, tiny_tokenizer, content):
    plain = corpus(tiny_texts(6))
    rows = plain.read_text(encoding="utf-8")
    other = tmp_path / "other.jsonl"
    other.write_bytes(content.format(rows=rows, crlf=rows.replace("\n", "\r\n")).encode())
    one, two = (encode_corpus(path, tiny_tokenizer, tmp_path / "cache") for path in (plain, other))
    assert np.array_equal(one.tokens, two.tokens) and np.array_equal(one.offsets, two.offsets)


def test_ids_of_a_large_vocabulary_are_kept_whole(tmp_path, corpus):
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, 70_000)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    found = encode_corpus(corpus(["<s>w69999</s>"]), tokenizer, tmp_path / "cache")
    assert found.tokens.dtype == np.uint32 and found.row(0).tolist() == [1, 69_999, 2]

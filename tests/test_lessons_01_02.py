"""Lessons 01 and 02: their checks on right and usual wrong answers, their pictures, tables and widgets."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from itertools import pairwise

import conftest
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from minimind_core import SAMPLE, PackedDataset, PretrainDataset, describe, iter_texts, train_tokenizer
from minimind_core.checks import Verdict
from minimind_core.checks.corpus import (
    check_pack,
    check_padding,
    check_reader,
    check_segments,
    pack,
)
from minimind_core.checks.near_copies import check_estimate, estimate, hash_functions
from minimind_core.checks.tokens import check_item, check_loss, check_stream, check_xy, item
from minimind_core.errors import CorpusError
from minimind_core.lessons import LESSONS
from minimind_core.plots import corpus as corpus_plots
from minimind_core.plots import near_copies
from minimind_core.plots import tokens as token_plots
from minimind_core.tokenizer import token_bytes
from minimind_core.widgets import corpus as browsing
from minimind_core.widgets import merging
from minimind_core.widgets import tokens as exploring
from minimind_core.widgets.parts import without_tags

NASTY = '<img src=x onerror="alert(1)"> & </div>'


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(iter_texts(SAMPLE))


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_tokenizer(texts[:40], 600)


def says(verdict: Verdict, *words: str) -> None:
    """The verdict is a wrong one, and its message has these words."""
    assert verdict.ok is False, verdict
    for word in words:
        assert word in verdict.message, verdict


def solutions(number: int) -> dict[str, Callable]:
    """The functions in a notebook's folded solutions, by name."""
    cells = json.loads(LESSONS[number - 1].path.read_text(encoding="utf-8"))["cells"]
    space: dict = {"torch": torch, "json": json, "re": re, "codecs": codecs}
    for cell in cells:
        text = "".join(cell["source"])
        for code in re.findall(r"<summary>Solution</summary>\n\n```python\n(.*?)```", text, re.DOTALL):
            exec(code, space)
    return {name: value for name, value in space.items() if name.startswith("my_")}


def stub(*_):
    """What a learner finds."""


# --- the exercises of 01 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_solutions_in_the_notebook_are_right_and_stubs_are_open(number):
    checks = (
        {
            "my_segments": check_segments,
            "my_rows": check_pack,
            "my_reader": check_reader,
            "my_padding": check_padding,
            "my_estimate": check_estimate,
        }
        if number == 1
        else {"my_xy": check_xy, "my_item": check_item, "my_loss": check_loss, "my_stream": check_stream}
    )
    answers = solutions(number)
    assert set(answers) == set(checks)
    for name, check in checks.items():
        assert check(answers[name]).ok is True, check(answers[name])
        assert check(stub).ok is None
        assert check(...).ok is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda text: text.split(" "), "markers are left"),
        (lambda text: text.replace("<s>", "").split("</s>"), "empty segment"),
        (lambda text: [p for p in re.split(r"</?s>", text) if p], "empty segment"),
        (lambda text: [f" {p.strip()}" for p in re.split(r"</?s>", text) if p.strip()], "strip()"),
        (lambda text: re.sub(r"</?s>", " ", text).split(), "only a marker does"),
        (lambda text: tuple(text), "a list of segments is needed"),
        (lambda text: [1], "is a string"),
        (lambda text: text.missing, "AttributeError"),
        (lambda text: [re.findall("<s>(.*?)</s>", text, re.DOTALL)[0]], "should give"),
    ],
)
def test_segments_names_the_mistake(answer, words):
    says(check_segments(answer), words)


def broken_pack(kind: str) -> Callable:
    def answer(segments, limit):
        rows = pack(segments, limit)
        if kind == "last lost":
            return rows[:-1]
        if kind == "touching":
            return [row.replace("</s> <s>", "</s><s>") for row in rows]
        if kind == "bare count":
            out, size = [], 0
            for segment in segments:
                if out and size + len(segment) <= limit:
                    out[-1] += f" <s>{segment}</s>"
                    size += len(segment)
                else:
                    out.append(f"<s>{segment}</s>")
                    size = len(segment)
            return out
        if kind in ("no blank counted", "less than"):
            out = []
            for segment in segments:
                brick = f"<s>{segment}</s>"
                size = len(out[-1]) + len(brick) + (kind == "less than") if out else 0
                if out and (size < limit if kind == "less than" else size <= limit):
                    out[-1] += " " + brick
                else:
                    out.append(brick)
            return out
        if kind == "one each":
            return [f"<s>{segment}</s>" for segment in segments]
        if kind == "empty first":
            return ["", *rows]
        if kind == "no markers":
            return segments
        if kind == "backwards":
            return pack(segments[::-1], limit)
        if kind == "long lost":
            return pack([s for s in segments if len(s) + 7 <= limit], limit)
        pieces = [s[i : i + 10] for s in segments for i in range(0, len(s), 10)]
        return pack(pieces, limit)

    return answer


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("last lost", "never added"),
        ("touching", "one space"),
        ("bare count", "markers and spaces count"),
        ("no blank counted", "markers and spaces count"),
        ("less than", "exactly the limit"),
        ("one each", "fill a row up"),
        ("empty first", "empty"),
        ("no markers", "begins with <s>"),
        ("backwards", "not in their order"),
        ("long lost", "lost, 40 characters long"),
        ("cut", "cut a segment in two"),
    ],
)
def test_pack_names_the_mistake(kind, words):
    says(check_pack(broken_pack(kind)), words)


def reader(
    split=lambda raw: raw.split(b"\n"),
    first=1,
    bom=True,
    blanks=True,
    own_error=True,
    count="lines",
    decode_outside=False,
    strings_only=True,
    caught=(ValueError, KeyError, TypeError),
):
    """A reader of JSON lines with one thing left out; `blanks=bool` asks a line whether it is empty, unstripped."""

    def answer(raw):
        texts, rows = [], 0
        for number, line in enumerate(split(raw.removeprefix(b"\xef\xbb\xbf") if bom else raw), first):
            if blanks and not (line.rstrip(b"\r") if blanks is bool else line.strip()):
                continue
            rows += 1
            line = line.decode() if decode_outside else line
            try:
                text = json.loads(line if isinstance(line, str) else line.decode())["text"]
                if strings_only and not isinstance(text, str):
                    raise TypeError
                texts.append(text)
            except caught:
                if own_error is False:
                    raise
                if own_error is None:
                    continue
                raise ValueError(f"bad line {number if count == 'lines' else rows}") from None
        return texts

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reader(blanks=False), "a line break at the end of the file"),
        (reader(blanks=bool), "holds only spaces"),
        (reader(split=lambda raw: raw.decode().split("\n")), "the whole file at once"),
        (reader(decode_outside=True), "Decode inside the try"),
        (reader(bom=False), "byte-order mark"),
        (reader(split=lambda raw: raw.decode("utf-8", "replace").splitlines()), "U+2028"),
        (reader(first=0), "count lines from 0"),
        (reader(count="rows"), "blank"),
        (reader(own_error=False), "Decode inside the try"),
        (
            reader(own_error=False, split=lambda raw: raw.decode("utf-8", "replace").split("\n")),
            "json's own error came through",
        ),
        (reader(own_error=None), "should be refused"),
        (reader(strings_only=False), "a text that is a number, not a string should be refused"),
        (reader(caught=(ValueError, KeyError)), "a line that is a list, not an object: your code raised TypeError"),
        (lambda raw: [json.loads(raw)["text"]], "two plain lines"),
        (lambda raw: "山", "list of texts"),
    ],
)
def test_reader_names_the_mistake(answer, words):
    says(check_reader(answer), words)


def test_reader_wants_the_right_kind_of_error():
    def answer(raw):
        try:
            return reader()(raw)
        except ValueError:
            raise RuntimeError("broken") from None

    says(check_reader(answer), "RuntimeError", "ValueError")


def shares(lengths, most):
    """Positions that count, all predicted ones, and the number of rows."""
    return sum(min(n, most) - 1 for n in lengths), len(lengths) * (most - 1), len(lengths)


def as_positions(make: Callable) -> Callable:
    """An answer made from (positions that count, all of them, rows, lengths, max_length)."""
    return lambda lengths, most: make(*shares(lengths, most), lengths, most)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (as_positions(lambda c, p, r, ns, m: 1 - sum(n - 1 for n in ns) / p), "longer than max_length is cut"),
        (as_positions(lambda c, p, r, ns, m: c / p), "the share that counts"),
        (as_positions(lambda c, p, r, ns, m: 1 - sum(min(n, m) for n in ns) / (r * m)), "max_length - 1 are predicted"),
        (as_positions(lambda c, p, r, ns, m: 1 - sum(min(n, m) for n in ns) / p), "nobody asks for the first"),
        (as_positions(lambda c, p, r, ns, m: 1 - c / (r * m)), "a row has max_length - 1"),
        (as_positions(lambda c, p, r, ns, m: (p - c) / sum(ns)), "by the tokens of the rows"),
        (as_positions(lambda c, p, r, ns, m: (p - c) / c), "by the positions that count"),
        (as_positions(lambda c, p, r, ns, m: p - c), "a number of positions"),
        (as_positions(lambda c, p, r, ns, m: 100 * (1 - c / p)), "per cent"),
        (as_positions(lambda c, p, r, ns, m: [c]), "a share is a number"),
        (as_positions(lambda c, p, r, ns, m: float("nan")), "from 0 to 1"),
        (as_positions(lambda c, p, r, ns, m: 0.5), "yours is 0.5000."),
        (as_positions(lambda c, p, r, ns, m: max(0.0, 1 - c / p) if m > 9 else 1 / 0), "ZeroDivisionError"),
    ],
)
def test_padding_names_the_mistake(answer, words):
    says(check_padding(answer), words)


def hashed(function, pieces):
    return {function(piece) for piece in pieces}


def in_a_heap(hashes, pieces):
    return {function(piece) for function in hashes for piece in pieces}


def test_the_piece_of_the_smallest_hash_does_as_well_as_the_hash():
    verdict = check_estimate(lambda a, b, h: sum(min(a, key=f) == min(b, key=f) for f in h) / len(h))
    assert verdict.ok is True, verdict


def minima(pieces, hashes):
    return [min(map(each, pieces)) for each in hashes]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda a, b, h: len(a & b) / len(a | b), "exact similarity"),
        (
            lambda a, b, h: (
                sum(len(hashed(f, a) & hashed(f, b)) / len(hashed(f, a) | hashed(f, b)) for f in h) / len(h)
            ),
            "or of all their hashes",
        ),
        (
            lambda a, b, h: len(in_a_heap(h, a) & in_a_heap(h, b)) / len(in_a_heap(h, a) | in_a_heap(h, b)),
            "you compare all hashes",
        ),
        (lambda a, b, h: estimate(a, b, h) * len(h), "how many agree"),
        (lambda a, b, h: 1 - estimate(a, b, h), "differs"),
        (lambda a, b, h: len({*minima(a, h)} & {*minima(b, h)}) / len({*minima(a, h)} | {*minima(b, h)}), "as sets"),
        (lambda a, b, h: len({*minima(a, h)} & {*minima(b, h)}) / len(h), "place by place: each function"),
        (lambda a, b, h: sum(max(map(f, a)) == max(map(f, b)) for f in h) / len(h), "the largest value"),
        (lambda a, b, h: sum(f(min(a)) == f(min(b)) for f in h) / len(h), "hash the smallest piece"),
        (lambda a, b, h: float(min(minima(a, h)) == min(minima(b, h))), "one minimum over all functions"),
        (lambda a, b, h: minima(a, h), "is a number"),
        (lambda a, b, h: 0.77, "yours is 0.7700."),
        (lambda a, b, h: estimate(a, b, h) if len(h) < 64 else 0.5, "64 hash functions"),
    ],
)
def test_estimate_names_the_mistake(answer, words):
    says(check_estimate(answer), words)


def test_more_hash_functions_estimate_better(texts):
    one, other = ({text[i : i + 3] for i in range(len(text) - 2)} for text in (texts[0][:300], texts[0][100:400]))
    true = len(one & other) / len(one | other)
    assert abs(estimate(one, other, hash_functions(1000)) - true) < 0.06
    assert estimate(one, one, hash_functions(5)) == 1


def test_the_share_of_padding_is_that_of_the_loaders_masks(texts, tokenizer):
    lengths = [len(encoded.ids) for encoded in tokenizer.encode_batch(texts)]
    for length in (128, 600, 900):
        _, _, mask = PretrainDataset(SAMPLE, tokenizer, length).batch(range(len(texts)))
        assert corpus_plots.padding_share(lengths, length) == pytest.approx(1 - mask.double().mean().item())
        lost = 1 - mask.sum().item() / sum(n - 1 for n in lengths)
        assert corpus_plots.cut_share(lengths, length) == pytest.approx(lost)


# --- the exercises of 02 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda ids: (ids, ids), "the same"),
        (lambda ids: (ids[:-1], ids[:-1]), "the same"),
        (lambda ids: (ids[1:], ids[:-1]), "exchanged"),
        (lambda ids: (ids, torch.roll(ids, -1)), "roll"),
        (lambda ids: (ids[:-2], ids[2:]), "off by one"),
        (lambda ids: (ids[:-1], ids[2:]), "off by one"),
        (lambda ids: (ids, ids[1:]), "X: the shape should be"),
        (lambda ids: (ids[:-1], ids[:1].repeat(len(ids) - 1)), "Y should be"),
        (lambda ids: ids[:-1], "X, Y are asked"),
        (lambda ids: (ids[:-1].tolist(), ids[1:].tolist()), "should be a tensor"),
    ],
)
def test_xy_names_the_mistake(answer, words):
    says(check_xy(answer), words)


def with_mask(make: Callable) -> Callable:
    """An answer with the right X and Y and a mask of its own, made from (ids, max_length, X, Y)."""

    def answer(ids, max_length):
        X, Y, _ = item(ids, max_length)
        return X, Y, make(ids, max_length, X, Y)

    return answer


def full(ids, max_length):
    return (torch.arange(max_length) < len(ids)).long()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (with_mask(lambda ids, n, X, Y: full(ids, n)[:-1]), "not shifted with Y"),
        (with_mask(lambda ids, n, X, Y: (Y != 0).long()), "taken from the id"),
        (with_mask(lambda ids, n, X, Y: full(ids, n)[1:] * (Y != 2)), "never learns to stop"),
        (with_mask(lambda ids, n, X, Y: torch.ones(n - 1).long()), "every position"),
        (with_mask(lambda ids, n, X, Y: 1 - full(ids, n)[1:]), "upside down"),
        (with_mask(lambda ids, n, X, Y: full(ids, n)), "the shape should be"),
        (with_mask(lambda ids, n, X, Y: full(ids, n)[1:].float()), "int64"),
        (with_mask(lambda ids, n, X, Y: full(ids, n)[1:].bool()), "torch.bool"),
        (with_mask(lambda ids, n, X, Y: full(ids, n)[1:] * (torch.arange(n - 1) > 0)), "the mask should be"),
        (lambda ids, n: (*item(ids, n)[:1], *item(ids, n)[:1], item(ids, n)[2]), "not X one token further on"),
        (lambda ids, n: item(ids, n)[:2], "X, Y, loss_mask are asked"),
    ],
)
def test_item_names_the_mistake(answer, words):
    says(check_item(answer), words)


def test_item_sees_a_row_that_lost_its_end():
    def answer(ids, max_length):
        padded = torch.tensor((ids + [0] * max_length)[:max_length])
        mask = full(ids, max_length)
        return padded[:-1], padded[1:], mask[1:]

    says(check_item(answer), "loses its </s>")


def each(logits, Y):
    return F.cross_entropy(logits.flatten(0, 1), Y.flatten(), reduction="none").view(Y.shape)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda g, y, m: each(g, y).mean(), "the mask is not used"),
        (lambda g, y, m: (each(g, y) * m).mean(), "padding takes part in the mean"),
        (lambda g, y, m: (each(g, y) * m).sum(), "that is the sum"),
        (lambda g, y, m: ((each(g, y) * m).sum(1) / m.sum(1).clamp(min=1)).mean(), "row means"),
        (lambda g, y, m: (each(g, y) * (1 - m)).sum() / (1 - m).sum().clamp(min=1), "upside down"),
        (lambda g, y, m: (each(g, y)[:, 1:] * m[:, :-1]).sum() / m[:, :-1].sum(), "shifted once more"),
        (lambda g, y, m: -(each(g, y) * m).sum() / m.sum(), "sign"),
        (lambda g, y, m: ((each(g, y) * m).sum() / m.sum()).item(), ".item()"),
        (lambda g, y, m: ((each(g, y) * m).sum() / m.sum()).detach(), "no gradient"),
        (lambda g, y, m: each(g, y) * m, "the shape should be ()"),
        (lambda g, y, m: (each(g, y) * m).sum() / m.sum(), "0 / 0"),
        (lambda g, y, m: (each(g, y) * m).sum() / m.sum() if m.any() else torch.tensor(0.0), "without a gradient"),
        (lambda g, y, m: (each(g, y) * m).sum() / m.sum() if m.any() else 0.0, "without a gradient"),
        (lambda g, y, m: (each(g, y) * m).sum() / m.sum() if m.any() else each(g, y), "the shape should be ()"),
        (lambda g, y, m: (each(g, y) * m).sum() / m.sum() if m.any() else each(g, y).mean(), "should give 0"),
        (lambda g, y, m: (F.cross_entropy(g, y, reduction="none") * m).sum() / m.sum(), "classes in dimension 1"),
        (lambda g, y, m: g.sum() * 0 + 3, "should be"),
        (lambda g, y, m: (each(g, y) * m).sum() / m.sum() + (g - g.detach())[:, -1].sum(), "padding gets a gradient"),
        (lambda g, y, m: (each(g, y) * m).sum().detach() / m.sum() + g[0, 0, 0] - g[0, 0, 0].detach(), "detached"),
    ],
)
def test_loss_names_the_mistake(answer, words):
    says(check_loss(answer), words)


def decode_all_each_time(tokens):
    texts = [b"".join(tokens[: n + 1]).decode("utf-8", "replace") for n in range(len(tokens))]
    return [after.removeprefix(before) for before, after in pairwise(["", *texts])]


def hold_back(tokens):
    texts, rest = [], b""
    for token in tokens:
        rest += token
        try:
            texts.append(rest.decode())
            rest = b""
        except UnicodeDecodeError:
            texts.append("")
    return texts


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda tokens: [t.decode("utf-8", "replace") for t in tokens], "inside a character"),
        (lambda tokens: [t.decode("utf-8", "ignore") for t in tokens], "throws their halves away"),
        (decode_all_each_time, "inside a character"),
        (lambda tokens: b"".join(tokens).decode(), "list of strings"),
        (lambda tokens: [b"".join(tokens).decode()], "should give"),
        (lambda tokens: [""] * (len(tokens) - 1) + [b"".join(tokens).decode()], "late or early"),
        (lambda tokens: [""] * len(tokens), "joined"),
        (hold_back, "hold everything back until all bytes decode"),
        (hold_back, "[e5 b1 b1 e9, be 98, f0 9f 99 82 61]"),
    ],
)
def test_stream_names_the_mistake(answer, words):
    says(check_stream(answer), words)


# --- pictures -----------------------------------------------------------------------------------------------------


def drawn(make: Callable[[], Figure]) -> Figure:
    """As conftest's, and with a title and labelled axes."""
    figure = conftest.drawn(make)
    assert isinstance(figure, Figure)
    assert figure.get_suptitle() or any(axes.get_title(loc="left") for axes in figure.axes)
    assert all(axes.get_xlabel() or axes.get_shared_x_axes().get_siblings(axes)[1:] for axes in figure.axes)
    return figure


def test_pictures_of_01(texts):
    report = describe(SAMPLE)
    drawn(lambda: corpus_plots.bytes_per_character(texts[0] + "é🙂"))
    walls = drawn(lambda: corpus_plots.bricks([*texts[:3], "no markers"], [0, 1, 2, 99]))
    assert walls.axes[0].get_yticklabels()[-1].get_text() == "99"
    assert sum(patch.get_width() for patch in walls.axes[0].patches) == pytest.approx(
        sum(map(len, [*texts[:3], "no markers"]))
    )
    assert len(drawn(lambda: corpus_plots.length_histograms({"a": report, "b": report})).axes) == 3
    drawn(lambda: corpus_plots.zipf(report.character_counts))
    drawn(lambda: corpus_plots.token_lengths({"a": [100, 300, 300]}, (128, 512)))
    drawn(lambda: corpus_plots.token_lengths({"a": [600], "b": [20, 1000]}, (128,)))
    drawn(lambda: near_copies.similarities([0.01, 0.3, 0.31], [0.9]))
    drawn(lambda: near_copies.similarities([0.1], []))
    drawn(lambda: corpus_plots.along_the_file({"a": corpus_plots.rows_along(SAMPLE, 30)}))
    drawn(lambda: corpus_plots.along_the_file({"a": [(0.0, texts[0])], "b": [(0.0, texts[1]), (0.5, texts[2])]}))


def test_rows_along_the_file_come_from_everywhere(corpus):
    path = corpus([f"<s>{'山' * 30}{n}</s>" for n in range(1000)])
    rows = corpus_plots.rows_along(path, 50)
    places = [place for place, _ in rows]
    assert 45 <= len(rows) <= 51
    assert places == sorted(places)
    assert places[0] == 0 and places[-1] > 0.95
    everything = set(iter_texts(path))
    assert all(text in everything for _, text in rows)
    path.write_bytes(path.read_bytes() + b"<html>\n" * 2000)
    with pytest.raises(CorpusError, match="at byte"):
        corpus_plots.rows_along(path, 50)


def test_pictures_of_02(tokenizer):
    data = PretrainDataset(SAMPLE, tokenizer, 64)
    packed = PackedDataset(data.corpus, tokenizer, 63)
    curves = {"a": [0.5, 1.0], "b": [0.5, 0.9]}
    costs = {300: (300, 1000), 400: (400, 1100), 6400: (6400, 7100), 150_000: (150_000, 150_700)}
    drawn(lambda: token_plots.compression((300, 6400), curves))
    drawn(lambda: token_plots.vocabulary_costs(costs))
    drawn(lambda: token_plots.loss_by_position([8.0, 7.0, 0.1], [1, 1, 0], "a row"))
    lines = drawn(lambda: token_plots.packed_against_padded(data.batch(range(4)), packed.batch(range(4))))
    assert [axes.get_ylabel() for axes in lines.axes] == ["row", "block"]
    run = {"reported": [3.0, 2.0], "text": [3.0, 2.5]}
    drawn(lambda: token_plots.mask_matters(run, run))
    gaps = drawn(lambda: token_plots.mask_matters({"reported": [3, 1.5], "text": [3, 1.5]}, run))
    assert [axes.texts[0].get_text() for axes in gaps.axes] == ["0.50", "1.00"]


def test_a_segment_keeps_its_number_over_the_edge_of_a_block():
    ids = np.array([[1, 5, 2, 7, 1, 5], [6, 2, 7, 1, 5, 2]])  # a stream, cut in two
    assert token_plots.segment_numbers(ids, np.ones_like(ids)).tolist() == [[1, 1, 1, 1, 2, 2], [2, 2, 2, 3, 3, 3]]
    ids, mask = np.array([[1, 5, 2, 0], [1, 5, 6, 2]]), np.array([[1, 1, 0, 0], [1, 1, 1, 0]])  # two rows, padded
    assert token_plots.segment_numbers(ids, mask).tolist() == [[1, 1, 0, 0], [2, 2, 2, 0]]


def test_html_is_escaped_and_sets_its_own_colours(tokenizer):
    ids = tokenizer.encode(NASTY + "<unk>龘").ids
    row = f"<s>{NASTY}</s> <s>二</s>"
    pages = [
        corpus_plots.row_html(row, NASTY, "alert").data,
        corpus_plots.row_html(row, query="<img").data,
        corpus_plots.table((NASTY,), [(NASTY,)], NASTY).data,
        corpus_plots.card(NASTY).data,
        token_plots.bytes_html(NASTY).data,
        token_plots.tokens_html(tokenizer, ids, title=NASTY).data,
        token_plots.xy_html(tokenizer, ids[:-1], ids[1:], [1] * (len(ids) - 1)).data,
        str(token_plots.counted(tokenizer, ids, [1] * len(ids))),
        near_copies.pairs_table([(0.5, NASTY, NASTY + "<img>"), (0.0, "山", NASTY)], (NASTY, NASTY), NASTY).data,
        merging.step_view(merging.merge_steps(NASTY * 2), 3),
        browsing.row_view([row], 0, NASTY[:4]),
        exploring.explorer_view(tokenizer, NASTY),
        exploring.mask_view(tokenizer, NASTY, 40, "this course"),
    ]
    for page in pages:
        assert "<img" not in page and 'onerror="' not in page
        for style in re.findall(r'style="([^"]*)"', page):
            assert ("background-color" in style) == bool(re.search(r"(?<!-)color:", style)) or "font-size" in style
    assert "&lt;img" in pages[0] and "<b style=" in pages[0]


def test_xy_table_shows_the_end_of_the_text(tokenizer, texts):
    X, Y, mask = PretrainDataset(SAMPLE, tokenizer, 1024)[0]
    page = token_plots.xy_html(tokenizer, X, Y, mask).data
    last = int(mask.nonzero().max())
    assert f">{last}</td>" in page and f">{last + 1}</td>" in page and ">1022</td>" in page
    assert token_plots.COUNTS in page and token_plots.IGNORED in page


def test_what_does_not_count_is_struck_through(tokenizer):
    ids = tokenizer.encode("山水").ids
    for page in (
        str(token_plots.counted(tokenizer, ids[:1] * 2, [1, 0])),
        token_plots.xy_html(tokenizer, [1, 2], [3, 0], [1, 0]).data,
    ):
        struck = re.findall(r"line-through", page)
        assert len(struck) == page.count(token_plots.IGNORED) == page.count("dashed") > 0
        assert page.count(token_plots.COUNTS) > 0


def test_pieces_of_characters_are_readable():
    assert token_plots.readable("山".encode()) == "山"
    assert token_plots.readable("山".encode()[:2]) == "⟨e5⟩⟨b1⟩"
    assert token_plots.readable("山水".encode()[1:5]) == "⟨b1⟩⟨b1⟩⟨e6⟩⟨b0⟩"
    assert token_plots.readable("山水".encode()[:4]) == "山⟨e6⟩"
    assert token_plots.hex_bytes("山".encode()) == "e5 b1 b1"
    assert token_plots.hex_bytes(None) == "–"


def test_characters_that_many_machines_cannot_draw_are_named():
    page = token_plots.bytes_html("山\N{SLIGHTLY SMILING FACE}\U0010ffff").data
    assert "山" in page and "(slightly smiling face)" in page and "(no name)" in page
    assert "\N{SLIGHTLY SMILING FACE}" not in page and "U+1F642" in page


@pytest.mark.parametrize(("one", "other"), [("山很高。", "山不高。"), ("", "山"), ("山", "山"), ("abc", "xyz")])
def test_differences_join_to_the_texts(one, other):
    sides = near_copies.differences(one, other)
    assert ["".join(text for text, _ in side) for side in sides] == [one, other]
    same = ["".join(text for text, both in side if both) for side in sides]
    assert same[0] == same[1]
    assert (same[0] == one) == (one == other or not one)


def test_differences_are_underlined():
    page = near_copies.pairs_table([(0.9, "高8849米", "高8848米")]).data
    assert re.findall(r"<u [^>]*>(.*?)</u>", page) == ["9", "8"] and ">0.90<" in page
    named = near_copies.pairs_table([(0.9, "山", "水")], ("in training", "held out")).data
    assert ">in training (what the other lacks is underlined)<" in named and ">held out<" in named


# --- widgets ----------------------------------------------------------------------------------------------------------


def test_finding_rows():
    rows = ["山水", "水", "火", "山火"]
    assert browsing.find_rows(rows, "山") == [0, 3]
    assert browsing.find_rows(rows, "") == [0, 1, 2, 3]
    assert [browsing.next_row([0, 3], now) for now in (0, 1, 3)] == [3, 3, 0]
    assert [browsing.next_row([0, 3], now, -1) for now in (0, 1, 3)] == [3, 0, 0]
    assert browsing.next_row([], 2) == 2
    assert "There is no row 9" in browsing.row_view(rows, 9)


def test_the_notebook_says_how_many_rows_the_browser_reads():
    text = LESSONS[0].path.read_text(encoding="utf-8")
    assert f"it reads the first {browsing.READ_AT_MOST:,} rows" in text


def test_row_browser_walks_and_searches(corpus):
    browser = browsing.row_browser(corpus(["<s>山</s>", "<s>水</s>", "<s>山火</s>"]))
    controls, page = browser.children
    number, query, before, after = controls.children
    assert "山" in page.value and "row 0" in page.value
    drawn_pages = []
    page.observe(lambda change: drawn_pages.append(change.new), "value")
    number.value = 1
    assert "水" in page.value and len(drawn_pages) == 1
    query.value = "山"
    assert number.value == 2 and "stands in 2 of 3 rows" in page.value and len(drawn_pages) == 2
    after.click()
    assert number.value == 0
    before.click()
    assert number.value == 2
    query.value = "没有"
    assert number.value == 2 and "stands in 0 of 3" in page.value


def test_token_explorer_follows_text_and_tokenizer(tokenizer):
    base = train_tokenizer(["x"], 259)
    explorer = exploring.token_explorer({"bytes": base, "course": tokenizer}, "山")
    field, choice, page = explorer.children
    few = page.value
    choice.value = "bytes"
    assert "3 tokens" in page.value and page.value != few
    field.value = ""
    assert "0 tokens" in page.value and "<table" not in page.value
    field.value = "山" * 500
    assert f"the first {exploring.SHOW_AT_MOST} are shown" in page.value
    field.value = "\ud83d"  # half an emoji, as a browser may send it
    assert "tokens" in page.value and "Error" not in page.value


@pytest.mark.parametrize(
    ("text", "length", "loader", "said"),
    [
        ("<s>山 <unk> 水</s>", 12, "this course", "11 positions: {n} count · padding: {pad} · cut off the row: 0"),
        ("<s>山 <unk> 水</s>", 12, "as MiniMind", "{more} count · 1 inside the text do not · padding: {less}"),
        ("山" * 60, 8, "this course", "7 positions: 7 count · padding: 0 · cut off the row: {cut} tokens"),
        ("<unk>" * 4, 4, "as MiniMind", " 0 count · 3 inside the text do not · padding: 0 · cut off the row: 2"),
        ("<unk>" * 4, 12, "as MiniMind", " 1 count · 4 inside the text do not · padding: 6 · cut off the row: 0"),
        ("<unk>" * 4, 4, "this course", "3 positions: 3 count · padding: 0 · cut off the row: 2 tokens"),
    ],
)
def test_the_mask_viewer_counts_what_the_loader_gives(tokenizer, text, length, loader, said):
    ids = [1, *tokenizer.encode(text.removeprefix("<s>").removesuffix("</s>")).ids, 2]
    numbers = {"n": len(ids) - 1, "pad": 12 - len(ids), "more": len(ids), "less": 10 - len(ids), "cut": len(ids) - 8}
    assert said.format(**numbers) in exploring.mask_view(tokenizer, text, length, loader)
    (X, Y, mask), tokens = exploring.item_of(tokenizer, text, length, exploring.LOADERS[loader])
    assert len(X) == len(Y) == len(mask) == length - 1 and X[0] == 1
    twice = loader == "as MiniMind" and text.startswith("<s>")  # markers that it has, and a second pair
    assert tokens == len(ids) + 2 * twice
    if loader == "this course":
        assert int(mask.sum()) == min(len(ids), length) - 1


def test_the_mask_viewer_follows_text_length_and_loader_and_shows_errors(tokenizer):
    viewer = exploring.mask_viewer(tokenizer, NASTY + " <unk>")
    field, controls, page = viewer.children
    length, choice = controls.children
    assert page.value.count("inline-block") == 31 and "<img" not in page.value and "&lt;" in page.value
    assert not length.continuous_update  # a tick of the slider writes a file
    length.value = 8
    assert page.value.count("inline-block") == 7 and "7 positions" in page.value
    before = page.value
    choice.value = "as MiniMind"
    assert page.value != before
    field.value = "<s>山</s>"
    choice.value = "this course"
    assert without_tags(page.value).split("\n")[2:] == ["<s> 山 1", "山 </s> 1", "</s> <unk> 0", *["<unk> <unk> 0"] * 4]
    field.value = ""
    assert "is empty" in page.value and "typed.jsonl" not in page.value and "line 1" not in page.value
    field.value = "\ud83d"
    assert "7 positions" in page.value


@pytest.mark.parametrize("text", ["", "a", "画蛇添足 <unk> <s>"])
def test_facts_of_a_text(tokenizer, text):
    ids, facts = exploring.facts_of(tokenizer, text)
    assert ids == tokenizer.encode(text).ids
    assert facts.startswith(f"{len(text)} characters · {len(text.encode())} bytes · {len(ids)} tokens")


TWISTER = "四是四，十是十，十四是十四，四十是四十。"


@pytest.mark.parametrize("text", [TWISTER, "the cat the hat", "aaaa aaaaa aaa", "<s>山山</s> <s>山山</s>", "row 0"])
def test_merges_are_the_librarys_in_its_order(texts, text):
    steps = merging.merge_steps(texts[0] if text == "row 0" else text)
    text = texts[0] if text == "row 0" else text
    library = train_tokenizer([text], 259 + len(steps) - 1)
    learned = [token_bytes(library, i) for i in range(259, library.get_vocab_size())]
    assert [b"".join(step.merged) for step in steps[1:]] == learned
    kept = re.sub("</?s>", "", text).encode()
    assert all(b"".join(token for word in step.words for token in word) == kept for step in steps)
    assert [step.tokens for step in steps] == sorted((step.tokens for step in steps), reverse=True)
    assert max(steps[-1].pairs().values(), default=0) < 2


def test_merges_are_as_many_as_asked_and_a_text_may_be_empty():
    assert len(merging.merge_steps(TWISTER, 3)) == 4
    for text in ("", "<s>", "山"):
        assert len(merging.merge_steps(text)) == 1
        assert "no pair occurs twice" in merging.step_words(merging.merge_steps(text), 0)
    assert merging.merge_steps("山" * 5000)[0].tokens == 3 * merging.MOST_CHARACTERS


def test_a_step_says_what_was_merged_and_what_comes_next():
    steps = merging.merge_steps(TWISTER)
    assert merging.step_words(steps, 0) == "0 of 10 merges: 60 bytes are 60 tokens · next: ⟨e5⟩ + ⟨8d⟩, 6×"
    assert "merged: ⟨e5⟩⟨8d⟩ + ⟨81⟩ → 十, 6× · next: ⟨e5⟩⟨9b⟩ + ⟨9b⟩, 6×" in merging.step_words(steps, 3)
    page = merging.step_view(steps, 3)
    assert page.count(merging.NEWEST) == page.count("<b><span") == 6
    assert re.findall(r"<td[^>]*>(.*?)</td>", page)[:2] == ["⟨e5⟩⟨9b⟩ + ⟨9b⟩", "6×"]
    assert f"The first {merging.SHOW_AT_MOST} tokens" in merging.step_view(merging.merge_steps("山水" * 300), 0)


def test_merge_walker_follows_slider_and_text():
    field, slider, page = merging.merge_walker(TWISTER).children
    assert slider.max == 10 and "0 of 10 merges" in page.value
    slider.value = 10
    assert "10 of 10 merges" in page.value and "十是" in page.value
    field.value = "aa aa"
    assert slider.max == slider.value == 1 and "1 of 1 merges" in page.value
    field.value = ""
    assert slider.max == 0 and "0 bytes" in page.value
    field.value = "\ud83d"
    assert "Error" not in page.value

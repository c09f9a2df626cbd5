"""Tokenizers, weights, states, metrics and caches that are broken, foreign or malicious: refused, or made again.

`python tests/test_bad_files.py` lists the kinds that are tried.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import pickle
import re
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_config, tiny_texts, write_rows
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_bad_corpus import a_link, any_json, mutated, mutation, words
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from minimind_core import (
    CheckpointError,
    CorpusError,
    MiniMindLM,
    TokenizerError,
    encode_corpus,
    encoding,
    list_runs,
    load_model,
    load_tokenizer,
    read_metrics,
    save_weights,
    tokenizer_for,
)
from minimind_core import eval_model as evaluating
from minimind_core import train_pretrain as training
from minimind_core.checkpoint import read_facts
from minimind_core.run_state import read_newest_state, read_state, write_state

UNIX = pytest.mark.skipif(os.name == "nt", reason="there are no pipes in folders on Windows")
IDS = torch.tensor([[1, 7, 9, 4]])


class TooLong(BaseException):
    """Raised by `within`; no handler of ordinary errors may swallow it."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Stop what waits for ever, where there are alarms."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def logits(model: MiniMindLM) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


# --- tokenizers -----------------------------------------------------------------------------------------------------

SPECIAL = ["<unk>", "<s>", "</s>"]


def changed(tokenizer: Tokenizer, change: Callable[[dict], object]) -> bytes:
    """tokenizer.json with a change."""
    content = json.loads(tokenizer.to_str())
    change(content)
    return json.dumps(content).encode()


def vocabulary(change: Callable[[dict], object]) -> Callable[[Tokenizer], bytes]:
    return lambda tokenizer: changed(tokenizer, lambda content: change(content["model"]["vocab"]))


def of(model, **parts) -> Callable[[Tokenizer], bytes]:
    """Another kind of model with the right special tokens."""

    def make(_: Tokenizer) -> bytes:
        tokenizer = Tokenizer(model)
        for name, value in parts.items():
            setattr(tokenizer, name, value)
        tokenizer.add_special_tokens(SPECIAL)
        return tokenizer.to_str().encode()

    return make


def with_parts(**parts) -> Callable[[Tokenizer], bytes]:
    """The good tokenizer with other parts."""

    def make(good: Tokenizer) -> bytes:
        tokenizer = Tokenizer.from_str(good.to_str())
        for name, value in parts.items():
            setattr(tokenizer, name, value)
        return tokenizer.to_str().encode()

    return make


def with_token(token: str, special: bool = False) -> Callable[[Tokenizer], bytes]:
    def make(good: Tokenizer) -> bytes:
        tokenizer = Tokenizer.from_str(good.to_str())
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
        return tokenizer.to_str().encode()

    return make


WORDS = {token: number for number, token in enumerate([*SPECIAL, "山", "水", "a"])}
TOKENIZERS: dict[str, tuple[bytes | Callable[[Tokenizer], bytes], str]] = {
    "an empty file": (b"", "not a tokenizers file"),
    "an empty object": (b"{}", "not a tokenizers file"),
    "a list": (b"[1, 2]", "not a tokenizers file"),
    "a web page": (b"<!DOCTYPE html><html></html>", "not a tokenizers file"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "not a tokenizers file"),
    "a tokenizer_config.json": (b'{"bos_token": "<s>", "tokenizer_class": "X"}', "not a tokenizers file"),
    "a cut file": (lambda good: good.to_str().encode()[:-200], "not a tokenizers file"),
    "an archive": (lambda good: gzip.compress(good.to_str().encode()), "not a tokenizers file"),
    "UTF-16": (lambda good: good.to_str().encode("utf-16"), "not a tokenizers file"),
    "a pickle": (pickle.dumps({"a": 1}), "not a tokenizers file"),
    "brackets nested without end": (b'{"model": ' + b"[" * 100_000, "not a tokenizers file"),
    "a version of the future": (lambda good: changed(good, lambda c: c.update(version="9.0")), "not a tokenizers file"),
    "a model of an unknown type": (
        lambda good: changed(good, lambda c: c["model"].update(type="Magic")),
        "not a token",
    ),
    "merges of unknown tokens": (
        lambda good: changed(good, lambda c: c["model"].update(merges=[["x", "yy"]])),
        "not a",
    ),
    "a negative id": (vocabulary(lambda v: v.update({"Ġ": -1})), "not a tokenizers file"),
    "an id that is a text": (vocabulary(lambda v: v.update({"Ġ": "5"})), "not a tokenizers file"),
    "no special tokens": (vocabulary(lambda v: [v.pop(t) for t in SPECIAL]), "must be <unk>, <s>, </s>|not a token"),
    "special tokens at other ids": (of(models.BPE({"a": 0, "b": 1}, [])), "must be <unk>, <s>, </s>; they are .'a'"),
    "MiniMind's later tokenizer": (
        of(models.BPE({"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}, [])),
        "MiniMind's later tokenizer",
    ),
    "words": (of(models.WordLevel(WORDS, unk_token="<unk>")), "it is a WordLevel model.*needs a byte-level BPE"),
    "WordPiece": (of(models.WordPiece(WORDS, unk_token="<unk>")), "it is a WordPiece model"),
    "Unigram": (of(models.Unigram([(token, -1.0) for token in WORDS], unk_id=0)), "it is a Unigram model"),
    "BPE of characters": (of(models.BPE(WORDS, [], unk_token="<unk>")), "256 bytes have no token"),
    "a byte without token": (vocabulary(lambda v: v.update({"x" * 9: v.pop("ġ")})), "1 of the 256 bytes have no token"),
    "a hole in the ids": (vocabulary(lambda v: v.update({"zq": 5000})), "ids do not run from 0 to"),
    "an id beyond 16 bits": (vocabulary(lambda v: v.update({"zq": 70_000})), "ids do not run from 0 to"),
    "an id beyond 32 bits": (vocabulary(lambda v: v.update({"zq": 2**40})), "not a tokenizers file"),
    "two tokens of one id": (vocabulary(lambda v: v.update({"zq": 300})), "some are missing or doubled"),
    "a token of Chinese signs": (with_token("山水"), "token 400, '山水', is not written in the byte alphabet"),
    "small letters only": (with_parts(normalizer=normalizers.Lowercase()), "does not come back unchanged"),
    "one form of letters": (with_parts(normalizer=normalizers.NFKC()), "does not come back unchanged"),
    "letters joined with accents": (with_parts(normalizer=normalizers.NFC()), "does not come back unchanged"),
    "a blank put in front": (with_parts(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), "unchanged"),
    "no bytes made of text": (with_parts(pre_tokenizer=pre_tokenizers.Whitespace()), "does not come back unchanged"),
    "no text made of bytes": (with_parts(decoder=decoders.WordPiece()), "does not come back unchanged"),
    "pieces chosen at random": (lambda good: changed(good, lambda c: c["model"].update(dropout=0.1)), "at random"),
    "an ending for words": (
        lambda good: changed(good, lambda c: c["model"].update(end_of_word_suffix="Ġ", merges=[])),
        "does not come back|cannot encode|not a tokenizers file",
    ),
    "markers that are no tokens of their own": (
        lambda good: changed(good, lambda c: c.update(added_tokens=[])),
        "does not find the markers",
    ),
    "markers only as whole words": (
        lambda good: changed(good, lambda c: [token.update(single_word=True) for token in c["added_tokens"]]),
        "does not find the markers",
    ),
    "markers that swallow blanks": (
        lambda good: changed(good, lambda c: [token.update(lstrip=True, rstrip=True) for token in c["added_tokens"]]),
        "does not find the markers",
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_bad_tokenizer_ends_in_one_line_that_names_it(bench, capsys, monkeypatch, tiny_tokenizer, name):
    monkeypatch.setenv("MINIMIND_OUT", str(bench.folder / "out"))
    content, said = TOKENIZERS[name]
    bench.tokenizer.write_bytes(content if isinstance(content, bytes) else content(tiny_tokenizer))
    for given_as in (bench.tokenizer, bench.tokenizer.parent):
        assert training.main(words(bench, tokenizer=given_as)) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error and len(error) < 700
        assert "tokenizer.json" in error and re.search(said, error), error
    assert not (bench.folder / "run").exists() and not (bench.folder / "out").exists()


@pytest.mark.parametrize(
    ("maker", "said"),
    [
        pytest.param(lambda path: os.mkfifo(path), "is no file", marks=UNIX, id="a pipe"),
        pytest.param(lambda path: a_link(path, "/dev/zero"), "is no file", marks=UNIX, id="a device"),
        pytest.param(lambda path: a_link(path, "gone"), "is not there", marks=UNIX, id="a link to nothing"),
        pytest.param(lambda path: (path.touch(), os.truncate(path, 200 << 20)), "Is it a corpus", id="a large file"),
    ],
)
def test_what_is_no_tokenizer_file_at_all_is_refused_at_once(tmp_path, maker, said):
    maker(tmp_path / "tokenizer.json")
    with within(5), pytest.raises(TokenizerError, match=said):
        load_tokenizer(tmp_path)


PROBES = ["山是什么颜色？山是红色的。", "<s>1号山</s> <s>😀</s>\n", " Ａ\u0301\u2028\x00\t"]


def works_or_is_refused(path: Path) -> None:
    try:
        tokenizer = load_tokenizer(path)
    except TokenizerError as error:
        assert "tokenizer.json" in str(error) and "\n" not in str(error)
        return
    for text in PROBES:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        assert max(ids) < tokenizer.get_vocab_size()


@given(changes=st.lists(mutation, min_size=1, max_size=2))
def test_a_tokenizer_file_with_changed_bytes_works_or_is_refused(tmp_path, tiny_tokenizer, changes):
    content = tiny_tokenizer.to_str().encode()
    for change in changes:
        content = mutated(content or b"{", *change)
    (tmp_path / "tokenizer.json").write_bytes(content)
    works_or_is_refused(tmp_path)


@given(value=any_json, place=st.sampled_from(["", "model", "pre_tokenizer", "decoder", "added_tokens", "normalizer"]))
def test_a_tokenizer_file_with_any_json_in_a_place_works_or_is_refused(tmp_path, tiny_tokenizer, value, place):
    content = json.loads(tiny_tokenizer.to_str())
    content = content | {place: value} if place else value
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    works_or_is_refused(tmp_path)


def test_a_damaged_tokenizer_of_our_own_is_trained_again(bench, monkeypatch):
    monkeypatch.setenv("MINIMIND_OUT", str(bench.folder / "out"))
    first, _ = tokenizer_for(bench.corpus, 300)
    file = next((bench.folder / "out" / "tokenizers").glob("*/tokenizer.json"))
    for content in (b"", file.read_bytes()[:-100], b"{}"):
        file.write_bytes(content)
        again, where = tokenizer_for(bench.corpus, 300)
        assert again.to_str() == first.to_str() and "now" in where


# --- weights --------------------------------------------------------------------------------------------------------


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, victim: Path, way: str = "os.system") -> None:
        self.victim, self.way = victim, way

    def __reduce__(self):
        if self.way == "os.system":
            return os.system, (f"touch {self.victim}",)
        if self.way == "eval":
            return eval, (f"open({str(self.victim)!r}, 'w')",)
        return open, (str(self.victim), "w")


def saved_as(value, **how) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def each(state: dict, change: Callable[[torch.Tensor], object]) -> bytes:
    return saved_as({key: change(value) for key, value in state.items()})


def one(state: dict, change: Callable[[torch.Tensor], object], key: str = "layers.0.attention.wq.weight") -> bytes:
    return saved_as(state | {key: change(state[key].clone())})


def numpy_file() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(4))
    return file.getvalue()


def other_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    return file.getvalue()


def filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def fill(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return fill


# name: content, or what makes it from a good state_dict
WEIGHTS: dict[str, bytes | Callable[[dict], bytes]] = {
    "an empty file": b"",
    "random bytes": bytes(range(256)) * 9,
    "a text": "权重".encode(),
    "a web page": b"<!DOCTYPE html><html>404</html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:25\nsize 9\n",
    "a corpus": b'{"text": "one"}\n' * 9,
    "a zip archive of something else": other_zip(),
    "a gzip archive": lambda state: gzip.compress(saved_as(state)),
    "a numpy file": numpy_file(),
    "a file that begins like a zip archive": b"PK\x03\x04" + b"\0" * 60,
    "a file that begins like a pickle": b"\x80\x02}q\x00(",
    "a pickle of plain values": pickle.dumps({"a": [1, 2]}, protocol=2),
    "a cut file": lambda state: saved_as(state)[:-30],
    "half a file": lambda state: (lambda whole: whole[: len(whole) // 2])(saved_as(state)),
    "half a file of the old format": lambda state: saved_as(state, _use_new_zipfile_serialization=False)[:5000],
    "a number": saved_as(5),
    "nothing": saved_as(None),
    "a single tensor": saved_as(torch.ones(3)),
    "a list of tensors": saved_as([torch.ones(3)]),
    "an empty dictionary": saved_as({}),
    "a checkpoint around the weights": lambda state: saved_as({"model": state, "step": 5}),
    "one value that is no tensor": lambda state: saved_as(state | {"norm.weight": 1.0}),
    "names that are numbers": lambda state: saved_as(dict(enumerate(state.values()))),
    "a tensor too few": lambda state: saved_as({k: v for k, v in state.items() if k != "norm.weight"}),
    "a tensor too many": lambda state: saved_as(state | {"extra.weight": torch.ones(2)}),
    "a tensor of another shape": lambda state: one(state, lambda t: t[:, :-1]),
    "a tensor laid flat": lambda state: one(state, lambda t: t.flatten()),
    "a tensor without dimensions": lambda state: one(state, lambda t: t.sum()),
    "a tensor without numbers": lambda state: one(state, lambda t: t[:0]),
    "another model": saved_as({"encoder.weight": torch.ones(2, 2)}),
    "MiniMind's later names": saved_as({"model.layers.0.self_attn.q_proj.weight": torch.ones(16, 16)}),
    "two matrices where there is one": lambda state: one(state, lambda t: t + 1, "tok_embeddings.weight"),
    "whole numbers": lambda state: each(state, lambda t: (100 * t).to(torch.int64)),
    "small whole numbers": lambda state: each(state, lambda t: (100 * t).to(torch.int8)),
    "one tensor of whole numbers": lambda state: one(state, lambda t: t.to(torch.int32)),
    "complex numbers": lambda state: each(state, lambda t: t.to(torch.complex64)),
    "yes and no": lambda state: each(state, lambda t: t > 0),
    "not a number": lambda state: one(state, filled(math.nan)),
    "infinity": lambda state: one(state, filled(math.inf)),
    "a sparse tensor": lambda state: one(state, lambda t: t.to_sparse()),
    "a tensor without storage": lambda state: one(state, lambda t: t.to("meta")),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.filterwarnings("ignore:.*bare weights file")
def test_bad_weights_are_refused_by_name(tmp_path, capsys, tiny_model, name):
    content = WEIGHTS[name]
    state = tiny_model().state_dict()
    (tmp_path / "pretrain_16.pth").write_bytes(content if isinstance(content, bytes) else content(state))
    with pytest.raises(CheckpointError, match=r"pretrain_16\.pth") as caught:
        load_model(tmp_path / "pretrain_16.pth", tiny_config())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert evaluating.main(["--weights", str(tmp_path / "pretrain_16.pth")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "pretrain_16.pth" in error


@pytest.mark.parametrize("container", ["zip", "old format", "bare pickle", "pickle of today"])
@pytest.mark.parametrize("way", ["os.system", "eval", "open"])
@pytest.mark.parametrize("among", ["alone", "among tensors"])
def test_a_file_that_would_execute_something_is_refused_and_executes_nothing(
    tmp_path, tiny_model, container, way, among
):
    path, victim = tmp_path / "pretrain_16.pth", tmp_path / "executed"
    value = Malicious(victim, way)
    value = {**tiny_model().state_dict(), "norm.weight": value} if among == "among tensors" else value
    if container in ("zip", "old format"):
        path.write_bytes(saved_as(value, _use_new_zipfile_serialization=container == "zip"))
    else:
        path.write_bytes(pickle.dumps(value, protocol=2 if container == "bare pickle" else 5))
    state = tmp_path / "state-00000001.pt"
    state.write_bytes(path.read_bytes() + hashlib.sha256(path.read_bytes()).digest())  # with a right sum
    for read in (lambda: load_model(path, tiny_config()), lambda: read_state(state)):
        with pytest.raises(CheckpointError):
            read()
    assert evaluating.main(["--weights", str(path)]) == 2
    assert not victim.exists()


@UNIX
def test_weights_that_are_a_pipe_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pretrain_16.pth")
    with within(1), pytest.raises(CheckpointError, match=r"pretrain_16\.pth"):
        load_model(tmp_path / "pretrain_16.pth", tiny_config())


def test_a_safetensors_file_is_refused_by_name(tmp_path, tiny_model):
    state = {key: value.clone() for key, value in tiny_model().state_dict().items()}
    save_file(state, tmp_path / "pretrain_16.pth")
    with pytest.raises(CheckpointError, match=r"pretrain_16\.pth"):
        load_model(tmp_path / "pretrain_16.pth", tiny_config())


@pytest.fixture(scope="module")
def kept(tmp_path_factory, tiny_tokenizer) -> Path:
    """The weights of a small model, with their folder and a tokenizer that fits."""
    path = tmp_path_factory.mktemp("kept") / "pretrain_16.pth"
    save_weights(MiniMindLM(tiny_config(vocab_size=400)), path, {"step": 3, "held_out_loss": 2.5}, tiny_tokenizer)
    return path


@contextmanager
def with_content(path: Path, content: bytes) -> Iterator[None]:
    """`path` holds something else for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


@given(change=mutation)
def test_weights_with_any_changed_byte_or_length_are_refused(kept, change):
    before = kept.read_bytes()
    after = mutated(before, *change[:1], change[1] * 97, *change[2:])
    with with_content(kept, after):
        if after == before:
            return
        with pytest.raises(CheckpointError, match=r"pretrain_16\.pth"):
            load_model(kept)


@given(change=mutation)
@pytest.mark.filterwarnings("ignore")
def test_bare_weights_with_any_changed_byte_load_or_are_refused(tmp_path, kept, change):
    path = tmp_path / "bare.pth"
    path.write_bytes(mutated(kept.read_bytes(), *change[:1], change[1] * 97, *change[2:]))
    try:
        load_model(path, tiny_config(vocab_size=400))
    except CheckpointError as error:
        assert "bare.pth" in str(error) and "\n" not in str(error)


def loads_or_is_refused(path: Path, was: torch.Tensor) -> None:
    try:
        model = load_model(path)
        assert torch.equal(logits(model), was) or "model" in str(read_facts(path))
    except CheckpointError as error:
        assert "pretrain_16" in str(error) and "\n" not in str(error)


@given(change=mutation)
@pytest.mark.filterwarnings("ignore:.*bare weights file")
def test_a_configuration_file_with_changed_bytes_loads_or_is_refused(kept, change):
    was, file = logits(load_model(kept)), kept.with_suffix("") / "config.json"
    with with_content(file, mutated(file.read_bytes(), *change)):
        loads_or_is_refused(kept, was)


names = st.sampled_from(["model", "step", "updates", "complete", "held_out_loss", "weights_sha256", "saved_at"])


@given(key=names, value=any_json, inner=st.sampled_from(["", "dim", "n_layers", "use_moe", "vocab_size", "norm_eps"]))
def test_a_configuration_file_with_any_json_in_a_place_loads_or_is_refused(kept, key, value, inner):
    was, file = logits(load_model(kept)), kept.with_suffix("") / "config.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    if inner and key == "model":
        facts["model"][inner] = value
    else:
        facts[key] = value
    with with_content(file, json.dumps(facts).encode()):
        loads_or_is_refused(kept, was)


@pytest.mark.parametrize(
    "facts",
    [{"model": {}}, {"model": {"dim": 16}}, {"held_out_loss": "2.5"}, {"held_out_loss": [2.5]}],
    ids=str,
)
def test_a_list_of_runs_survives_a_configuration_file_of_wrong_kinds(kept, capsys, facts):
    file = kept.with_suffix("") / "config.json"
    with with_content(file, json.dumps(json.loads(file.read_bytes()) | facts).encode()):
        assert all(str(run) for run in list_runs(kept.parent))
        assert evaluating.main(["--out_dir", str(kept.parent), "--dim", "512"]) == 2
        assert evaluating.main(["--out_dir", str(kept.parent), "--max_new_tokens", "1", "--prompt", "山"]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


ASKED = {
    "--temperature nan": ["--temperature", "nan"],
    "--temperature inf": ["--temperature", "inf"],
    "--temperature 1e-300": ["--temperature", "1e-300"],
    "--top_p 5": ["--top_p", "5"],
    "--top_k -1": ["--top_k", "-1"],
    "--repetition_penalty 0": ["--repetition_penalty", "0"],
    "--max_new_tokens -1": ["--max_new_tokens", "-1"],
    "--seed 9…": ["--seed", "9" * 30],
    "--device cuda:²": ["--device", "cuda:²"],
    "--device with a NUL": ["--device", "\0"],
    "--n_layers -3": ["--n_layers", "-3"],
    "a prompt that is not UTF-8": ["--prompt", "\udcff"],
}


@pytest.mark.parametrize("name", ASKED)
def test_what_no_text_can_be_drawn_with_is_refused_in_one_line(kept, capsys, name):
    flags = ["--weights", str(kept), "--prompt", "山", "--max_new_tokens", "2", *ASKED[name]]
    assert evaluating.main(flags) in (0, 2)
    error = capsys.readouterr().err
    assert error == "" or (error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error)


# --- states and metrics -----------------------------------------------------------------------------------------------

STATE = {"model": {"a": torch.ones(20)}, "position": [0, 1, 2, 3, 4]}


@given(change=mutation)
def test_a_state_with_any_changed_byte_or_length_is_refused(tmp_path, change):
    path = write_state(tmp_path, 1, STATE)
    before = path.read_bytes()
    path.write_bytes(mutated(before, *change))
    if path.read_bytes() != before:
        with pytest.raises(CheckpointError, match=r"state-00000001\.pt is damaged or was cut short"):
            read_state(path)


@pytest.mark.parametrize("value", [None, 5, [], {}, {"format": 1}, {"format": "2"}, torch.ones(2)], ids=str)
def test_a_state_of_another_kind_is_refused(tmp_path, value):
    path = tmp_path / "state-00000001.pt"
    content = saved_as(value)
    path.write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(CheckpointError, match=r"state-00000001\.pt"):
        read_state(path)
    said: list[str] = []
    with pytest.raises(CheckpointError, match="no state in"):
        read_newest_state(tmp_path, said.append)
    assert len(said) == 1 and "passed over" in said[0]


METRICS: dict[str, tuple[bytes, int | None]] = {
    "an empty file": (b"", None),
    "a cut last line": (b'{"step": 1}\n{"st', None),
    "blank lines": (b'\n{"step": 1}\n\n', None),
    "a text": (b"step 1\n", 1),
    "a list": (b'{"step": 1}\n[1]\n', 2),
    "no step": (b'{"step": 1}\n{"loss": 2.5}\n', 2),
    "a step that is a text": (b'{"step": "1"}\n', 1),
    "a step that is true": (b'{"step": true}\n', 1),
    "a step that is no whole number": (b'{"step": 1.5}\n', 1),
    "NUL bytes": (b"\0" * 400 + b"\n", 1),
    "not UTF-8": (b"\xff\xfe{}\n", 1),
    "a cut line in the middle": (b'{"step": 1}\n{"st{"step": 3}\n{"step": 4}\n', 2),
    "brackets nested without end": (b"[" * 100_000 + b"\n", 1),
    "a number without end": (b'{"step": ' + b"9" * 5000 + b"}\n", 1),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_read_or_the_line_is_named(tmp_path, name):
    content, line = METRICS[name]
    (tmp_path / "metrics.jsonl").write_bytes(content)
    if line is None:
        assert all(type(row["step"]) is int for row in read_metrics(tmp_path / "metrics.jsonl"))
        return
    with pytest.raises(CheckpointError, match=rf"metrics\.jsonl, line {line}: ") as caught:
        read_metrics(tmp_path / "metrics.jsonl")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def rows_or_a_named_line(path: Path) -> None:
    try:
        assert all(isinstance(row, dict) and type(row["step"]) is int for row in read_metrics(path))
    except CheckpointError as error:
        assert re.search(r"metrics\.jsonl, line \d+: ", str(error)) and "\n" not in str(error)


@given(content=st.binary(max_size=120))
def test_any_bytes_are_metrics_or_refused(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    rows_or_a_named_line(tmp_path / "metrics.jsonl")


@given(values=st.lists(any_json | st.fixed_dictionaries({"step": any_json, "loss": any_json}), max_size=4))
def test_any_json_lines_are_metrics_or_refused(tmp_path, values):
    content = "".join(json.dumps(value) + "\n" for value in values)
    (tmp_path / "metrics.jsonl").write_text(content, encoding="utf-8")
    rows_or_a_named_line(tmp_path / "metrics.jsonl")


def test_a_folder_in_place_of_metrics_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_metrics(tmp_path)


# --- the cache of encoded corpora -------------------------------------------------------------------------------------

ARRAYS = ("tokens", "offsets", "segments", "added", "text_hash", "train", "held_out")
PARTS = [*(f"{name}.bin" for name in ARRAYS), "meta.json"]


def a_folder_for(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_file_for_the_folder(file: Path) -> None:
    for path in file.parent.iterdir():
        path.unlink()
    file.parent.rmdir()
    file.parent.write_bytes(b"in the way")


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x41
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-2]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0\0"),
    "of the same length, with a changed byte": flipped,
    "of the same length, full of ones": lambda file: file.write_bytes(b"\xff" * file.stat().st_size),
    "a pickle": lambda file: file.write_bytes(pickle.dumps(np.ones(3))),
    "a folder": a_folder_for,
    "in a folder that is a file": a_file_for_the_folder,
}


@pytest.fixture
def encoded(tmp_path, tiny_tokenizer, monkeypatch):
    """A corpus that was encoded, its cache's folder, and a list that grows whenever it is encoded again."""
    path = write_rows(tmp_path / "rows.jsonl", tiny_texts(6))
    clean = encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
    arrays = {name: np.array(getattr(clean, name)) for name in ARRAYS}
    again, really = [], encoding._encode
    monkeypatch.setattr(encoding, "_encode", lambda *arguments: (again.append(1), really(*arguments)))

    def same() -> bool:
        found = encode_corpus(path, tiny_tokenizer, tmp_path / "cache")
        assert found.editions == clean.editions and found.sha256 == clean.sha256
        return all(np.array_equal(getattr(found, name), value) for name, value in arrays.items())

    return path, next((tmp_path / "cache").iterdir()), same, again


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_cache_is_made_again_without_a_word(encoded, capsys, part, damage):
    _, folder, same, again = encoded
    DAMAGES[damage](folder / part)
    assert same() and len(again) == 1
    assert same() and len(again) == 1, "what was made again is used"
    assert capsys.readouterr() == ("", "") and len(list(folder.parent.iterdir())) == 1


@given(change=mutation)
def test_facts_of_a_cache_with_changed_bytes_are_never_believed(encoded, change):
    _, folder, same, _ = encoded
    same()
    (folder / "meta.json").write_bytes(mutated((folder / "meta.json").read_bytes(), *change))
    assert same()


@given(value=any_json, key=st.sampled_from(["", "tokens", "dtype", "files", "stamp", "editions", "sha256", "seal"]))
def test_facts_of_a_cache_with_any_json_in_a_place_are_never_believed(encoded, value, key):
    _, folder, same, _ = encoded
    same()
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    meta = meta | {key: value} if key else value
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    assert same()


def test_a_copied_cache_is_used_though_its_time_stamps_differ(encoded):
    _, folder, same, again = encoded
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    assert same() and same() and again == []
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_good_cache_is_not_read_whole_to_be_judged(encoded, monkeypatch):
    _, _, same, again = encoded
    for name in ("encoding", "cache_files"):
        monkeypatch.setattr(f"minimind_core.{name}.file_sha256", lambda path: pytest.fail(f"{path} was read whole"))
    assert same() and again == []


def test_a_corpus_that_vanished_is_named_though_its_cache_is_there(encoded):
    path, _, same, _ = encoded
    path.unlink()
    with pytest.raises(CorpusError, match=r"rows\.jsonl is not there"):
        same()


if __name__ == "__main__":
    tables = {"tokenizer": TOKENIZERS, "weights": WEIGHTS, "metrics": METRICS, "cache": DAMAGES}
    print("\n".join(f"{what}: {name}" for what, table in tables.items() for name in table))

"""Settings, flags and places that cannot work: one line that says what is allowed, in a terminal and in a notebook.

`python tests/test_bad_settings.py` lists the kinds that are tried.
"""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import re
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from conftest import tiny_texts, write_rows
from hypothesis import example, given
from hypothesis import strategies as st
from nbclient import NotebookClient
from test_bad_corpus import words

from minimind_core import (
    ConfigError,
    ModelConfig,
    TrainConfig,
    encode_corpus,
    eval_model,
    preflight,
    save_tokenizer,
    tokenizer_for,
)
from minimind_core import download as downloading
from minimind_core import train_pretrain as training
from minimind_core.cli import friendly
from minimind_core.config import MOST
from minimind_core.errors import CheckpointError, CorpusError, StorageError, TokenizerError
from minimind_core.paths import PROJECT, refusal, shown, writing

FIELDS = [(kind, field.name) for kind in (ModelConfig, TrainConfig) for field in dataclasses.fields(kind)]
IDS = [name for _, name in FIELDS]

# --- every field, any value -----------------------------------------------------------------------------------------

NUMBERS = [
    0,
    1,
    -1,
    2**31,
    2**63,
    10**30,
    -(10**30),
    10**5000,
    0.0,
    -0.0,
    0.5,
    1e300,
    5e-324,
    math.nan,
    math.inf,
    -math.inf,
]
TEXTS = [
    "",
    " ",
    "0",
    "1",
    "None",
    "True",
    "auto",
    "cuda:²",
    "cuda:-1",
    "cuda:99999999999",
    "\0",
    "a\0b",
    "\ud800",
    "x" * 9999,
]
OTHERS = [None, True, False, [], [1], (), {}, {"a": 1}, b"1", 1j, Fraction(1, 3), object(), int, len, Path("x"), ...]
ARRAYS = [np.int64(8), np.float32(0.5), np.bool_(True), np.array([1, 2]), np.array(8), torch.tensor(8), torch.ones(2)]
any_value = st.one_of(
    st.sampled_from([*NUMBERS, *TEXTS, *OTHERS, *ARRAYS]),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
)


def declared(kind: type, name: str) -> tuple[type, ...]:
    hint = typing.get_type_hints(kind)[name]
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def accepted_or_explained(kind: type, values: dict[str, object]) -> bool:
    """Whether a configuration takes these values, in their declared types; if not, it has to say which is wrong."""
    try:
        config = kind(**values)
    except ConfigError as error:
        said = str(error)
        assert any(name in said for name in values), said
        assert re.search(r"allowed|needed|at most|divide|must be|even", said), said
        assert len(said) < 900 and "\n" not in said and "\0" not in said, said
        return False
    for name in values:
        assert type(getattr(config, name)) in declared(kind, name), (name, getattr(config, name))
    assert kind.from_dict(config.to_dict()) == config
    return True


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=IDS)
@given(value=any_value)
def test_any_value_of_a_field_is_taken_in_its_type_or_refused_by_name(kind, name, value):
    accepted_or_explained(kind, {name: value})


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=IDS)
def test_no_field_takes_what_has_no_meaning_for_it(kind, name):
    for value in ([], {}, object(), b"1", 1j, math.nan, np.array([1, 2]), torch.ones(2), len):
        assert not accepted_or_explained(kind, {name: value}), value
    if bool not in declared(kind, name):
        for value in (math.inf, 10**30, 10**5000, -1):
            assert not accepted_or_explained(kind, {name: value}), value
    if str not in declared(kind, name):
        assert not accepted_or_explained(kind, {name: "1"})


@pytest.mark.parametrize("kind", [ModelConfig, TrainConfig])
@given(data=st.data())
def test_any_values_together_are_taken_or_one_of_them_is_named(kind, data):
    names = data.draw(st.lists(st.sampled_from([f.name for f in dataclasses.fields(kind)]), max_size=4, unique=True))
    accepted_or_explained(kind, {name: data.draw(any_value) for name in names})


small = st.integers(1, 70)


@given(dim=small, n_heads=small, n_kv_heads=small | st.none(), experts=small, per_token=small, use_moe=st.booleans())
@example(dim=64, n_heads=8, n_kv_heads=2, experts=4, per_token=2, use_moe=True)
@example(dim=63, n_heads=9, n_kv_heads=3, experts=4, per_token=2, use_moe=False)
def test_sizes_together_are_taken_exactly_when_they_fit(dim, n_heads, n_kv_heads, experts, per_token, use_moe):
    values = {"dim": dim, "n_heads": n_heads, "n_kv_heads": n_kv_heads, "use_moe": use_moe}
    values |= {"n_routed_experts": experts, "num_experts_per_tok": per_token}
    fits = dim % n_heads == 0 and dim // n_heads % 2 == 0 and n_heads % (n_kv_heads or n_heads) == 0
    assert accepted_or_explained(ModelConfig, values) == (fits and per_token <= experts)


TOO_LARGE = {
    "a width beyond any machine": {"dim": 2**20},
    "a length beyond any machine": {"max_seq_len": 10**9},
    "a vocabulary beyond any machine": {"vocab_size": 10**9},
    "layers beyond any machine": {"n_layers": 10**6},
    "a feed-forward beyond any machine": {"hidden_dim": 10**9},
    "rounding up to a huge width": {"multiple_of": 10**9},
    "sizes that are large together": {"dim": 2**15, "n_layers": 500, "n_heads": 64},
    "a table of tokens that is large together": {"dim": 2**16, "vocab_size": 2**20, "n_heads": 64},
    "experts that are many together": {"n_layers": 1024, "n_routed_experts": 1024, "use_moe": True, "dim": 16},
    "experts that are large together": {"n_routed_experts": 512, "use_moe": True, "dim": 4096},
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_no_machine_can_hold_is_refused_before_it_is_tried(bench, capsys, name):
    with pytest.raises(ConfigError, match="at most"):
        ModelConfig(**TOO_LARGE[name])
    assert training.main(words(bench, **TOO_LARGE[name])) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "at most" in error


def test_what_some_machines_can_hold_is_not_refused():
    ModelConfig(dim=8192, n_layers=24, n_heads=64, n_kv_heads=8, vocab_size=150_000, max_seq_len=MOST["length"])
    ModelConfig(dim=1024, n_layers=24, use_moe=True, n_routed_experts=64)
    TrainConfig(batch_size=4096, accumulation_steps=1000, epochs=10**6, max_steps=10**9, learning_rate=1.0)


@pytest.mark.parametrize("value", [1.0001, 10, 1e30])
def test_a_learning_rate_that_can_only_diverge_is_refused(value):
    with pytest.raises(ConfigError, match=r"learning_rate=.*above 0, at most 1"):
        TrainConfig(learning_rate=value)


def test_numbers_of_numpy_are_taken_and_kept_as_plain_ones():
    config = ModelConfig(dim=np.int64(64), dropout=np.float32(0.5), rope_theta=10_000)
    assert [type(value) for value in (config.dim, config.dropout, config.rope_theta)] == [int, float, float]
    assert (config.dim, config.dropout, config.rope_theta) == (64, 0.5, 1e4)


# --- every flag, junk -------------------------------------------------------------------------------------------------

JUNK = {
    "nothing": [],
    "an empty word": [""],
    "a word": ["山水"],
    "a number and more": ["12abc"],
    "a fraction of a fraction": ["1.2.3"],
    "not a number": ["nan"],
    "infinity": ["inf"],
    "a negative number": ["-7"],
    "a number of thousands of digits": ["9" * 5000],
    "a list": ["[1,2]"],
    "a NUL character": ["a\0b"],
    "two words": ["1", "2"],
}
TAKES_TEXT = {"out_dir", "data_path", "valid_path", "tokenizer", "wandb_project"}  # for these a word is a name


def junk_for(name: str) -> dict[str, list[str]]:
    """What makes no sense for a flag: not all junk is junk for all."""
    fine = {"nothing"} if name in ("use_moe", "seq_aux", "norm_topk_prob", "use_wandb", "resume") else set()
    if name in TAKES_TEXT:
        fine = JUNK.keys() - {"nothing", "an empty word", "a NUL character", "two words"}
    return {what: junk for what, junk in JUNK.items() if what not in fine}


def ended(main: Callable[[list[str]], int], argv: list[str]) -> int:
    """The exit code of a command line, however it ends."""
    try:
        return main(argv)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("name", IDS)
def test_junk_for_a_flag_ends_in_one_line_that_names_the_flag(bench, capsys, name):
    known = words(bench)
    if f"--{name}" in known:
        place = known.index(f"--{name}")
        del known[place : place + 2]
    for what, junk in junk_for(name).items():
        assert ended(training.main, [*known, f"--{name}", *junk]) == 2, what
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and said.err.count("\n") == 1 and "Traceback" not in said.err, said.err
        assert name in said.err or (what == "two words" and "unrecognized arguments: 2" in said.err), said.err
        assert len(said.err) < 600 and said.out == "" and not (bench.folder / "run").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--batchsize", "2"], "unrecognized arguments: --batchsize 2. Did you mean --batch_size?"),
        (["--learning-rate", "1e-3"], "Did you mean --learning_rate?"),
        (["--epoch=3"], "Did you mean --epochs?"),
        (["--max_step", "3"], "Did you mean --max_steps"),
        (["--qqqqqqq"], "unrecognized arguments: --qqqqqqq. `python"),
        (["corpus.jsonl"], "unrecognized arguments: corpus.jsonl"),
        (["--use_moe", "maybe"], "--use_moe: 'maybe' is neither True nor False"),
        (["--dim"], "--dim: expected one argument"),
        (["--learning_rate", "fast"], "--learning_rate: 'fast' is not a number"),
        (["--dim", "x" * 500], "--dim: 'xxx"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("main", [training.main, preflight.main], ids=["train_pretrain", "preflight"])
def test_a_flag_that_does_not_exist_is_answered_by_one_line_with_a_way_on(capsys, main, typed, said):
    assert ended(main, typed) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error and len(error) < 300
    assert error.rstrip().endswith("--help` lists the flags.")


@pytest.mark.parametrize("main", [eval_model.main, downloading.main], ids=["eval_model", "download"])
@pytest.mark.parametrize("typed", [["--dimm", "3"], ["--to"], ["--seed", "x"]], ids=" ".join)
def test_the_other_command_lines_answer_junk_in_one_line_too(capsys, main, typed):
    assert ended(main, typed) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "--help" in error


@pytest.mark.parametrize("folder", ["a\0b", "x" * 5000, ""], ids=["a NUL", "long", "nothing"])
def test_a_folder_that_cannot_be_is_no_place_for_a_download(capsys, folder):
    assert downloading.main(["--to", folder]) == 2
    assert "Traceback" not in capsys.readouterr().err


# --- places that cannot be written ----------------------------------------------------------------------------------

REFUSALS = {
    "ENOSPC": "the disk is full.*Free some space",
    "EDQUOT": "quota.*Free some space",
    "EFBIG": "larger than.*Free some space",
    "EROFS": "read-only.*Choose another folder",
    "EACCES": "permission denied.*Choose another folder",
    "EPERM": "does not permit.*Choose another folder",
    "EISDIR": "a folder has the name.*Move it away",
    "ENOTDIR": "a file has the name.*Move it away",
    "EEXIST": "a file has the name.*Move it away",
    "ENOTEMPTY": "not empty.*Move it away",
    "ENAMETOOLONG": "name is too long",
    "ELOOP": "links lead round in a circle",
    "ENOENT": "is not there",
    "EMFILE": "too many files are open.*ulimit",
    "ENFILE": "too many files are open",
    "EIO": "input/output error.*another disk",
    "ESTALE": "network disk",
}


def refusing(number: int, path: str | bytes | int | None = "/data/文件") -> Callable:
    def fail(*_, **__):
        raise OSError(number, os.strerror(number), path)

    return fail


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_system_refuses_is_one_line_wherever_it_happens(capsys, name):
    number = getattr(errno, name)
    for path in ("/data/文件", "/data/文件".encode(), 3, None):
        assert friendly(refusing(number, path))([]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and re.search(REFUSALS[name], error), error
        assert ("/data/文件" in error) == (path in ("/data/文件", "/data/文件".encode()))
    with pytest.raises(StorageError, match=rf"place cannot be written: .*{REFUSALS[name]}"), writing("place"):
        refusing(number)()


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.EAGAIN, errno.EDOM])
def test_errors_that_are_no_matter_of_files_keep_their_traceback(number):
    assert refusal(OSError(number, "")) is None
    with pytest.raises(OSError):
        friendly(refusing(number))([])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_a_lack_of_memory_is_one_line(capsys, error):
    @friendly
    def main(argv=None):
        raise error

    assert main([]) == 2
    assert re.fullmatch(r"error: out of memory \(.*\)\. Lower --batch_size.*\n", capsys.readouterr().err)
    with pytest.raises(RuntimeError, match="a bug"):
        friendly(lambda argv: (_ for _ in ()).throw(RuntimeError("a bug")))([])


def test_an_error_of_our_own_passes_through_writing_unchanged():
    for error in (CorpusError("rows.jsonl, line 3: bad"), StorageError("full")):
        with pytest.raises(type(error), match=str(error)), writing("place"):
            raise error
    with pytest.raises(ZeroDivisionError), writing("place"):
        1 / 0  # noqa: B018


def test_a_storage_error_is_a_course_error_and_an_os_error():
    error = StorageError("the disk is full")
    assert str(error) == "the disk is full" and isinstance(error, OSError)


@pytest.mark.parametrize("name", ["ENOSPC", "EROFS", "EACCES"])
@pytest.mark.parametrize(
    "what", ["the tokenizer", "the tokenizer's folder", "the tokens", "the index", "the last rename"]
)
def test_a_disk_that_refuses_ends_a_run_in_one_line_and_leaves_nothing_half_written(
    bench, capsys, monkeypatch, name, what
):
    monkeypatch.setenv("MINIMIND_OUT", str(bench.folder / "out"))
    where, attribute = {
        "the tokenizer": ("pathlib.Path", "write_text"),
        "the tokenizer's folder": ("pathlib.Path", "mkdir"),
        "the tokens": ("minimind_core.cache_files", "open"),
        "the index": ("minimind_core.encoder", "write_splits"),
        "the last rename": ("os", "replace"),
    }[what]
    monkeypatch.setattr(f"{where}.{attribute}", refusing(getattr(errno, name)), raising=False)
    flags = words(bench, **({"tokenizer": None} if "tokenizer" in what else {}))
    assert training.main(flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error
    assert re.search(rf"(out|cache|tokenizers)\S* cannot be written: .*{REFUSALS[name]}", error), error
    assert [path for path in (bench.folder / "out").rglob("*") if path.is_file()] == []
    assert not (bench.folder / "run").exists()


def test_a_disk_that_refuses_new_time_stamps_does_not_spoil_a_good_cache(bench, tiny_tokenizer, monkeypatch):
    first = encode_corpus(bench.corpus, tiny_tokenizer, bench.folder / "cache")
    os.utime(bench.corpus, (1, 1))
    monkeypatch.setattr("os.replace", refusing(errno.EROFS))
    assert np.array_equal(encode_corpus(bench.corpus, tiny_tokenizer, bench.folder / "cache").tokens, first.tokens)


IN_THE_WAY = {
    "a file has the name of the folder for results": "out",
    "a file has the name of the cache": "out/cache",
    "a file has the name of the folder for tokenizers": "out/tokenizers",
    "a file has the name of the run's folder": "run",
    "a file has the name of a folder above": "run/pretrain_16",
}


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_a_file_in_the_way_is_named(bench, capsys, monkeypatch, name):
    monkeypatch.setenv("MINIMIND_OUT", str(bench.folder / "out"))
    place = bench.folder / IN_THE_WAY[name]
    place.parent.mkdir(exist_ok=True)
    place.write_text("in the way", encoding="utf-8")
    flags = words(bench, **({"tokenizer": None} if "tokenizers" in name else {}))
    assert training.main(flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and place.name in error, error
    assert place.read_text(encoding="utf-8") == "in the way"


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 16 kB, where the system lets us make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may make a small disk, on Linux; the limits on files below cover the same ground")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("what", ["the tokenizer", "the tokens"])
def test_a_disk_that_is_really_full_is_said_in_words_and_left_as_it_was(bench, capsys, monkeypatch, small_disk, what):
    write_rows(bench.corpus, tiny_texts(400))
    monkeypatch.setenv("MINIMIND_OUT", str(small_disk))
    flags = words(bench)
    if what == "the tokenizer":
        place = flags.index("--tokenizer")
        del flags[place : place + 2]
    assert training.main(flags) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: .*disk/\S* cannot be written: the disk is full\. Free some space.*\n", error), error
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits on Windows")
@pytest.mark.parametrize("what", ["tokenizer", "encoding"])
def test_a_real_limit_on_the_size_of_files_is_said_in_words(tmp_path, what):
    save_tokenizer(tokenizer_for(write_rows(tmp_path / "rows.jsonl", tiny_texts(400)), 300)[0], tmp_path)
    code = (
        "import resource, sys\n"
        "from minimind_core.cli import friendly\n"
        "from minimind_core.encoding import encode_corpus\n"
        "from minimind_core.tokenizer import load_tokenizer, save_tokenizer\n"
        f"tokenizer = load_tokenizer({str(tmp_path)!r})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "def main(argv):\n"
        f"    if {what == 'tokenizer'}: save_tokenizer(tokenizer, {str(tmp_path / 'new')!r})\n"
        f"    else: encode_corpus({str(tmp_path / 'rows.jsonl')!r}, tokenizer, {str(tmp_path / 'new')!r})\n"
        "sys.exit(friendly(main)([]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"error: .*new\S* cannot be written: the file grew larger .*Free some space.*\n", done.stderr)
    assert [path for path in (tmp_path / "new").rglob("*") if path.is_file()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise on Windows")
def test_output_that_nobody_reads_any_more_ends_the_program_quietly():
    code = (
        "from minimind_core.cli import friendly\n"
        "def main(argv):\n"
        "    while True: print('x' * 1000, flush=True)\n"
        "raise SystemExit(friendly(main)([]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        run.stdout.read(10)
        run.stdout.close()
        assert run.stderr.read() == b"" and run.wait() == 1


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("a\nb", r"a\nb"),
        ("语料 一.jsonl", "语料 一.jsonl"),
        ("a\0b", r"a\x00b"),
        ("\udcff", r"\udcff"),
        ("\u202ea", r"\u202ea"),
    ],
    ids=ascii,
)
def test_a_path_is_shown_on_one_line_whatever_it_holds(path, wanted):
    assert shown(path) == wanted and shown(PROJECT / path).endswith(wanted)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a working folder from being removed")
def test_a_working_folder_that_is_gone_does_not_keep_a_path_from_being_shown(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert shown("rows.jsonl") == "rows.jsonl" and shown(PROJECT / "out") == "out"


# --- in a notebook --------------------------------------------------------------------------------------------------

RAISED = {
    "CorpusError": "import minimind_core as m; list(m.iter_rows('nowhere.jsonl'))",
    "TokenizerError": "m.load_tokenizer('nowhere')",
    "ConfigError": "m.ModelConfig(n_heads=7)",
    "CheckpointError": "m.load_model('nowhere.pth')",
    "InputError": "import torch\nm.MiniMindLM(m.ModelConfig(dim=16, n_layers=1, n_heads=2))(torch.tensor([[99999]]))",
    "TrainingError": "from minimind_core.errors import *\nraise TrainingError('stopped') from ValueError('why')",
    "StorageError": "from minimind_core.paths import writing\nwith writing('out'): open('/proc/none/x', 'w')",
    "DownloadError": "from minimind_core.download import DownloadError\ndef f(): raise DownloadError('no host')\nf()",
    "CourseError": "try:\n    m.ModelConfig(dim=0)\nexcept ValueError as why:\n    raise CourseError('said') from why",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_a_notebook_each_error_is_its_message_without_a_page_of_stack(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIMIND_PROFILE", "laptop")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    codes = ["from minimind_core.notebook import setup\nsetup(1)", *RAISED.values(), "1 / 0", "print('still alive')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes])
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True)
    client.execute(cwd=str(tmp_path))
    for cell, name in zip(notebook.cells[1:], RAISED, strict=False):
        assert [output.output_type for output in cell.outputs] == ["error"], (name, cell.outputs)
        shown_error = cell.outputs[0]
        assert shown_error.ename == name and shown_error.evalue
        text = "\n".join(shown_error.traceback)
        assert text == f"{name}: {shown_error.evalue}" and len(text.splitlines()) <= 3, text
    bug, alive = notebook.cells[-2:]
    stack = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(bug.outputs[0].traceback))
    assert "----> 1 1 / 0" in stack, "what is no CourseError keeps its stack"
    assert alive.outputs[0].text == "still alive\n"


def test_the_errors_tried_in_a_notebook_are_all_there_are():
    import minimind_core.errors as errors

    kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert kinds | {"DownloadError"} == set(RAISED)
    for kind in (ConfigError, CorpusError, TokenizerError, CheckpointError):
        assert issubclass(kind, errors.CourseError)


if __name__ == "__main__":
    lists = [f"any value of {name}" for name in IDS] + [f"junk for a flag: {name}" for name in JUNK]
    print("\n".join([*lists, *TOO_LARGE, *(f"a disk that says {name}" for name in REFUSALS), *IN_THE_WAY]))

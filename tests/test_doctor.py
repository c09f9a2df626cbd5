"""The doctor says what is there, what is missing and what to do, and asks hosts without waiting for long."""

from __future__ import annotations

import dataclasses
import http.server
import re
import socket
import sys
import threading
import time
import types

import pytest
import torch

from minimind_core import doctor, download, full_run, hosts, preflight
from minimind_core import notebook as notebooks
from minimind_core.config import PROFILES
from minimind_core.doctor import examine
from minimind_core.encoding import encode_corpus
from minimind_core.full_run import Card
from minimind_core.lessons import LESSONS
from minimind_core.paths import PROJECT, SAMPLE
from minimind_core.storage import disk_needed

GIB = 2**30
CUDA = torch.device("cuda")


def verdicts(findings):
    return {finding.name: finding for finding in findings}


def test_a_good_machine_is_found_good():
    found = verdicts(examine(network=False))
    for name in ("Python", "torch", "notebooks and widgets", "Chinese in plots", "numbers"):
        assert found[name].verdict == "good", found[name]
    assert {f"notebook {lesson.number:02d}" for lesson in LESSONS} <= set(found)
    assert "min on this CPU" in str(found["notebook 06"]) and str(found["Python"]).startswith("✔ Python: 3.")


@pytest.mark.parametrize(
    ("change", "name", "verdict", "words"),
    [
        (lambda m: m.setattr(doctor.torch, "__version__", "2.3.1+cu121"), "torch", "bad", "needs 2.6"),
        (lambda m: m.setattr(sys, "version_info", (3, 9, 2)), "Python", "bad", "needs 3.10"),
        (lambda m: m.setattr(doctor, "chinese_font", lambda: None), "Chinese in plots", "note", "fonts-noto-cjk"),
        (lambda m: m.setattr(doctor.sys, "prefix", "/nowhere"), "widgets in JupyterLab", "note", "installed there"),
        (lambda m: m.setattr(doctor.torch, "__version__", "2.5.0a0"), "torch", "bad", "needs 2.6"),
        (lambda m: m.setattr(doctor, "free_bytes", lambda path: 1e9), "disk for dataset", "note", "MINIMIND_DATASET"),
        (lambda m: m.setattr(doctor, "free_bytes", lambda path: 1e9), "disk for out", "note", "MINIMIND_OUT"),
        (lambda m: m.setattr(doctor, "free_bytes", lambda path: 1e8), "disk for out", "bad", "MINIMIND_OUT"),
        (lambda m: m.setattr(doctor.os, "access", lambda *_: False), "disk for out", "bad", "nothing can be written"),
        (lambda m: m.setattr(doctor, "oom_kills", lambda: 1), "memory", "note", "has ended 1 process here"),
        (lambda m: m.setattr(doctor, "free_bytes", lambda path: 1e8), "/dev/shm", "note", "num_workers"),
    ],
    ids=[
        *("torch", "Python", "font", "front end", "torch before its release", "disk for data", "disk", "no disk"),
        *("a disk to read only", "ended processes", "shared memory"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(monkeypatch, change, name, verdict, words):
    if name == "/dev/shm" and not doctor.SHARED_MEMORY.is_dir():
        pytest.skip("this system has no /dev/shm")
    change(monkeypatch)
    found = verdicts(examine(network=False))[name]
    assert found.verdict == verdict and words in found.words


def test_a_package_that_is_missing_is_named(monkeypatch):
    def version(name):
        if name == "ipywidgets":
            raise doctor.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(doctor.metadata, "version", version)
    found = verdicts(examine(network=False))["notebooks and widgets"]
    assert found.verdict == "bad" and "missing in this Python: ipywidgets (make setup" in found.words


def test_too_little_memory_for_a_notebook_is_said(monkeypatch):
    little = types.SimpleNamespace(available=5e8, total=1e9)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: little)
    found = verdicts(examine(network=False))
    assert found["memory"].verdict == "bad" and found["notebook 06"].verdict == "bad"
    assert found["notebook 01"].verdict == "good" and "more than is free" in found["notebook 06"].words


def test_in_a_container_its_limit_counts_and_is_named(monkeypatch, tmp_path):
    (tmp_path / "self").write_text("0::/\n")
    for name, value in {"memory.max": 2 * GIB, "memory.current": 3 * GIB // 2}.items():
        (tmp_path / name).write_text(str(value))
    monkeypatch.setattr("minimind_core.memory.ROOT", tmp_path)
    monkeypatch.setattr("minimind_core.memory.PROC", tmp_path / "self")
    host = types.SimpleNamespace(available=100 * GIB, total=128 * GIB)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: host)
    found = verdicts(examine(network=False))
    assert "0.5 GiB free of 2.0, the limit of this container (the machine has 128.0)" in found["memory"].words
    assert found["memory"].verdict == found["notebook 06"].verdict == "bad"


def test_a_slower_machine_takes_longer(monkeypatch):
    monkeypatch.setattr(doctor, "operations_a_second", lambda: doctor.MEASURED_AT / 10)
    minutes = LESSONS[5].laptop_minutes * 10
    assert f"about {minutes:.1f} min" in doctor.lessons_here()[5].words


# --- a card -------------------------------------------------------------------------------------------------------


@pytest.fixture
def card(monkeypatch):
    """A machine with an RTX 4090, as torch would describe it; `card(capability=…, free=…)` makes it another one."""
    facts = {"capability": (8, 9), "free": 20 * GIB}
    monkeypatch.setattr(doctor, "pick_device", lambda: CUDA)
    monkeypatch.setattr(doctor, "describe_device", lambda device: "NVIDIA GeForce RTX 4090, 24 GiB")
    monkeypatch.setattr(doctor, "compute_a_little", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (facts["free"], 24 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: facts["capability"])
    monkeypatch.delenv("MINIMIND_PROFILE", raising=False)
    return facts.update


def test_a_card_is_named_with_its_memory(card):
    found = verdicts(examine(network=False))
    assert found["device"].verdict == "good" and "RTX 4090, 24 GiB, 20.0 of 24.0 GiB" in found["device"].words
    assert found["numbers"].verdict == "good" and found["numbers"].words.startswith("bfloat16")


def test_a_card_that_others_use_is_worth_a_word(card):
    card(free=3 * GIB)
    found = verdicts(examine(network=False))
    assert found["device"].verdict == "note" and "something else uses the rest" in found["device"].words
    assert "smaller pieces" in found["notebook 06"].words


@pytest.mark.parametrize(
    ("capability", "verdict", "said"),
    [
        ((9, 0), "good", ["bfloat16"]),
        ((8, 0), "good", ["bfloat16"]),
        ((7, 5), "note", ["has no bfloat16, so float16 with a gradient scaler", "overflow is left out"]),
        ((6, 1), "note", ["has no bfloat16, so float16", "At compute capability 6.1", "nothing is compiled"]),
    ],
    ids=str,
)
def test_a_card_without_bfloat16_is_told_what_happens_instead(card, capability, verdict, said):
    card(capability=capability)
    found = verdicts(examine(network=False))["numbers"]
    assert found.verdict == verdict and all(words in found.words for words in said)
    assert ("not quicker" in found.words) == (capability < (7, 0))


def test_a_card_that_torch_cannot_compute_on_is_to_be_mended_first(card, monkeypatch):
    def fail(device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with …")

    monkeypatch.setattr(doctor, "compute_a_little", fail)
    found = verdicts(examine(network=False))["device"]
    assert found.verdict == "bad" and "no kernel image" in found.words and "rented-gpu.md" in found.words
    assert "\n" not in found.words


def test_computing_a_little_works_where_torch_does():
    doctor.compute_a_little(torch.device("cpu"))


@pytest.mark.parametrize(
    ("hidden", "built_for", "said"),
    [
        ("", "12.8", "CUDA_VISIBLE_DEVICES hides"),
        (None, None, "torch is a build without CUDA"),
        (None, "12.8", "driver knows CUDA 12.8"),
    ],
    ids=["hidden", "a build for CPUs", "no card, or an old driver"],
)
def test_a_card_that_torch_does_not_see_gets_a_word_on_why(monkeypatch, hidden, built_for, said):
    monkeypatch.setattr(doctor, "pick_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert said in verdicts(doctor._device()[0])["device"].words
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert verdicts(doctor._device()[0])["device"].words.endswith("the full one in days")


def test_on_a_card_a_notebooks_time_is_not_taken_from_this_cpu(card):
    found = verdicts(examine(network=False))
    for lesson in LESSONS:
        words = found[f"notebook {lesson.number:02d}"].words
        measured = "not measured yet" if lesson.gpu_minutes is None else f"{lesson.gpu_minutes:.1f} min on an RTX 4090"
        assert words.startswith(f"on a card {measured}")
        assert re.search(r"in the laptop profile about [\d.]+ min on this CPU", words)


def test_minutes_that_were_measured_on_a_card_are_said(monkeypatch):
    lessons = tuple(dataclasses.replace(lesson, gpu_minutes=12.5) for lesson in LESSONS)
    monkeypatch.setattr(doctor, "LESSONS", lessons)
    assert all(f.words.startswith("on a card 12.5 min on an RTX 4090") for f in doctor.lessons_here(Card("x", GIB)))


@pytest.mark.parametrize(
    ("gibibytes", "verdict", "said"),
    [(23, "good", "23.0 are free;"), (4, "good", "smaller pieces"), (0.9, "bad", "too few even for one row")],
)
def test_the_full_run_is_compared_with_the_cards_memory(gibibytes, verdict, said):
    found = doctor.lessons_here(Card("NVIDIA GeForce RTX 4090", round(gibibytes * GIB)))
    assert found[5].verdict == verdict and said in found[5].words and "about 9.0 GiB of the card" in found[5].words
    assert {finding.verdict for finding in found[:5]} == {"good"}


def test_with_another_profile_nothing_is_said_of_the_full_run(monkeypatch):
    monkeypatch.setenv("MINIMIND_PROFILE", "laptop")
    found = doctor.lessons_here(Card("NVIDIA GeForce RTX 4090", GIB // 2))[5]
    assert found.verdict == "good" and "full corpus" not in found.words


@pytest.mark.parametrize(
    ("name", "minutes"),
    [
        ("NVIDIA GeForce RTX 4090", 6 * 25.83e6 * 415e6 / (0.4 * 165e12) / 60),
        ("NVIDIA A100-SXM4-80GB", 8.6),
        ("NVIDIA A100 80GB PCIe", 8.6),
        ("NVIDIA H100 80GB HBM3", 2.7),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_the_full_runs_time_is_reckoned_for_a_card_that_is_known(name, minutes):
    words = full_run.full_run_on(Card(name, 80 * GIB))[1]
    if minutes is None:
        assert full_run.full_run_seconds(name) is None and "measures it before" in words
    else:
        assert full_run.full_run_seconds(name) / 60 == pytest.approx(minutes, abs=0.1)
        assert f"by reckoning {minutes:.0f} min" in words and "40%" in words


def test_what_the_doctor_knows_of_the_full_run_is_what_the_code_says():
    gpu = PROFILES["gpu"]
    shapes = preflight.MiniMindLM(gpu.model).state_dict()
    assert sum(w.numel() for name, w in shapes.items() if name != "output.weight") == full_run.PARAMETERS
    for rows, known in ((gpu.train.batch_size, full_run.CARD_BYTES), (1, full_run.CARD_BYTES_LEAST)):
        reckoned = preflight.training_memory(gpu.model, full_run.PARAMETERS, rows, torch.bfloat16)
        assert known == pytest.approx(reckoned, rel=0.005)


# --- disks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIMIND_DATASET", str(tmp_path / "dataset"))
    monkeypatch.setenv("MINIMIND_OUT", str(tmp_path / "out"))
    return tmp_path


def disks() -> list[str]:
    found = verdicts(doctor._disks())
    return [found[f"disk for {name}"].verdict for name in ("dataset", "out")]


def on_two_disks(monkeypatch, folders) -> None:
    def place(path):
        return types.SimpleNamespace(stat=lambda: types.SimpleNamespace(st_dev=str(path)), __fspath__=lambda: "/")

    monkeypatch.setattr(doctor, "existing_parent", place)
    monkeypatch.setattr(doctor.os, "access", lambda *_: True)


def test_corpus_and_results_on_one_disk_need_room_together(folders, monkeypatch):
    both = doctor.DATA_BYTES + doctor.OUT_BYTES
    for free, verdict in ((both + 1e7, "good"), (both - 1e7, "note")):
        monkeypatch.setattr(doctor, "free_bytes", lambda path, free=free: free)
        assert disks() == [verdict, verdict]
    on_two_disks(monkeypatch, folders)
    assert disks() == ["good", "good"]
    monkeypatch.setattr(doctor, "free_bytes", lambda path: 2.6e9)
    assert disks() == ["good", "note"]


def test_what_lies_there_already_needs_no_room(folders, monkeypatch):
    monkeypatch.setattr(doctor, "free_bytes", lambda path: doctor.OUT_BYTES + 1e7)
    assert disks() == ["note", "note"]
    part = folders / "dataset/.download/pretrain_hq/pretrain_hq.jsonl.incomplete"
    part.parent.mkdir(parents=True)
    part.touch()
    assert disks() == ["note", "note"]
    with part.open("r+b") as file:
        file.truncate(round(doctor.DATA_BYTES))  # a file with a hole takes no room
    assert disks() == ["good", "good"]
    part.unlink()
    (folders / "dataset/pretrain_hq.jsonl").touch()
    assert disks() == ["good", "good"]
    monkeypatch.setattr(doctor, "free_bytes", lambda path: disk_needed(full_run.PARAMETERS) + 1e7)
    assert disks() == ["good", "note"]
    tokens = folders / "out/cache/pretrain_hq-0123/tokens.bin"
    tokens.parent.mkdir(parents=True)
    with tokens.open("wb") as file:
        file.truncate(round(doctor.ENCODED_BYTES))
    assert disks() == ["good", "good"]


def test_the_room_for_encoded_tokens_is_what_encoding_takes(tmp_path, tiny_tokenizer):
    encoded = encode_corpus(SAMPLE, tiny_tokenizer, tmp_path)
    taken = sum(path.stat().st_size for path in encoded.folder.iterdir() if path.suffix == ".bin")
    assert taken / len(encoded.tokens) < doctor.ENCODED_BYTES / full_run.TOKENS < 1.2 * taken / len(encoded.tokens)


def test_the_page_on_rented_cards_names_the_sizes_that_the_doctor_asks_for():
    text = (PROJECT / "docs/rented-gpu.md").read_text(encoding="utf-8")
    sizes = re.search(
        r"take about ([\d.]+) GB: ([\d.]+) of corpus, about ([\d.]+) of encoded tokens, up to ([\d.]+)", text
    )
    whole, corpus, encoded, run = map(float, sizes.groups())
    assert corpus == round(download.PUBLISHED["pretrain_hq"].about / 1e9, 1)
    assert encoded == round(doctor.ENCODED_BYTES / 1e9, 1) and run == round(disk_needed(full_run.PARAMETERS) / 1e9, 1)
    assert pytest.approx(encoded + run, abs=0.06) == doctor.OUT_BYTES / 1e9
    assert whole == pytest.approx((doctor.DATA_BYTES + doctor.OUT_BYTES) / 1e9, abs=0.06)


def test_the_page_on_rented_cards_names_the_lines_as_they_are_printed(bench):
    text = (PROJECT / "docs/rented-gpu.md").read_text(encoding="utf-8")
    table = text.split("## Before you pay for an hour")[1].split("## ")[0]
    labels = [label for row in re.findall(r"^\| (`.*?) \|", table, re.M) for label in re.findall(r"`(.+?): …`", row)]
    assert len(labels) >= 7 and len(labels) == len(re.findall(r"`[^`]*…`", table))
    printed = {finding.name for finding in examine(network=False)}
    printed |= {note.split(":")[0] for note in bench.plan("out").notes} | {"A run"}
    assert set(labels) <= printed


# --- the estimate of a run, which preflight prints below it -------------------------------------------------------


def test_an_update_is_counted_once_for_all_its_micro_steps(bench, monkeypatch):
    plan = bench.plan("out", batch_size=2, accumulation_steps=4, recipe="seed")
    assert plan.updates < plan.total_steps
    moments = iter([100, 200, *(moment for step in range(3) for moment in (201 + 11 * step, 211 + 11 * step))])
    monkeypatch.setattr(preflight, "_now", lambda device: next(moments))  # 1 s a micro-step, 10 s an update
    needs = preflight.estimate(plan)
    assert needs.seconds == pytest.approx(plan.total_steps + 10 * plan.updates)
    assert needs.seconds_per_step == pytest.approx(needs.seconds / plan.total_steps)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_moment_is_taken_when_the_device_has_finished(monkeypatch, kind):
    waited = []
    monkeypatch.setattr(getattr(torch, kind), "synchronize", lambda *device: waited.append(kind))
    preflight._now(torch.device(kind))
    assert waited == [kind]


def test_preflight_speaks_of_the_container_where_its_limit_is_what_counts(bench, monkeypatch):
    plan = bench.plan("out")
    needs = preflight.estimate(plan, steps=1)
    host = types.SimpleNamespace(available=100 * GIB, total=128 * GIB)
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: host)
    assert preflight.warnings_for(plan, needs) == []
    monkeypatch.setattr("minimind_core.memory._groups", lambda: [FullGroup()])
    (warning,) = preflight.warnings_for(plan, needs)
    assert "0.0 of the 0.1 that this container may use are free" in warning
    with pytest.raises(preflight.TrainingError, match=r"this container may use 0\.1 of the machine's 128"):
        preflight.estimate(plan, steps=1)


class FullGroup:
    """A control group of 100 MiB, of which 10 are left."""

    def limit(self):
        return 100 << 20

    def left(self):
        return 10 << 20


# --- hosts --------------------------------------------------------------------------------------------------------


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(403)
        self.end_headers()

    def log_message(self, *words):
        pass


class Babbling(http.server.BaseHTTPRequestHandler):
    """What is no web server at all."""

    def handle(self):
        self.wfile.write(b"220 mail ready\r\n")


def served(monkeypatch, *hosts: str) -> None:
    """Let the download's three sources be these hosts."""
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, host in zip(("MAIN_HOST", "MIRROR_HOST", "MODELSCOPE_HOST"), hosts, strict=True):
        monkeypatch.setattr(download, name, host)


@pytest.fixture
def refusing():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent():
    """A host that takes the call and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_hosts_are_asked_at_once_and_a_refusal_is_an_answer(monkeypatch, refusing, silent):
    monkeypatch.setattr(hosts, "HOST_SECONDS", 0.5)
    served(monkeypatch, refusing, silent, silent)
    started = time.monotonic()
    found = doctor._hosts()
    assert time.monotonic() - started < 1.4
    assert [finding.verdict for finding in found] == ["good", "note", "note"]
    assert "answers in" in found[0].words and "does not answer within" in found[1].words
    served(monkeypatch, silent, silent, silent)
    assert "no host of the corpus answers" in doctor._hosts()[-1].words


@pytest.mark.parametrize("what", ["getaddrinfo", "connect"])
def test_a_look_up_or_addresses_that_hang_do_not_hold_the_doctor_up(monkeypatch, what):
    over, silence = threading.Event(), (lambda *given, **more: over.wait(60))
    if what == "getaddrinfo":
        monkeypatch.setattr(socket, "getaddrinfo", silence)
    else:  # each of eight addresses takes its full time, which urlopen's limit allows
        address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **more: [address] * 8)
        monkeypatch.setattr(
            socket.socket, "connect", lambda self, address: time.sleep(self.gettimeout()) or self.fail()
        )
        monkeypatch.setattr(socket.socket, "fail", refuse, raising=False)
    monkeypatch.setattr(hosts, "HOST_SECONDS", 1.0)
    served(monkeypatch, *(f"http://{name}.example" for name in "abc"))
    try:
        started = time.monotonic()
        found = doctor._hosts()
        assert time.monotonic() - started < 2.5
    finally:
        over.set()
    assert [finding.words for finding in found[:3]] == ["does not answer within 1 s"] * 3


def refuse(self):
    raise TimeoutError


def test_a_stranger_on_the_port_and_a_closed_one_are_no_answer(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Babbling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert hosts.answer_of(f"http://127.0.0.1:{server.server_port}") == "cannot be reached"
        server.shutdown()
    assert hosts.answer_of(f"http://127.0.0.1:{server.server_port}") == "cannot be reached"


def test_the_hosts_that_are_asked_are_the_downloads_own(monkeypatch):
    monkeypatch.setattr(doctor, "answer_of", lambda host: 0.5)

    def asked():
        return [finding.name for finding in doctor._hosts()]

    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert asked() == ["huggingface.co", "hf-mirror.com", "modelscope.cn"]
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hf")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "https://scope.example")
    assert asked() == ["mirror.example", "scope.example"]
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    (found,) = doctor._hosts()
    assert found.verdict == "bad" and "HF_ENDPOINT" in found.words


def test_offline_no_host_is_asked(monkeypatch):
    monkeypatch.setattr(doctor, "answer_of", lambda host: pytest.fail("a host was asked"))
    monkeypatch.setenv("MINIMIND_OFFLINE", "1")
    assert not [finding for finding in examine() if "hugging" in finding.name]


def test_the_cell_prints_all_and_leaves_a_word_where_widgets_are_not_shown(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, raw: shown.append(what))
    notebooks.doctor(network=False)
    said = capsys.readouterr().out
    assert "✔ Python" in said and said.rstrip().endswith("Ready. (More: docs/troubleshooting.md.)")
    assert "application/vnd.jupyter.widget-view+json" in shown[0] and "not shown here" in shown[0]["text/plain"]
    bad = doctor.Finding("torch", "bad", "old")
    monkeypatch.setattr(doctor, "examine", lambda network: [bad])
    notebooks.doctor()
    assert "To mend first: torch." in capsys.readouterr().out

"""The doctor says what is there, what is missing and what to do, and asks hosts without waiting for long."""

from __future__ import annotations

import http.server
import socket
import sys
import threading
import time
import types

import pytest
import torch

from minimind_core import doctor
from minimind_core import notebook as notebooks
from minimind_core.doctor import examine
from minimind_core.lessons import LESSONS


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
        (lambda m: m.setattr(doctor, "free_bytes", lambda path: 1e8), "disk for out", "note", "MINIMIND_OUT"),
        (lambda m: m.setattr(doctor, "free_bytes", lambda path: 1e8), "/dev/shm", "note", "num_workers"),
    ],
    ids=["torch", "Python", "font", "front end", "disk", "shared memory"],
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


def test_a_slower_machine_takes_longer(monkeypatch):
    monkeypatch.setattr(doctor, "operations_a_second", lambda: doctor.MEASURED_AT / 10)
    minutes = LESSONS[5].laptop_minutes * 10
    assert f"about {minutes:.1f} min" in doctor.lessons_here()[5].words


def test_a_card_is_named_with_its_memory(monkeypatch):
    monkeypatch.setattr(doctor, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(doctor, "describe_device", lambda device: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(doctor, "pick_dtype", lambda name, device: (torch.bfloat16, "bfloat16"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * 2**30, 24 * 2**30))
    found = verdicts(examine(network=False))["device"]
    assert found.verdict == "good" and "RTX 4090, 20.0 of 24.0 GiB" in found.words


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(403)
        self.end_headers()

    def log_message(self, *words):
        pass


def test_hosts_are_asked_at_once_and_a_refusal_is_an_answer(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    silent = socket.create_server(("127.0.0.1", 0))  # takes the call and says nothing
    monkeypatch.setattr(doctor, "HOST_SECONDS", 0.5)
    hosts = [f"http://127.0.0.1:{port}" for port in (server.server_port, *[silent.getsockname()[1]] * 3)]
    started = time.monotonic()
    found = doctor._hosts(hosts)
    assert time.monotonic() - started < 1.4
    assert [finding.verdict for finding in found] == ["good", "note", "note", "note"]
    assert "no host of the corpus answers" in doctor._hosts(hosts[1:])[-1].words
    server.shutdown()
    silent.close()


def test_offline_no_host_is_asked(monkeypatch):
    monkeypatch.setattr(doctor, "answers_in", lambda host: pytest.fail("a host was asked"))
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

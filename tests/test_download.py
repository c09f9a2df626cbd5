"""The download command against hosts that misbehave: a loopback server plays Hugging Face, its mirror and ModelScope.

Nothing here leaves this machine. Each test asserts what lies on disk afterwards and what the learner was told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import importlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from minimind_core.errors import CourseError

dl = importlib.import_module("minimind_core.download")  # the package also has a function of this name

ROWS = [json.dumps({"text": f"<s>第{i}行，{'很长的一段话。' * 20}</s>"}, ensure_ascii=False) for i in range(1500)]
DATA = ("\n".join(ROWS) + "\n").encode()
SUM = hashlib.sha256(DATA).hexdigest()
OTHER = DATA[::-1]  # the same length, other bytes, and no JSON lines at all
CHANGED = DATA.replace("第7行".encode(), "第八行".encode(), 1)[: len(DATA)]
HTML = b"<!DOCTYPE html><html><head><title>Sign in to the network</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + SUM.encode() + b"\nsize 1620000000\n"
HALF = len(DATA) // 2
HANG = 0.8  # seconds
real_sleep = time.sleep


class Host:
    """One host that serves `data`; each entry of `faults` spoils one data request, `always` spoils all that follow."""

    def __init__(self) -> None:
        self.data, self.etag, self.faults, self.always = DATA, SUM, [], None
        self.head_faults: list[int | str] = []
        self.head_always: int | str | None = None
        self.listing: list[dict] | int = [{"Path": "README.md"}, {"Path": "pretrain_hq.jsonl", "Sha256": SUM}]
        self.log: list[tuple[str, str, str | None]] = []
        self.tokens: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.handle_error = lambda *_: None  # clients hang up on purpose here
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.cdn = f"http://localhost:{self.server.server_port}"  # another origin, as the real ones have
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def gets(self) -> list[str | None]:
        """The Range headers of the data requests, in order."""
        return [given for method, path, given in self.log if method == "GET" and path.startswith("/cdn/")]

    def handler(host) -> type[BaseHTTPRequestHandler]:  # named so, since the handler has a self of its own
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                host.note(self)
                host.answer_head(self)

            def do_GET(self):
                host.note(self)
                host.answer_get(self)

        return Handler

    def note(self, request) -> None:
        self.log.append((request.command, request.path, request.headers.get("Range")))
        self.tokens += filter(None, [request.headers.get("Authorization")])

    def answer_head(self, request) -> None:
        fault = self.head_faults.pop(0) if self.head_faults else self.head_always
        if fault == "hang":
            real_sleep(HANG)
        if fault == "portal":
            return self.send(request, 200, b"", {"Content-Length": str(len(HTML)), "Content-Type": "text/html"})
        if isinstance(fault, int):
            code = {"X-Error-Code": "RevisionNotFound"} if fault == 404 else {}
            return self.send(request, fault, b"", code)
        size = {"pointer": len(POINTER)}.get(fault, len(self.data))
        headers = {"X-Repo-Commit": "c" * 40, "X-Linked-ETag": f'"{self.etag}"', "X-Linked-Size": str(size)}
        return self.send(request, 302, b"", headers | {"Location": f"{self.cdn}/cdn/file"})

    def answer_get(self, request) -> None:
        path = urlsplit(request.path)
        if path.path.endswith("/repo/tree"):
            if isinstance(self.listing, int):
                return self.send(request, self.listing, b"{}")
            return self.send(request, 200, json.dumps({"Code": 200, "Data": {"Files": self.listing}}).encode())
        if path.path.endswith("/internalAccelerationInfo"):
            return self.send(request, 404, b"{}")
        if path.path.endswith("/repo"):
            assert parse_qs(path.query)["FilePath"] == ["pretrain_hq.jsonl"]
        if not path.path.startswith("/cdn/"):
            return self.send(request, 302, b"", {"Location": f"{self.cdn}/cdn/file"})
        return self.send_data(request, self.faults.pop(0) if self.faults else self.always)

    def send_data(self, request, fault) -> None:
        start = int(re.match(r"bytes=(\d+)-", request.headers.get("Range") or "bytes=0-").group(1))
        if isinstance(fault, int):
            return self.send(request, fault, b"sorry")
        if fault == "hang":
            real_sleep(HANG)
        if fault in ("html", "pointer"):
            return self.send(request, 200, {"html": HTML, "pointer": POINTER}[fault])
        if fault == "short":
            return self.send(request, 200, self.data[:HALF]) if not start else self.send(request, 416, b"")
        if fault == "no-range":
            start = 0
        body = {"other": OTHER, "changed": CHANGED}.get(fault, self.data)[start:]
        headers = {"Content-Length": str(len(body))}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        if fault in ("cut", "reset"):
            body = body[: max(len(body) // 2, 1)]
        self.send(request, 206 if start else 200, body, headers)
        if fault == "reset":  # a connection that is reset, not closed: another exception on the other side
            request.wfile.flush()
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if fault in ("cut", "reset"):
            request.close_connection = True

    @staticmethod
    def send(request, status: int, body: bytes, headers: dict | None = None) -> None:
        request.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            request.send_header(key, value)
        request.end_headers()
        with contextlib.suppress(OSError):  # the client may have gone away, as some tests have it do
            request.wfile.write(body)


@pytest.fixture
def host():
    """A function that starts one more host."""
    started: list[Host] = []

    def start(**knobs) -> Host:
        one = Host()
        started.append(one)
        for key, value in knobs.items():
            assert hasattr(one, key), key
            setattr(one, key, value)
        return one

    yield start
    for one in started:
        one.server.shutdown()
        one.server.server_close()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No internet, no waiting, no traces in the home folder, a small corpus in the table; all restored afterwards."""
    import huggingface_hub
    from huggingface_hub import constants

    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "MINIMIND_DATASET"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope_home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope_cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # else the library asks its home once a day
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 10)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 10)
    for name in ("MAIN_HOST", "MIRROR_HOST", "MODELSCOPE_HOST"):
        monkeypatch.setattr(dl, name, dead_url())
    monkeypatch.setattr(dl, "CHUNK", 4096)
    monkeypatch.setattr(dl, "WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(dl, "PUBLISHED", {"pretrain_hq": corpus(), "other": corpus(name="other", sha256="0" * 64)})
    monkeypatch.setattr(time, "sleep", lambda seconds: real_sleep(min(seconds, 0.01)))  # the libraries' waits
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture
def impatient(monkeypatch):
    """Time limits that a host which hangs for HANG seconds exceeds."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.6)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)


@pytest.fixture
def modelscope(monkeypatch):
    """ModelScope's client with a single retry, as its own waits grow to half a minute."""
    monkeypatch.setattr(pytest.importorskip("modelscope_hub._download"), "DOWNLOAD_RETRY_TIMES", 1)


def corpus(**changes) -> dl.PublishedCorpus:
    small = {"name": "pretrain_hq", "sha256": SUM, "size": len(DATA), "about": len(DATA), "rows": len(ROWS)}
    return dataclasses.replace(PINNED["pretrain_hq"], **(small | changes))


PINNED = dict(dl.PUBLISHED)


def dead_url() -> str:
    """The address of a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


class Talk(list):
    """Collects what was said, as one text."""

    def __call__(self, line: str) -> None:
        self.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self)


def fetch(tmp_path, endpoint=None, name="pretrain_hq") -> tuple[Path, str]:
    talk = Talk()
    path = dl.download(name, tmp_path / "dataset", endpoint=endpoint, say=talk)
    assert path.read_bytes() == DATA
    assert leftovers(tmp_path) == [], "a partial file was left behind"
    return path, talk.text


def refused(tmp_path, endpoint=None, name="pretrain_hq") -> str:
    """Run a download that must fail, and return its message; nothing may lie under the final name."""
    with pytest.raises(dl.DownloadError) as caught:
        dl.download(name, tmp_path / "dataset", endpoint=endpoint, say=Talk())
    assert isinstance(caught.value, CourseError)
    assert not (tmp_path / "dataset" / f"{name}.jsonl").exists()
    return str(caught.value)


def leftovers(tmp_path) -> list[str]:
    return [p.name for p in (tmp_path / "dataset").rglob("*incomplete*")]


def partial_file(tmp_path, content: bytes) -> Path:
    path = tmp_path / "dataset/.download/pretrain_hq/pretrain_hq.jsonl.incomplete"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# ── The table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_table_is_pinned():
    assert list(PINNED) == ["pretrain_hq", "pretrain_hq_im", "pretrain_t2t_mini"]
    for name, one in PINNED.items():
        assert re.fullmatch(r"[0-9a-f]{40}", one.revision) and re.fullmatch(r"[0-9a-f]{64}", one.sha256)
        assert one.local_name == f"{name}.jsonl"
        assert one.size in (None, one.about)
    first, later = PINNED["pretrain_hq"], PINNED["pretrain_hq_im"]
    assert first.file_name == later.file_name and first.revision != later.revision
    assert first.url() == (
        "https://huggingface.co/datasets/jingyaogong/minimind_dataset/resolve/"
        "5a2206fdc7aaa71ee9c8445888aa56e9b73e25be/pretrain_hq.jsonl"
    )


# ── All goes well ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fresh_download(host, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub = host()
    path, said = fetch(tmp_path, hub.url)
    assert path == tmp_path / "dataset/pretrain_hq.jsonl"
    assert f"{len(DATA):,} bytes with the right sum, 1,500 rows, markers of edition 's'" in said
    asked = {path for _, path, _ in hub.log}
    revision = PINNED["pretrain_hq"].revision
    assert asked == {f"/datasets/jingyaogong/minimind_dataset/resolve/{revision}/pretrain_hq.jsonl", "/cdn/file"}
    assert hub.gets() == [None]
    assert hub.tokens == [], "a token was sent to a host that may be a mirror"
    size = sum(p.stat().st_size for p in (tmp_path / "dataset").rglob("*") if p.is_file())
    assert size < len(DATA) + 1000, "the corpus lies on the disk twice"


def test_hf_endpoint_is_honoured(host, tmp_path, monkeypatch):
    hub, mirror = host(), host()
    monkeypatch.setattr(dl, "MIRROR_HOST", mirror.url)
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    fetch(tmp_path)
    assert hub.gets() == [None] and mirror.log == []


def test_unknown_size_is_decided_by_the_sum(host, tmp_path, monkeypatch):
    monkeypatch.setitem(dl.PUBLISHED, "pretrain_hq", corpus(size=None, about=len(DATA) + 1000))
    fetch(tmp_path, host().url)
    (tmp_path / "dataset/pretrain_hq.jsonl").unlink()
    fetch(tmp_path, host(etag="f" * 40).url)  # a git blob's etag says nothing of the content


def test_two_editions_lie_side_by_side(host, tmp_path, monkeypatch):
    hub = host()
    monkeypatch.setitem(dl.PUBLISHED, "pretrain_hq_im", corpus(name="pretrain_hq_im", revision="8" * 40))
    first, _ = fetch(tmp_path, hub.url)
    later, _ = fetch(tmp_path, hub.url, name="pretrain_hq_im")
    assert (first.name, later.name) == ("pretrain_hq.jsonl", "pretrain_hq_im.jsonl")
    assert hub.log[-1][1] == "/cdn/file" and any(f"/resolve/{'8' * 40}/pretrain_hq.jsonl" in p for _, p, _ in hub.log)


# ── Something lies there already ─────────────────────────────────────────────────────────────────────────────────────


def test_already_there(host, tmp_path, monkeypatch):
    hub = host()
    path, _ = fetch(tmp_path, hub.url)
    asked = len(hub.log)
    monkeypatch.setattr(dl, "_sha256", lambda path: pytest.fail("1.6 GB were read again"))
    _, said = fetch(tmp_path, hub.url)
    assert "there already, complete and with the right sum; nothing to do" in said
    assert len(hub.log) == asked


def test_a_touched_file_is_checked_again(host, tmp_path):
    path, _ = fetch(tmp_path, host().url)
    os.utime(path, (1, 1))
    _, said = fetch(tmp_path, dead_url())
    assert "checking its sum" in said and "nothing to do" in said


def test_a_file_brought_by_hand_is_accepted(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/pretrain_hq.jsonl").write_bytes(DATA)
    _, said = fetch(tmp_path, dead_url())
    assert "right sum" in said


@pytest.mark.parametrize(
    ("content", "what", "do"),
    [
        (HTML, "a web page (HTML)", "Delete it"),
        (POINTER, "a Git LFS pointer", "Delete it"),
        (b"", "an empty file", "Delete it"),
        (b"\x1f\x8b\x08rest", "a compressed archive", "Delete it"),
        (b'{"Code":404,"Message":"gone"}', "no corpus: it begins with", "Delete it"),
        (DATA[:HALF], f"{HALF:,} of {len(DATA):,} bytes, perhaps a download that was cut short", "move it to"),
        (CHANGED + b"{}", "another corpus, a cut one or a changed one", "Delete or rename it"),
    ],
)
def test_another_file_is_left_alone_and_named(tmp_path, content, what, do):
    path = tmp_path / "dataset/pretrain_hq.jsonl"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(dl.DownloadError) as caught:
        dl.download("pretrain_hq", path.parent, endpoint=dead_url(), say=Talk())
    message = str(caught.value)
    assert what in message and do in message and "was left as it is" in message and "run this command again" in message
    assert path.read_bytes() == content


def test_the_other_edition_is_recognised(tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_bytes(DATA)
    with pytest.raises(
        dl.DownloadError, match=r"is not other: the published pretrain_hq .* Rename it to pretrain_hq.j"
    ):
        dl.download("other", tmp_path, say=Talk())


def test_advice_for_a_cut_file_works(host, tmp_path):
    path = tmp_path / "dataset/pretrain_hq.jsonl"
    path.parent.mkdir()
    path.write_bytes(DATA[:HALF])
    with pytest.raises(dl.DownloadError) as caught:
        dl.download("pretrain_hq", path.parent, say=Talk())
    target = Path(re.search(r"move it to (\S+);", str(caught.value)).group(1))
    assert target.parent.is_dir(), "the advice names a folder that isn't there"
    path.rename(target)
    hub = host()
    fetch(tmp_path, hub.url)
    assert hub.gets() == [f"bytes={HALF}-"]


# ── What isn't the data ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"always": "html"}, "what came is a web page (HTML), not the data"),
        ({"always": "pointer"}, "what came is a Git LFS pointer"),
        ({"always": "short"}, f"answers 416: it has nothing after the first {HALF / 1000:.2f} kB"),
        ({"always": "other"}, "what came is no corpus: it begins with"),
        ({"always": "changed"}, "what came is another file: sha256"),
        ({"head_always": "portal"}, "not as a Hugging Face host does"),
        ({"head_always": "pointer", "etag": "f" * 40}, "so small is an error page or a Git LFS pointer"),
        ({"etag": "1" * 64}, "announces another file under this name: sha256 111111111111…"),
        ({"head_always": 404}, "answers 404 Not Found: no pretrain_hq.jsonl at revision 5a2206fdc7aa…"),
        ({"head_always": 403}, "answers 403 Forbidden"),
        ({"head_always": 503}, "answers 503 Service Unavailable"),
        ({"always": 500}, "answers 500 Internal Server Error"),
        ({"head_always": "hang"}, "does not answer in time"),
        ({"always": "hang"}, "does not answer in time"),
    ],
)
def test_a_faulty_hub_is_named_in_the_error(host, tmp_path, monkeypatch, request, modelscope, knobs, reason):
    if "hang" in knobs.values():
        request.getfixturevalue("impatient")
    hub, gone = host(**knobs), host(listing=[{"Path": "README.md"}])
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", gone.url)
    message = refused(tmp_path, hub.url)
    assert f"{hub.url[7:]}: " in message and reason in message
    assert f"{gone.url[7:]}: its list has no pretrain_hq.jsonl; it has README.md" in message
    if knobs.keys() & {"head_always", "etag"}:
        assert hub.gets() == [], "1.6 GB were asked for although the announcement was wrong already"


def test_html_never_costs_the_partial_file(host, tmp_path, monkeypatch, modelscope):
    part = partial_file(tmp_path, DATA[:HALF])
    hub = host(always="html", head_faults=["ok", "portal"])
    assert "not as a Hugging Face host does" in refused(tmp_path, hub.url)
    assert part.read_bytes() == DATA[:HALF]


# ── Faults that pass ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("knobs", [{"head_faults": [503, 429]}, {"faults": [503, 502]}, {"head_faults": ["hang"]}])
def test_a_passing_refusal_is_waited_for(host, tmp_path, request, knobs):
    if "hang" in knobs.get("head_faults", []):
        request.getfixturevalue("impatient")
    _, said = fetch(tmp_path, host(**knobs).url)
    assert "trying again" in said and "Complete" in said


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_a_cut_connection_is_resumed(host, tmp_path, fault):
    hub = host(faults=[fault] * 6)
    fetch(tmp_path, hub.url)
    starts = [int(given[6:-1]) for given in hub.gets()[1:]]
    assert hub.gets()[0] is None and len(starts) >= 6
    least = HALF - dl.CHUNK if fault == "cut" else 1  # a reset also throws away what is under way
    assert starts == sorted(starts) and starts[0] >= least, "bytes that had come were asked for again"


def test_ctrl_c_keeps_the_partial_file(host, tmp_path, monkeypatch):
    hub = host()
    real_write = dl._PartFile.write

    def interrupted(self, block):
        if self.tell() >= HALF:
            raise KeyboardInterrupt
        return real_write(self, block)

    monkeypatch.setattr(dl._PartFile, "write", interrupted)
    talk = Talk()
    with pytest.raises(KeyboardInterrupt):
        dl.download("pretrain_hq", tmp_path / "dataset", endpoint=hub.url, say=talk)
    assert "Stopped." in talk.text and "Run the same command again to go on from there" in talk.text
    assert not (tmp_path / "dataset/pretrain_hq.jsonl").exists()
    monkeypatch.setattr(dl._PartFile, "write", real_write)
    _, said = fetch(tmp_path, hub.url)
    assert "kB of it lie in" in said
    assert int(hub.gets()[-1][6:-1]) >= HALF


def test_a_whole_partial_file_needs_no_host(tmp_path):
    partial_file(tmp_path, DATA)
    _, said = fetch(tmp_path, dead_url())
    assert "Complete" in said


def test_a_partial_file_that_is_too_long(host, tmp_path):
    partial_file(tmp_path, DATA + b"more")
    hub = host()
    fetch(tmp_path, hub.url)
    assert hub.gets() == [None]


def test_the_sum_outranks_what_the_first_bytes_look_like(host, tmp_path, monkeypatch):
    odd = b'{"source": "a key that we did not expect", "text": "<s>a</s>"}\n' * 9
    entry = corpus(sha256=hashlib.sha256(odd).hexdigest(), size=len(odd), about=len(odd))
    monkeypatch.setitem(dl.PUBLISHED, "pretrain_hq", entry)
    path = dl.download("pretrain_hq", tmp_path, endpoint=host(data=odd, etag=entry.sha256).url, say=Talk())
    assert path.read_bytes() == odd


def test_a_bad_partial_file_is_not_held_against_the_host(host, tmp_path):
    partial_file(tmp_path, CHANGED[:HALF])
    hub = host()
    _, said = fetch(tmp_path, hub.url)
    assert "perhaps the partial file was bad. Once more from the start" in said
    assert hub.gets() == [f"bytes={HALF}-", None]


@pytest.mark.parametrize(("fault", "word"), [("no-range", "from its first byte only"), (416, "answers 416")])
def test_a_host_that_cannot_resume(host, tmp_path, fault, word):
    partial_file(tmp_path, DATA[:HALF])
    hub = host(faults=[fault])
    _, said = fetch(tmp_path, hub.url)
    assert word in said and hub.gets() == [f"bytes={HALF}-", None]


# ── The other sources ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("trouble", ["unreachable", "hang", "portal", 503, "wrong sum"])
def test_the_mirror_steps_in(host, tmp_path, monkeypatch, request, trouble):
    main, mirror = host(), host()
    if trouble == "wrong sum":
        main.always = "changed"
    else:
        main.head_always = trouble
    if trouble == "hang":
        request.getfixturevalue("impatient")
    url = dead_url() if trouble == "unreachable" else main.url
    monkeypatch.setattr(dl, "MAIN_HOST", url)
    monkeypatch.setattr(dl, "MIRROR_HOST", mirror.url)
    _, said = fetch(tmp_path)
    assert said.index(f"From {url[7:]}:") < said.index(f"From {mirror.url[7:]}:")
    if trouble == "unreachable":
        assert "can't be reached" in said
    if trouble == "hang":
        assert len(main.log) == 2, "a host that can't be reached costs more than one retry"


def test_the_mirror_goes_on_where_the_main_host_stopped(host, tmp_path, monkeypatch):
    main, mirror = host(faults=["cut"], always=403), host()
    monkeypatch.setattr(dl, "MAIN_HOST", main.url)
    monkeypatch.setattr(dl, "MIRROR_HOST", mirror.url)
    fetch(tmp_path)
    assert int(mirror.gets()[0][6:-1]) > HALF - 20_000


def test_the_mirror_is_not_asked_for_what_is_gone(host, tmp_path, monkeypatch, modelscope):
    main, mirror, scope = host(head_always=404), host(), host()
    monkeypatch.setattr(dl, "MAIN_HOST", main.url)
    monkeypatch.setattr(dl, "MIRROR_HOST", mirror.url)
    monkeypatch.setattr(dl, "MODELSCOPE_HOST", scope.url)
    _, said = fetch(tmp_path)
    assert mirror.log == [] and "answers 404" in said and f"From {scope.url[7:]}:" in said


def test_modelscope_goes_on_where_the_hub_stopped(host, tmp_path, monkeypatch, modelscope):
    hub, scope = host(faults=["cut"], always=403), host()
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", scope.url)
    fetch(tmp_path, hub.url)
    assert int(scope.gets()[0][6:-1]) > HALF - 20_000
    assert not list((tmp_path / "modelscope_cache").rglob("*.jsonl")), "ModelScope keeps a copy of its own"


@pytest.mark.parametrize("listing", [[], 403, [{"Path": "pretrain_hq.jsonl"}]], ids=["empty", "refused", "no sum"])
def test_modelscope_without_a_sum_starts_a_file_of_its_own(host, tmp_path, monkeypatch, modelscope, listing):
    partial_file(tmp_path, DATA[:HALF])
    scope = host(listing=listing)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", scope.url)
    fetch(tmp_path, dead_url())
    assert scope.gets() == [None]


@pytest.mark.parametrize(
    ("knobs", "reason", "asked"),
    [
        ({"listing": [{"Path": "pretrain_hq.jsonl", "Sha256": "2" * 64}]}, "another edition under this name", False),
        ({"always": "html"}, "what came is a web page (HTML)", True),
        ({"always": "changed"}, "what came is another file: sha256", True),
        ({"always": 404}, "HTTPError", True),
        ({"always": 503}, "ServerError", True),
    ],
)
def test_a_faulty_modelscope_is_named_in_the_error(host, tmp_path, monkeypatch, modelscope, knobs, reason, asked):
    scope = host(**knobs)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", scope.url)
    message = refused(tmp_path, dead_url())
    assert f"{scope.url[7:]}: " in message and reason in message
    assert bool(scope.gets()) == asked


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_modelscope_resumes(host, tmp_path, monkeypatch, modelscope, fault):
    scope = host(faults=[fault] * 3)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", scope.url)
    fetch(tmp_path, dead_url())
    assert scope.gets()[0] is None and all(given.startswith("bytes=") for given in scope.gets()[1:])


def test_modelscope_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope.hub.file_download", None)
    assert "needs the package modelscope: pip install modelscope" in refused(tmp_path, dead_url())


def test_every_source_fails(tmp_path, modelscope):
    part = partial_file(tmp_path, DATA[:HALF])
    message = refused(tmp_path)
    for url in (dl.MAIN_HOST, dl.MIRROR_HOST, dl.MODELSCOPE_HOST):
        assert re.search(rf"- {url[7:]}: .*can't be reached", message)
    assert "HF_ENDPOINT" in message and PINNED["pretrain_hq"].revision in message and "by hand" in message
    assert "dataset/sample.jsonl" in message and "minimind_core/download.py" in message
    assert "of it lie in" in message and part.read_bytes() == DATA[:HALF]


def test_offline_mode_is_named(host, tmp_path, monkeypatch, modelscope):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set; unset it" in refused(tmp_path, host().url)


# ── This machine ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_too_little_room(host, tmp_path, monkeypatch):
    hub = host()
    usage = dl.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(dl.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    message = refused(tmp_path, hub.url)
    assert f"{len(DATA) / 1e3:.2f} kB of pretrain_hq are still to come and 1.00 kB are free" in message or (
        f"{len(DATA) / 1e6:.2f} MB of pretrain_hq are still to come and 1.00 kB are free" in message
    )
    assert str(tmp_path / "dataset") in message and "--to FOLDER" in message
    assert hub.log == []
    partial_file(tmp_path, DATA[:-900])  # only what is still to come has to fit
    fetch(tmp_path, hub.url)


def test_the_disk_fills_up(host, tmp_path, monkeypatch):
    real_write = dl._PartFile.write

    def full(self, block):
        if self.tell() >= HALF:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(self, block)

    monkeypatch.setattr(dl._PartFile, "write", full)
    message = refused(tmp_path, host().url)
    assert "No space left on device" in message and "of it lie in" in message and "--to FOLDER" in message


def test_folder_is_a_file(tmp_path):
    (tmp_path / "dataset").write_text("not a folder")
    with pytest.raises(dl.DownloadError, match=r"dataset.*--to FOLDER"):
        dl.download("pretrain_hq", tmp_path / "dataset", say=Talk())


def test_final_name_is_a_folder(tmp_path):
    (tmp_path / "pretrain_hq.jsonl").mkdir()
    with pytest.raises(dl.DownloadError, match="is a folder"):
        dl.download("pretrain_hq", tmp_path, say=Talk())


def test_a_second_download_is_told_so(tmp_path):
    place = dl._Place(dl.PUBLISHED["pretrain_hq"], tmp_path / "dataset")
    place.work.mkdir(parents=True)
    with dl._alone(place):
        assert "Another download of pretrain_hq into" in refused(tmp_path, dead_url())


def test_a_file_that_appears_meanwhile_is_kept(host, tmp_path, monkeypatch):
    final = tmp_path / "dataset/pretrain_hq.jsonl"
    real = dl._problem

    def overtaken(*given):
        final.write_text("mine")
        return real(*given)

    monkeypatch.setattr(dl, "_problem", overtaken)
    with pytest.raises(dl.DownloadError, match="appeared during the download and was left as it is"):
        dl.download("pretrain_hq", final.parent, endpoint=host().url, say=Talk())
    assert final.read_text() == "mine"


# ── The command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_command_line(host, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", host().url)
    assert dl.main(["--to", str(tmp_path / "dataset")]) == 0
    out, err = capsys.readouterr()
    assert "Complete" in out and "100%" in err and "B/s" in err
    assert dl.main(["pretrain_hq", "--to", str(tmp_path / "dataset")]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_command_line_takes_the_folder_of_the_environment(host, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIMIND_DATASET", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("HF_ENDPOINT", host().url)
    assert dl.main([]) == 0
    assert (tmp_path / "elsewhere/pretrain_hq.jsonl").read_bytes() == DATA


@pytest.mark.parametrize(
    ("arguments", "endpoint", "words"),
    [
        (["pretrain_sft"], None, "'pretrain_sft' is not a published corpus; there are: pretrain_hq"),
        ([], "hf-mirror.com", "The host 'hf-mirror.com' is no address"),
    ],
)
def test_command_line_errors(tmp_path, monkeypatch, capsys, arguments, endpoint, words):
    if endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert dl.main([*arguments, "--to", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_command_line_after_ctrl_c(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(dl, "download", interrupted)
    assert dl.main([]) == 130


def test_a_process_of_its_own(tmp_path):
    """The real table, a host that isn't there, no ModelScope: exit code 2, every reason, no traceback."""
    (tmp_path / "modelscope.py").write_text("raise ImportError")  # the real one takes seconds to import
    settings = {"HF_ENDPOINT": dead_url(), "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "minimind_core.download", "pretrain_t2t_mini", "--to", str(tmp_path / "dataset")],
        cwd=Path(__file__).parent.parent,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "pretrain_t2t_mini could not be downloaded" in done.stderr
    assert "can't be reached" in done.stderr and "needs the package modelscope" in done.stderr

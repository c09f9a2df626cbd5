"""wandb as a mirror: real offline and online runs of the real package, against servers on the loopback that may fail.

No test reaches further than this machine: the address of the server is always one of the loopback.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import Bench, tiny_texts, write_rows

from minimind_core import save_tokenizer, train_tokenizer, wandb_mirror, wandb_server
from minimind_core.paths import PROJECT
from minimind_core.tracking import read_metrics
from minimind_core.wandb_mirror import WandbMirror

wandb = pytest.importorskip("wandb", reason="wandb is not installed; the course runs without it")

KEY = "f0e1d2c3b4a5968778695a4b3c2d1e0f12345678"
MACHINE = "machine-of-a-learner"
CONFIG = {"model": {"dim": 16}, "train": {"learning_rate": 2e-3}}
OFFLINE_START = 8.0  # seconds that an offline start may take on a busy machine; it takes less than one on an idle one


class Server:
    """As much of a wandb server as a run needs: it knows accounts, takes runs and rows, and can fail in several ways.

    how: "well", "refuses" (401), "knows nobody" (no viewer), "breaks" (500), "hangs", "hangs later" (answers whose key
    it is, and nothing else).
    """

    def __init__(self, how: str = "well") -> None:
        self.how, self.asked, self.runs, self.rows = how, [], {}, {}
        self.uploads: dict[str, bytes] = {}
        self._ended = threading.Event()
        handler = type("Handler", (_Handler,), {"server_of_test": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads, self._http.block_on_close = True, False
        self._http.handle_error = lambda *_: None
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.host = f"127.0.0.1:{self._http.server_port}"
        self.url = f"http://{self.host}"

    def close(self) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, path: str, raw: bytes, key: str) -> tuple[int, Any]:
        """Status and content of the answer to one request."""
        body = {} if path.startswith("/upload/") else json.loads(raw or b"{}")
        query, given = body.get("query", ""), body.get("variables", {})
        self.asked.append((path, " ".join(query.split())[:30], key))
        if self.how == "hangs" or (self.how == "hangs later" and "Viewer" not in query):
            self._ended.wait()
        if self.how == "refuses":
            return 401, {"errors": [{"message": "user is not logged in"}]}
        if self.how == "breaks":
            return 500, {"error": "broken"}
        if path.startswith("/upload/"):
            self.uploads[path] = raw
            return 200, {}
        if path.endswith("/file_stream"):
            self._take_rows(path.split("/")[-2], body)
            return 200, {}
        return 200, {"data": self._data(query, given)}

    def _take_rows(self, run: str, body: dict[str, Any]) -> None:
        rows = self.rows.setdefault(run, [])
        for name, part in body.get("files", {}).items():
            if name == "wandb-history.jsonl":
                rows[part["offset"] :] = [json.loads(line) for line in part["content"]]

    def _data(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "Viewer" in query:
            known = {"id": "1", "entity": "course", "username": "u", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": None if self.how == "knows nobody" else known}
        if "RunResumeStatus" in query:
            return {
                "model": {"id": "1", "name": "p", "entity": _ENTITY, "bucket": self._bucket_to_resume(given["name"])}
            }
        if "UpsertBucket" in query:
            run = self.runs.setdefault(given["name"], {})
            new = not run
            run.update({name: value for name, value in given.items() if value is not None})
            return {"upsertBucket": {"bucket": self._bucket(given["name"]), "inserted": new}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        return {"serverInfo": {"features": []}} if "ServerFeatures" in query else {}

    def _bucket(self, run: str) -> dict[str, Any]:
        known = self.runs[run]
        project = {"id": "1", "name": known["project"], "entity": _ENTITY}
        shared = {"id": "1", "name": run, "displayName": known.get("displayName"), "config": known.get("config", "{}")}
        lines = {"historyLineCount": len(self.rows.get(run, []))}
        return shared | lines | {"description": None, "sweepName": None, "project": project}

    def _bucket_to_resume(self, run: str) -> dict[str, Any] | None:
        if run not in self.runs:
            return None
        tail = json.dumps([json.dumps(row) for row in self.rows.get(run, [])[-1:]])
        more = {"summaryMetrics": "{}", "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "tags": []}
        return self._bucket(run) | more | {"historyTail": tail, "notes": None, "wandbConfig": "{}"}


_ENTITY = {"id": "1", "name": "course"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_test: Server

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        status, content = self.server_of_test.answer(self.path, raw, self.headers.get("Authorization") or "")
        sent = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_PUT = do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server():
    """`server("hangs")` starts a server; all are closed at the end."""
    started: list[Server] = []

    def start(how: str = "well") -> Server:
        started.append(Server(how))
        return started[-1]

    yield start
    for one in started:
        one.close()


# --- surroundings -------------------------------------------------------------------------------------------------


def bare_surroundings(patch: pytest.MonkeyPatch, home: Path) -> None:
    """A machine with a name, a home of its own, and nothing in it that wandb would know a user by."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        patch.delenv(name)
    home.mkdir(exist_ok=True)
    patch.setenv("HOME", str(home))
    patch.setattr(socket, "gethostname", lambda: MACHINE)


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """Every test starts without a key and asks nobody; none may print, and none may leave a process behind."""
    bare_surroundings(monkeypatch, tmp_path / "home-of-a-learner")

    def no_question(*_: Any) -> str:
        raise AssertionError("wandb asked for input")

    monkeypatch.setattr("builtins.input", no_question)
    monkeypatch.setattr("getpass.getpass", no_question)
    yield
    assert not helpers()


def helpers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "wandb" in child.name()]


def start(folder: Path, resumed: bool = False) -> tuple[WandbMirror, str, float]:
    """A mirror in this folder, what it said, and the seconds that it took."""
    folder.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    began = time.perf_counter()
    mirror = WandbMirror("Course", "pretrain_16", folder, CONFIG, said.append, resumed=resumed)
    mirror.said = said  # kept for what it says later
    return mirror, "\n".join(said), time.perf_counter() - began


def write_some(mirror: WandbMirror, first: int = 1, last: int = 5) -> None:
    for step in range(first, last + 1):
        mirror.write(step=step, loss=3.0 / step, lr=0.1, memory=None)
    mirror.write(step=last, held_out_loss=2.5)


def use(monkeypatch, server: Server, key: str = KEY) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", key)


def wandb_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/*/*.wandb"))


def bytes_under(folder: Path) -> dict[Path, bytes]:
    """Every file and the goal of every link, with the names of the files."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[path] = os.fsencode(os.readlink(path))
        elif path.is_file():
            found[path] = os.fsencode(path.name) + path.read_bytes()
    return found


def assert_private(folder: Path, said: str, *secrets: str) -> None:
    """None of these is in what was said, or in any file of the folder."""
    unwanted = [KEY, MACHINE, "home-of-a-learner", *secrets]
    if len(os.uname().nodename) > 5:
        unwanted.append(os.uname().nodename)
    files = bytes_under(folder)
    assert files
    for secret in unwanted:
        assert secret not in said
        assert not [path for path, content in files.items() if secret.encode() in content], secret


def sync(folder: Path, server: Server, *options: str) -> str:
    """`wandb sync` as a learner calls it, sending to this server."""
    environment = os.environ | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}
    command = [sys.executable, "-m", "wandb", "sync", *options, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- without a key ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A run with wandb and without a key, stopped and resumed once, and the same run without either."""
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        bare_surroundings(patch, folder / "home-of-a-learner")
        tokenizer = train_tokenizer(tiny_texts(60), vocab_size=400)
        bench = Bench(
            folder,
            write_rows(folder / "corpus.jsonl", tiny_texts(26)),
            write_rows(folder / "valid.jsonl", tiny_texts(5, start=100)),
            save_tokenizer(tokenizer, folder / "tokenizer"),
        )
        plain = bench.trainer("plain", recipe="seed").fit()
        said: list[str] = []
        flags = {"recipe": "seed", "use_wandb": True, "wandb_project": "Course"}
        first = bench.trainer("mirrored", said, **flags)
        first.on_update = lambda row: first.stop() if row["step"] == 2 else None
        stopped = first.fit()
        resumed = bench.trainer("mirrored", said, resume=True, **flags).fit()
    assert (stopped.step, resumed.step) == (2, plain.step)
    run = resumed.weights.parent / resumed.weights.stem
    return {"plain": plain, "mirrored": resumed, "folder": run, "said": "\n".join(said)}


def test_a_mirrored_run_has_the_same_weights_and_metrics(offline):
    plain, mirrored = (torch.load(offline[name].weights, weights_only=True) for name in ("plain", "mirrored"))
    assert plain.keys() == mirrored.keys()
    assert all(torch.equal(plain[name], mirrored[name]) for name in plain)
    assert offline["plain"].loss == offline["mirrored"].loss
    assert offline["plain"].held_out == offline["mirrored"].held_out


def test_without_a_key_the_run_is_offline_and_says_how_to_send_it(offline):
    assert "wandb: offline (no key); send the run later with: wandb sync " in offline["said"]
    command = offline["said"].split("wandb sync ")[1].split("\n")[0]
    assert Path(command).resolve() == (offline["folder"] / "wandb").resolve()


def test_the_folder_of_a_run_names_neither_machine_nor_user(offline):
    assert_private(offline["folder"], offline["said"], "minimind-course", str(Path.cwd()), sys.executable)
    assert not list(offline["folder"].glob("wandb/**/*.log")) and not list(offline["folder"].glob("wandb/**/*.yaml"))


def test_a_resumed_offline_run_keeps_its_id_in_a_second_folder(offline):
    files = wandb_files(offline["folder"])
    kept = (offline["folder"] / "wandb" / "run_id.txt").read_text().strip()
    assert len(files) == 2 and {file.name for file in files} == {f"run-{kept}.wandb"}
    assert offline["said"].count("wandb: offline (no key)") == 2


def test_wandb_sync_lists_both_folders_of_the_run(offline, server):
    listed = sync(offline["folder"] / "wandb", server(), "--dry-run")
    assert "Would sync 2 run(s)" in listed
    assert all(file.parent.name in listed for file in wandb_files(offline["folder"]))


def test_wandb_sync_sends_the_figures_of_the_run_and_goes_on_along_its_steps(offline, server):
    there = server()
    sync(offline["folder"] / "wandb", there)
    (run,) = there.runs
    sent = {row["_step"]: row for row in there.rows[run]}
    last = offline["plain"].step
    assert [row["_step"] for row in there.rows[run]] == list(range(last + 1))
    expected: dict[int, dict[str, Any]] = {}
    for row in read_metrics(offline["folder"] / "metrics.jsonl"):
        expected.setdefault(row["step"], {}).update({k: v for k, v in row.items() if k != "step" and v is not None})
    for step, values in expected.items():
        if "sample" in values:
            values["sample"] = "".join(values["sample"])
        assert {name: sent[step][name] for name in values} == pytest.approx(values)
    figures = {"loss", "ce", "aux_loss", "lr", "grad_norm", "tokens_per_s"}
    assert all(figures <= sent[step].keys() for step in range(1, last + 1))
    assert {"held_out_loss", "loss", "sample"} <= sent[last].keys()
    assert there.runs[run]["project"] == "Course" and there.runs[run]["displayName"] == "pretrain_16"
    config = json.loads(there.runs[run]["config"])
    assert config["model"]["value"]["dim"] == 16 and config["train"]["value"]["learning_rate"] == 2e-3
    assert all((file.parent / f"{file.name}.synced").exists() for file in wandb_files(offline["folder"]))


# --- servers and keys that fail -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how, reason, seconds",
    [
        ("refuses", "the key was not accepted", 1),
        ("knows nobody", "the key was not accepted", 1),
        ("breaks", "the server answers with error 500", 1),
        ("hangs", "the server did not answer in time", 4),
        ("hangs later", "the server did not take the run", 6),
    ],
)
def test_a_server_that_fails_makes_the_run_offline_within_seconds(
    how, reason, seconds, server, monkeypatch, tmp_path, capfd
):
    there = server(how)
    use(monkeypatch, there)
    mirror, said, took = start(tmp_path / "run")
    write_some(mirror)
    mirror.close()
    assert f"wandb: offline ({reason}); send the run later with: wandb sync" in said
    assert took < seconds + OFFLINE_START / 2
    (file,) = wandb_files(tmp_path / "run")
    assert file.parent.name.startswith("offline-run-")
    assert_private(tmp_path / "run", said, "127.0.0.1", there.host)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_nobody_is_at_makes_the_run_offline(server, monkeypatch, tmp_path):
    gone = server()
    use(monkeypatch, gone)
    gone.close()
    mirror, said, took = start(tmp_path / "run")
    mirror.close()
    assert "offline (the server cannot be reached)" in said and took < OFFLINE_START
    assert_private(tmp_path / "run", said, gone.host)


def test_a_name_server_that_hangs_delays_for_seconds_only(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example.invalid")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(20))
    mirror, said, took = start(tmp_path / "run")
    mirror.close()
    assert "offline (the server did not answer in time)" in said and took < 3 + OFFLINE_START / 2
    assert_private(tmp_path / "run", said, "example.invalid")


@pytest.mark.parametrize("key", ["tooshort", "with spaces in it " * 3])
def test_a_key_that_cannot_be_one_is_not_accepted(key, server, monkeypatch, tmp_path, capfd):
    use(monkeypatch, server(), key)
    mirror, said, took = start(tmp_path / "run")
    write_some(mirror)
    mirror.close()
    assert "offline (the key was not accepted)" in said and took < OFFLINE_START
    assert_private(tmp_path / "run", said, key, "127.0.0.1")
    assert os.environ["WANDB_API_KEY"] == key and capfd.readouterr() == ("", "")


def test_a_key_in_netrc_counts(server, monkeypatch, tmp_path):
    there = server("refuses")
    monkeypatch.setenv("WANDB_BASE_URL", there.url)
    (Path.home() / ".netrc").write_text(f"machine {there.host}\n  login user\n  password {KEY}\n")
    (Path.home() / ".netrc").chmod(0o600)
    mirror, said, _ = start(tmp_path / "run")
    mirror.close()
    assert "offline (the key was not accepted)" in said


# --- as the user says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["offline", "dryrun", "disabled"])
def test_wandb_mode_is_respected_and_no_server_is_asked(mode, server, monkeypatch, tmp_path):
    there = server()
    use(monkeypatch, there)
    monkeypatch.setenv("WANDB_MODE", mode)
    mirror, said, took = start(tmp_path / "run")
    write_some(mirror)
    mirror.close()
    assert not there.asked and took < OFFLINE_START
    assert said.startswith("wandb: disabled" if mode == "disabled" else "wandb: offline (as WANDB_MODE says)")
    assert len(wandb_files(tmp_path / "run")) == (mode != "disabled")


def test_online_without_a_key_asks_for_none(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    mirror, said, _ = start(tmp_path / "run")
    mirror.close()
    assert "offline (no key)" in said


def test_a_run_that_the_user_has_open_stays_open_and_separate(monkeypatch, tmp_path):
    theirs = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True))
    try:
        mirror, _, _ = start(tmp_path / "run")
        write_some(mirror)
        mirror.close()
        assert wandb.run is theirs and theirs.step == 0
        theirs.log({"theirs": 1})
    finally:
        theirs.finish()
        wandb.teardown()
    assert len(wandb_files(tmp_path / "run")) == 1


# --- online -------------------------------------------------------------------------------------------------------


def test_online_a_resumed_run_goes_on_in_the_same_run(server, monkeypatch, tmp_path, capfd):
    there = server()
    use(monkeypatch, there)
    run, said, endings = tmp_path / "run", "", (sys.exit, sys.excepthook)
    for first, last, resumed in [(1, 5, False), (6, 8, True)]:
        mirror, words, _ = start(run, resumed)
        write_some(mirror, first, last)
        mirror.close()
        said += "\n".join(mirror.said)
        assert words == "wandb: sending to the server that is configured."
    (name,) = there.runs
    assert [row["_step"] for row in there.rows[name]] == list(range(1, 9))
    assert [row["loss"] for row in there.rows[name]] == [3.0 / step for step in range(1, 9)]
    assert [row["_step"] for row in there.rows[name] if "held_out_loss" in row] == [5, 8]
    known = there.runs[name]
    assert not known.get("host") and not known.get("program") and "commit" not in known
    assert json.loads(known["config"])["train"]["value"] == CONFIG["train"]
    assert {Path(path).name for path in there.uploads} <= {"config.yaml", "wandb-summary.json"}
    assert all(MACHINE.encode() not in content for content in there.uploads.values())
    assert not [path for path, _, _ in there.asked if "otel" in path]
    assert_private(run, said, "127.0.0.1", there.host)
    assert capfd.readouterr() == ("", "")
    assert (sys.exit, sys.excepthook) == endings


def test_a_new_run_in_the_same_folder_has_a_new_id(monkeypatch, tmp_path):
    ids = set()
    for resumed in (False, False, True):
        mirror, _, _ = start(tmp_path / "run", resumed)
        mirror.close()
        ids.add(mirror_id(tmp_path / "run"))
    assert len(ids) == 2


def mirror_id(run: Path) -> str:
    return (run / "wandb" / "run_id.txt").read_text().strip()


@pytest.mark.slow
def test_a_network_that_dies_during_the_run_delays_its_end_for_seconds_only(server, monkeypatch, tmp_path, capfd):
    there = server()
    use(monkeypatch, there)
    monkeypatch.setattr(wandb_mirror, "FINISH_SECONDS", 3)
    monkeypatch.setitem(wandb_mirror.PRIVATE, "finish_timeout", 3)
    mirror, _, _ = start(tmp_path / "run")
    there.how = "hangs"
    write_some(mirror)
    began = time.perf_counter()
    mirror.close()
    assert time.perf_counter() - began < wandb_mirror.FINISH_SECONDS + 4
    assert "did not get everything in time; send the rest with: wandb sync --include-online" in mirror.said[-1]
    assert_private(tmp_path / "run", "\n".join(mirror.said), "127.0.0.1", there.host)
    assert capfd.readouterr() == ("", "")
    there.how = "well"
    sync(tmp_path / "run" / "wandb", there, "--include-online")
    (rows,) = there.rows.values()
    assert [row["_step"] for row in rows] == list(range(1, 6))


# --- after a kill -------------------------------------------------------------------------------------------------


KILLED = """
import os, psutil, time
from pathlib import Path
from minimind_core.wandb_mirror import WandbMirror
mirror = WandbMirror("Course", "pretrain_16", Path({folder!r}), {config!r}, lambda text: None)
for step in range(1, 7):
    mirror.write(step=step, loss=3.0 / step)
print(*[child.pid for child in psutil.Process().children()], flush=True)
time.sleep(1.5)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_killed_run_that_goes_back_to_its_last_save_sends_every_step_once(server, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    script = KILLED.format(folder=str(run), config=CONFIG)
    killed = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    mirror, _, _ = start(run, resumed=True)  # its last save was that of update 3
    write_some(mirror, 4, 8)
    mirror.close()
    there = server()
    for file in wandb_files(run):
        sync(file.parent, there)  # one after the other, as somebody would who sends what there is each day
    (rows,) = there.rows.values()
    assert [row["_step"] for row in rows] == list(range(1, 9))
    assert_private(run, "")
    deadline = time.monotonic() + 10
    while any(map(psutil.pid_exists, map(int, killed.stdout.split()))):
        assert time.monotonic() < deadline, "the helper process outlives the run"
        time.sleep(0.1)


# --- other faults -------------------------------------------------------------------------------------------------


def test_a_helper_process_that_dies_stops_nothing(tmp_path):
    mirror, _, _ = start(tmp_path / "run")
    write_some(mirror)
    for process in helpers():
        process.kill()
    began = time.perf_counter()
    write_some(mirror, 6, 200)
    mirror.close()
    assert time.perf_counter() - began < 5


def test_a_helper_process_that_hangs_delays_for_seconds_only(monkeypatch, tmp_path):
    monkeypatch.setattr(wandb_mirror, "ROW_SECONDS", 0.5)
    mirror, _, _ = start(tmp_path / "run")
    for process in helpers():
        process.suspend()
    began = time.perf_counter()
    for step in range(3000):
        mirror.write(step=step, loss=1.0, lr=0.1)
    mirror.close()
    assert time.perf_counter() - began < 10 and "wandb stopped working (TimeoutError)" in mirror.said[-1]


def test_without_the_package_metrics_stay_local(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    mirror, said, took = start(tmp_path / "run")
    mirror.write(step=1, loss=1.0)
    mirror.close()
    assert said.startswith("wandb is not used (not installed); metrics are in ") and took < 1


def test_a_package_that_breaks_on_import_stops_nothing(monkeypatch, tmp_path):
    (tmp_path / "wandb.py").write_text("raise ValueError('a secret')\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    _, said, _ = start(tmp_path / "run")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert said.startswith("wandb is not used (ValueError)") and "secret" not in said


@pytest.mark.parametrize("url", ["not an address", "ftp://example.invalid"])
def test_an_address_that_is_none_stops_nothing(url, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_BASE_URL", url)
    mirror, said, _ = start(tmp_path / "run")
    mirror.close()
    assert "wandb is not used" in said and url not in said


def test_settings_that_this_version_does_not_know_are_left_out():
    settings = wandb_server.settings_for(wandb, silent=True, of_another_version=1, init_timeout="soon")
    assert settings.silent is True and settings.init_timeout == wandb.Settings().init_timeout
    known = set(wandb.Settings.model_fields)
    assert set(wandb_mirror.PRIVATE) <= known


def test_rows_that_are_odd_are_taken_or_left_and_stop_nothing(server, monkeypatch, tmp_path):
    there = server()
    use(monkeypatch, there)
    mirror, _, _ = start(tmp_path / "run")
    mirror.write(step=1, loss=float("nan"), grad_norm=float("inf"), memory=None, _step=7, _timestamp=0)
    mirror.write(step=2, loss=1.0)
    mirror.write(step=1, loss=5.0)  # back: wandb leaves it out
    mirror.close()
    (rows,) = there.rows.values()
    assert [row["_step"] for row in rows] == [1, 2] and rows[0]["loss"] != rows[0]["loss"] and rows[1]["loss"] == 1.0
    assert rows[0]["_timestamp"] > 0 and not [line for line in mirror.said if "stopped" in line]


# --- signals ------------------------------------------------------------------------------------------------------

INTERRUPTED = """
import sys
sys.path.insert(0, {tests!r})
import conftest, shutil
from conftest import Bench
from pathlib import Path
folder = Path({folder!r})
bench = Bench(folder, folder / "corpus.jsonl", folder / "valid.jsonl", folder / "tokenizer")
trainer = bench.trainer("out", recipe="seed", use_wandb=True, epochs=2000)
trainer.say = trainer.files._say = lambda text: print(text, flush=True)
trainer.on_update = lambda row: row["step"] == 20 and print("READY", flush=True)
print("RESULT", trainer.fit().step, flush=True)
shutil.rmtree(conftest._OWN, ignore_errors=True)
"""


@pytest.mark.slow
def test_ctrl_c_for_the_whole_group_leaves_a_saved_run_and_no_process(offline, tmp_path):
    bench_folder = offline["mirrored"].weights.parents[1]
    script = INTERRUPTED.format(tests=str(Path(__file__).parent), folder=str(bench_folder))
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    timer = threading.Timer(60, child.kill)
    timer.start()
    lines = []
    for line in child.stdout:
        lines.append(line)
        if line == "READY\n":
            started = psutil.Process(child.pid).children(recursive=True)
            os.killpg(child.pid, signal.SIGINT)
    assert child.wait() == 0, "".join(lines)
    timer.cancel()
    said = "".join(lines)
    assert "wandb" in said and "Traceback" not in said
    steps = int(said.split("RESULT ")[1])
    assert started and not psutil.wait_procs(started, timeout=5)[1]
    run = bench_folder / "out" / "pretrain_16"
    assert len(wandb_files(run)) == 1 and read_metrics(run / "metrics.jsonl")[-1]["step"] == steps

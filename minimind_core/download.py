"""The published corpora: one named file fetched, proven and put in place, or a clear word why not.

A corpus of 1.6 GB meets everything that a network can do to a file: a host that can't be reached, a connection that is
cut, a login page saved under the data's name, another edition behind the same file name. So each corpus is pinned to a
revision and a sha256 sum, its partial file is kept and resumed, and nothing lies under the final name that wasn't
checked. The transfer itself is huggingface_hub's and ModelScope's; this module chooses the source, guards and explains.
Left out: reading the rows (corpus.py) and any corpus beside these. Taught in notebook 01.

    python -m minimind_core.download [pretrain_hq | pretrain_hq_im | pretrain_t2t_mini] [--to FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from .cli import Parser, friendly
from .errors import ConfigError, CourseError
from .paths import dataset_dir, shown

MAIN_HOST = "https://huggingface.co"
MIRROR_HOST = "https://hf-mirror.com"
MODELSCOPE_HOST = "https://modelscope.cn"
WAITS = (1.0, 3.0, 9.0)  # seconds before another try at one host; counted anew whenever bytes came
CHUNK = 256 * 1024  # bytes between two writes: what a cut connection can cost


@dataclass(frozen=True)
class PublishedCorpus:
    """One published file, pinned. `size` and `about` are bytes; where `size` isn't known, the sum alone decides."""

    name: str
    file_name: str
    revision: str
    sha256: str
    rows: int
    size: int | None
    about: int
    markers: str  # as corpus.marker_edition names them; "" where it wasn't recorded
    repo: str = "jingyaogong/minimind_dataset"
    modelscope: str = "gongjy/minimind_dataset"

    @property
    def local_name(self) -> str:
        """The name in dataset/: two editions share one published name, here they lie side by side."""
        return f"{self.name}.jsonl"

    def url(self, host: str = MAIN_HOST) -> str:
        """The address that a browser can fetch."""
        return f"{host}/datasets/{self.repo}/resolve/{self.revision}/{self.file_name}"


# The one table: if a revision moves or a file is published anew, this is the place to mend.
PUBLISHED = {
    corpus.name: corpus
    for corpus in (
        PublishedCorpus(
            name="pretrain_hq",
            file_name="pretrain_hq.jsonl",
            revision="5a2206fdc7aaa71ee9c8445888aa56e9b73e25be",
            sha256="25b0cee65a82e5037464e9f6c1e9a2b4c4a36c60532c9abb8a2958a006f2ac6f",
            rows=1_413_103,
            size=None,
            about=1_620_000_000,
            markers="s",
        ),
        PublishedCorpus(
            name="pretrain_hq_im",
            file_name="pretrain_hq.jsonl",
            revision="84983ed4dec7836d240577760c1d6be5d4cabcf9",
            sha256="9801b0d2210c61c2e4bc130f6dc4b3c870698a88d04af8f103c23dd5f0ce2440",
            rows=1_413_103,
            size=1_669_750_047,
            about=1_669_750_047,
            markers="im",
        ),
        PublishedCorpus(
            name="pretrain_t2t_mini",
            file_name="pretrain_t2t_mini.jsonl",
            revision="312afb4f76391145c6902f765bb51691c09a12f5",
            sha256="6dd6716c84ab36897bdbfc7f88e04f4441c48c1ab7ecee88ce0b0e7d4685560c",
            rows=1_270_238,
            size=1_241_043_656,
            about=1_241_043_656,
            markers="",
        ),
    )
}


class DownloadError(CourseError, RuntimeError):
    """A corpus that could not be fetched, or a file in its way; the message says what to do."""


class _SourceFailed(Exception):
    """Why one source gave nothing.

    kind: 'gone' (it answers, and hasn't got this file), 'wrong' (what it sends isn't the data), 'unreachable',
    'passing' (worth another try), 'anew' (worth another try, from the first byte).
    """

    def __init__(self, reason: str, kind: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class _Place:
    """Where a corpus ends up, and the hidden folder beside it (same disk, so the last step is a rename)."""

    corpus: PublishedCorpus
    folder: Path

    @property
    def final(self) -> Path:
        return self.folder / self.corpus.local_name

    @property
    def work(self) -> Path:
        return self.folder / ".download"

    @property
    def part(self) -> Path:
        # ModelScope's client calls its own partial file so: either source goes on where the other stopped.
        return self.work / self.corpus.name / f"{self.corpus.file_name}.incomplete"

    @property
    def record(self) -> Path:
        return self.work / f"{self.corpus.local_name}.checked.json"


def download(
    name: str = "pretrain_hq",
    to: str | Path | None = None,
    *,
    endpoint: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Bring the published corpus `name` into the folder `to` and return its path; at once if it lies there already.

    name: a key of PUBLISHED. to: default `$MINIMIND_DATASET`, else dataset/ in the project. endpoint: the Hugging Face
    host, default `$HF_ENDPOINT`, else huggingface.co and then hf-mirror.com; ModelScope comes last. say: gets the news.
    Raises DownloadError for an unknown name, a different file in the way, a full disk, or when every source failed.
    Ctrl-C keeps the partial file.
    """
    if name not in PUBLISHED:
        raise DownloadError(f"{name!r} is not a published corpus; there are: {', '.join(PUBLISHED)}.")
    place = _Place(PUBLISHED[name], Path(to).expanduser() if to else dataset_dir())
    try:
        if place.final.exists():
            return _accept_existing(place, say)
        place.part.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place):
            return _fetch(place, sources(endpoint), say)
    except KeyboardInterrupt:
        say(f"\nStopped. {_kept(place)} Run the same command again to go on from there.")
        raise
    except OSError as error:
        raise DownloadError(
            f"{error.filename or place.folder}: {error.strerror or error}. {_kept(place)} "
            "Make room or give the right to write there, or choose another folder with --to FOLDER."
        ) from error


# ── What lies there already ──────────────────────────────────────────────────────────────────────────────────────────


def _accept_existing(place: _Place, say: Callable[[str], None]) -> Path:
    """Return the file under the final name if it is the corpus; a DownloadError that says what it is otherwise."""
    if place.final.is_dir():
        raise DownloadError(f"{shown(place.final)} is a folder, where the corpus file belongs; move it away.")
    sha256 = _recorded_sum(place)
    if sha256 is None:
        say(f"{shown(place.final)} is there; checking its sum …")
        sha256 = _sha256(place.final)
    if sha256 != place.corpus.sha256:
        raise DownloadError(_other_file(place, sha256))
    _write_record(place)
    say(f"{shown(place.final)} is there already, complete and with the right sum; nothing to do.")
    return place.final


def _other_file(place: _Place, sha256: str) -> str:
    """The message for a file that is in the way: what it is, and what to do with it."""
    corpus, final, size = place.corpus, place.final, _size(place.final)
    twin = next((other for other in PUBLISHED.values() if other.sha256 == sha256), None)
    resumable = corpus.size is not None and size < corpus.size
    if twin:
        what, do = f"the published {twin.name}", f"Rename it to {twin.local_name}"
    elif looks := _looks_like(final):
        what, do = looks, "Delete it"
    elif resumable:
        what = f"{size:,} of {corpus.size:,} bytes, perhaps a download that was cut short"
        place.part.parent.mkdir(parents=True, exist_ok=True)
        do = f"To go on from these bytes, move it to {shown(place.part)}; else delete it"
    else:
        what, do = "JSON lines, but another corpus, a cut one or a changed one", "Delete or rename it"
    return (
        f"{shown(final)} is there and is not {corpus.name}: {what} ({_human(size)}, sha256 {sha256[:12]}…, "
        f"where {corpus.sha256[:12]}… belongs). It was left as it is. {do}, then run this command again."
    )


def _looks_like(path: Path) -> str:
    """What the first bytes say the file is, when they don't begin a JSON line; '' when they do."""
    with path.open("rb") as file:
        head = file.read(600)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        return "an empty file"
    if start[:100].lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page (HTML), not the data"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, a note where the data lies, not the data"
    if start.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd")):
        return "a compressed archive, not JSON lines"
    if not re.match(rb'\{\s*"text"', start):
        return f"no corpus: it begins with {start[:60].decode('utf-8', 'replace')!r}"
    return ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(4 * 1024 * 1024):
            digest.update(block)
    return digest.hexdigest()


def _recorded_sum(place: _Place) -> str | None:
    """The sum found at an earlier check, if size and time of the file are still those; saves reading 1.6 GB again."""
    try:
        record = json.loads(place.record.read_text())
        stat = place.final.stat()
        if (record["size"], record["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns):
            return record["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write_record(place: _Place) -> None:
    stat = place.final.stat()
    record = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": place.corpus.sha256}
    with suppress(OSError):  # a read-only folder only means that the sum is computed again
        place.work.mkdir(exist_ok=True)
        place.record.write_text(json.dumps(record))


# ── The sources, in order ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Source:
    """A host that has the corpora, and how to get a file from it."""

    host: str
    pull: Callable[[_Place, str, Callable[[str], None]], Path]
    is_mirror: bool = False

    @property
    def label(self) -> str:
        """The host's name without its scheme."""
        return urlsplit(self.host).netloc


def sources(endpoint: str | None) -> list[Source]:
    """The hosts in the order in which they are asked. DownloadError for a name that is no address."""
    named = endpoint or os.environ.get("HF_ENDPOINT")
    modelscope = os.environ.get("MODELSCOPE_ENDPOINT") or MODELSCOPE_HOST
    for host in filter(None, (named, modelscope)):
        if not re.match(r"https?://[^/\s]", host):
            raise DownloadError(
                f"The host {host!r} is no address: HF_ENDPOINT and MODELSCOPE_ENDPOINT begin with https://, "
                f"as in {MIRROR_HOST}."
            )
    mirrors = [] if named else [Source(MIRROR_HOST, _from_hub, is_mirror=True)]
    return [Source(named or MAIN_HOST, _from_hub), *mirrors, Source(modelscope, _from_modelscope)]


def _fetch(place: _Place, sources: list[Source], say: Callable[[str], None]) -> Path:
    """Ask one source after the other; the first whose file has the right sum wins."""
    if place.final.exists():  # another process was quicker
        return _accept_existing(place, say)
    expected, have = place.corpus.size or place.corpus.about, _size(place.part)
    if have > 0.95 * expected and not _problem(place.part, place.corpus):  # stopped just before the last step
        return _install(place, place.part, say)
    _check_room(place, expected - have)
    say(f"{place.corpus.name}, about {_human(expected)}, is fetched to {shown(place.final)}. {_kept(place)}")
    failures: list[str] = []
    mirror_may_help = True
    for source in sources:
        if source.is_mirror and not mirror_may_help:
            continue
        say(f"From {source.label}:")
        try:
            return _install(place, _proven(place, source, say), say)
        except _SourceFailed as failure:
            failures.append(f"{source.label}: {failure}")
            say(f"  {failure}.")
            mirror_may_help = failure.kind != "gone"
    raise DownloadError(_every_source_failed(place, failures))


def _proven(place: _Place, source: Source, say: Callable[[str], None]) -> Path:
    """Pull the file and check it. What isn't the data is deleted.

    After a resumed download the old partial file may be to blame, so there is one more go from the first byte.
    """
    resumed = _size(place.part) > 0
    while True:
        path = source.pull(place, source.host, say)
        say("  All of it came; checking its sum …")
        problem = _problem(path, place.corpus)
        if not problem:
            return path
        path.unlink()
        if not resumed:
            raise _SourceFailed(f"what came is {problem}", "wrong")
        say(f"  What came is {problem}; perhaps the partial file was bad. Once more from the start …")
        resumed = False


def _problem(path: Path, corpus: PublishedCorpus) -> str:
    """What is wrong with a downloaded file; '' when it is the corpus. The sum decides, the rest only explains."""
    size = _size(path)
    fits = corpus.size in (None, size)
    sha256 = _sha256(path) if fits else ""
    if sha256 == corpus.sha256:
        return ""
    if looks := _looks_like(path):
        return looks
    if not fits:
        return f"{size:,} bytes long, where {corpus.size:,} belong"
    return f"another file: sha256 {sha256[:12]}…, where {corpus.sha256[:12]}… belongs"


def _install(place: _Place, path: Path, say: Callable[[str], None]) -> Path:
    if place.final.exists():
        raise DownloadError(f"{shown(place.final)} appeared during the download and was left as it is. {_kept(place)}")
    os.replace(path, place.final)
    _write_record(place)
    shutil.rmtree(place.part.parent, ignore_errors=True)
    markers = f", markers of edition '{place.corpus.markers}'" if place.corpus.markers else ""
    say(
        f"{shown(place.final)}: {_size(place.final):,} bytes with the right sum, {place.corpus.rows:,} rows{markers}. "
        "Complete."
    )
    return place.final


def _every_source_failed(place: _Place, failures: list[str]) -> str:
    corpus = place.corpus
    lines = [f"{corpus.name} could not be downloaded. Each source and its reason:"]
    lines += [f"  - {failure}" for failure in failures]
    lines += [
        _kept(place),
        "What you can do:",
        "  - run the same command later: it goes on from what is there;",
        f"  - name another Hugging Face host in the environment variable HF_ENDPOINT, as {MIRROR_HOST};",
        "  - by hand: fetch this address in a browser or on another computer,",
        f"      {corpus.url()}",
        f"    save it as {shown(place.final)} and run the same command: it checks the sum;",
        "  - go on with dataset/sample.jsonl meanwhile: every lesson runs on it.",
        "If a host says that it has no such file, the pinned table is PUBLISHED in minimind_core/download.py.",
    ]
    return "\n".join(lines)


# ── Hugging Face and its mirrors ─────────────────────────────────────────────────────────────────────────────────────


def _from_hub(place: _Place, host: str, say: Callable[[str], None]) -> Path:
    """Pull from a Hugging Face host until the file is whole; tries are counted anew whenever it grew."""
    from huggingface_hub.errors import HfHubHTTPError

    # The library speaks through httpx or httpx2, by its version; this is the root of whichever it is.
    http_error = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    longest, tries, anew = _size(place.part), 0, False
    while True:
        try:
            return _pull(place, host.rstrip("/"), anew)
        except (_SourceFailed, OSError, http_error) as error:
            failure = _failure(error, place)
        if _size(place.part) > longest:
            longest, tries = _size(place.part), 0
        waits = {"passing": WAITS, "anew": WAITS, "unreachable": WAITS[:1]}.get(failure.kind, ())
        if tries >= len(waits):
            raise failure
        anew = failure.kind == "anew"
        say(f"  {failure}; trying again{' from the start' if anew else ''} …")
        time.sleep(waits[tries])
        tries += 1


def _pull(place: _Place, host: str, anew: bool) -> Path:
    """One request for the rest of the file, appended to the partial one. Anonymous: a token is never sent to a mirror.

    Not hf_hub_download: in huggingface_hub 2.4 it writes to a new name each time and deletes that on any fault, so an
    interrupted run starts at zero. Its parts below (metadata, http_get) do resume, and know nothing of caches or Xet.
    """
    from huggingface_hub import constants, get_hf_file_metadata
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = place.corpus.url(host)
    # Asked before every try: a network's login page is found out here, before it can touch the partial file.
    metadata = get_hf_file_metadata(url, token=False, timeout=constants.HF_HUB_ETAG_TIMEOUT, endpoint=host)
    size = _announced_size(place.corpus, metadata)
    if anew or (size and _size(place.part) > size):
        place.part.unlink(missing_ok=True)
    _check_room(place, (size or place.corpus.about) - _size(place.part))
    headers = build_hf_headers(token=False) | {"accept-encoding": "identity"}  # ranges count plain bytes
    with _small_chunks(constants), _PartFile(io.FileIO(place.part, "ab")) as file:
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=headers,
            expected_size=size,
            displayed_filename=place.corpus.local_name,
            tqdm_class=_bar(),
        )
    return place.part


class _PartFile(io.BufferedWriter):
    """A partial file that can't be emptied: http_get would do so as soon as an answer ignores the range it asked for,
    and 1.5 GB would be gone for a login page. Starting anew is decided above, after the host has shown what it is."""

    def truncate(self, size: int | None = None) -> int:
        raise _SourceFailed("sends the file from its first byte only, so the partial file can't be continued", "anew")


@contextmanager
def _small_chunks(constants) -> Iterator[None]:
    """The library holds 10 MiB before it writes, and drops them when the connection is cut: a slow line would never
    get on. This is the one knob for it."""
    before = constants.DOWNLOAD_CHUNK_SIZE
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    try:
        yield
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = before


def _bar() -> Callable:
    """A tqdm with speed and time left; in a log file, where the library would stay silent, two lines a minute."""
    from tqdm.auto import tqdm

    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return partial(tqdm, mininterval=0.5 if live else 30.0)


def _announced_size(corpus: PublishedCorpus, metadata) -> int | None:
    """The length in bytes that the host announces; _SourceFailed if the announcement can't be this corpus."""
    if metadata.commit_hash is None:
        raise _SourceFailed(
            "answers, but not as a Hugging Face host does (X-Repo-Commit is missing): a login page of the network, "
            "or no mirror",
            "wrong",
        )
    announced, size = metadata.etag or "", metadata.size
    if re.fullmatch(r"[0-9a-f]{64}", announced):
        if announced != corpus.sha256:
            raise _SourceFailed(f"announces another file under this name: sha256 {announced[:12]}…", "gone")
    elif size is not None and abs(size - corpus.about) > (0 if corpus.size else corpus.about // 20):
        raise _SourceFailed(
            f"announces {size:,} bytes, where {corpus.about:,} belong"
            + (": so small is an error page or a Git LFS pointer" if size < 10_000 else ""),
            "wrong",
        )
    return corpus.size or size


def _failure(error: Exception, place: _Place) -> _SourceFailed:
    """What an exception of huggingface_hub means for this download; a fault of our own disk is raised at once."""
    if isinstance(error, _SourceFailed):
        return error
    response = getattr(error, "response", None)
    if response is not None:
        return _http_failure(response.status_code, response.reason_phrase, place)
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    kind, text = type(error).__name__, " ".join(str(error).split())[:200]
    if kind == "OfflineModeIsEnabled":
        return _SourceFailed("was not asked, since HF_HUB_OFFLINE is set; unset it", "wrong")
    if "Timeout" in kind:
        return _SourceFailed("does not answer in time", "unreachable")
    if "Connect" in kind or "Proxy" in kind:
        return _SourceFailed(f"can't be reached ({text})", "unreachable")
    if text.startswith("Consistency check failed"):
        if 0 < _size(place.part) < 1_000_000 and (looks := _looks_like(place.part)):
            place.part.unlink()
            return _SourceFailed(f"what came is {looks}", "wrong")
        return _SourceFailed("sends another number of bytes than it announced", "passing")
    return _SourceFailed(f"the connection was cut ({kind}: {text})", "passing")


def _http_failure(status: int, phrase: str, place: _Place) -> _SourceFailed:
    corpus = place.corpus
    if status in (401, 404, 410):  # the hub answers 401 for a repository that isn't there
        return _SourceFailed(
            f"answers {status} {phrase}: no {corpus.file_name} at revision {corpus.revision[:12]}…", "gone"
        )
    if status == 416:
        return _SourceFailed(f"answers 416: it has nothing after the first {_human(_size(place.part))}", "anew")
    if status in (408, 429) or status >= 500:
        return _SourceFailed(f"answers {status} {phrase}", "passing")
    return _SourceFailed(f"answers {status} {phrase}", "wrong")


# ── ModelScope ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _from_modelscope(place: _Place, host: str, say: Callable[[str], None]) -> Path:
    """Pull by file name: ModelScope has no pinned revision, so its list is asked first what lies under the name."""
    try:
        from modelscope.hub.file_download import dataset_file_download
    except ImportError:
        raise _SourceFailed("needs the package modelscope: pip install modelscope", "wrong") from None
    listed = _listed_sum(place.corpus, host)
    # Its file continues our partial one only if it is known to be the same file.
    folder = place.part.parent if listed == place.corpus.sha256 else place.part.parent / "modelscope"
    part = folder / place.part.name
    folder.mkdir(exist_ok=True)
    while True:
        longest = _size(part)
        _check_room(place, (place.corpus.size or place.corpus.about) - longest)
        try:
            path = dataset_file_download(
                place.corpus.modelscope,
                place.corpus.file_name,
                local_dir=str(folder),
                cache_dir=str(folder),
                endpoint=host,
            )
            return Path(path)
        except Exception as error:  # its errors have no common root; none of them may hide the other sources' reasons
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
                raise
            if _size(part) <= longest:
                raise _SourceFailed(_one_line(error), "wrong") from error
            say(f"  {_one_line(error)}; going on from {_human(_size(part))} …")


def _listed_sum(corpus: PublishedCorpus, host: str) -> str | None:
    """The sum that ModelScope lists for the file, None if it lists none; _SourceFailed if it has another file or none.

    The list is a courtesy that saves a useless 1.6 GB: where it can't be read, the download itself will tell.
    """
    try:
        from modelscope.hub.api import HubApi

        api = HubApi(endpoint=host, timeout=10, max_retries=1)  # its defaults would wait for minutes
        files = api.get_dataset_files(corpus.modelscope, dataset_hub_id=corpus.modelscope)
        sums = {entry["Path"]: entry.get("Sha256") or None for entry in files}
    except ConnectionError as error:
        raise _SourceFailed(f"can't be reached ({type(error).__name__})", "unreachable") from error
    except Exception:  # a changed interface, a passing fault
        return None
    if not sums:
        return None
    if corpus.file_name not in sums:
        raise _SourceFailed(f"its list has no {corpus.file_name}; it has {', '.join(sorted(sums)[:8])}", "gone")
    listed = sums[corpus.file_name]
    if listed not in (None, corpus.sha256):
        raise _SourceFailed(f"has another edition under this name: sha256 {listed[:12]}…", "gone")
    return listed


# ── Small tools ──────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _alone(place: _Place) -> Iterator[None]:
    """Only one process at a time writes a partial file; the kernel frees the lock when that process dies."""
    from filelock import FileLock, Timeout

    path = place.work / f"{place.corpus.name}.lock"
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DownloadError(
            f"Another download of {place.corpus.name} into {shown(place.folder)} is running; wait for it, or stop it. "
            f"(It holds {shown(path)}.)"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _check_room(place: _Place, need: int) -> None:
    free = shutil.disk_usage(place.folder).free
    if need > free:
        raise DownloadError(
            f"Not enough room on the disk of {place.folder.resolve()}: {_human(need)} of {place.corpus.name} are still "
            f"to come and {_human(free)} are free. {_kept(place)} Free some room, or choose a folder on another disk "
            "with --to FOLDER (on rented machines the data disk)."
        )


def _kept(place: _Place) -> str:
    size = _size(place.part)
    return f"{_human(size)} of it lie in {shown(place.part)}." if size else "Nothing of it is here yet."


def _size(path: Path) -> int:
    """Bytes; 0 for a file that isn't there."""
    return path.stat().st_size if path.is_file() else 0


def _human(count: int) -> str:
    """Bytes as disks and download pages count them, in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}{'…' if len(text) > 160 else ''}"


@friendly
def main(argv: list[str] | None = None) -> int:
    """The command line: 0 when the corpus lies there, 2 with a message for what the user can mend, 130 after Ctrl-C."""
    table = "\n".join(
        f"  {c.name:18} {_human(c.about):>8}, {c.rows:,} rows{f', markers {c.markers}' if c.markers else ''}"
        for c in PUBLISHED.values()
    )
    parser = Parser(
        prog="python -m minimind_core.download",
        description="Fetch one published corpus, check it and put it in place. An interrupted download is resumed.",
        epilog=f"The published corpora:\n{table}\n\nHF_ENDPOINT names another Hugging Face host.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", default="pretrain_hq", help=" | ".join(PUBLISHED))
    parser.add_argument("--to", metavar="FOLDER", help="where to put it (default: $MINIMIND_DATASET, else dataset/)")
    options = parser.parse_args(argv)
    if options.to is not None and (not options.to or "\0" in options.to):
        raise ConfigError(f"--to {options.to!r}: the path of a folder is needed.")
    download(options.name, options.to, say=partial(print, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())

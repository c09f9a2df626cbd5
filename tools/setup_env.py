"""Set-up: choose an environment, install the course into it if anything changed, then run a command there.

    python3 tools/setup_env.py [--dry-run] [-m pytest …]     (what follows is run by the environment's Python)

A torch that this Python imports already is kept if it is new enough, since downloading another can take an hour: the
course then goes into the active environment or, outside one, into a .venv that sees this Python's packages. Without
such a torch it goes into a .venv of its own, with every version that constraints.txt names.
Standard library only. That this Python is new enough has been checked by the Makefile, where every call comes from.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

OLDEST_TORCH = (2, 6)  # an older one can be made to run code by a weights file
TORCH_NEEDS = {"filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy"}
TORCH_NEEDS |= {"typing-extensions"}  # what torch itself depends on, of the packages in constraints.txt
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = "minimind-setup.json"  # lies in an environment and says what it was completed for
FILES = ("pyproject.toml", "constraints.txt", "tools/setup_env.py")
DIGEST = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in FILES)).hexdigest()

# Both run in the Python that is asked about, so that a torch that crashes takes nothing else along.
PROBE = """
import sys; sys.path[:] = filter(None, sys.path)
import importlib.metadata, json, torch
found = {"torch": importlib.metadata.version("torch"), "numpy": ""}
try:
    torch.zeros(2).numpy()
    found["numpy"] = importlib.metadata.version("numpy")
except Exception: pass
print(json.dumps(found))
"""
INTACT = r"""
import sys; sys.path[:] = filter(None, sys.path)
import importlib.metadata as metadata, importlib.util, re
for line in metadata.requires("minimind-course"): metadata.version(re.match(r"[\w.-]+", line)[0])
print(importlib.util.find_spec("minimind_core").origin)
"""


def say(words: str) -> None:
    print(f"set-up: {words}", flush=True)


def stop(sentence: str) -> NoReturn:
    sys.exit(f"set-up: {sentence}")


def ask(python: str | Path, code: str) -> tuple[bool, str]:
    """(True, the last line that `code` prints in another Python) or (False, the last line of its error)."""
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    lines = (done.stderr if done.returncode else done.stdout).decode(errors="replace").strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"status {done.returncode}"


def probe(python: str | Path) -> dict:
    """What a Python has: {"torch": version, "numpy": version or ""}, or {"problem": in words} without a good torch."""
    works, words = ask(python, PROBE)
    if not works:
        return {"problem": "no torch" if "No module named 'torch'" in words else f"no working torch ({words})"}
    found = json.loads(words)
    return found if new_enough(found["torch"]) else {"problem": f"torch {found['torch']}, which is older than 2.6"}


def new_enough(version: str) -> bool:
    """True from OLDEST_TORCH on. Its pre-releases are not: to pip they are older, and it would replace them."""
    match = re.match(r"(\d+)\.(\d+)(?:\.\d+)*(a|b|rc|\.?dev)?", version)
    release = (int(match[1]), int(match[2])) if match else (0, 0)
    return release > OLDEST_TORCH or (release == OLDEST_TORCH and not match[3])


def same(one: str | Path, other: str | Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def is_active() -> bool:
    """True if this Python is that of a venv or of an activated conda environment."""
    return sys.prefix != sys.base_prefix or same(os.environ.get("CONDA_PREFIX", os.devnull), sys.prefix)


def fingerprint() -> dict:
    """What the choice hangs on, read without importing torch, which would take seconds."""
    try:
        version, spec = importlib.metadata.version("torch"), importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        version = spec = None
    home = sys.prefix if version and is_active() else sys.base_prefix
    return {"home": home, "python": list(sys.version_info[:2]), "torch": version, "at": spec and spec.origin}


def decide(found: dict, prefix: str | Path, active: bool) -> dict:
    """Where the course goes, given what `probe` found in the Python of `prefix`: `found` and three entries more.

    prefix: the environment. venv: the flags with which it has to be made, None where it is there. why: in words.
    """
    if "torch" not in found:
        why = f"has {found['problem']}: the tested one goes into .venv"
        here = same(prefix, VENV)  # an activated .venv is filled, since it can't replace itself
        return dict(found, prefix=Path(prefix) if here else VENV, venv=None if here else [], why=why)
    why = f"has torch {found['torch']}, which stays: the course goes into "
    if active:
        return dict(found, prefix=Path(prefix), venv=None, why=f"{why}its environment, {prefix}")
    return dict(found, prefix=VENV, venv=["--system-site-packages"], why=f"{why}a .venv that sees it")


def choose(key: dict) -> dict:
    """The decision for this Python; before it go an environment that is only out of date, and somebody else's .venv.

    held: made by hand or for a PYTHON that was named, so that another Python on the PATH does not replace it.
    """
    for prefix in (Path(sys.prefix), VENV):
        if state(prefix, key) == "outdated":
            return dict(read_stamp(prefix), prefix=prefix, venv=None, who=prefix, why="gets what has changed")
    if not (is_active() or "PYTHON" in os.environ or read_stamp(VENV)):
        theirs = probe(python_of(VENV))
        if "torch" in theirs:
            return dict(decide(theirs, VENV, active=True), key=key, held=True, who=python_of(VENV))
    choice = decide(probe(sys.executable), sys.prefix, is_active())
    held = "PYTHON" in os.environ or choice["venv"] is None
    return dict(choice, key=key, held=held, who=f"Python {sys.version.split()[0]} ({sys.executable})")


def constraints_for(text: str, found: dict) -> str:
    """constraints.txt's `text` for a torch that stays: it and its numpy are held, and what it needs is left alone."""
    held = {name: found[name] for name in ("torch", "numpy") if found[name]}
    lines = [line for line in text.splitlines() if re.split(r"[=;\s]", line)[0] not in TORCH_NEEDS.union(held)]
    return "\n".join([*lines, *(f"{name}=={version}" for name, version in held.items())]) + "\n"


def python_of(prefix: Path) -> Path:
    return Path(sys.executable) if same(prefix, sys.prefix) else prefix / "bin" / "python"


def read_stamp(prefix: Path) -> dict:
    try:
        return json.loads((prefix / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def state(prefix: Path, key: dict) -> str:
    """Says "ready", "outdated" (made from other files), or "absent" (never made, half made, moved or damaged).

    An environment is for one `key`, but .venv may be trusted whatever Python is on the PATH today.
    """
    stamp = read_stamp(prefix)
    isolated = "torch" not in stamp and not key["torch"]  # neither this .venv nor this Python keeps a torch
    free = isolated or (stamp.get("held") and not (key["torch"] and is_active()))
    trusted = same(prefix, VENV) and (same(prefix, sys.prefix) or (free and "PYTHON" not in os.environ))
    if stamp.get("root") != str(ROOT) or not (trusted or stamp["key"] == key):
        return "absent"
    intact, origin = ask(python_of(prefix), INTACT)
    if not intact or ROOT not in Path(origin).resolve().parents:
        return "absent"
    return "ready" if stamp["digest"] == DIGEST else "outdated"


def make_venv(flags: list[str]) -> None:
    """Puts an empty environment in the place of whatever .venv is."""
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        advice = f"install it (Debian, Ubuntu: apt-get install {package}) or name another Python with PYTHON="
        stop(f"{sys.executable} comes without the venv module: {advice}, then call make again")
    VENV.mkdir(exist_ok=True)  # emptied, not removed: it may be a link to a bigger disk
    for entry in VENV.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    (VENV / STAMP).write_text('{"root": "half made"}')
    command = [sys.executable, "-m", "venv", *flags, str(VENV)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace")
    if done.returncode:
        stop(f"{sys.executable} could not make .venv: {done.stdout.strip()[-400:]}")


def explain(log: str) -> str:
    """One sentence on why pip failed, taken from its log, and what to do about it."""
    causes = {
        r"No space left": "the disk is full: free some gigabytes",
        r"Permission denied|Read-only file": "pip may not write there: use an environment of your own",
        r"Retrying \(|ConnectionError|ConnectTimeout|ReadTimeout|SSLError|ProxyError": "pip does not reach its package "
        "index: check the network and the proxy, or name a mirror in PIP_INDEX_URL",
        r"ResolutionImpossible|No matching distribution": "the versions in constraints.txt do not fit this Python or "
        "what its environment holds: deactivate that, or name another Python, such as PYTHON=python3.12",
    }
    for pattern, sentence in causes.items():
        if re.search(pattern, log):
            return f"{sentence}, then call make again (pip's own words: out/setup.log)"
    errors = re.findall(r"ERROR: (.+)|(No module named pip)", log)
    return f"pip failed ({''.join(errors[-1]) if errors else 'without a word'}), see out/setup.log"


def tell_of(log: Path, ended: threading.Event, every: float = 15) -> None:
    """Says now and then how far a quiet pip is, by the last thing in its log, until `ended` is set."""
    start = time.monotonic()
    while not ended.wait(every):
        doing = re.findall(
            r"Installing collected packages|(?:Collecting|Downloading) [\w.-]+",
            log.read_text(encoding="utf-8", errors="replace"),
        )
        say(f"{time.monotonic() - start:3.0f} s: {doing[-1] if doing else 'pip begins'}")


def pip_install(python: Path, *arguments: str, quiet: bool = False) -> None:
    """Runs pip, which shows its own progress unless `quiet`; says what it spoiled; if it fails, says why and stops."""
    settings = {"PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    settings.update(PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0")
    log = ROOT / "out" / "setup.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("")
    silence = ["-qq", "--progress-bar", "off"] if quiet else []
    command = [str(python), "-m", "pip", "install", "--log", str(log), *silence, *arguments]
    ended = threading.Event()
    if quiet:
        threading.Thread(target=tell_of, args=(log, ended), daemon=True).start()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, stderr=subprocess.PIPE, errors="replace")
    ended.set()
    if done.returncode:
        stop(explain(log.read_text(encoding="utf-8", errors="replace") + done.stderr))
    for line in re.findall(r".* requires .* which is incompatible", done.stderr):
        say(f"pip reports: {line}")


def fill(choice: dict) -> str:
    """Installs the course into the chosen environment and returns the version of the torch that is there then."""
    python, pins = python_of(choice["prefix"]), (ROOT / "constraints.txt").read_text(encoding="utf-8")
    constraints = choice["prefix"] / "minimind-constraints.txt"
    constraints.write_text(constraints_for(pins, choice) if "torch" in choice else pins, encoding="utf-8")
    ask(python, "try: import pip\nexcept ImportError: import ensurepip; ensurepip.bootstrap()")
    if "torch" not in choice and "torch" not in probe(python):  # by itself: pip shows how far this long download is
        pip_install(python, "-c", str(constraints), re.search(r"^torch==\S+", pins, re.MULTILINE)[0])
    say("installing what else is missing, some minutes the first time (out/setup.log has pip's own words)")
    pip_install(python, "-c", str(constraints), "-e", ".[test]", quiet=True)
    after = probe(python)
    if "torch" not in after or after["torch"] != choice.get("torch", after["torch"]):
        has = after.get("problem") or f"torch {after['torch']}"
        stop(f"pip succeeded, yet {python} now has {has}: remove .venv, then call make again")
    return after["torch"]


def set_up(dry_run: bool = False) -> Path:
    """Makes the environment ready, at once if it is, and returns its prefix."""
    key, start = fingerprint(), time.monotonic()
    for prefix in (Path(sys.prefix), VENV):
        if state(prefix, key) == "ready":
            say(f"{prefix} is ready, with torch {read_stamp(prefix)['has']}")
            return prefix
    choice = choose(key)
    say(f"{choice['who']} {choice['why']}")
    if dry_run:
        return choice["prefix"]
    if choice["venv"] is not None:
        make_venv(choice["venv"])
    stamp = {name: choice[name] for name in ("key", "held", "torch", "numpy") if name in choice}
    stamp.update(root=str(ROOT), digest=DIGEST, has=fill(choice))
    (choice["prefix"] / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    say(f"ready after {time.monotonic() - start:.0f} s")
    return choice["prefix"]


def main(arguments: list[str]) -> None:
    """Sets up, one call at a time in this folder, then becomes the command, run by the environment's Python."""
    dry_run = arguments[:1] == ["--dry-run"]
    with contextlib.suppress(ImportError, OSError):
        import fcntl  # not on Windows

        lock = os.open(ROOT, os.O_RDONLY)  # let go when this process ends or becomes the command
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this folder")
            fcntl.flock(lock, fcntl.LOCK_EX)
    prefix = set_up(dry_run)
    if arguments and not dry_run:
        python = str(python_of(prefix))
        os.environ["PATH"] = os.path.dirname(python) + os.pathsep + os.environ.get("PATH", os.defpath)
        if same(prefix, VENV):
            os.environ["VIRTUAL_ENV"] = str(VENV)  # another one that is active would get into IPython's way
        os.execv(python, [python, *arguments])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        stop("interrupted; the next make goes on from here")
    except OSError as error:
        stop(f"{error}: put that right, then call make again")

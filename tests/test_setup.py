"""Set-up: which environment and torch it chooses, that it spoils neither, and that the files it reads agree.

Nothing here needs the network: where pip runs for real it installs wheels of a few hundred bytes that the test makes.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]
PIN_LINES = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
PINS = [Requirement(line) for line in PIN_LINES]
TARGETS = ("help", "setup", "course", "notebooks", "lab", "test", "lint", "clean")
# A make above this test, and an environment that is active around it, must not leak into what is tested.
LEAKS = re.compile("PIP_|PYTHON|VIRTUAL_ENV|CONDA_|MAKE|MFLAGS|MINIMIND")
CLEAN = {name: value for name, value in os.environ.items() if not LEAKS.match(name)}


@pytest.fixture
def setup_env(tmp_path, monkeypatch):
    """The module, with a root of its own, no active environment and nobody's PYTHON."""
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "tools" / "setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "is_active", lambda: False)
    monkeypatch.delenv("PYTHON", raising=False)
    return module


def fake_python(path, *, says="", fails=""):
    """A program that answers every question in the same way, as a Python with a certain torch would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n" + (f'echo "{fails}" >&2; exit 1\n' if fails else ""))
    path.chmod(0o755)
    return path


# ---- what is found --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.6", "2.6.0", "2.6.1+cu124", "2.7.0a0+79aa174", "2.13.0+cpu", "3.0.0", "10.0"])
def test_torch_from_2_6_on_is_new_enough(setup_env, version):
    assert setup_env.new_enough(version)


@pytest.mark.parametrize("version", ["2.5.1", "2.4.0+cu121", "1.13.1", "2.6.0a0+ecf3bae40a", "2.6.0.dev20241112", "?"])
def test_older_torch_and_pre_releases_of_2_6_are_not(setup_env, version):
    assert not setup_env.new_enough(version)


def test_probe_reports_torch_and_numpy(setup_env, tmp_path):
    python = fake_python(tmp_path / "python3", says='{"torch": "2.7.0+cu126", "numpy": "1.26.4"}')
    assert setup_env.probe(python) == {"torch": "2.7.0+cu126", "numpy": "1.26.4"}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"says": '{"torch": "2.4.1", "numpy": ""}'}, "torch 2.4.1, which is older than 2.6"),
        ({"fails": "ModuleNotFoundError: No module named 'torch'"}, "no torch"),
        ({"fails": "OSError: libcudart.so.12: no such file"}, "no working torch (OSError: libcudart.so.12: no such"),
    ],
    ids=["too old", "none", "broken"],
)
def test_probe_says_why_a_torch_is_of_no_use(setup_env, tmp_path, answer, problem):
    assert setup_env.probe(fake_python(tmp_path / "python3", **answer))["problem"].startswith(problem)


def test_probe_survives_a_python_that_is_not_there(setup_env, tmp_path):
    assert "problem" in setup_env.probe(tmp_path / "nothing")


def test_fingerprint_does_not_import_torch():
    code = "import sys; sys.path.insert(0, 'tools'); import setup_env; setup_env.fingerprint(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "setup_env" in modules.split()
    assert "torch" not in modules.split()


# ---- what is chosen -------------------------------------------------------------------------------------------------

FOUND = {"torch": "2.7.0", "numpy": "1.26.4"}


def test_torch_of_an_active_environment_keeps_that_environment(setup_env):
    choice = setup_env.decide(FOUND, "/envs/mine", active=True)
    assert (choice["prefix"], choice["venv"], choice["torch"]) == (Path("/envs/mine"), None, "2.7.0")


def test_torch_of_the_system_gets_a_venv_that_sees_it(setup_env):
    choice = setup_env.decide(FOUND, "/usr", active=False)
    assert (choice["prefix"], choice["venv"]) == (setup_env.VENV, ["--system-site-packages"])
    assert choice["torch"] == "2.7.0"


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("problem", ["no torch", "torch 2.4.1, which is older than 2.6", "no working torch (OSError)"])
def test_without_a_good_torch_a_venv_of_its_own(setup_env, problem, active):
    choice = setup_env.decide({"problem": problem}, "/envs/mine", active)
    assert (choice["prefix"], choice["venv"]) == (setup_env.VENV, [])
    assert "torch" not in choice
    assert problem in choice["why"]


def test_an_activated_venv_without_torch_is_filled_not_replaced(setup_env):
    choice = setup_env.decide({"problem": "no torch"}, setup_env.VENV, active=True)
    assert (choice["prefix"], choice["venv"]) == (setup_env.VENV, None)


def test_a_venv_made_by_hand_is_kept_if_it_has_a_torch(setup_env, monkeypatch):
    fake_python(setup_env.VENV / "bin" / "python", says=json.dumps(FOUND))
    monkeypatch.setattr(setup_env.sys, "executable", str(fake_python(setup_env.ROOT / "python3", fails="no")))
    choice = setup_env.choose(setup_env.fingerprint())
    assert (choice["prefix"], choice["venv"], choice["torch"]) == (setup_env.VENV, None, "2.7.0")
    monkeypatch.setenv("PYTHON", "python3.12")  # asked for: .venv is made anew with it
    assert setup_env.choose(setup_env.fingerprint())["venv"] == []


KEY = {"home": "/usr", "python": [3, 11], "torch": None, "at": None}
WITH_TORCH = {"home": "/usr", "python": [3, 11], "torch": "2.7.0", "at": "/usr/lib/torch"}
ISOLATED, KEEPING = {"key": KEY}, {"key": WITH_TORCH, "torch": "2.7.0"}


@pytest.mark.parametrize(
    ("stamp", "key", "named", "state"),
    [
        (ISOLATED, KEY, "", "ready"),
        (ISOLATED, KEY, "python3", "ready"),
        (ISOLATED, {**KEY, "python": [3, 12]}, "", "ready"),  # whatever is on the PATH: it needs nothing from it
        (ISOLATED, {**KEY, "python": [3, 12]}, "python3.12", "absent"),  # but this was asked for
        (ISOLATED, WITH_TORCH, "", "absent"),  # a torch has come to be there: use it
        ({**ISOLATED, "held": True}, WITH_TORCH, "", "ready"),
        (KEEPING, WITH_TORCH, "", "ready"),
        (KEEPING, {**WITH_TORCH, "torch": "2.8.0"}, "", "absent"),
        (KEEPING, KEY, "", "absent"),  # the torch that it sees is gone
        ({**ISOLATED, "digest": "other"}, KEY, "", "outdated"),
        ({**ISOLATED, "root": "/moved"}, KEY, "", "absent"),
        ({"root": "half made"}, KEY, "", "absent"),
    ],
)
def test_a_stamp_holds_for_what_it_was_made_for(setup_env, monkeypatch, stamp, key, named, state):
    if named:
        monkeypatch.setenv("PYTHON", named)
    fake_python(setup_env.VENV / "bin" / "python", says=setup_env.ROOT / "minimind_core" / "__init__.py")
    stamp = {"root": str(setup_env.ROOT), "digest": setup_env.DIGEST, **stamp}
    (setup_env.VENV / setup_env.STAMP).write_text(json.dumps(stamp))
    assert setup_env.state(setup_env.VENV, key) == state


@pytest.mark.parametrize("answer", [{"fails": "PackageNotFoundError: tqdm"}, {"says": "/elsewhere/minimind_core/a.py"}])
def test_a_damaged_or_foreign_installation_is_noticed(setup_env, answer):
    fake_python(setup_env.VENV / "bin" / "python", **answer)
    stamp = {"root": str(setup_env.ROOT), "digest": setup_env.DIGEST, "key": KEY}
    (setup_env.VENV / setup_env.STAMP).write_text(json.dumps(stamp))
    assert setup_env.state(setup_env.VENV, KEY) == "absent"


def test_constraints_for_a_found_torch_hold_it_and_leave_its_needs_alone(setup_env):
    text = "filelock==1\nmatplotlib==3\nnumpy==2.2; python_version < '3.11'\nnumpy==2.4\nsympy==1.14.0\ntorch==2.13.0\n"
    lines = setup_env.constraints_for(text, {"torch": "2.7.0+cu126", "numpy": "1.26.4"}).split()
    assert lines == ["matplotlib==3", "torch==2.7.0+cu126", "numpy==1.26.4"]
    assert setup_env.constraints_for(text, {"torch": "2.7.0", "numpy": ""}).count("numpy") == 2  # ours: there is none


def test_the_real_constraints_lose_torch_and_keep_the_rest(setup_env):
    text = setup_env.constraints_for("\n".join(PIN_LINES), FOUND)
    pins = [Requirement(line) for line in text.split("\n") if line]
    assert [str(pin) for pin in pins if pin.name in ("torch", "numpy")] == ["torch==2.7.0", "numpy==1.26.4"]
    left_out = {pin.name for pin in PINS} - {pin.name for pin in pins}
    assert left_out == setup_env.TORCH_NEEDS


def test_what_torch_needs_is_known(setup_env):
    names = ["torch"]
    for name in names:
        try:
            needs = [Requirement(line) for line in importlib.metadata.requires(name) or []]
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        new = {canonicalize_name(need.name) for need in needs if not need.marker or need.marker.evaluate({"extra": ""})}
        names += sorted(new - set(names))
    assert {pin.name for pin in PINS} & set(names[1:]) - {"numpy"} <= setup_env.TORCH_NEEDS


# ---- errors are one sentence ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("WARNING: Retrying (Retry(total=4, …)) after connection broken", "check the network"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("Retrying (…)\nERROR: No matching distribution found for torch==2.13.0", "check the network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "name another Python"),
        ("ERROR: ResolutionImpossible: for help visit", "do not fit this Python or what its environment holds"),
        ("anything else", "out/setup.log"),
    ],
)
def test_pip_errors_are_explained(setup_env, log, words):
    assert words in setup_env.explain(log)


def test_a_quiet_pip_is_spoken_for(setup_env, tmp_path, capsys):
    log, turns = (
        tmp_path / "log",
        iter(["", "Collecting torch==2.13.0 (from x)\n", "\nInstalling collected packages: a, b"]),
    )

    class Ended:
        def wait(self, seconds):
            words = next(turns, None)
            if words is not None:
                log.write_text(words)
            return words is None

    setup_env.tell_of(log, Ended())
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" s: ")[1] for line in said] == [
        "pip begins", "Collecting torch", "Installing collected packages",
    ]  # fmt: skip


def test_missing_venv_module_is_one_sentence(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else name)
    with pytest.raises(SystemExit, match=r"apt-get install python3\.\d+-venv.* call make again"):
        setup_env.make_venv([])
    assert not setup_env.VENV.exists()


def make(*arguments, cwd=ROOT, **environment):
    """make, with its own words in English; `environment` is added to a clean one."""
    command = ["make", "--no-print-directory", *arguments]
    environment = {**CLEAN, "LC_ALL": "C.UTF-8", **{name: str(value) for name, value in environment.items()}}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("python", ["old python", "missing"])
def test_a_python_too_old_or_missing_is_one_sentence(tmp_path, python):
    if python == "old python":
        fake_python(tmp_path / python, says="Python 3.9.6", fails="SyntaxError")
    done = make("course", PYTHON=tmp_path / python)
    assert done.returncode
    assert "is no Python 3.10 or newer" in done.stderr
    assert "PYTHON=python3.12 make course" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2  # the sentence, and make's own line


# ---- the files agree ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_exist(target):
    assert make("-n", target).returncode == 0


def test_make_help_is_the_default_and_names_every_target():
    words = make().stdout
    assert all(f"make {target} " in words for target in TARGETS[1:])


def test_make_clean_removes_caches_only(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept = ["out/pretrain_512.pth", "out/x/__pycache__/a", "dataset/full.jsonl", ".venv/lib/__pycache__/a", "a.py"]
    gone = ["minimind_core/__pycache__/a.pyc", ".pytest_cache/a", ".ruff_cache/a", "notebooks/.ipynb_checkpoints/a"]
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert make("clean", cwd=tmp_path).returncode == 0
    assert [name for name in kept + gone if (tmp_path / name).exists()] == kept


def test_dependencies_are_named_once():
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    entries = [line.strip()[2:] for line in lines if line.strip().startswith("- ")]
    pip = entries[entries.index("pip:") + 1 :]
    assert pip == ["-c constraints.txt", "-e .[test]"]
    others = entries[: entries.index("pip:")]
    assert [re.split("[=<>]", entry)[0] for entry in others] == ["conda-forge", "python", "pip"]
    assert f"name: {PROJECT['name']}" in lines


def test_no_upper_limit_on_python_or_torch():
    torch = next(need for need in DIRECT if need.name == "torch")
    assert str(torch.specifier) == ">=2.6"
    assert PROJECT["requires-python"] == ">=3.10"


@pytest.mark.parametrize("python", ["3.10.12", "3.11.2", "3.11.9", "3.12.3", "3.13.0", "3.14.0"])
def test_every_direct_dependency_has_one_pin_for_each_python(python):
    here = {"python_full_version": python, "python_version": ".".join(python.split(".")[:2])}
    names = [pin.name for pin in PINS if pin.marker is None or pin.marker.evaluate(here)]
    assert len(names) == len(set(names))
    assert {canonicalize_name(need.name) for need in DIRECT} <= set(names)


def test_pins_are_exact_and_suit_every_platform():
    assert all(re.fullmatch(r"==[^*+]+", str(pin.specifier)) for pin in PINS)
    assert [pin.name for pin in PINS if re.match("nvidia|cuda|triton|minimind", pin.name)] == []
    assert all(pin.name == canonicalize_name(pin.name) for pin in PINS)
    assert all(pin.specifier.contains("2.13.0") for pin in PINS if pin.name == "torch")


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_git_ignores_what_runs_leave_behind(tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    ignored = ["out/a.pth", "dataset/pretrain_hq.jsonl", ".venv/x", "minimind_core/__pycache__/a", "x.egg-info/a"]
    kept = ["out/.gitkeep", "dataset/sample.jsonl", "dataset/sample_valid.jsonl", "dataset/README.md", "docs/a.png"]
    command = ["git", "check-ignore", *ignored, *kept]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.split() == ignored


# ---- for real, with tiny wheels -------------------------------------------------------------------------------------

BASE = Path(getattr(sys, "_base_executable", sys.executable))
BACKEND = """
import os, shutil

def build_editable(folder, config_settings=None, metadata_directory=None):
    return os.path.basename(shutil.copy("minimind_course-0.1.0-py3-none-any.whl", folder))
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
STUB_TORCH = {"torch/__init__.py": "class zeros:\n    def __init__(self, size): pass\n    def numpy(self): pass\n"}


def wheel(folder, name, version, needs=(), files=None):
    """Writes the wheel NAME-VERSION into a folder; `files` maps names to text."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: test"]
    lines += [f"Requires-Dist: {need}" for need in needs]
    info, tag = f"{name}-{version}.dist-info", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    metadata = {"METADATA": "\n".join([*lines, ""]), "WHEEL": tag, "RECORD": ""}
    path = Path(folder) / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (files or {f"{name}.py": ""}).items():
            archive.writestr(file, text)
        for file, text in metadata.items():
            archive.writestr(f"{info}/{file}", text)
    return path


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder that pip can install from: two versions each of torch and of what it and the course depend on."""
    folder = tmp_path_factory.mktemp("wheels")
    wheel(folder, "torch", "2.7.0", ["sympy==1.13.1"], STUB_TORCH)
    wheel(folder, "torch", "2.13.0", ["sympy>=1.13.3"], STUB_TORCH)
    for name, version in (("sympy", "1.13.1"), ("sympy", "1.14.0"), ("gadget", "1.0"), ("gadget", "2.0")):
        wheel(folder, name, version)
    return folder


@pytest.fixture
def project(tmp_path):
    """A small project with the real Makefile and set-up, in a folder with a space in its name."""
    root = tmp_path / "the course"
    (root / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", root)
    shutil.copy(ROOT / "tools" / "setup_env.py", root / "tools")
    (root / "minimind_core").mkdir()
    (root / "minimind_core" / "__init__.py").touch()
    (root / "minimind_core" / "course.py").write_text("import sys, torch; print('ran in', sys.prefix)")
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    (root / "constraints.txt").write_text("gadget==1.0\nsympy==1.14.0\ntorch==2.13.0\n")
    wheel(root, "minimind_course", "0.1.0", ["torch>=2.6", "gadget"], {"minimind_course.pth": f"{root}\n"})
    return root


def run_course(project, wheels, python, **environment):
    pip = {"PIP_NO_INDEX": 1, "PIP_FIND_LINKS": wheels, "PIP_CONFIG_FILE": os.devnull}
    return make("course", cwd=project, PYTHON=python, **pip, **environment)


def installed(python, *names, **environment):
    code = f"import importlib.metadata as m; print(*[m.version(name) for name in {names}])"
    environment = {**CLEAN, **{name: str(value) for name, value in environment.items()}}
    return subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True).stdout.split()


@pytest.mark.slow
def test_from_nothing_a_venv_with_the_tested_versions(project, wheels):
    if subprocess.run([BASE, "-c", "import torch"], env=CLEAN, capture_output=True).returncode == 0:
        pytest.skip("the Python below this environment has a torch of its own")
    python = project / ".venv" / "bin" / "python"

    first = run_course(project, wheels, BASE)
    assert f"ran in {project}/.venv" in first.stdout, first.stdout + first.stderr
    assert installed(python, "torch", "gadget", "sympy") == ["2.13.0", "1.0", "1.14.0"]

    (project / "out" / "setup.log").unlink()
    again = run_course(project, wheels, BASE)
    assert "is ready" in again.stdout
    assert not (project / "out" / "setup.log").exists()  # pip was not called

    (project / "constraints.txt").write_text("gadget==2.0\ntorch==2.13.0\n")
    (project / ".venv" / "kept").touch()
    assert "gets what has changed" in run_course(project, wheels, BASE).stdout
    assert installed(python, "gadget") == ["2.0"]
    assert (project / ".venv" / "kept").exists()

    (project / ".venv" / "bin" / "python").unlink()  # as when the Python below is uninstalled
    broken = run_course(project, project, BASE)  # and nothing to install from
    assert re.search("set-up: the versions in constraints.txt do not fit.* then call make again", broken.stderr)
    assert "Traceback" not in broken.stdout + broken.stderr
    assert "ran in" not in broken.stdout
    assert not (project / ".venv" / "kept").exists()  # it was made anew
    assert "is ready" not in run_course(project, project, BASE).stdout  # and is known to be half made


@pytest.mark.slow
def test_the_torch_of_an_active_environment_stays(project, wheels):
    active = project.parent / "active"
    subprocess.run([BASE, "-m", "venv", "--without-pip", active], env=CLEAN, check=True)  # as uv makes them
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    python = active / "bin" / "python"
    packages = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    for name in ("torch-2.7.0", "sympy-1.13.1"):
        zipfile.ZipFile(wheels / f"{name}-py3-none-any.whl").extractall(packages)

    done = run_course(project, wheels, python, VIRTUAL_ENV=active)
    assert f"ran in {active}" in done.stdout, done.stdout + done.stderr
    assert "has torch 2.7.0, which stays" in done.stdout
    assert installed(python, "torch", "gadget", "sympy") == ["2.7.0", "1.0", "1.13.1"]
    assert not (project / ".venv").exists()
    assert "is ready" in run_course(project, wheels, python, VIRTUAL_ENV=active).stdout


@pytest.mark.slow
def test_the_torch_of_the_system_is_seen_and_stays(project, wheels):
    system = project.parent / "system"  # a folder on PYTHONPATH stands for the system's packages
    for name in ("torch-2.7.0", "sympy-1.13.1"):
        zipfile.ZipFile(wheels / f"{name}-py3-none-any.whl").extractall(system)

    done = run_course(project, wheels, BASE, PYTHONPATH=system)
    assert f"ran in {project}/.venv" in done.stdout, done.stdout + done.stderr
    assert "a .venv that sees it" in done.stdout
    assert "include-system-site-packages = true" in (project / ".venv" / "pyvenv.cfg").read_text()
    python = project / ".venv" / "bin" / "python"
    assert installed(python, "torch", "gadget", "sympy", PYTHONPATH=system) == ["2.7.0", "1.0", "1.13.1"]
    assert list(project.glob(".venv/lib/*/site-packages/torch*")) == []

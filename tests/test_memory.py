"""Memory in a container is what its control group allows, not what the host has; elsewhere it is psutil's number."""

from __future__ import annotations

import os
import types

import psutil
import pytest

from minimind_core import memory

GIB = 2**30
UNLIMITED = 9223372036854771712  # how version 1 says that there is no limit


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 64 GiB, 40 of them available; `machine(lines, files)` puts control groups on it."""
    monkeypatch.setattr(memory, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "PROC", tmp_path / "self")
    facts = types.SimpleNamespace(total=64 * GIB, available=40 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: facts)

    def put(lines: str, files: dict[str, object]) -> None:
        (tmp_path / "self").write_text(lines)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    return put


def found() -> tuple[float, float]:
    return memory.total_memory() / GIB, memory.free_memory() / GIB


def test_without_control_groups_psutil_is_believed(machine):
    assert found() == (64, 40) and memory.container_limit() is None and memory.oom_kills() == 0


V2 = {
    "memory.max": 8 * GIB,
    "memory.current": 5 * GIB,
    "memory.stat": f"anon {3 * GIB}\nfile {2 * GIB}\ninactive_file {1 * GIB}\nactive_file {1 * GIB}",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0",
}
V1 = {
    "memory/memory.limit_in_bytes": 8 * GIB,
    "memory/memory.usage_in_bytes": 5 * GIB,
    "memory/memory.stat": f"cache {2 * GIB}\ninactive_file 7\ntotal_inactive_file {1 * GIB}",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
}
V1_LINES = "5:cpu,cpuacct:/docker/0123\n4:memory:/docker/0123\n0::/"


@pytest.mark.parametrize(
    ("lines", "files"),
    [
        ("0::/", V2),
        ("0::/system.slice/docker-0123.scope", V2),  # the path as the host sees it
        ("0::/../../elsewhere", V2),
        (V1_LINES, V1),
        (V1_LINES.replace("4:memory", "4:hugetlb,memory"), V1),
        ("0::/a/b", {f"a/b/{name}": text for name, text in V2.items()} | {"a/memory.max": "max"}),
        (V1_LINES, {name.replace("/", "/docker/0123/"): text for name, text in V1.items()}),
    ],
    ids=["v2", "v2, the host's path", "v2, out of sight", "v1", "v1, two controllers", "v2, nested", "v1, nested"],
)
def test_a_containers_limit_is_what_counts(machine, lines, files):
    machine(lines, files)
    assert found() == (8, 4)  # 8 - 5, and 1 that the cache of files gives back
    assert memory.container_limit() == 8 * GIB and memory.oom_kills() == 2


def test_a_limit_above_the_group_holds_too(machine):
    files = {
        "memory.max": "max",
        "job/memory.max": 6 * GIB,
        "job/memory.current": 2 * GIB,
        "job/task/memory.max": 16 * GIB,
        "job/task/memory.current": 1 * GIB,
        "job/other/memory.max": 1 * GIB,  # not above this process
    }
    machine("0::/job/task", files)
    assert found() == (6, 4)


def test_slurms_limit_on_a_job_holds_for_its_tasks(machine):
    files = {
        "memory/memory.limit_in_bytes": UNLIMITED,
        "memory/slurm/memory.limit_in_bytes": UNLIMITED,
        "memory/slurm/job/memory.limit_in_bytes": 3 * GIB,
        "memory/slurm/job/memory.usage_in_bytes": 1 * GIB,
        "memory/slurm/job/task/memory.limit_in_bytes": UNLIMITED,
    }
    machine("9:memory:/slurm/job/task", files)
    assert found() == (3, 2)


@pytest.mark.parametrize("limit", ["max", UNLIMITED, 100 * GIB, "", "many", "-1", "0"])
def test_no_limit_or_one_above_the_machine_leaves_the_machines_numbers(machine, limit):
    machine("0::/", {"memory.max": limit, "memory.current": 1 * GIB})
    assert memory.total_memory() == 64 * GIB and memory.container_limit() is None
    assert memory.free_memory() == 40 * GIB


def test_a_busy_host_has_less_free_than_the_container_may_use(machine):
    machine("0::/", {"memory.max": 60 * GIB, "memory.current": 1 * GIB})
    assert found() == (60, 40)


def test_more_than_the_limit_in_use_is_nothing_free(machine):
    machine("0::/", {"memory.max": 2 * GIB, "memory.current": 3 * GIB})
    assert found() == (2, 0)


def test_files_that_say_odd_things_are_passed_over(machine):
    machine(
        "nonsense\n::\n0:\n7:memory\n0::/a",
        {"a/memory.max": 2 * GIB, "a/memory.current": "?", "a/memory.stat": "anon\n\nx y z", "memory.max": "é"},
    )
    assert found() == (2, 2) and memory.oom_kills() == 0


def test_a_group_that_may_not_be_read_is_passed_over(machine, tmp_path):
    machine("0::/", {"memory.max": 2 * GIB})
    (tmp_path / "cgroup/memory.max").chmod(0)
    if os.access(tmp_path / "cgroup/memory.max", os.R_OK):
        (tmp_path / "cgroup/memory.max").unlink()  # root may read all: a folder stands for what cannot be read
        (tmp_path / "cgroup/memory.max").mkdir()
    assert found() == (64, 40)


def test_kills_are_those_of_the_processs_own_group(machine):
    files = {"a/memory.events": "oom_kill 9", "a/b/memory.events": "oom_kill 1"}
    machine("0::/a/b", files)
    assert memory.oom_kills() == 1


def test_here_and_now_the_numbers_are_possible():
    assert 0 < memory.free_memory() <= memory.total_memory() <= psutil.virtual_memory().total
    assert memory.oom_kills() >= 0
